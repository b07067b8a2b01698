"""The plan: what it contains, how it is saved, and what it refuses."""

from __future__ import annotations

import cProfile
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from gllm_storage.errors import FolderError
from gllm_storage.folders import Plan
from gllm_storage.folders.entries import Entry
from gllm_storage.folders.plan import merged
from gllm_storage.memory.store import MemoryStore
from tests.unit.folders.conftest import stored, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gllm_storage import ObjectInfo
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


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "format", "nested", "order", "twice", "no source"])
def test_damaged_plan(client: FsspecStorageClient, local: Path, tmp_path: Path, damage: str) -> None:
    """A plan that is cut, or another file, is refused."""
    path = tmp_path / "plan"
    client.sync_dir(local, client.url("v1"), dry_run=True).plan.save(path)
    lines = path.read_text().splitlines(keepends=True)
    header, *steps = lines
    contents = {
        "cut": "".join(lines[:-1]),
        "empty": "",
        "other": "text\n",
        "format": header.replace("plan 1", "plan 9"),
        "nested": "[" * 100_000,
        "order": "".join([header, *reversed(steps)]),
        "twice": "".join([header.replace('"transfers": 3', '"transfers": 4'), *steps, steps[-1]]),
        "no source": "".join([header.replace(f'"source": "{local}"', '"source": ""'), *steps]),
    }
    path.write_text(contents[damage])
    with pytest.raises(ValueError, match="is not a plan that this version can read"):
        Plan.load(path)


