"""Folders on every store: which files `sync_dir` transfers and deletes, after each kind of change."""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import MemoryStorageClient, ObjectNotFoundError, versions
from gllm_storage.errors import FolderError, StorageError
from gllm_storage.folders import RemoteFolder, compare, mover
from tests.conftest import make_rig
from tests.rig import server_rig
from tests.servers.process import clean_environment, find_program
from tests.servers.rclone import INSTALL
from tests.unit.folders.conftest import settle

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gllm_storage.folders import Plan, TransferOptions
    from gllm_storage.fsspec_client import FsspecStorageClient
    from tests.conftest import Servers
    from tests.rig import Rig

FILES = [
    "same-size-and-time.bin",
    "touched.bin",
    "grown.bin",
    "moved.bin",
    "deleted.bin",
    "replaced.bin",
    "Case.bin",
    "compressed.bin",
    "emptied.bin",
    "unchanged.bin",
    "rewritten.bin",
    "gone-from-target.bin",
    "deep/er/unchanged.bin",
]
CONTENT = b"0123456789" * 100
OTHER = CONTENT[::-1]
TRANSFERRED = {
    "same-size-and-time.bin",
    "grown.bin",
    "moved-here.bin",
    "replaced.bin",
    "CASE.bin",
    "compressed.bin",
    "emptied.bin",
    "gone-from-target.bin",
    "new.bin",
}
DELETED = {"moved.bin", "deleted.bin", "Case.bin"}
OLD = time.time() - 1000


