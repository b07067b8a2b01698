"""The plan: what it contains, how it is saved, and what it refuses."""

from __future__ import annotations

import json
import os
import resource
from typing import TYPE_CHECKING

import pytest

from gllm_storage import ObjectInfo
from gllm_storage.concurrency.stop import Stop
from gllm_storage.errors import FolderError
from gllm_storage.files.names import fold_of
from gllm_storage.folders import Plan, plan
from gllm_storage.folders.entries import Entry, LocalFolder, StoredFolder
from gllm_storage.folders.filters import Filter
from gllm_storage.folders.index import ChecksumIndex
from gllm_storage.folders.plan import merged
from gllm_storage.memory.store import MemoryStore
from tests.unit.folders.conftest import stored, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gllm_storage.fsspec_client import FsspecStorageClient


def test_merge() -> None:
    """Two listings are merged in the order of UTF-8, which is not that of UTF-16."""
    one = [Entry(path, 1) for path in ("a", "b/c", "\uffee", "\U0001f600")]
    other = [Entry(path, 2) for path in ("a!", "b/c", "\U0001f600")]
    found = [(left and left.path, right and right.path) for left, right in merged(one, other)]
    assert found == [("a", None), (None, "a!"), ("b/c", "b/c"), ("\uffee", None), ("\U0001f600", "\U0001f600")]


def test_print(client: FsspecStorageClient, local: Path) -> None:
    """A plan is printed as one line for each step, and a summary; a dry run changes nothing."""
    client.upload(b"old", "v1/extra.bin")
    result = client.sync_dir(local, client.url("v1"), delete=True, dry_run=True)
    assert str(result.plan).splitlines() == [
        f"{local} -> {client.url('v1')}/",
        "  transfer a.bin (5 bytes, new)",
        "  transfer b/c.bin (7 bytes, new)",
        "  transfer d.txt (5 bytes, new)",
        "  delete extra.bin (3 bytes, extra)",
        "3 files to transfer (17 bytes), 1 to delete, 0 equal (0 bytes), 0 problems",
    ]
    assert stored(client) == {"v1/extra.bin"}
    assert (result.transferred, result.deleted) == (0, 0)


def test_save(client: FsspecStorageClient, local: Path, tmp_path: Path) -> None:
    """A saved plan is JSON lines, and runs later."""
    client.upload(b"old", "v1/extra.bin")
    client.sync_dir(local, client.url("v1"), delete=True, dry_run=True).plan.save(tmp_path / "plan")
    lines = [json.loads(line) for line in (tmp_path / "plan").read_text().splitlines()]
    assert [line.get("path") for line in lines] == [None, "a.bin", "b/c.bin", "d.txt", "extra.bin"]
    result = client.apply_plan(Plan.load(tmp_path / "plan"))
    assert (result.transferred, result.deleted) == (3, 1)
    assert stored(client) == {"v1/a.bin", "v1/b/c.bin", "v1/d.txt"}


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "format"])
def test_damaged_plan(client: FsspecStorageClient, local: Path, tmp_path: Path, damage: str) -> None:
    """A plan that is cut, or another file, is refused."""
    path = tmp_path / "plan"
    client.sync_dir(local, client.url("v1"), dry_run=True).plan.save(path)
    lines = path.read_text().splitlines(keepends=True)
    contents = {"cut": "".join(lines[:-1]), "empty": "", "other": "text\n", "format": lines[0].replace("plan 1", "plan 9")}
    path.write_text(contents[damage])
    with pytest.raises(ValueError, match="is not a plan that this version can read"):
        Plan.load(path)


def test_hostile_plan(client: FsspecStorageClient, local: Path, tmp_path: Path) -> None:
    """A plan from a file is checked again: its names may lead out of the target."""
    client.upload_dir(local, "v1")
    path = tmp_path / "plan"
    client.sync_dir(client.url("v1"), tmp_path / "target", dry_run=True).plan.save(path)
    path.write_text(path.read_text().replace('"a.bin"', '"../a.bin"'))
    with pytest.raises(FolderError, match="leads to another file"):
        client.apply_plan(Plan.load(path))
    assert not (tmp_path / "a.bin").exists()


def test_max_delete(client: FsspecStorageClient, local: Path) -> None:
    """More deletions than `max_delete` are refused before anything moves."""
    for number in range(3):
        client.upload(b"old", f"v1/{number}")
    with pytest.raises(FolderError, match="3 files would be deleted, max_delete is 2"):
        client.sync_dir(local, client.url("v1"), delete=True, max_delete=2)
    assert stored(client) == {"v1/0", "v1/1", "v1/2"}
    assert client.sync_dir(local, client.url("v1"), delete=True, max_delete=3).deleted == 3


def test_filtered_to_nothing(client: FsspecStorageClient, local: Path) -> None:
    """A filter that takes no file of the source deletes nothing of the target."""
    client.upload(b"old", "v1/old.pt")
    with pytest.raises(FolderError, match="nothing was deleted"):
        client.sync_dir(local, client.url("v1"), delete=True, include=["*.pt"])
    assert stored(client) == {"v1/old.pt"}


def test_excluded_is_kept(client: FsspecStorageClient, local: Path) -> None:
    """Files of the target that the filter leaves out are not deleted."""
    client.upload(b"old", "v1/old.txt")
    client.upload(b"old", "v1/old.bin")
    client.sync_dir(local, client.url("v1"), delete=True, exclude=["*.txt"])
    assert stored(client) == {"v1/a.bin", "v1/b/c.bin", "v1/old.txt"}


