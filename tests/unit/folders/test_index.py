"""The index of checksums: a second run reads nothing; damage and other processes do no harm."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
import time
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage.files.source import open_source
from gllm_storage.folders import compare
from gllm_storage.folders.index import LOCAL, ChecksumIndex, Known, is_settled
from gllm_storage.memory.store import MemoryStore
from gllm_storage.store.checksums import crc64nvme, encode
from tests.unit.folders.conftest import settle, write

if TYPE_CHECKING:
    from pathlib import Path

    from gllm_storage import ObjectInfo
    from gllm_storage.fsspec_client import FsspecStorageClient

KNOWN = Known("file", "state", "crc64nvme:value")


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each read of a local file, each HEAD request and each read of an object fail."""

    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("a file was read, or a request was sent")

    monkeypatch.setattr(compare, "open_source", fail)
    monkeypatch.setattr(MemoryStore, "info", fail)
    monkeypatch.setattr(MemoryStore, "open_reader", fail)


def test_second_run(client: FsspecStorageClient, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run in each direction, and of a copy, lists only."""
    client.upload_dir(local, "v1")
    client.download_dir("v1", tmp_path / "copy")
    client.copy_dir("v1", "v2")
    forbid(monkeypatch)
    assert client.upload_dir(local, "v1").skipped == 3
    assert client.download_dir("v1", tmp_path / "copy").skipped == 3
    assert client.copy_dir("v1", "v2").skipped == 3


def test_without_index(client: FsspecStorageClient, local: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the index, each file of equal size costs a HEAD request, many at a time, and a read of the local file."""
    names = [f"many/{number:02}" for number in range(40)]
    for name in names:
        write(local / name, name.encode())
    settle(local / names[-1])
    client.upload_dir(local, "v1")
    write(local / "a.bin", b"of another size")
    write(local / "new.bin", b"new")
    shutil.rmtree(cache)
    asked, read = list[str](), list[str]()
    together = threading.Barrier(8)
    info = MemoryStore.info

    def ask(self: MemoryStore, key: str, operation: str = "info") -> ObjectInfo:
        asked.append(key)
        if len(asked) <= together.parties:
            together.wait(10)  # broken if one request follows the other
        value = self.content(key, self.details(key, operation)).getvalue()
        return replace(info(self, key, operation), checksum=f"crc64nvme:{encode(crc64nvme(value))}")

    def opened(path: str, *rest: Any, **options: Any) -> Any:
        read.append(os.path.relpath(path, local))
        return open_source(path, *rest, **options)

    monkeypatch.setattr(MemoryStore, "info", ask)
    monkeypatch.setattr(compare, "open_source", opened)
    plan = client.check_dir(local, client.url("v1"))
    same = ["b/c.bin", "d.txt", *names]
    assert (sorted(asked), sorted(read)) == ([f"v1/{name}" for name in same], same)
    assert [each.file.path for each in plan.steps()] == ["a.bin", "new.bin"]
    assert client.check_dir(local, client.url("v1")).transfers == 2
    assert len(asked) == len(read) == len(same)


def test_new_file(client: FsspecStorageClient, tmp_path: Path) -> None:
    """A change within a tick of the clock, which shows in no time, is found: a file that was new is not remembered."""
    path = tmp_path / "local" / "a.bin"
    path.parent.mkdir()
    for _ in range(20):
        path.write_bytes(b"one")
        client.upload_dir(path.parent, "v1")
        with path.open("r+b") as file:
            file.write(b"two")
        assert client.upload_dir(path.parent, "v1").transferred == 1


@pytest.mark.parametrize(
    ("age_ns", "settled"), [(0, False), (10_000_000, False), (30_000_000, True), (-(10**9), False)], ids=str
)
def test_settled(age_ns: int, settled: bool) -> None:
    """A file is settled when it is older than a tick."""
    modified = 10**18 + 123
    assert is_settled(modified, modified, modified + age_ns) is settled
    assert is_settled(modified - 10**12, modified, modified + age_ns) is settled


def test_coarse_clock() -> None:
    """A time in full seconds may be of a clock with ticks of 2 s."""
    assert not is_settled(10**18, 10**18, 10**18 + 10**9)
    assert is_settled(10**18, 10**18, 10**18 + 3 * 10**9)


@pytest.mark.parametrize("place", ["local", "local hashes"])
def test_no_time_of_change(cache: Path, place: str) -> None:
    """A local file whose times are one, in whole seconds, may be one of another image with the same times."""
    states = {
        "image": "5-1700000000000000000-1700000000000000000-12",
        "epoch": "5-0-0-12",
        "fine": "5-1700000000000000001-1700000000000000001-12",
        "touched": "5-1700000000000000000-1800000000000000000-12",
    }
    with closing(ChecksumIndex(str(cache / "index"))) as index:
        for where in (place, "memory"):
            index.remember(where, [Known(name, state, "crc64nvme:x") for name, state in states.items()])
        assert index.find(place, states).keys() == {"fine", "touched"}
        assert index.find("memory", states).keys() == states.keys()


@pytest.mark.parametrize("damage", ["text", "cut", "zeros", "folder", "read-only"])
def test_damage(client: FsspecStorageClient, local: Path, cache: Path, damage: str) -> None:
    """A damaged index is made anew; one that cannot be made is done without."""
    client.upload_dir(local, "v1")
    (file,) = cache.iterdir()
    content = file.read_bytes()
    if damage == "folder":
        file.unlink()
        file.mkdir()
    elif damage == "read-only":
        file.unlink()
        cache.rmdir()
        cache.write_bytes(b"a file in place of the folder")
    else:
        file.write_bytes(
            {"text": b"no database" * 100, "cut": content[: len(content) // 2], "zeros": bytes(len(content))}[damage]
        )
    assert client.sync_dir(local, client.url("v1")).failed == 0
    assert client.check_dir(local, client.url("v1")).transfers == (3 if damage in {"folder", "read-only"} else 0)


def test_other_state(cache: Path) -> None:
    """A checksum counts for its place and its state only."""
    index = ChecksumIndex(str(cache / "index"))
    index.remember("s3 one", [KNOWN])
    assert index.find("s3 one", {"file": "state"}) == {"file": {"crc64nvme": "value"}}
    assert index.find("s3 one", {"file": "other"}) == {}
    assert index.find("s3 two", {"file": "state"}) == {}
    index.remember("s3 one", [Known("file", "state", "md5:other")])
    assert index.find("s3 one", {"file": "state"}) == {"file": {"crc64nvme": "value", "md5": "other"}}
    index.close()


def _remember(path: str, number: int) -> None:
    index = ChecksumIndex(path)
    for round_ in range(20):
        index.remember("place", [Known(f"{number}-{round_}-{each}", "state", "md5:x") for each in range(10)])
    index.close()


def test_processes(cache: Path) -> None:
    """Several processes write at once, and nothing is lost."""
    path = str(cache / "index")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_remember, args=(path, number)) for number in range(3)]
    for each in processes:
        each.start()
    for each in processes:
        each.join(60)
    index = ChecksumIndex(path)
    names = [f"{number}-{round_}-{each}" for number in range(3) for round_ in range(20) for each in range(10)]
    assert len(index.find("place", dict.fromkeys(names, "state"))) == len(names)
    index.close()


def test_touched(client: FsspecStorageClient, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A touched file is read once, and then remembered."""
    client.upload_dir(local, "v1")
    os.utime(local / "a.bin", (time.time() - 500,) * 2)
    write(local / "d.txt", b"D.TXT")
    settle(local / "d.txt")
    assert client.upload_dir(local, "v1").transferred == 1
    forbid(monkeypatch)
    assert client.upload_dir(local, "v1").skipped == 3


def test_pause(cache: Path) -> None:
    """An index with a pause finds what it remembers at once; other connections see it when the index is closed."""
    path, known = str(cache / "checksums.sqlite"), [Known("a.bin", "1", "crc64nvme:AA==")]
    index, other = ChecksumIndex(path, pause=3600), ChecksumIndex(path)
    index.remember(LOCAL, known)
    assert other.find(LOCAL, {"a.bin": "1"}) == {}
    assert index.find(LOCAL, {"a.bin": "1"}) == {"a.bin": {"crc64nvme": "AA=="}}
    index.remember(LOCAL, [Known("b.bin", "1", "crc64nvme:BB==")])
    index.forget(LOCAL, ["b.bin"])
    index.remember(LOCAL, [Known("c.bin", "1", "crc64nvme:CC==")])
    index.close()
    assert set(other.find(LOCAL, dict.fromkeys(["a.bin", "b.bin", "c.bin"], "1"))) == {"a.bin", "c.bin"}
    other.close()
