"""The index remembers only what is certain, also if another program writes beside a transfer."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import storage_client_from_url
from gllm_storage.errors import FolderError
from gllm_storage.files.target import Draft
from gllm_storage.folders import RemoteFolder, compare, entries, mover
from gllm_storage.memory.store import MemoryStore
from gllm_storage.store.checksums import checksum_of
from tests.unit.folders.conftest import settle, write

if TYPE_CHECKING:
    from pathlib import Path

    from gllm_storage import ObjectInfo
    from gllm_storage.fsspec_client import FsspecStorageClient


@pytest.fixture(params=["without checksums", "with checksums"])
def one(request: pytest.FixtureRequest, client: FsspecStorageClient, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of a store with the object ``v1/a``, whose content is ``AAAA``; the store may state checksums."""
    if request.param == "with checksums":
        info = MemoryStore._info

        def stating(self: MemoryStore, key: str, content: Any) -> ObjectInfo:
            value = content.getvalue()
            crc = checksum_of(lambda offset, length: value[offset : offset + length], len(value), "crc64nvme")
            return replace(info(self, key, content), checksum=f"crc64nvme:{crc}")

        monkeypatch.setattr(MemoryStore, "_info", stating)
    client.upload(b"AAAA", "v1/a")
    return client


def in_place(path: Path) -> None:
    """Write another content into a file."""
    with path.open("r+b") as file:
        file.write(b"BBBB")


def with_old_time(path: Path) -> None:
    """Put another file in place of a file, with an old time, as ``cp -p`` does."""
    write(path.parent.parent / "other", b"BBBB")
    shutil.copy2(path.parent.parent / "other", path)


def renamed(path: Path) -> None:
    """Put another file with an old time in place of a file, as ``rsync -a`` does."""
    write(path.parent.parent / "other", b"BBBB")
    os.replace(path.parent.parent / "other", path)


@pytest.mark.parametrize("change", [in_place, with_old_time, renamed])
@pytest.mark.parametrize("moment", ["named", "read back"])
def test_changed_after_download(
    one: FsspecStorageClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, moment: str
) -> None:
    """A file that another program changes as soon as it has its name differs from its object."""
    path = tmp_path / "copy" / "a"
    if moment == "named":
        publish = Draft.publish

        def publishing(self: Draft) -> None:
            publish(self)
            change(path)

        monkeypatch.setattr(Draft, "publish", publishing)
    else:
        remember = mover.Mover._remember_downloads

        def remembering(self: Any, *args: Any) -> None:
            change(path)
            remember(self, *args)

        monkeypatch.setattr(mover.Mover, "_remember_downloads", remembering)
    one.download_dir("v1", path.parent)
    assert path.read_bytes() == b"BBBB"
    assert one.check_dir(one.url("v1"), path.parent).transfers == 1


def test_download_is_known(one: FsspecStorageClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A downloaded file that nothing changed is equal, and is not read again."""
    one.download_dir("v1", tmp_path / "copy")
    monkeypatch.setattr(MemoryStore, "info", None)
    assert one.check_dir(one.url("v1"), tmp_path / "copy").is_empty
    status = (tmp_path / "copy" / "a").stat()
    assert 0 < time.time() - status.st_mtime < 60


def test_copy_is_replaced(one: FsspecStorageClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that another writer replaces at once is a failure, and not equal later."""
    copy = MemoryStore.copy_version

    def replacing(self: MemoryStore, key: str, target_key: str, *args: Any, **kwargs: Any) -> None:
        copy(self, key, target_key, *args, **kwargs)
        one.upload(b"BBBB", target_key)

    monkeypatch.setattr(MemoryStore, "copy_version", replacing)
    with pytest.raises(FolderError, match="it is not the copy any more"):
        one.copy_dir("v1", "v2")
    assert one.check_dir(one.url("v1"), one.url("v2")).transfers == 1


def test_copy_between_stores(one: FsspecStorageClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same between two stores."""
    other: Any = storage_client_from_url(f"{one.url('x').removesuffix('/x')}-other")
    copy = MemoryStore.copy

    def replacing(self: MemoryStore, *args: Any, **kwargs: Any) -> None:
        copy(self, *args, **kwargs)
        other.upload(b"BBBB", "v2/a")

    monkeypatch.setattr(MemoryStore, "copy", replacing)
    with pytest.raises(FolderError, match="it is not the copy any more"):
        one.sync_dir(RemoteFolder(one, "v1"), RemoteFolder(other, "v2"))
    assert one.check_dir(RemoteFolder(one, "v1"), RemoteFolder(other, "v2")).transfers == 1


def test_copy_without_answer(client: FsspecStorageClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is remembered of a copy whose store states neither a checksum nor an ETag in its answer."""
    client.upload(b"AAAA", "v1/a")
    copy = MemoryStore.copy_version

    def silent(self: MemoryStore, key: str, target_key: str, transfer: Any, **kwargs: Any) -> None:
        copy(self, key, target_key, replace(transfer, stored=id), **kwargs)

    monkeypatch.setattr(MemoryStore, "copy_version", silent)
    assert client.copy_dir("v1", "v2").transferred == 1
    assert client.check_dir(client.url("v1"), client.url("v2")).transfers == 1


def test_new_file_uploaded(client: FsspecStorageClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that changed within the tick of its upload, without another time, is not taken for its object."""

    def state_of(status: os.stat_result) -> str:
        return f"{status.st_size}-{status.st_mtime_ns}"  # as within a tick: the ctime is the old one

    for module in (compare, entries, mover):
        monkeypatch.setattr(module, "state_of", state_of)
    path = tmp_path / "local" / "a"
    path.parent.mkdir()
    remember = mover.Mover._remember_uploads

    def remembering(self: Any, *args: Any) -> None:
        status = path.stat()
        in_place(path)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        remember(self, *args)

    monkeypatch.setattr(mover.Mover, "_remember_uploads", remembering)
    path.write_bytes(b"AAAA")
    client.upload_dir(path.parent, "v1")
    settle(path)
    assert client.check_dir(path.parent, client.url("v1")).transfers == 1


def test_new_file_is_known(client: FsspecStorageClient, tmp_path: Path) -> None:
    """A file that was written just before its upload is remembered, also if the store states no checksum."""
    path = tmp_path / "local" / "a"
    path.parent.mkdir()
    for content in (b"AAAA", b"BBBB", b"CCCC"):
        path.write_bytes(content)
        assert client.upload_dir(path.parent, "v1").transferred == 1
        assert client.upload_dir(path.parent, "v1").skipped == 1


def test_folder_not_utf8(client: FsspecStorageClient, tmp_path: Path) -> None:
    """A local folder whose own path is not UTF-8 is a source and a target as all others."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    write(folder / "a", b"content")
    settle(folder / "a")
    assert client.upload_dir(folder, "v1").transferred == 1
    assert client.upload_dir(folder, "v1").skipped == 1
    client.download_dir("v1", tmp_path / os.fsdecode(b"\xff"))
    assert client.check_dir(client.url("v1"), tmp_path / os.fsdecode(b"\xff")).is_empty
    plan = client.sync_dir(folder, client.url("v2"), dry_run=True).plan
    plan.save(tmp_path / "plan")
    assert client.apply_plan(type(plan).load(tmp_path / "plan")).transferred == 1