OTHER_VALUES = [
    ('"path": "a.bin"', '"path": 5'), ('"path": "a.bin"', '"path": null'), ('"size": 5', '"size": "5"'),
    ('"size": 5', '"size": true'), ('"size": 5', '"size": -5'), ('"action": "transfer"', '"action": "skip"'),
    ('"action": "transfer"', '"action": []'), ('"state": "', '"state": ["'), ('"reason": "new"', '"reason": {}'),
    ('"path": "a.bin"', '"path": "a.bin", "other": 1'), ('"path": "a.bin", ', ""), ('"deletions": 0', '"deletions": "0"'),
    ('"skipped": 0', '"skipped": -1'), ('"target": "', '"target": 7, "x": "'),
    ('"skipped": 0', '"skipped": null'), ('"size": 5', '"size": 5.5'),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after"), OTHER_VALUES)
def test_other_value(client: FsspecStorageClient, local: Path, tmp_path: Path, before: str, after: str) -> None:
    """A plan with a value of another type, or a field that is missing or unknown, is refused when it is read."""
    path = tmp_path / "plan"
    client.sync_dir(local, client.url("v1"), dry_run=True).plan.save(path)
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(ValueError, match="is not a plan that this version can read"):
        Plan.load(path)


@pytest.mark.hostile
def test_save_on_full_disk(client: FsspecStorageClient, local: Path) -> None:
    """The error names the file."""
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        client.upload_dir(local, "v1", dry_run=True).plan.save("/dev/full")


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


def test_extra_is_kept(client: FsspecStorageClient, local: Path, tmp_path: Path) -> None:
    """Without `delete`, files that only the target has are kept, in a store and in a local folder."""
    client.upload(b"extra", "v1/extra")
    write(tmp_path / "copy" / "extra", b"extra")
    results = [client.sync_dir(local, client.url("v1")), client.sync_dir(client.url("v1"), tmp_path / "copy")]
    assert [each.deleted for each in results] == [0, 0]
    assert stored(client) == {"v1/a.bin", "v1/b/c.bin", "v1/d.txt", "v1/extra"}
    assert (tmp_path / "copy" / "extra").exists()


@pytest.mark.parametrize("size_only", [True, False])
def test_size_only(client: FsspecStorageClient, local: Path, size_only: bool) -> None:
    """`size_only` takes files of one size for equal; a file of another size differs in both cases."""
    client.upload_dir(local, "v1")
    write(local / "a.bin", b"A.bin")
    write(local / "d.txt", b"longer")
    plan = client.check_dir(local, client.url("v1"), size_only=size_only)
    expected = [("d.txt", "size")] if size_only else [("a.bin", "checksum"), ("d.txt", "size")]
    assert [(each.file.path, each.reason) for each in plan.steps()] == expected
    assert client.sync_dir(local, client.url("v1"), size_only=size_only).transferred == len(expected)


def test_skipped_steps(client: FsspecStorageClient, local: Path, tmp_path: Path) -> None:
    """`steps("skip")` gives the equal files; a saved plan has their number only."""
    client.upload_dir(local, "v1", files=["a.bin", "d.txt"])
    plan = client.check_dir(local, client.url("v1"))
    assert [str(each) for each in plan.steps("skip")] == ["skip a.bin (5 bytes, equal)", "skip d.txt (5 bytes, equal)"]
    assert [each.file.path for each in plan.steps()] == ["b/c.bin"]
    plan.save(tmp_path / "plan")
    loaded = Plan.load(tmp_path / "plan")
    assert (loaded.skipped, loaded.skipped_bytes, list(loaded.steps("skip"))) == (2, 10, [])


def test_plan_with_problems(client: FsspecStorageClient, local: Path, tmp_path: Path) -> None:
    """A plan with problems is not complete: it is not saved, and an earlier file stays."""
    os.symlink("missing", local / "bad")
    (tmp_path / "plan").write_text("earlier")
    with pytest.raises(ValueError, match=r"the plan has 1 problems, such as .*bad"):
        client.check_dir(local, client.url("v1")).save(tmp_path / "plan")
    assert (tmp_path / "plan").read_text() == "earlier"


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
BAD_SYNC_OPTIONS: list[tuple[dict[str, object], str]] = [
    ({"files": ["a.bin"], "delete": True}, "files and delete are both given"),
    ({"delete": True, "max_delete": -1}, "max_delete=-1: it must not be negative"),
]


@pytest.mark.parametrize("options", BAD_OPTIONS, ids=str)
def test_bad_option(client: FsspecStorageClient, local: Path, options: dict[str, object]) -> None:
    """A wrong option is refused before anything is listed."""
    with pytest.raises(ValueError):  # noqa: PT011 - the messages have tests where they are made
        client.upload_dir(local, "v1", **options)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize(("options", "message"), BAD_SYNC_OPTIONS, ids=["files and delete", "max_delete"])
def test_bad_sync_option(client: FsspecStorageClient, local: Path, options: dict[str, object], message: str) -> None:
    """Wrong options of deletions are refused, and nothing moves."""
    with pytest.raises(ValueError, match=message):
        client.sync_dir(local, client.url("v1"), **options)  # type: ignore[arg-type]  # wrong on purpose
    assert stored(client) == set()


def test_unknown_option(client: FsspecStorageClient, local: Path) -> None:
    """An unknown option is a `TypeError`."""
    with pytest.raises(TypeError, match="includes"):
        client.upload_dir(local, "v1", includes=["*.bin"])  # type: ignore[call-arg]  # wrong on purpose


def test_links(client: FsspecStorageClient, local: Path) -> None:
    """Links are followed, only those to files are, or they are left out or refused."""
    os.symlink(local / "a.bin", local / "link.bin")
    os.symlink(local / "b", local / "folder")
    assert client.upload_dir(local, "v1").transferred == 5
    assert client.upload_dir(local, "v4", links="files").transferred == 4
    assert {key for key in stored(client) if key.startswith("v4/")} == {"v4/a.bin", "v4/b/c.bin", "v4/d.txt", "v4/link.bin"}
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


@pytest.mark.parametrize("most", [3, 4, 5, 100])
def test_unordered_listing(client: FsspecStorageClient, local: Path, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that lists in the order of a folder walk is sorted on this machine; a short listing is requested once."""
    monkeypatch.setattr("gllm_storage.folders.entries._SORTED", most)
    listings: list[str] = []
    for name in ("a", "a-b/x", "a.b"):
        write(local / "c" / name if name != "a" else local / "c" / "a" / "y", b"content")
    in_order = MemoryStore.list

    def walked(self: MemoryStore, prefix: str = "") -> Iterator[ObjectInfo]:
        listings.append(prefix)
        return iter(sorted(in_order(self, prefix), key=lambda info: info.url.split("/")))

    monkeypatch.setattr(MemoryStore, "list", walked)
    client.upload_dir(local, "v1")
    urls = [info.url for info in client.list_files("v1")]
    assert urls != sorted(urls)
    listings.clear()
    assert client.upload_dir(local, "v1").skipped == 6
    assert len(listings) == (2 if most < 5 else 1)  # the first five are those in another order
    assert client.apply_plan(client.delete_dir("v1", dry_run=True).plan).deleted == 6


@pytest.mark.slow
def test_memory(tmp_path: Path) -> None:
    """The memory of a plan does not grow with its files, also where each name has to be compared with all others."""
    command = [sys.executable, "-m", "tests.scripts.memory_plan", str(tmp_path / "copy"), "60000"]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    assert found["steps"] == 60_000
    assert found["grown"] < 6  # MiB: 2.9 to 3.0, also with 240 000 files; 24 if the steps are in memory


def calls(action: Callable[[], object]) -> int:
    """The number of calls of functions of an action, in this thread."""
    profile = cProfile.Profile()
    profile.runcall(action)
    return sum(each.callcount for each in profile.getstats())


@pytest.mark.parametrize(("verb", "most"), [("upload_dir", 65), ("download_dir", 95)])
def test_cost(client: FsspecStorageClient, tmp_path: Path, verb: str, most: int) -> None:
    """The plan takes few calls of functions for each file: 54 and 84, of which the memory store has its part."""
    counts = []
    for number in (100, 400):
        folder = tmp_path / str(number)
        for each in range(number):
            write(folder / f"part-{each // 50}" / f"shard-{each:05}.bin", b"content")
        client.upload_dir(folder, str(number))
        ends = (folder, "other") if verb == "upload_dir" else (str(number), tmp_path / "other")
        counts.append(calls(lambda ends=ends: getattr(client, verb)(*ends, dry_run=True)))  # type: ignore[misc]  # mypy does not see the default of a lambda
    assert (counts[1] - counts[0]) / 300 < most
