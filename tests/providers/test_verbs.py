"""The four documented verbs on every store: their results, their exceptions and their effects."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import (
    BucketNotFoundError,
    ConflictCheckUnsupportedError,
    NonAtomicWriteWarning,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageError,
)
from tests.rig import MIB, SMALL_PARTS, TRAITS

if TYPE_CHECKING:
    from collections.abc import Callable

    from gllm_storage.fsspec_client import FsspecStorageClient
    from tests.rig import Rig

    Verb = Callable[[FsspecStorageClient, str, Path], object]

SMALL = 100
LARGE = 5 * MIB + 1
SIZES = {
    "nothing": 0,
    "one-byte": 1,
    "one-part": 5 * MIB,
    "one-part-and-a-byte": LARGE,
    "several-parts": 11 * MIB + 3,
}
WITH_BUCKETS = [name for name, traits in TRAITS.items() if traits.has_buckets]

READERS: dict[str, Verb] = {
    "download_file": lambda client, path, folder: client.download_file(path, folder / "made" / "copy.bin"),
    "delete_file": lambda client, path, _: client.delete_file(path),
    "info": lambda client, path, _: client.info(path),
    "open": lambda client, path, _: client.open(path),
}
VERBS: dict[str, Verb] = {
    **READERS,
    "file_exists": lambda client, path, _: client.file_exists(path),
    "list_files": lambda client, path, _: list(client.list_files(path)),
    "upload_file": lambda client, path, folder: client.upload_file(folder / "source.bin", path),
    "check_conflict": lambda client, path, folder: client.upload_file(folder / "source.bin", path, check_conflict=True),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty local folder; the store ``file`` is elsewhere."""
    made = tmp_path / "local"
    made.mkdir()
    return made


def new_file(folder: Path, size: int = SMALL, name: str = "source.bin") -> Path:
    path = folder / name
    path.write_bytes(os.urandom(size))
    return path


def in_parts(rig: Rig, **config: str) -> FsspecStorageClient:
    """Return a client that sends a file of `LARGE` bytes in parts, if the provider has parts."""
    return rig.client(**(SMALL_PARTS if rig.provider == "s3" else {}), **config)


def failures(verbs: dict[str, Verb], client: FsspecStorageClient, path: str, folder: Path) -> dict[str, Exception | None]:
    """Return the exception of each verb, None for success."""
    return {name: _failure(verb, client, path, folder) for name, verb in verbs.items()}


def _failure(verb: Verb, client: FsspecStorageClient, path: str, folder: Path) -> Exception | None:
    try:
        verb(client, path, folder)
    except Exception as error:  # noqa: BLE001 - the test checks the type
        return error
    return None


def kinds(raised: dict[str, Exception | None]) -> dict[str, type[object]]:
    return {name: type(error) for name, error in raised.items()}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_round_trip(rig: Rig, folder: Path, size: int) -> None:
    """A file of any size makes the round trip, and nothing is left behind."""
    client, source, copy = in_parts(rig), new_file(folder, size), folder / "new" / "folder" / "copy.bin"

    url = client.upload_file(source, "v3/model.bin")
    assert url == f"{rig.scheme}://{rig.base}{rig.key('v3/model.bin')}"
    assert rig.second.get(rig.key("v3/model.bin")) == source.read_bytes()
    assert client.file_exists(url) is True
    assert client.info(url).size == size

    downloaded = client.download_file(url, copy)
    assert isinstance(downloaded, Path)
    assert downloaded == copy
    assert copy.read_bytes() == source.read_bytes()
    assert os.listdir(copy.parent) == ["copy.bin"]

    assert client.delete_file(url) is True
    assert client.file_exists(url) is False
    assert rig.keys() == []
    assert rig.open_uploads() == []