@pytest.fixture(autouse=True)
def _own_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLLM_STORAGE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=["memory", "file", "ministack", "gcs-fake", "azurite"])
def rig(request: pytest.FixtureRequest) -> Rig:
    """A store of each provider."""
    return make_rig(request.param, request)


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A local folder with `FILES`, which are old enough to be remembered."""
    folder = tmp_path / "local"
    for name in FILES:
        write(folder / name, CONTENT + name.encode())
    settle(folder / FILES[-1])
    return folder


def write(path: Path, content: bytes, modified: float = OLD) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (modified, modified))


def steps(plan: Plan, action: str) -> set[str]:
    return {step.file.path for step in plan.steps(action)}


def mutate(put: Callable[[str, bytes], object], delete: Callable[[str], object]) -> None:
    """Change the files of the source."""
    put("same-size-and-time.bin", OTHER + b"same-size-and-time.bin")
    put("grown.bin", CONTENT + b"more" * 100)
    put("moved-here.bin", CONTENT + b"moved.bin")
    put("CASE.bin", CONTENT + b"Case.bin")
    put("compressed.bin", gzip.compress(CONTENT))
    put("emptied.bin", b"")
    put("new.bin", b"new")
    put("rewritten.bin", CONTENT + b"rewritten.bin")
    for name in ("moved.bin", "deleted.bin", "Case.bin"):
        delete(name)


@pytest.mark.parametrize("remembers", [True, False], ids=["index", "no-index"])
def test_upload_table(rig: Rig, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remembers: bool) -> None:
    """Each change of the local source, and of the objects by another writer, is decided right."""
    client = rig.client()
    assert client.upload_dir(local, "v1").transferred == len(FILES)
    mutate(lambda name, content: write(local / name, content), lambda name: (local / name).unlink())
    os.utime(local / "touched.bin")
    rig.second.put(rig.key("v1/replaced.bin"), OTHER + b"replaced.bin")
    rig.second.delete(rig.key("v1/gone-from-target.bin"))
    if not remembers:
        monkeypatch.setenv("GLLM_STORAGE_CACHE", str(tmp_path / "other"))
    plan = client.sync_dir(local, client.url("v1"), delete=True, dry_run=True).plan
    unknown = (
        set()
        if remembers or has_checksums(rig)
        else {"touched.bin", "rewritten.bin", "unchanged.bin", "deep/er/unchanged.bin"}
    )
    assert steps(plan, "transfer") == TRANSFERRED | unknown
    assert steps(plan, "delete") == DELETED
    done = client.sync_dir(local, client.url("v1"), delete=True)
    assert (done.transferred, done.deleted) == (len(TRANSFERRED | unknown), len(DELETED))
    found = {path.removeprefix("v1/"): rig.second.get(rig.key(path)) for path in rig.files()}
    assert found == {str(each.relative_to(local)): each.read_bytes() for each in local.rglob("*") if each.is_file()}
    assert client.check_dir(local, client.url("v1")).is_empty


def has_checksums(rig: Rig) -> bool:
    """Whether an object has a checksum, or is a local file."""
    return rig.provider != "memory"


def test_download_table(rig: Rig, local: Path, tmp_path: Path) -> None:
    """Each change of the objects by another writer, and of the local copies, is decided right."""
    client, copy = rig.client(), tmp_path / "copy"
    client.upload_dir(local, "v1")
    assert client.download_dir("v1", copy).transferred == len(FILES)
    mutate(
        lambda name, content: rig.second.put(rig.key(f"v1/{name}"), content),
        lambda name: rig.second.delete(rig.key(f"v1/{name}")),
    )
    os.utime(copy / "touched.bin")
    status = (copy / "replaced.bin").stat()
    (copy / "replaced.bin").write_bytes(OTHER + b"replaced.bin")
    os.utime(copy / "replaced.bin", ns=(status.st_atime_ns, status.st_mtime_ns))
    (copy / "gone-from-target.bin").unlink()
    plan = client.sync_dir(client.url("v1"), copy, delete=True, dry_run=True).plan
    unknown = set() if has_checksums(rig) else {"rewritten.bin"}
    assert steps(plan, "transfer") == TRANSFERRED | unknown
    assert steps(plan, "delete") == DELETED
    client.sync_dir(client.url("v1"), copy, delete=True)
    found = {str(each.relative_to(copy)): each.read_bytes() for each in copy.rglob("*") if each.is_file()}
    assert found == {path.removeprefix("v1/"): rig.second.get(rig.key(path)) for path in rig.files()}
    assert client.check_dir(client.url("v1"), copy).is_empty


def test_copy(rig: Rig, local: Path) -> None:
    """`copy_dir` copies what differs; a second run copies nothing; `delete_dir` deletes it."""
    client = rig.client()
    client.upload_dir(local, "v1")
    assert client.copy_dir("v1", "v2").transferred == len(FILES)
    assert client.copy_dir("v1", "v2").transferred == 0
    rig.second.put(rig.key("v1/replaced.bin"), OTHER + b"replaced.bin")
    assert client.copy_dir("v1", "v2").transferred == 1
    assert rig.second.get(rig.key("v2/replaced.bin")) == OTHER + b"replaced.bin"
    assert client.delete_dir("v2").deleted == len(FILES)
    assert sorted(rig.files()) == sorted(f"v1/{name}" for name in FILES)
    assert client.delete_dir("v2").deleted == 0


def test_copy_of_changed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``on_error="collect"``, objects that another writer replaced or deleted since the plan end no other copies."""
    monkeypatch.setattr(mover, "_COPIES", 1)  # one after the other: the failures come first
    client = rig.client()
    for name in ("replaced", "deleted", "kept"):
        rig.second.put(rig.key(f"v1/{name}"), CONTENT)
    plan = client.copy_dir("v1", "v2", dry_run=True).plan
    rig.second.put(rig.key("v1/replaced"), OTHER)
    rig.second.delete(rig.key("v1/deleted"))
    with pytest.raises(FolderError) as caught:
        client.apply_plan(plan, on_error="collect")
    failures = {path: str(error) for path, error in caught.value.failures}
    assert sorted(failures) == ["deleted", "replaced"]
    assert re.search("changed after the plan was made|was replaced meanwhile", failures["replaced"])
    assert re.search("does not exist|No such", failures["deleted"])
    assert [key for key in rig.files() if key.startswith("v2/")] == ["v2/kept"]


