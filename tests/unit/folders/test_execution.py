"""The execution of a plan: failures, changes since the plan, progress, and deletions."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import threading
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fsspec.callbacks import Callback

from gllm_storage import ObjectProperties, StorageError, storage_client_from_url, versions
from gllm_storage.errors import FolderError
from gllm_storage.folders import Plan, RemoteFolder
from gllm_storage.folders.transfer import PropertyOptions
from gllm_storage.memory.store import MemoryStore
from tests.unit.folders.conftest import stored, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gllm_storage.fsspec_client import FsspecStorageClient
    from gllm_storage.info import Stored
    from gllm_storage.store.port import UploadRequest


def fail_uploads(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let the uploads of some files fail."""
    upload = MemoryStore.upload

    def broken(self: MemoryStore, request: UploadRequest) -> Stored:
        if request.key.endswith(names):
            raise StorageError(f"{request.key} is refused", request.details)
        return upload(self, request)

    monkeypatch.setattr(MemoryStore, "upload", broken)


def test_collect(client: FsspecStorageClient, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All other files are transferred; one error lists the failures; nothing is deleted."""
    client.upload(b"old", "v1/old.bin")
    fail_uploads(monkeypatch, "a.bin", "d.txt")
    with pytest.raises(FolderError) as caught:
        client.sync_dir(local, client.url("v1"), delete=True, on_error="collect")
    assert stored(client) == {"v1/b/c.bin", "v1/old.bin"}
    error = caught.value
    assert {path for path, _ in error.failures} == {"a.bin", "d.txt"}
    assert "2 files failed, 1 were transferred, 1 not begun, and so 1 files were not deleted" in str(error)
    assert "v1/d.txt is refused" in str(error)
    assert [(each.path, each.size) for each in error.result.outcomes("transferred")] == [("b/c.bin", 7)]
    assert {each.path for each in error.result.outcomes("failed")} == {"a.bin", "d.txt"}
    copy = pickle.loads(pickle.dumps(error))
    assert [path for path, _ in copy.failures] == [path for path, _ in error.failures]


def test_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: FsspecStorageClient) -> None:
    """After the first failure no file begins."""
    for number in range(500):
        write(tmp_path / "local" / f"{number:03}", b"x")
    fail_uploads(monkeypatch, "000")
    with pytest.raises(FolderError) as caught:
        client.upload_dir(tmp_path / "local", "v1")
    result = caught.value.result
    assert result.failed == 1
    assert result.not_begun > 100  # 0 without the stop; another thread may store some files before the failure is noted
    assert result.transferred == len(stored(client)) == 499 - result.not_begun


@pytest.mark.parametrize("change", ["content", "deleted", "grown"])
def test_changed_source(client: FsspecStorageClient, local: Path, change: str) -> None:
    """A local file that changed after the plan was made is a failure, and not transferred."""
    plan = client.sync_dir(local, client.url("v1"), dry_run=True).plan
    status = (local / "a.bin").stat()
    if change == "deleted":
        (local / "a.bin").unlink()
    else:
        (local / "a.bin").write_bytes(
            b"other"[: 5 if change == "content" else None] + (b"more" if change == "grown" else b"")
        )
        os.utime(local / "a.bin", ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(FolderError) as caught:
        client.apply_plan(plan, on_error="collect")
    assert [path for path, _ in caught.value.failures] == ["a.bin"]
    assert stored(client) == {"v1/b/c.bin", "v1/d.txt"}


def test_changed_object(client: FsspecStorageClient, local: Path, tmp_path: Path) -> None:
    """An object that was replaced after the plan was made is a failure, for downloads, copies and deletions."""
    client.upload_dir(local, "v1")
    down = client.sync_dir(client.url("v1"), tmp_path / "copy", dry_run=True).plan
    copy = client.copy_dir("v1", "v2", dry_run=True).plan
    delete = client.delete_dir("v1", dry_run=True).plan
    client.upload(b"other", "v1/a.bin")
    for plan in (down, copy, delete):
        with pytest.raises(FolderError, match="changed after the plan was made") as caught:
            client.apply_plan(plan, on_error="collect")
        assert [path for path, _ in caught.value.failures] == ["a.bin"]
    assert not (tmp_path / "copy" / "a.bin").exists()
    assert stored(client) == {"v1/a.bin", "v2/b/c.bin", "v2/d.txt"}


def test_changed_extra(client: FsspecStorageClient, local: Path, tmp_path: Path) -> None:
    """A local file that was replaced after the plan was made is not deleted."""
    client.upload_dir(local, "v1")
    for name in ("kept.bin", "gone/extra.bin"):
        write(tmp_path / "copy" / name, b"extra")
    plan = client.sync_dir(client.url("v1"), tmp_path / "copy", delete=True, dry_run=True).plan
    (tmp_path / "copy" / "kept.bin").write_bytes(b"mine!")
    with pytest.raises(FolderError, match=r"1 file failed, 3 were transferred, 0 not begun: .* so it was not deleted"):
        client.apply_plan(plan, on_error="collect")
    assert (tmp_path / "copy" / "kept.bin").read_bytes() == b"mine!"
    assert not (tmp_path / "copy" / "gone").exists()


def test_growing_file(client: FsspecStorageClient, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that grows while it is read is a failure, and no object appears."""
    upload = MemoryStore.new_content

    def grow(self: MemoryStore, key: str) -> Any:
        if key.endswith("a.bin"):
            with (local / "a.bin").open("ab") as file:
                file.write(b"more")
        return upload(self, key)

    monkeypatch.setattr(MemoryStore, "new_content", grow)
    with pytest.raises(FolderError, match="changed while it was read"):
        client.upload_dir(local, "v1", on_error="collect")
    assert stored(client) == {"v1/b/c.bin", "v1/d.txt"}


class Counting(Callback):  # type: ignore[misc]  # fsspec publishes no types
    """Counts the bytes of all files."""

    def __init__(self) -> None:
        super().__init__()
        self.children: list[Callback] = []

    def branched(self, *_: str, **__: Any) -> Callback:
        self.children.append(Callback())
        return self.children[-1]


@pytest.mark.parametrize("call", ["up", "down", "copy"])
def test_callback(client: FsspecStorageClient, local: Path, tmp_path: Path, call: str) -> None:
    """An fsspec callback counts files, and its children bytes; a function gets bytes."""
    if call != "up":
        client.upload_dir(local, "v1")

    def run(target: str, callback: Any) -> None:
        if call == "up":
            client.upload_dir(local, target, callback=callback)
        elif call == "down":
            client.download_dir("v1", tmp_path / target, callback=callback)
        else:
            client.copy_dir("v1", target, callback=callback)

    counting = Counting()
    run("one", counting)
    assert (counting.size, counting.value) == (3, 3)
    assert sum(each.value for each in counting.children) == sum(each.size for each in counting.children) == 17
    moved: list[int] = []
    run("two", moved.append)
    assert sum(moved) == 17


def test_properties(client: FsspecStorageClient, local: Path) -> None:
    """Properties of single uploads are options."""
    client.upload_dir(local, "v1", content_type="x/y", metadata={"run": "17"})
    found = client.info("v1/b/c.bin")
    assert (found.content_type, found.metadata) == ("x/y", {"run": "17"})
    client.copy_dir("v1", "v2")
    assert client.info("v2/b/c.bin").metadata == {"run": "17"}


def test_store_to_store(client: FsspecStorageClient, local: Path, tmp_path: Path) -> None:
    """A sync between two stores, by client or by URL; a second one transfers nothing."""
    client.upload_dir(local, "v1")
    other = storage_client_from_url(f"file://{tmp_path}/store")
    target = RemoteFolder(other, "v1")
    assert client.sync_dir(client.url("v1"), target).transferred == 3
    assert client.sync_dir(client.url("v1"), f"file://{tmp_path}/store/v1").transferred == 0
    assert other.sync_dir(RemoteFolder(other, "v1"), RemoteFolder(client, "v2")).transferred == 3
    assert other.sync_dir(RemoteFolder(other, "v1"), RemoteFolder(client, "v2")).transferred == 0
    assert (tmp_path / "store" / "v1" / "b" / "c.bin").read_bytes() == b"b/c.bin"


def test_both_local(client: FsspecStorageClient, local: Path, tmp_path: Path) -> None:
    """Two local folders are refused, with the way out."""
    with pytest.raises(ValueError, match="are both local"):
        client.sync_dir(local, tmp_path / "copy")
    with pytest.raises(ValueError, match=r"name a URL, such as client\.url\('v2'\)"):
        client.sync_dir(local, "v2")
    assert client.sync_dir(local, f"file://{tmp_path}/copy").transferred == 3


def test_property_options() -> None:
    """All properties of an upload are options, for type checkers as well."""
    assert list(PropertyOptions.__annotations__) == [each.name for each in fields(ObjectProperties)]


@pytest.mark.parametrize("name", ["s3://b/v2", "file:///v2", "~/v2", "~"])
def test_not_a_local_path(
    client: FsspecStorageClient, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A URL, or ``~``, where a path of this machine is needed is refused, and no folder ``s3:`` or ``~`` appears."""
    client.upload_dir(local, "v1")
    versions.publish(client, local, "m", version="1")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for call in (
        lambda: client.download_file("v1/a.bin", name),
        lambda: client.download_file("v1/a.bin", Path(name) if name.startswith("~") else name),
        lambda: client.upload_file(name, "v2"),
        lambda: client.upload(name, "v2"),
        lambda: client.download_dir("v1", name),
        lambda: client.upload_dir(name, "v1"),
        lambda: versions.fetch(client, "m", "1", name),
        lambda: versions.fetch(client, "m", "1", cache=name),
        lambda: versions.publish(client, name, "m", version="2"),
        lambda: versions.verify(client, "m", "1", name),
        lambda: versions.list_cache(name),
        lambda: versions.prune_cache(name, max_size=0),
    ):
        with pytest.raises(
            ValueError, match=r"is a URL; a path of this machine is needed|begins with '~', which is not expanded"
        ):
            call()
    assert list(Path().iterdir()) == []
    client.download_file("v1/a.bin", "./~/a.bin")
    assert Path("~/a.bin").read_bytes() == client.filesystem.cat_file(client.url("v1/a.bin"))


def test_file_as_source(client: FsspecStorageClient, local: Path) -> None:
    """A file is no folder."""
    for source in (str(local / "a.bin"), f"file://{local}/a.bin"):
        with pytest.raises(NotADirectoryError, match="a folder is needed"):
            client.sync_dir(source, client.url("v1"))


def test_wrong_types(client: FsspecStorageClient, local: Path) -> None:
    """Values of other types are refused by their names."""
    wrong: Any = client
    with pytest.raises(TypeError, match="max_delete='1'"):
        wrong.sync_dir(local, client.url("v1"), delete=True, max_delete="1")
    with pytest.raises(TypeError, match="preserve=True"):
        wrong.upload_dir(local, "v1", preserve=True)
    with pytest.raises(TypeError, match=r"Plan\.load\(path\), not str"):
        wrong.apply_plan("p.jsonl")
    with pytest.raises(ValueError, match="a remote folder is a string, not PosixPath"):
        wrong.upload_dir(local, Path("x"))
    with pytest.raises(TypeError, match="properties is an ObjectProperties, not int"):
        wrong.upload_dir(local, "v1", properties=3)


@pytest.mark.parametrize("name", ["delete", "force", "dry_run", "size_only"])
def test_flag_as_text(client: FsspecStorageClient, local: Path, name: str) -> None:
    """``"false"``, as in a config, is not taken for True, with which files would be deleted."""
    client.upload(b"kept", "v1/kept")
    wrong: Any = client
    with pytest.raises(TypeError, match=f"{name}='false': it is True or False"):
        wrong.sync_dir(local, client.url("v1"), **{name: "false"})
    assert stored(client) == {"v1/kept"}


@pytest.mark.parametrize("name", ["", "nul\0", "\ud800"], ids=["empty", "null", "surrogate"])
def test_no_folder_name(client: FsspecStorageClient, local: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """An empty name does not stand for the current directory; impossible ones are in the error."""
    client.upload(b"content", "v1/a")
    monkeypatch.chdir(local)
    wrong: Any = client
    for call in (wrong.upload_dir, lambda folder, _: wrong.sync_dir(client.url("v1"), folder, delete=True)):
        with pytest.raises(ValueError, match=r"a local folder (is empty|.* has a character)"):
            call(name, "v1")
    with pytest.raises(ValueError, match=r"local_dir (is empty|.* has a character)"):
        versions.publish(client, name, "m", version="v1")
    assert (local / "a.bin").exists()
    assert stored(client) == {"v1/a"}


def test_link_to_itself(client: FsspecStorageClient, tmp_path: Path) -> None:
    """A source that cannot be looked at is an error of the library, with the name."""
    os.symlink("loop", tmp_path / "loop")
    with pytest.raises(StorageError, match=r"loop'.*symbolic links"):
        client.upload_dir(tmp_path / "loop", "v1")


def test_delete_dir(client: FsspecStorageClient, local: Path) -> None:
    """`delete_dir` deletes what the filter takes, and refuses an empty path."""
    client.upload_dir(local, "v1")
    client.upload(b"kept", "v10/a.bin")
    with pytest.raises(ValueError, match="remote_dir is empty"):
        client.delete_dir("")
    assert client.delete_dir("v1", exclude=["b/"]).deleted == 2
    assert stored(client) == {"v1/b/c.bin", "v10/a.bin"}


def test_deletion_fails(client: FsspecStorageClient, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the object that could not be deleted."""
    client.upload_dir(local, "v1")
    delete = MemoryStore.delete

    def broken(self: MemoryStore, key: str) -> None:
        if key.endswith("a.bin"):
            raise StorageError("locked", self.details(key, "delete"))
        delete(self, key)

    monkeypatch.setattr(MemoryStore, "delete", broken)
    with pytest.raises(FolderError, match=r"'a\.bin': locked"):
        client.delete_dir("v1")
    assert stored(client) == {"v1/a.bin"}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.hostile
@pytest.mark.parametrize("on_error", ["stop", "collect"])
def test_full_disk(client: FsspecStorageClient, disk: Path, on_error: str) -> None:
    """A full disk is an error that names the file; no file is there in part, and the same call completes with room."""
    for name, size in (("1", 1000), ("2", 700_000), ("3", 1000)):
        client.upload(name.encode() * size, f"v1/{name}")
    (disk / "filler").write_bytes(bytes(2**19))
    with pytest.raises(FolderError, match=os.strerror(errno.ENOSPC)) as caught:
        client.download_dir("v1", disk / "copy", on_error=on_error)
    (failed,) = caught.value.result.outcomes("failed")
    assert failed.path == "2"
    there = {path.name: path.read_bytes() for path in (disk / "copy").iterdir()}
    assert there == {name: name.encode() * 1000 for name in there}
    assert sorted(there) == sorted(each.path for each in caught.value.result.outcomes("transferred"))
    (disk / "filler").unlink()
    result = client.download_dir("v1", disk / "copy", on_error=on_error)
    assert (result.transferred, result.skipped) == (3 - len(there), len(there))
    assert (disk / "copy" / "2").read_bytes() == b"2" * 700_000


def test_interrupt(client: FsspecStorageClient, tmp_path: Path) -> None:
    """An exception of the caller ends the call; no upload goes on after it."""
    for number in range(50):
        write(tmp_path / "local" / f"{number:02}", b"x" * 1000)
    before = threading.active_count()  # other tests leave threads that wait for work

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.upload_dir(tmp_path / "local", "v1", callback=interrupt, on_error="collect")
    assert threading.active_count() < before + 20
    assert len(stored(client)) < 50


def test_plan_without_secrets(local: Path, tmp_path: Path, client: FsspecStorageClient) -> None:
    """A saved plan names places, not credentials."""
    client.config["password"] = "secret-word"
    client.sync_dir(local, client.url("v1"), dry_run=True).plan.save(tmp_path / "plan")
    assert "secret-word" not in (tmp_path / "plan").read_text()
    assert Plan.load(tmp_path / "plan").source == str(local)