def test_documented_arguments(rig: Rig, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments have the documented names, order and types."""
    monkeypatch.chdir(folder)
    client, content = rig.client(), new_file(folder).read_bytes()
    by_name = client.upload_file(local_path=Path("source.bin"), remote_path="model.bin", check_conflict=False)
    assert client.upload_file("source.bin", "model.bin", False) == by_name
    assert client.download_file(remote_path="model.bin", local_path=Path("one.bin")) == Path("one.bin")
    assert client.download_file("model.bin", "two.bin") == Path("two.bin")
    assert (folder / "one.bin").read_bytes() == (folder / "two.bin").read_bytes() == content
    assert client.file_exists(remote_path="model.bin") is True
    assert client.info(remote_path="model.bin") == client.info("model.bin")
    assert client.delete_file(remote_path="model.bin") is True
    assert sorted(os.listdir(folder)) == ["one.bin", "source.bin", "two.bin"]


def test_path_forms(rig: Rig, folder: Path) -> None:
    """A relative path, a path from the root and a URL name the same object."""
    client, source, url = rig.client(), new_file(folder), f"{rig.scheme}://{rig.base}{rig.prefix}/v3/model.bin"
    for path in ("v3/model.bin", f"/{rig.prefix}/v3/model.bin", url):
        assert client.upload_file(source, path) == url == client.url(path)
        assert rig.keys() == ["v3/model.bin"]
        assert client.file_exists(path) is True
        assert client.info(path).url == url
        assert client.download_file(path, folder / "copy.bin").read_bytes() == source.read_bytes()
        assert client.delete_file(path) is True
        assert rig.keys() == []


def test_path_without_prefix(rig: Rig, folder: Path) -> None:
    """Without a prefix, a relative path begins at the root."""
    client = rig.client(prefix="")
    assert client.upload_file(new_file(folder), rig.key("model.bin")) == rig.client().url("model.bin")
    assert rig.keys() == ["model.bin"]


def test_url_of_other_bucket(rig: Rig, folder: Path) -> None:
    """A URL of another bucket or scheme raises ValueError in every verb."""
    client = rig.client()
    new_file(folder)
    own = client.url("model.bin").removeprefix(f"{rig.scheme}://")
    for url in (f"{rig.scheme}://elsewhere/model.bin", f"{rig.scheme}:///elsewhere/model.bin", f"ftp://{own}"):
        raised = failures(VERBS, client, url, folder)
        assert kinds(raised) == dict.fromkeys(VERBS, ValueError)
        assert all(url in str(error) for error in raised.values())
    assert rig.keys() == []


def test_upload_over_object(rig: Rig, folder: Path) -> None:
    """An upload replaces the existing object."""
    client = rig.client()
    for size in (10, SMALL, 10, 0, 1):
        source = new_file(folder, size)
        client.upload_file(source, "model.bin")
        assert rig.second.get(rig.key("model.bin")) == source.read_bytes()
        assert client.info("model.bin").size == size
    assert rig.keys() == ["model.bin"]


def test_download_over_file(rig: Rig, folder: Path) -> None:
    """A download replaces the local file."""
    client, copy = rig.client(), new_file(folder, 10 * SMALL, "copy.bin")
    rig.second.put(rig.key("model.bin"), b"short")
    client.download_file("model.bin", copy)
    assert copy.read_bytes() == b"short"
    assert os.listdir(folder) == ["copy.bin"]


@pytest.mark.parametrize("rig", ["ceph", "ceph-tls"], indirect=True)
@pytest.mark.parametrize("config", [{"multipart_threshold": "5GB"}, {"part_size": "16MiB"}], ids=["request", "parts"])
def test_large_requests(rig: Rig, folder: Path, config: dict[str, str]) -> None:
    """Requests that are too large to be held in memory make the round trip."""
    client, source = rig.client(**config), new_file(folder, 20 * MIB)
    client.upload_file(source, "model.bin")
    assert rig.second.get(rig.key("model.bin")) == source.read_bytes()
    assert client.download_file("model.bin", folder / "copy.bin").read_bytes() == source.read_bytes()
    assert rig.open_uploads() == []


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_check_conflict(creating_rig: Rig, folder: Path, size: int) -> None:
    """`check_conflict` creates an object once; a second upload is refused and changes nothing."""
    rig, client, first = creating_rig, in_parts(creating_rig), new_file(folder, size, "first.bin")
    url = client.upload_file(first, "model.bin", check_conflict=True)
    assert url == client.url("model.bin")
    as_it_was = client.info(url)
    with pytest.raises(ObjectExistsError) as caught:
        client.upload_file(new_file(folder, size, "second.bin"), url, True)
    assert isinstance(caught.value, FileExistsError)
    assert url in str(caught.value)
    assert client.info(url) == as_it_was
    assert rig.second.get(rig.key("model.bin")) == first.read_bytes()
    assert rig.keys() == ["model.bin"]
    assert rig.open_uploads() == []


def test_check_conflict_existing(creating_rig: Rig, folder: Path) -> None:
    """`check_conflict` refuses to replace an object that another client wrote."""
    rig, client, source = creating_rig, creating_rig.client(), new_file(folder)
    for existing in (b"", b"theirs"):
        rig.second.put(rig.key("model.bin"), existing)
        for path in (source, new_file(folder, 0, "empty.bin")):
            with pytest.raises(ObjectExistsError):
                client.upload_file(path, "model.bin", check_conflict=True)
        assert rig.second.get(rig.key("model.bin")) == existing
    client.delete_file("model.bin")
    client.upload_file(source, "model.bin", check_conflict=True)
    assert rig.second.get(rig.key("model.bin")) == source.read_bytes()
    assert rig.keys() == ["model.bin"]


def test_check_conflict_in_parts(parts_rig: Rig, folder: Path) -> None:
    """`check_conflict` refuses to replace an object with an upload in parts."""
    parts_rig.second.put(parts_rig.key("model.bin"), b"theirs")
    with pytest.raises(ObjectExistsError):
        in_parts(parts_rig).upload_file(new_file(folder, LARGE), "model.bin", check_conflict=True)
    assert parts_rig.second.get(parts_rig.key("model.bin")) == b"theirs"
    assert parts_rig.keys() == ["model.bin"]
    assert parts_rig.open_uploads() == []


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_check_conflict_unsupported(careless_rig: Rig, folder: Path, size: int) -> None:
    """`check_conflict` is refused before anything is written if the store cannot create exclusively."""
    rig, client, source = careless_rig, in_parts(careless_rig), new_file(folder, size)
    rig.second.put(rig.key("theirs.bin"), b"theirs")
    for path in ("model.bin", "theirs.bin"):
        with pytest.raises(ConflictCheckUnsupportedError, match="best-effort"):
            client.upload_file(source, path, check_conflict=True)
    assert rig.keys() == ["theirs.bin"]
    assert rig.second.get(rig.key("theirs.bin")) == b"theirs"
    assert rig.open_uploads() == []


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_check_conflict_best_effort(careless_rig: Rig, folder: Path, size: int) -> None:
    """The best-effort conflict check asks for the object before the write, and warns that writers can race."""
    rig, source = careless_rig, new_file(folder, size)
    client = in_parts(rig, conditional_writes="best-effort")
    with pytest.warns(NonAtomicWriteWarning, match=r"model\.bin"):
        client.upload_file(source, "model.bin", check_conflict=True)
    with pytest.warns(NonAtomicWriteWarning), pytest.raises(ObjectExistsError):
        client.upload_file(new_file(folder, size, "second.bin"), "model.bin", check_conflict=True)
    assert rig.second.get(rig.key("model.bin")) == source.read_bytes()
    assert rig.keys() == ["model.bin"]
    assert rig.open_uploads() == []


def test_prefix_of_objects(rig: Rig, folder: Path) -> None:
    """A prefix of objects is not a file."""
    rig.second.put(rig.key("dir/sub/model.bin"), b"content")
    client = rig.client()
    for prefix in ("dir", "dir/sub"):
        assert client.file_exists(prefix) is False
        assert kinds(failures(READERS, client, prefix, folder)) == dict.fromkeys(READERS, ObjectNotFoundError)
    assert rig.keys() == ["dir/sub/model.bin"]
    assert os.listdir(folder) == []


def test_missing_object(rig: Rig, folder: Path) -> None:
    """A missing object raises ObjectNotFoundError, a FileNotFoundError, with its URL."""
    client = rig.client()
    assert client.file_exists("absent.bin") is False
    raised = failures(READERS, client, "absent.bin", folder)
    assert kinds(raised) == dict.fromkeys(READERS, ObjectNotFoundError)
    assert issubclass(ObjectNotFoundError, FileNotFoundError)
    assert not issubclass(ObjectNotFoundError, RuntimeError)
    assert all(client.url("absent.bin") in str(error) for error in raised.values())
    assert os.listdir(folder) == []
    assert rig.keys() == []


def test_failed_download(rig: Rig, folder: Path) -> None:
    """A failed download leaves the local file as it was."""
    copy = new_file(folder, name="copy.bin")
    content = copy.read_bytes()
    with pytest.raises(ObjectNotFoundError):
        rig.client().download_file("absent.bin", copy)
    assert copy.read_bytes() == content
    assert os.listdir(folder) == ["copy.bin"]


def test_missing_local_file(rig: Rig, folder: Path) -> None:
    """An upload of a missing local file raises a plain FileNotFoundError with its path."""
    client = rig.client()
    new_file(folder)
    for name in ("absent.bin", "absent/source.bin", "source.bin/below"):
        with pytest.raises(FileNotFoundError) as caught:
            client.upload_file(folder / name, "model.bin")
        assert type(caught.value) is FileNotFoundError
        assert caught.value.filename == str(folder / name)
    assert rig.keys() == []


def test_local_folder(rig: Rig, folder: Path) -> None:
    """A local folder is neither a source nor a target of a transfer."""
    client = rig.client()
    with pytest.raises(StorageError, match="is a directory"):
        client.upload_file(folder, "model.bin")
    assert rig.keys() == []
    client.upload_file(new_file(folder), "model.bin")
    with pytest.raises(StorageError, match="is a directory"):
        client.download_file("model.bin", folder)
    assert os.listdir(folder) == ["source.bin"]


@pytest.mark.parametrize("rig", WITH_BUCKETS, indirect=True)
def test_missing_bucket(rig: Rig, folder: Path) -> None:
    """A missing bucket raises BucketNotFoundError, which is a StorageError and a FileNotFoundError."""
    new_file(folder)
    raised = failures(VERBS, rig.client_of("no-such-bucket"), "model.bin", folder)
    assert kinds(raised) == dict.fromkeys(VERBS, BucketNotFoundError)
    assert issubclass(BucketNotFoundError, StorageError)
    assert issubclass(BucketNotFoundError, FileNotFoundError)
    assert all("no-such-bucket" in str(error) for error in raised.values())
    assert os.listdir(folder) == ["source.bin"]


def test_write_by_other_client(rig: Rig, folder: Path) -> None:
    """The write of another client is visible at once."""
    client, copy = rig.client(), folder / "copy.bin"
    # Checked and listed before the first write: a cached answer would be wrong afterwards.
    assert client.file_exists("v3/model.bin") is False
    assert list(client.list_files()) == []
    for content in (b"first", b"a longer second", b""):
        rig.second.put(rig.key("v3/model.bin"), content)
        assert client.file_exists("v3/model.bin") is True
        assert client.info("v3/model.bin").size == len(content)
        assert [(each.url, each.size) for each in client.list_files()] == [(client.url("v3/model.bin"), len(content))]
        assert client.download_file("v3/model.bin", copy).read_bytes() == content
        assert _content(client.open("v3/model.bin")) == content
    rig.second.put(rig.key("v3/other.bin"), b"other")
    assert [each.url for each in client.list_files("v3/")] == [client.url("v3/model.bin"), client.url("v3/other.bin")]


def test_delete_by_other_client(rig: Rig, folder: Path) -> None:
    """An object that another client deleted is absent at once."""
    client, other = rig.client(), rig.client()
    rig.second.put(rig.key("model.bin"), b"theirs")
    assert client.info("model.bin").size == len(b"theirs")
    assert len(list(client.list_files())) == 1
    assert other.delete_file("model.bin") is True
    assert rig.keys() == []
    assert client.file_exists("model.bin") is False
    assert list(client.list_files()) == []
    assert kinds(failures(READERS, client, "model.bin", folder)) == dict.fromkeys(READERS, ObjectNotFoundError)


def _content(handle: Any) -> bytes:
    with handle:
        content: bytes = handle.read()
    return content
