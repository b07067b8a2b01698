"""`open("wb")` and `open("xb")` on versioned buckets, and writes with their own part size and concurrency."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import get_storage_client
from gllm_storage.errors import ObjectExistsError, StorageUnavailableError
from gllm_storage.s3.filesystem import S3FileSystem
from gllm_storage.testing.faults import Call, Delay, DropResponse
from tests.promises.faulty import CEPH, MINISTACK, Faulty, behind_proxy, content_of, no_waits
from tests.rig import MIB, Boto3Client, new_prefix

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Servers

PART = 5 * MIB
MORE = PART + 1000
THEIRS = b"theirs"


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    no_waits(monkeypatch)


class Bucket:
    """A versioned bucket and a version-aware filesystem, behind a fault proxy."""

    def __init__(self, faulty: Faulty) -> None:
        self.faulty = faulty
        self.name = new_prefix()
        self.second = Boto3Client(faulty.boto3, self.name)
        self.second.client.create_bucket(Bucket=self.name)
        enabled: Any = {"Status": "Enabled"}
        self.second.client.put_bucket_versioning(Bucket=self.name, VersioningConfiguration=enabled)
        self.path = f"{self.name}/a"
        self.filesystem = filesystem_of(faulty, version_aware=True)

    def versions(self) -> dict[str, bytes]:
        """The contents of the key, by version id."""
        found = self.second.client.list_object_versions(Bucket=self.name, Prefix="a").get("Versions", [])
        return {each["VersionId"]: self.content_of(each["VersionId"]) for each in found}

    def content_of(self, version: str) -> bytes:
        return self.second.client.get_object(Bucket=self.name, Key="a", VersionId=version)["Body"].read()


def filesystem_of(faulty: Faulty, **options: Any) -> S3FileSystem:
    """A filesystem behind the proxy, which does not probe the server."""
    storage = get_storage_client("s3", faulty.rig.config).storage_options
    return S3FileSystem(**{**storage, "conditional_writes": "enforced", "skip_instance_cache": True, **options})


@pytest.fixture(params=["ministack", "ceph"])
def bucket(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Bucket]:
    with behind_proxy(request.param, servers) as faulty:
        yield Bucket(faulty)


@pytest.fixture
def creating(servers: Servers) -> Iterator[Bucket]:
    """A bucket on MiniStack, which also creates exclusively in parts."""
    with behind_proxy(MINISTACK, servers) as faulty:
        yield Bucket(faulty)


@pytest.fixture
def ceph(servers: Servers) -> Iterator[Faulty]:
    with behind_proxy(CEPH, servers) as faulty:
        yield faulty


# ---- versions


@pytest.mark.parametrize("size", [0, 10, MORE])
def test_version_id(size: int, bucket: Bucket) -> None:
    """A written file has the version id of its object."""
    written: dict[str, bytes] = {}
    for content in (content_of(size), content_of(size, 1)):
        with bucket.filesystem.open(bucket.path, "wb", block_size=PART) as file:
            assert file.version_id is None
            file.write(content)
        written[str(file.version_id)] = content
    assert bucket.versions() == written


@pytest.mark.parametrize("size", [10, MORE])
def test_exception_in_with_block(size: int, bucket: Bucket) -> None:
    """An exception inside a with block discards the write, and no version is stored."""

    def write() -> None:
        with bucket.filesystem.open(bucket.path, "wb", block_size=PART) as file:
            file.write(content_of(size))
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        write()
    assert bucket.versions() == {}
    assert bucket.second.open_uploads() == []


@pytest.mark.parametrize("size", [0, 10, MORE])
def test_exclusive_create(size: int, creating: Bucket) -> None:
    """A version-aware create is exclusive at open and at close."""
    file = creating.filesystem.open(creating.path, "xb", block_size=PART)
    file.write(content_of(size))
    creating.second.put("a", THEIRS)
    with pytest.raises(ObjectExistsError):
        file.close()
    assert file.version_id is None
    assert list(creating.versions().values()) == [THEIRS]
    with pytest.raises(ObjectExistsError):
        creating.filesystem.open(creating.path, "xb")
    assert creating.second.open_uploads() == []


@pytest.mark.parametrize("size", [10, MORE])
def test_version_id_by_head_request(size: int, servers: Servers) -> None:
    """If the answer to the write is lost, the version id comes from a HEAD request."""
    with behind_proxy(CEPH, servers) as faulty:
        bucket = Bucket(faulty)
        commit = "CompleteMultipartUpload" if size > PART else "PutObject"
        faulty.inject(commit, DropResponse(), times=None)
        with bucket.filesystem.open(bucket.path, "wb", block_size=PART) as file:
            file.write(content_of(size))
        assert file.version_id in bucket.versions()
        assert bucket.content_of(str(file.version_id)) == content_of(size)


def test_version_id_of_own_object(servers: Servers) -> None:
    """The version id after a lost answer is that of the written object, not of a later one."""
    with behind_proxy(CEPH, servers) as faulty:
        bucket = Bucket(faulty)
        faulty.inject("PutObject", DropResponse(), times=None)
        with bucket.filesystem.open(bucket.path, "wb") as file:
            file.write(b"ours")
        # The HEAD request that finds the write-id also returns the version id. A further one would find the other object.
        assert len(faulty.sent("HeadObject")) == 1
        bucket.second.put("a", THEIRS)
        assert bucket.content_of(str(file.version_id)) == b"ours"


def test_version_id_after_overwrite(servers: Servers) -> None:
    """If the answer is lost and another writer has replaced the object, there is an error and no version id."""
    with behind_proxy(CEPH, servers) as faulty:
        bucket = Bucket(faulty)
        faulty.inject("PutObject", DropResponse(), times=None)
        faulty.inject("HeadObject", Call(lambda: bucket.second.put("a", THEIRS)))
        file = bucket.filesystem.open(bucket.path, "wb")
        file.write(b"ours")
        with pytest.raises(StorageUnavailableError):
            file.close()
        assert file.version_id is None


def test_version_unaware_filesystem(bucket: Bucket) -> None:
    """A filesystem that is not version-aware does not set a version id."""
    with filesystem_of(bucket.faulty).open(bucket.path, "wb") as file:
        file.write(b"content")
    assert file.version_id is None
    assert file.blocksize == 50 * MIB


def test_write_to_version(bucket: Bucket) -> None:
    """An existing version cannot be written."""
    with pytest.raises(ValueError, match="names a version"):
        bucket.filesystem.open(f"{bucket.path}?versionId=1", "wb")
    with pytest.raises(ValueError, match="names a version"):
        bucket.filesystem.open(bucket.path, "wb", version_id="1")
    with pytest.raises(ValueError, match="version_aware"):
        filesystem_of(bucket.faulty).open(bucket.path, "wb", version_id="1")
    assert bucket.versions() == {}


def test_commit_and_discard(bucket: Bucket) -> None:
    """With autocommit=False, a version is stored by commit and not by discard."""
    with bucket.filesystem.open(bucket.path, "wb", autocommit=False) as file:
        file.write(b"1")
    assert bucket.versions() == {}
    file.commit()
    assert bucket.versions() == {file.version_id: b"1"}
    with bucket.filesystem.open(bucket.path, "wb", autocommit=False) as other:
        other.write(b"2")
    other.discard()
    with pytest.raises(ValueError, match="discarded"):
        other.commit()
    assert len(bucket.versions()) == 1


def test_checksum_of_stream(ceph: Faulty, tmp_path: Path) -> None:
    """An object streamed in parts has no checksum if the store keeps none."""
    client = ceph.client()
    with client.open("small", "wb") as file:
        file.write(b"content")
    with client.open("large", "wb") as file:
        file.write(content_of(MORE))
    (tmp_path / "file").write_bytes(content_of(MORE))
    client.upload_file(tmp_path / "file", "file")
    assert [bool(client.info(name).checksum) for name in ("small", "large", "file")] == [True, False, True]
    assert client.download_file("large", tmp_path / "again").read_bytes() == content_of(MORE)


# ---- the size of parts, and their concurrency


def write_by_open(filesystem: S3FileSystem, path: str, content: bytes, _: Path, **given: Any) -> None:
    with filesystem.open(path, "wb", **given) as file:
        file.write(content)


def write_by_pipe_file(filesystem: S3FileSystem, path: str, content: bytes, _: Path, **given: Any) -> None:
    filesystem.pipe_file(path, content, **given)


def write_by_pipe(filesystem: S3FileSystem, path: str, content: bytes, _: Path, **given: Any) -> None:
    filesystem.pipe({path: content, f"{path}2": b"small"}, **given)


def write_by_put_file(filesystem: S3FileSystem, path: str, content: bytes, folder: Path, **given: Any) -> None:
    (folder / "file").write_bytes(content)
    filesystem.put_file(str(folder / "file"), path, **given)


def write_by_put(filesystem: S3FileSystem, path: str, content: bytes, folder: Path, **given: Any) -> None:
    (folder / "file").write_bytes(content)
    filesystem.put(str(folder / "file"), path, **given)


WRITES: list[Any] = [write_by_open, write_by_pipe_file, write_by_pipe, write_by_put_file, write_by_put]


@pytest.mark.parametrize("write", WRITES)
def test_chunksize(write: Any, ceph: Faulty, tmp_path: Path) -> None:
    """A write is split into parts of `chunksize` bytes."""
    content = content_of(13 * MIB)
    path = f"models/{ceph.rig.key('a')}"
    write(filesystem_of(ceph), path, content, tmp_path, chunksize=6 * MIB)
    assert sorted(entry.body_bytes for entry in ceph.sent("UploadPart")) == [MIB, 6 * MIB, 6 * MIB]
    assert ceph.get("a") == content


@pytest.mark.parametrize("write", WRITES)
def test_chunksize_above_size(write: Any, ceph: Faulty, tmp_path: Path) -> None:
    """A write that fits into one part is one request."""
    content = content_of(20 * MIB)
    write(filesystem_of(ceph), f"models/{ceph.rig.key('a')}", content, tmp_path, chunksize=32 * MIB)
    assert ceph.sent("UploadPart") == []
    assert ceph.get("a") == content


@pytest.mark.parametrize("write", WRITES)
def test_max_concurrency(write: Any, ceph: Faulty, tmp_path: Path) -> None:
    """A write has at most `max_concurrency` parts in flight."""
    most: list[int] = []

    def count() -> None:
        most.append(len([entry for entry in ceph.sent("UploadPart") if entry.status is None]))

    ceph.inject("UploadPart", Call(count), times=4)
    ceph.inject("UploadPart", Delay(0.2), times=4)
    path = f"models/{ceph.rig.key('a')}"
    write(filesystem_of(ceph), path, content_of(4 * PART), tmp_path, chunksize=PART, max_concurrency=1)
    assert most == [1] * 4


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize(
    "given",
    [
        {"chunksize": 0},
        {"chunksize": 5 * MIB - 1},
        {"chunksize": 5 * 2**30 + 1},
        {"chunksize": "5MiB"},
        {"chunksize": 5e6},
        {"max_concurrency": 0},
        {"max_concurrency": -3},
        {"max_concurrency": "2"},
    ],
    ids=str,
)
def test_invalid_value(write: Any, given: dict[str, Any], ceph: Faulty, tmp_path: Path) -> None:
    """An invalid chunksize or max_concurrency is refused, and nothing is written."""
    ((name, value),) = given.items()
    with pytest.raises(ValueError, match=f"{name}.*{value}"):
        write(filesystem_of(ceph), f"models/{ceph.rig.key('a')}", b"content", tmp_path, **given)
    assert ceph.rig.keys() == []
    assert {entry.method for entry in ceph.proxy.requests} <= {"GET", "HEAD"}


def test_block_size_and_chunksize(ceph: Faulty) -> None:
    """A block size and a different chunksize contradict each other."""
    with pytest.raises(ValueError, match=f"{5 * MIB}.*{6 * MIB}"):
        filesystem_of(ceph).open("models/a", "wb", block_size=5 * MIB, chunksize=6 * MIB)


def test_chunksize_of_download(ceph: Faulty, tmp_path: Path) -> None:
    """A download is split into ranges of `chunksize` bytes."""
    content = content_of(5 * MIB)
    ceph.put(content, "a")
    filesystem_of(ceph).get_file(f"models/{ceph.rig.key('a')}", str(tmp_path / "a"), chunksize=2 * MIB, max_concurrency=2)
    assert (tmp_path / "a").read_bytes() == content
    ranges = [entry.response_bytes for entry in ceph.sent("GetObject") if "range" in entry.headers]
    assert sorted(ranges) == [MIB, 2 * MIB, 2 * MIB]
    for given in ({"chunksize": 0}, {"max_concurrency": 0}):
        with pytest.raises(ValueError, match="not 0"):
            filesystem_of(ceph).get_file(f"models/{ceph.rig.key('a')}", str(tmp_path / "b"), **given)