def test_files(client: FsspecStorageClient, local: Path) -> None:
    """A list of files transfers these; a name that does not exist is a failure."""
    assert client.upload_dir(local, "v1", files=["b/c.bin", "d.txt"]).transferred == 2
    assert stored(client) == {"v1/b/c.bin", "v1/d.txt"}
    with pytest.raises(FolderError, match=r"'b/missing': .*no such file"):
        client.upload_dir(local, "v2", files=["b/c.bin", "b/missing"])


@pytest.mark.parametrize("pair", [("v1", "v1"), ("v1", "v1/below"), ("v1/below", "v1"), ("v1", "")])
def test_nested(client: FsspecStorageClient, pair: tuple[str, str]) -> None:
    """A folder is not copied into itself or its parents."""
    client.upload(b"content", "v1/below/a")
    with pytest.raises(ValueError, match="one folder lies in the other"):
        client.copy_dir(*pair)


BAD_OPTIONS: list[dict[str, object]] = [
    {"on_error": "ignore"},
    {"links": "copy"},
    {"include": "*.bin"},
    {"files": "a"},
    {"include": ["a"], "exclude": ["b"]},
    {"files": ["a"], "include": ["b"]},
]


@pytest.mark.parametrize("options", BAD_OPTIONS, ids=str)
def test_bad_option(client: FsspecStorageClient, local: Path, options: dict[str, object]) -> None:
    """A wrong option is refused before anything is listed."""
    with pytest.raises(ValueError):  # noqa: PT011 - the messages have tests where they are made
        client.upload_dir(local, "v1", **options)  # type: ignore[arg-type]


def test_unknown_option(client: FsspecStorageClient, local: Path) -> None:
    """An unknown option is a `TypeError`."""
    with pytest.raises(TypeError, match="includes"):
        client.upload_dir(local, "v1", includes=["*.bin"])  # type: ignore[call-arg]


def test_links(client: FsspecStorageClient, local: Path) -> None:
    """Links are followed, left out or refused."""
    os.symlink(local / "a.bin", local / "link.bin")
    os.symlink(local / "b", local / "folder")
    assert client.upload_dir(local, "v1").transferred == 5
    assert client.upload_dir(local, "v2", links="skip").transferred == 3
    with pytest.raises(FolderError, match="is a symbolic link"):
        client.upload_dir(local, "v3", links="refuse")
    assert {key for key in stored(client) if key.startswith("v3/")} == set()


@pytest.mark.parametrize("kind", ["loop", "dangling", "pipe", "latin-1"])
def test_problem(client: FsspecStorageClient, local: Path, kind: str) -> None:
    """A file that cannot take part is a failure; with ``"collect"`` the others are transferred, and nothing is deleted."""
    client.upload(b"old", "v1/old.bin")
    make = {
        "loop": lambda: os.symlink(local, local / "bad"),
        "dangling": lambda: os.symlink("missing", local / "bad"),
        "pipe": lambda: os.mkfifo(local / "bad"),
        "latin-1": lambda: write(local / os.fsdecode(b"bad\xff"), b"x"),
    }
    make[kind]()
    with pytest.raises(FolderError) as stopped:
        client.sync_dir(local, client.url("v1"), delete=True)
    assert stored(client) == {"v1/old.bin"}
    assert stopped.value.result.not_begun == 4
    with pytest.raises(FolderError) as collected:
        client.sync_dir(local, client.url("v1"), delete=True, on_error="collect")
    assert stored(client) == {"v1/old.bin", "v1/a.bin", "v1/b/c.bin", "v1/d.txt"}
    assert [path[:3] for path, _ in collected.value.failures] == ["bad"]


def test_unordered_listing(client: FsspecStorageClient, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that lists in the order of a folder walk is sorted on this machine."""
    for name in ("a", "a-b/x", "a.b"):
        write(local / "c" / name if name != "a" else local / "c" / "a" / "y", b"content")
    in_order = MemoryStore.list

    def walked(self: MemoryStore, prefix: str = "") -> Iterator[ObjectInfo]:
        return iter(sorted(in_order(self, prefix), key=lambda info: info.url.split("/")))

    monkeypatch.setattr(MemoryStore, "list", walked)
    client.upload_dir(local, "v1")
    urls = [info.url for info in client.list_files("v1")]
    assert urls != sorted(urls)
    assert client.upload_dir(local, "v1").skipped == 6
    assert client.apply_plan(client.delete_dir("v1", dry_run=True).plan).deleted == 6


class Endless(MemoryStore):
    """A store with many objects, which needs no memory for them."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return (ObjectInfo(self.url(f"{prefix}folder/{number:07}.bin"), 10, str(number)) for number in range(200_000))


@pytest.mark.slow
def test_memory(client: FsspecStorageClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan of 200 000 files needs less than 40 MiB, also where each name has to be compared with all others."""
    monkeypatch.setattr(plan, "fold_of_disk", lambda _: fold_of(ignores_case=True, ignores_form=True))
    store = Endless(client.filesystem, "models")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = plan.plan_transfer(
        StoredFolder(store, "v1/"), LocalFolder(str(tmp_path / "copy")), plan.Wanted(Filter()), ChecksumIndex(None), Stop()
    )
    assert found.transfers == sum(1 for _ in found.steps("transfer")) == 200_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 * 2**10