@pytest.mark.parametrize("name", ["ministack", "azurite", "gcs-fake"])
def test_changed_before_read(
    request: pytest.FixtureRequest, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small file that changes after the last look at it, and before it is read, is not stored."""
    rig, opened = make_rig(name, request), os.open
    for other in ("a.bin", "b.bin", "c.bin", "d.bin"):
        write(tmp_path / "local" / other, CONTENT)

    def change_first(path: Any, *args: Any, **given: Any) -> int:
        if str(path).endswith("a.bin"):
            monkeypatch.setattr(os, "open", opened)
            write(tmp_path / "local" / "a.bin", OTHER)
        return opened(path, *args, **given)

    plan = rig.client().upload_dir(tmp_path / "local", "v1", dry_run=True).plan
    monkeypatch.setattr(os, "open", change_first)
    with pytest.raises(FolderError, match="changed after the plan was made, so it was not uploaded"):
        rig.client().apply_plan(plan, on_error="collect")
    assert rig.keys() == ["v1/b.bin", "v1/c.bin", "v1/d.bin"]


def test_preserve(rig: Rig, tmp_path: Path) -> None:
    """Times and modes go up, down, and to another store, small files and files in parts."""
    client, other = rig.client(), MemoryStorageClient({"bucket_name": "other", "prefix": tmp_path.name})
    sizes = {"small.bin": 10, "empty.bin": 0, "large.bin": 9 * 2**20}
    for number, (name, size) in enumerate(sizes.items()):
        write(tmp_path / "local" / name, bytes(size), OLD + number + 0.123456)
        (tmp_path / "local" / name).chmod(0o640 + number)
    facts: TransferOptions = {"preserve": ("mtime", "mode")}

    client.upload_dir(tmp_path / "local", "v1", **facts)
    client.download_dir("v1", tmp_path / "copy", **facts)
    client.sync_dir(client.url("v1"), RemoteFolder(other, "v1"), **facts)
    client.copy_dir("v1", "v2", **facts)
    other.download_dir("v1", tmp_path / "across", **facts)
    client.download_dir("v2", tmp_path / "within", **facts)
    own: TransferOptions = facts if rig.provider == "file" else {**facts, "content_type": "application/x-weights"}
    client.copy_dir("v1", "v3", **own)
    client.download_dir("v3", tmp_path / "changed", **facts)
    client.download_dir("v1", tmp_path / "plain")

    given = facts_about(tmp_path / "local")
    assert [facts_about(tmp_path / each) for each in ("copy", "across", "within", "changed")] == [given] * 4
    assert not set(facts_about(tmp_path / "plain").values()) & set(given.values())
    assert client.download_dir("v1", tmp_path / "copy").transferred == 0


def test_rclone_times(servers: Servers, tmp_path: Path) -> None:
    """Rclone restores times and modes that this library has stored, and this library those that rclone has stored."""
    rig = server_rig("ministack", servers.s3("ministack"))
    write(tmp_path / "local" / "a.bin", CONTENT, OLD + 0.123456)
    (tmp_path / "local" / "a.bin").chmod(0o640)
    config = rig.config
    environment = {
        **clean_environment(tmp_path),
        "RCLONE_S3_PROVIDER": "Other",
        "RCLONE_S3_ENDPOINT": config["endpoint_url"],
        "RCLONE_S3_ACCESS_KEY_ID": config["aws_access_key_id"],
        "RCLONE_S3_SECRET_ACCESS_KEY": config["aws_secret_access_key"],
    }
    remote = f":s3:{config['bucket_name']}/{rig.key('')}"
    copy = [find_program("rclone", INSTALL), "--config", "", "copy", "--metadata"]

    rig.client().upload_dir(tmp_path / "local", "ours", preserve=("mtime", "mode"))
    subprocess.run([*copy, f"{remote}ours", tmp_path / "theirs"], check=True, env=environment)
    subprocess.run([*copy, tmp_path / "local", f"{remote}theirs"], check=True, env=environment)
    rig.client().download_dir("theirs", tmp_path / "ours", preserve=("mtime", "mode"))

    given = facts_about(tmp_path / "local")
    assert facts_about(tmp_path / "theirs") == facts_about(tmp_path / "ours") == given


def facts_about(folder: Path) -> dict[str, tuple[int, int]]:
    """Times and modes of the files of a folder."""
    return {each.name: (each.stat().st_mtime_ns, each.stat().st_mode) for each in folder.iterdir()}


@pytest.mark.parametrize("name", ["azurite", "ministack"])
def test_backslash(request: pytest.FixtureRequest, name: str, tmp_path: Path) -> None:
    """A store that would change a name refuses it, before anything moves; others keep it."""
    rig = make_rig(name, request)
    write(tmp_path / "local" / "a\\b", CONTENT)
    write(tmp_path / "local" / "a" / "b", OTHER)
    if not rig.traits.backslashes:
        with pytest.raises(FolderError, match="which this store does not keep unchanged"):
            rig.client().upload_dir(tmp_path / "local", "v1")
        assert rig.keys() == []
        return
    assert rig.client().upload_dir(tmp_path / "local", "v1").transferred == 2
    assert sorted(rig.keys()) == ["v1/a/b", "v1/a\\b"]


def test_missing_source(rig: Rig, tmp_path: Path) -> None:
    """A missing source is an error, and nothing is deleted because of it."""
    client = rig.client()
    client.upload(b"kept", "v1/kept.bin")
    with pytest.raises(ObjectNotFoundError):
        client.download_dir("v0", tmp_path / "copy")
    with pytest.raises(FileNotFoundError):
        client.sync_dir(tmp_path / "missing", client.url("v1"), delete=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FolderError, match="nothing was deleted"):
        client.sync_dir(tmp_path / "empty", client.url("v1"), delete=True)
    assert rig.files() == ["v1/kept.bin"]


def test_second_run(rig: Rig, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run in each direction lists only: no HEAD request, no read of an object or of a local file."""
    client = rig.client()
    client.upload_dir(local, "v1")
    client.download_dir("v1", tmp_path / "copy")
    client.copy_dir("v1", "v2")

    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("a file was read, or a request was sent")

    monkeypatch.setattr(compare, "open_source", fail)
    for method in ("info", "open_reader", "upload", "copy"):
        monkeypatch.setattr(type(client.store), method, fail)
    assert client.upload_dir(local, "v1").skipped == len(FILES)
    assert client.download_dir("v1", tmp_path / "copy").skipped == len(FILES)
    assert client.copy_dir("v1", "v2").skipped == len(FILES)


def failing(calls: list[int]) -> Callable[[int], None]:
    """A callback whose fifth call fails."""

    def fail(moved: int) -> None:
        calls.append(moved)
        if len(calls) == 5:
            raise OSError("the screen is gone")

    return fail


@pytest.fixture(params=["memory", "ministack"])
def hundred(request: pytest.FixtureRequest, tmp_path: Path) -> FsspecStorageClient:
    """A client, and a local folder with 100 files."""
    (tmp_path / "local").mkdir()
    for number in range(100):
        (tmp_path / "local" / f"{number:03}").write_bytes(b"content")
    return make_rig(request.param, request).client()


@pytest.mark.parametrize("call", ["upload", "upload in threads", "download"])
def test_callback_raises(hundred: FsspecStorageClient, call: str, tmp_path: Path) -> None:
    """A callback that raises is a failure, and nothing is deleted."""
    client, source, target = hundred, str(tmp_path / "local"), hundred.url("v1")
    if call == "download":
        client.upload_dir(source, "v1")
        source, target = target, str(tmp_path / "down")
        (tmp_path / "down").mkdir()
        (tmp_path / "down" / "old").write_bytes(b"old")
    else:
        client.upload(b"old", "v1/old")
    executor = ThreadPoolExecutor(2) if call == "upload in threads" else None
    with executor or nullcontext(), pytest.raises(FolderError, match="the screen is gone") as caught:
        client.sync_dir(source, target, delete=True, callback=failing([]), executor=executor)
    result = caught.value.result
    assert (result.failed, result.deleted, result.not_begun + result.transferred) == (1, 0, 100)
    if call == "download":
        there = sum(1 for _ in (tmp_path / "down").iterdir())
        assert (tmp_path / "down" / "old").exists()
    else:
        there = sum(1 for _ in client.list_files("v1/"))
        assert client.file_exists("v1/old")
    assert result.transferred + 1 <= there <= result.transferred + 3


def test_callback_collect(hundred: FsspecStorageClient, tmp_path: Path) -> None:
    """With ``on_error="collect"``, only the file whose callback failed is a failure."""
    with pytest.raises(FolderError, match="the screen is gone") as caught:
        hundred.upload_dir(tmp_path / "local", "v1", callback=failing([]), on_error="collect")
    assert (caught.value.result.failed, caught.value.result.transferred) == (1, 99)


def test_publish_callback(hundred: FsspecStorageClient, tmp_path: Path) -> None:
    """A callback that raises ends `publish` and `fetch`: neither the version nor the directory appears."""
    client, local = hundred, tmp_path / "local"
    with pytest.raises((OSError, StorageError), match="the screen is gone"):
        versions.publish(client, local, "m", version="1", callback=failing([]))
    assert list(versions.list_versions(client, "m")) == []
    versions.publish(client, local, "m", version="1")
    with pytest.raises((OSError, StorageError), match="the screen is gone"):
        versions.fetch(client, "m", "1", tmp_path / "fetched", callback=failing([]))
    assert not (tmp_path / "fetched").exists()


@pytest.mark.parametrize("store", ["memory", "ministack", "gcs-fake", "azurite"])
def test_object_as_target(store: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A target folder with the name of an object is refused; ``force`` permits it."""
    client = make_rig(store, request).client()
    client.upload(b"object", "x/a.txt")
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "f").write_bytes(b"f")
    with pytest.raises(FolderError, match=r"x/a\.txt is an object; nothing was changed"):
        client.upload_dir(tmp_path / "local", "x/a.txt")
    assert not client.file_exists("x/a.txt/f")
    assert client.upload_dir(tmp_path / "local", "x/a.txt", force=True).transferred == 1
    assert client.upload_dir(tmp_path / "local", "x/a.txt").skipped == 1


@pytest.mark.parametrize("store", ["file", "memory", "ministack", "gcs-fake", "azurite"])
def test_verbs_onto_object(store: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """An object in place of a folder gets one answer everywhere: nothing is below it, and no folder is made of it."""
    client = make_rig(store, request).client()
    client.upload(b"object", "x/a.txt")
    client.upload(b"other", "y/b.txt")
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "f").write_bytes(b"f")
    source, url = tmp_path / "local", client.url("x/a.txt")
    assert client.delete_dir("x/a.txt").deleted == 0
    assert client.delete_dir("x/a.txt", dry_run=True).plan.is_empty
    assert client.check_dir(source, url).transfers == 1
    calls: list[Callable[[], object]] = [
        lambda: client.upload_dir(source, "x/a.txt"),
        lambda: client.upload_dir(source, "x/a.txt", dry_run=True),
        lambda: client.sync_dir(source, url, delete=True),
        lambda: client.apply_plan(client.check_dir(source, url)),
        lambda: client.copy_dir("y", "x/a.txt"),
    ]
    for call in calls:
        with pytest.raises(FolderError, match=r"x/a\.txt is (an object|a file); nothing was changed"):
            call()
    assert sorted(each.url for each in client.list_files()) == [url, client.url("y/b.txt")]


def test_file_above_target(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A folder of this machine that lies below a file is refused before anything moves, also with ``force``."""
    client = make_rig("file", request).client()
    client.upload(b"object", "x/a.txt")
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "f").write_bytes(b"f")
    for name in ("x/a.txt", "x/a.txt/b/c"):
        for force in (False, True):
            with pytest.raises(FolderError, match=r"x/a\.txt is a file; nothing was changed.*Choose another name"):
                client.upload_dir(tmp_path / "local", name, force=force)
    assert client.delete_dir("x/a.txt/b").deleted == 0


@pytest.mark.parametrize("store", ["file", "memory"])
def test_local_file_as_target(store: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A local file as the target of a download, or at the end of a comparison, is a `NotADirectoryError`."""
    client = make_rig(store, request).client()
    client.upload(b"object", "x/a.txt")
    file = tmp_path / "file"
    file.write_bytes(b"kept")
    calls: list[Callable[[], object]] = [
        lambda: client.download_dir("x", file),
        lambda: client.download_dir("x", file / "below"),
        lambda: client.sync_dir(client.url("x"), file, delete=True),
        lambda: client.check_dir(client.url("x"), file),
        lambda: client.check_dir(file, client.url("x")),
    ]
    for call in calls:
        with pytest.raises(NotADirectoryError, match="is a file; a folder is needed"):
            call()
    assert file.read_bytes() == b"kept"


@pytest.mark.parametrize("remembers", [True, False], ids=["index", "no-index"])
@pytest.mark.parametrize(("store", "algorithm"), [("ministack", "CRC64NVME"), ("ministack", "CRC32"), ("ceph", "")])
@pytest.mark.parametrize("engine", ["auto", "boto3"])
def test_carried_metadata(  # noqa: PLR0917 - cases and fixtures
    request: pytest.FixtureRequest, tmp_path: Path, store: str, algorithm: str, engine: str, remembers: bool
) -> None:
    """An object that was replaced with its metadata is another one; the checksum in them is that of the old content."""
    rig = make_rig(store, request)
    client: Any = rig.client(engine=engine)
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "a.bin").write_bytes(CONTENT)
    settle(tmp_path / "local" / "a.bin")
    place = "carried"
    assert client.upload_dir(tmp_path / "local", place).transferred == 1
    second: Any = rig.second
    where = {"Bucket": second.bucket, "Key": rig.key("carried/a.bin")}
    replaced = {"Metadata": second.client.head_object(**where)["Metadata"], "Body": OTHER}
    second.client.put_object(**where, **replaced, **({"ChecksumAlgorithm": algorithm} if algorithm else {}))
    if not remembers:
        (tmp_path / "cache").rename(tmp_path / "old-cache")
    if store != "ceph":  # which states no checksum of the content
        assert client.download_dir(place, tmp_path / "copy").transferred == 1
        assert (tmp_path / "copy" / "a.bin").read_bytes() == OTHER
    assert client.upload_dir(tmp_path / "local", place).transferred == 1
    assert client.upload_dir(tmp_path / "local", place).skipped == 1
    assert client.download_dir(place, tmp_path / "copy").transferred == 1
    assert (tmp_path / "copy" / "a.bin").read_bytes() == CONTENT
