"""Content before it is stored: in memory while the budget has room, then in a temporary file."""

from __future__ import annotations

import errno
import io
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from gllm_storage.concurrency.budget import memory_budget
from gllm_storage.errors import ErrorDetails, StorageError
from gllm_storage.files.spool import Spool, memory_of, spool_of
from gllm_storage.filesystem.writing import AtomicWriter
from gllm_storage.info import Stored
from gllm_storage.settings import TransferSettings
from gllm_storage.store.port import UploadRequest, nothing
from tests.shelf import Shelf, ShelfStore

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 2**20
DETAILS = ErrorDetails("fake", "fake://bucket/a", "upload")


@pytest.fixture(autouse=True)
def _budget_is_unchanged() -> Iterator[None]:
    before = memory_budget().taken
    yield
    assert memory_budget().taken == before


@contextmanager
def spooled(most: int = 2 * MIB, limit: int = 8 * MIB) -> Iterator[Spool]:
    made = Spool(limit, MIB, most, DETAILS)
    try:
        yield made
    finally:
        made.close()


def content_of(found: Spool) -> bytes:
    source = found.source()
    assert source.size == found.size
    return source.read_at(0, source.size)


@pytest.mark.parametrize("most", [0, 1, 2**16, 2 * MIB])
def test_content(most: int) -> None:
    """A spool holds the same content as a file, in memory and on disk."""
    expected = io.BytesIO()
    with spooled(most) as found:
        assert content_of(found) == b""
        for file in (found, expected):
            assert file.write(b"0123456789") == 10
            assert file.seek(2) == 2
            assert file.write(b"xx") == 2
            assert file.seek(100_000, io.SEEK_CUR) == 100_004
            assert file.write(b"behind a gap") == 12
            assert file.seek(-5, io.SEEK_END) == 100_011
            assert file.tell() == 100_011
            file.write(b"z")
        assert content_of(found) == expected.getvalue()
        assert found.in_memory is (most == 2 * MIB)


def test_negative_position() -> None:
    """A position before the start is refused."""
    with spooled() as found, pytest.raises(ValueError, match="-1"):
        found.seek(-1)


def test_steps_of_memory() -> None:
    """A spool acquires memory in steps of 64 KiB, and releases it at the end."""
    before = memory_budget().taken
    with spooled() as found:
        found.write(b"x")
        assert memory_budget().taken == before + 2**16
        found.write(bytes(2**16))
        assert memory_budget().taken == before + 2 * 2**16
    assert memory_budget().taken == before


def test_full_budget() -> None:
    """A spool moves to a file when another spool holds the memory."""
    with spooled(limit=2 * MIB) as found, spooled(limit=2 * MIB) as other:
        found.write(b"head")
        other.write(bytes(MIB - 2**16))
        assert other.in_memory
        found.write(bytes(2**16))
        assert not found.in_memory
        assert content_of(found) == b"head" + bytes(2**16)


@pytest.mark.parametrize(("size", "is_same"), [(MIB, True), (MIB // 2, False), (2 * MIB, False)])
def test_memory_used_again(size: int, is_same: bool) -> None:
    """A spool uses memory of another one again only if it has the same size, and its content is then its own."""
    first = Spool(8 * MIB, MIB, MIB, DETAILS)
    first.write(b"1" * MIB)
    sent = first.send()
    memory_budget().release(MIB)
    second = Spool(8 * MIB, MIB, size, DETAILS, memory=memory_of(sent))
    second.write(b"2" * (size // 2))
    assert content_of(second) == b"2" * (size // 2)
    content = second.send()
    memory_budget().release(len(content))
    assert (memory_of(content) is memory_of(sent)) is is_same
    assert len(memory_of(content) or b"") == size


def test_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk raises a StorageError with the URL."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with spooled(most=0) as found, pytest.raises(StorageError, match="No space left") as caught:
        found.write(b"x")
    assert caught.value.url == DETAILS.url


def test_large_threshold() -> None:
    """A large multipart threshold does not allow a large spool in memory."""
    settings = TransferSettings(multipart_threshold=5 * 2**30, part_size=MIB)
    made = spool_of(settings, DETAILS)
    where = []
    for more in (bytes(2 * MIB), b"x"):
        made.write(more)
        where.append(made.in_memory)
    made.close()
    assert where == [True, False]


def test_block() -> None:
    """An object is uploaded at the end of a block, but not after an exception."""
    shelf = Shelf(TransferSettings())
    store = ShelfStore(shelf, "bucket")
    transfer = store.transfer("a", "upload")
    request = UploadRequest("a", nothing(transfer.details), transfer)
    with AtomicWriter(store.open_writer(request)) as file:
        file.write(b"some")
    assert shelf.objects == {"bucket/a": b"some"}
    assert file.stored == Stored("shelf://bucket/a", 4)
    failing = AtomicWriter(store.open_writer(request))
    failing.write(b"more")
    with pytest.raises(ZeroDivisionError), failing:
        raise ZeroDivisionError
    assert shelf.objects == {"bucket/a": b"some"}
