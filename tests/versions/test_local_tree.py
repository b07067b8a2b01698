"""The source of a hashed file: it compares the bytes that an upload reads with the hash."""

from __future__ import annotations

import itertools
import os
import random
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage.errors import ErrorDetails, StorageError
from gllm_storage.files.source import SourceChangedError, open_source
from gllm_storage.versions.hash_index import HashIndex
from gllm_storage.versions.local_tree import HashedSource, LocalFile, hashed_tree
from tests.versions.support import write_folder

if TYPE_CHECKING:
    from pathlib import Path

DETAILS = ErrorDetails("memory", "memory://m", "publish")
SIZE = 100_000


@pytest.fixture
def file(tmp_path: Path) -> LocalFile:
    folder = write_folder(tmp_path / "out", {"f": os.urandom(SIZE), "empty": b""})
    with hashed_tree(str(folder), DETAILS) as tree:
        (batch,) = tree.batches(10, DETAILS)
        return batch[1]


def pieces(seed: int) -> list[tuple[int, int]]:
    """Ranges that cover the file, in any order."""
    chooser = random.Random(seed)
    cuts = [0, *sorted(chooser.sample(range(1, SIZE), 20)), SIZE]
    found = [(start, end - start) for start, end in itertools.pairwise(cuts)]
    chooser.shuffle(found)
    return found


@pytest.mark.parametrize("target", ["link", "nowhere", "file/below"])
def test_broken_link(tmp_path: Path, target: str) -> None:
    """A link to itself or to nothing is an error that names it, and not the one of a missing directory."""
    folder = write_folder(tmp_path / "out", {"file": b"x"})
    (folder / "link").symlink_to(target)
    with pytest.raises(StorageError, match=r"cannot read local file '.*/out/link'"), hashed_tree(str(folder), DETAILS):
        pass


@pytest.mark.parametrize("moment", ["listing", "hashing", "sending"])
def test_removed_file(tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is removed while it is published is an error that names it."""
    folder = write_folder(tmp_path / "out", {"a": b"x", "b": b"y"})

    def removed(*_: Any) -> dict[str, Any]:
        (folder / "b").unlink()
        return {}

    def read() -> None:
        with hashed_tree(str(folder), DETAILS) as tree:
            (batch,) = tree.batches(10, DETAILS)
            if moment == "hashing":
                removed()
            with batch[1].opened(DETAILS):
                removed()

    if moment == "listing":
        monkeypatch.setattr(HashIndex, "find", removed)
    with pytest.raises(StorageError, match=r"cannot read local file '.*/out/b'"):
        read()


@pytest.mark.parametrize("seed", range(5))
def test_any_order(file: LocalFile, seed: int) -> None:
    """The content is complete after all ranges were read, in any order, and again after a second pass in other ranges."""
    with file.opened(DETAILS) as source:
        for each in (seed, seed + 100):
            for number, (start, length) in enumerate(pieces(each)):
                if number % 2:
                    source.read_into(start, memoryview(bytearray(length)))
                else:
                    source.read_at(start, length)
                assert source.is_complete == (number == 20)


@pytest.mark.parametrize("seed", range(5))
def test_other_bytes(file: LocalFile, seed: int) -> None:
    """Other bytes are noticed when the last range is read, at the latest."""
    with open(file.path, "r+b") as other:
        other.seek(SIZE // 2)
        other.write(bytes(1000))
    with open_source(file.path, DETAILS) as opened:
        source = HashedSource(opened, file.content)
        *first, last = pieces(seed)
        for each in first:
            source.read_at(*each)
        with pytest.raises(SourceChangedError):
            source.read_at(*last)


def test_bytes_read_twice(file: LocalFile) -> None:
    """If some bytes were read twice, as by a request that is sent again, it is not known which ones arrived."""
    with file.opened(DETAILS) as source:
        for start, length in [(0, 10), (5, 20), (0, 10), (10, SIZE - 10)]:
            source.read_at(start, length)
        assert not source.is_complete


def test_no_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The temporary files have no names, so a publisher that is killed leaves none."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with hashed_tree(str(write_folder(tmp_path / "out", {"f": b"x", "g": b"y"})), DETAILS) as tree:
        assert not os.listdir(tmp_path / "temporary")
        for _ in range(2):
            assert [each.entry.path for batch in tree.batches(1, DETAILS) for each in batch] == ["f", "g"]
        assert not os.listdir(tmp_path / "temporary")


def test_empty_file(tmp_path: Path) -> None:
    """An empty file is complete without a read."""
    with hashed_tree(str(write_folder(tmp_path, {"empty": b""})), DETAILS) as tree:
        ((file,),) = tree.batches(10, DETAILS)
        with file.opened(DETAILS) as source:
            assert source.is_complete
