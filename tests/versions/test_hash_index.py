"""The index of hashes: an unchanged file is not read again, and no wrong or damaged entry makes a wrong version."""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING

import pytest

from gllm_storage import LocalStorageClient
from gllm_storage.errors import IntegrityError
from gllm_storage.files.source import SourceChangedError
from gllm_storage.folders import index
from gllm_storage.folders.index import index_file
from gllm_storage.versions.fetching import fetch
from gllm_storage.versions.publisher import publish
from gllm_storage.versions.verification import verify
from tests.versions.support import MODEL, claim, digest_of, new_client, opened_in, settled, write_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gllm_storage.fsspec_client import FsspecStorageClient

SIZE = 100_000
FILES = {f"shards/{number}.bin": bytes([number]) * SIZE for number in range(5)} | {"config.json": b"{}", "empty": b""}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the test's own index."""
    monkeypatch.setenv("GLLM_STORAGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A directory whose files are old enough to be remembered."""
    return settled(write_folder(tmp_path / "out", FILES))


@pytest.fixture(params=["memory", "file"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> FsspecStorageClient:
    if request.param == "memory":
        return new_client()
    return LocalStorageClient({"root": str(tmp_path / "store")})


def test_unchanged(client: FsspecStorageClient, out: Path) -> None:
    """An unchanged directory is read once, for however many versions and calls."""
    with opened_in(out) as opened:
        publish(client, out, MODEL, version="v1")
    assert opened == set(FILES)
    for version in ("v1", "v2", "v3"):
        with opened_in(out) as opened:
            assert publish(client, out, MODEL, version=version).digest == digest_of(FILES)
        assert not opened


def test_other_paths(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same directory by a relative path, and for another model, is known; another directory is not."""
    publish(new_client(), out, MODEL, version="v1")
    client = new_client()
    publish(client, out, "other", version="v1")
    monkeypatch.chdir(tmp_path)
    with opened_in(out) as opened:
        publish(client, "out", "other", version="v2")
    assert not opened
    assert publish(client, write_folder(tmp_path / "b", {"f": b"b"}), "other", version="v3").digest == digest_of({"f": b"b"})


def rewrite(path: Path, data: bytes, *, keep: bool = False) -> None:
    before = path.stat()
    with path.open("r+b") as file:
        file.write(data)
        file.truncate(len(data))
    if keep:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path: Path, data: bytes) -> None:
    before, beside = path.stat(), path.with_name("beside")
    beside.write_bytes(data)
    os.utime(beside, ns=(before.st_atime_ns, before.st_mtime_ns))
    beside.rename(path)


def link(path: Path) -> None:
    target = path.parent.parent.parent / "elsewhere"
    target.write_bytes(b"\7" * SIZE)
    path.unlink()
    path.symlink_to(target)


CHANGES: dict[str, Callable[[Path], None]] = {
    "content": lambda path: rewrite(path, b"\7" * SIZE),
    "content, old time": lambda path: rewrite(path, b"\7" * SIZE, keep=True),
    "replaced, old time": lambda path: replace(path, b"\7" * SIZE),
    "longer": lambda path: rewrite(path, b"\7" * (SIZE + 1)),
    "emptied": lambda path: rewrite(path, b""),
    "touched": os.utime,
    "removed": os.unlink,
    "renamed": lambda path: os.rename(path, path.with_name("other.bin")),
    "link": link,
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes(out: Path, change: str) -> None:
    """Each change of a file since the last version is in the next one."""
    client = new_client()
    publish(client, out, MODEL, version="v1")
    CHANGES[change](out / "shards/2.bin")
    now = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert publish(client, out, MODEL, version="v2").digest == digest_of(now)
    assert (digest_of(now) == digest_of(FILES)) == (change == "touched")


def test_new_file(tmp_path: Path) -> None:
    """A change within a tick of the clock, which shows in no time, is found: a file that was new is not remembered."""
    client = new_client()
    for number in range(20):
        folder = write_folder(tmp_path / "out", {"f": b"one"})
        publish(client, folder, f"m{number}", version="v1")
        with (folder / "f").open("r+b") as file:
            file.write(b"two")
        assert publish(client, folder, f"m{number}", version="v2").digest == digest_of({"f": b"two"})


@pytest.mark.parametrize("is_first", [True, False])
def test_wrong_entry(client: FsspecStorageClient, out: Path, is_first: bool) -> None:
    """A file that is sent must have its hashes: a wrong entry is an error, and is forgotten, so that the next call works."""
    if not is_first:
        publish(client, write_folder(out.parent / "before", {**FILES, "shards/1.bin": b"\x11" * SIZE}), MODEL, version="v0")
    claim(out / "shards/1.bin", b"\7" * SIZE)
    with pytest.raises(SourceChangedError, match=r"1\.bin"):
        publish(client, out, MODEL, version="v1")
    with pytest.raises(FileNotFoundError):
        verify(client, MODEL, "v1")
    assert publish(client, out, MODEL, version="v1").digest == digest_of(FILES)
    verify(client, MODEL, "v1")


DAMAGES = ["no database", "cut", "directory", "bit", "other file", "no hash", "old columns"]


def damage(file: Path, kind: str) -> None:
    if kind in {"no database", "directory"}:
        file.unlink()
        file.mkdir() if kind == "directory" else file.write_bytes(b"not a database" * 1000)
        return
    if kind == "cut":
        os.truncate(file, file.stat().st_size // 2)
        return
    with sqlite3.connect(file) as database:
        rows = dict(database.execute("SELECT name, value FROM checksums"))
        assert len(rows) == len(FILES)
        for name, value in rows.items():
            wrong = {"bit": f"{ord(value[0]) ^ 1:c}{value[1:]}", "no hash": ""}.get(kind, value)
            if kind == "other file":
                wrong = next(each for other, each in rows.items() if other != name)
            database.execute("UPDATE checksums SET value = ? WHERE name = ?", (wrong, name))
        if kind == "old columns":
            database.execute("DROP TABLE checksums")
            database.execute("CREATE TABLE checksums (path TEXT PRIMARY KEY, value TEXT)")
    database.close()


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_index(out: Path, kind: str) -> None:
    """A damaged index costs only time: all files are read, and the version is right. It is made anew, if it can be."""
    client = new_client()
    publish(client, out, MODEL, version="v1")
    damage(out.parent / "cache" / os.path.basename(index_file()), kind)
    with opened_in(out) as opened:
        assert publish(client, out, MODEL, version="v2").digest == digest_of(FILES)
    assert opened == set(FILES)
    with opened_in(out) as opened:
        publish(client, out, MODEL, version="v3")
    assert opened == (set(FILES) if kind == "directory" else set())


def test_locked_index(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that another process keeps locked costs only time."""
    monkeypatch.setattr(index, "_WAIT_SECONDS", 0.1)
    client = new_client()
    publish(client, out, MODEL, version="v1")
    other = sqlite3.connect(index_file(), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        assert publish(client, out, MODEL, version="v2").digest == digest_of(FILES)
    finally:
        other.close()


def test_verify_reads(client: FsspecStorageClient, out: Path, tmp_path: Path) -> None:
    """`verify` of a local copy believes no index: it reads each file."""
    publish(client, out, MODEL, version="v1")
    fetch(client, MODEL, "v1", tmp_path / "copy")
    damaged = settled(tmp_path / "copy") / "shards/4.bin"
    rewrite(damaged, b"\7" * SIZE, keep=True)
    settled(tmp_path / "copy")
    claim(damaged, FILES["shards/4.bin"])
    with opened_in(tmp_path / "copy") as opened, pytest.raises(IntegrityError, match=r"shards/4\.bin' is changed"):
        verify(client, MODEL, "v1", tmp_path / "copy")
    assert opened == set(FILES)
