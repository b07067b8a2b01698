"""`PartialFile`: a local file whose bytes arrive in any order, and which knows after a kill which of them it has.

A record behind the content says how many bytes of each part have arrived, from the beginning of the part. It is one
number of four bytes for each part, written after the bytes it counts, so that a process that is killed has at most one piece
of an answer for each connection on the disk that is not counted. The record is cut off when the content is complete and
verified: a file that has exactly its size is complete.

A power cut may keep the record and lose the content. So the record is never trusted alone: the caller compares the SHA-256
of the complete content in the end, and begins anew if it differs.
"""

from __future__ import annotations

import os
import struct
import threading
from array import array
from typing import TYPE_CHECKING

from gllm_storage.files.durability import WriteBack
from gllm_storage.files.source import local_errors
from gllm_storage.files.target import allocate

if TYPE_CHECKING:
    import contextlib

    from gllm_storage.errors import ErrorDetails

_HEAD = struct.Struct("<16s32sQQ")
_MAGIC = b"gllm partial 1\0\0"
_COUNT = struct.Struct("=I")
_LARGEST_STEP = 2**31


class PartialFile:
    """A local file that is being downloaded, perhaps by several processes one after another. A lock keeps others out.

    Args:
        fd: The descriptor, open for reading and writing. The caller closes it.
        path: The path, for errors.
        details: The operation, for errors.
        size: Size of the complete content in bytes.
        sha256: SHA-256 of the complete content, hexadecimal: a record of another content does not count.
        step: Size of a part in bytes, if there is no record yet.

    Raises:
        StorageError: If the disk is full or fails.
    """

    def __init__(self, fd: int, path: str, details: ErrorDetails, *, size: int, sha256: str, step: int) -> None:
        self.size = size
        self._fd = fd
        self._path = path
        self._sha256 = bytes.fromhex(sha256)
        self._details = details
        self._lock = threading.Lock()
        self._write_back = WriteBack(fd)
        self._step = min(step, _LARGEST_STEP)
        self.times_cleared = 0
        """How often `clear` was called."""
        with self.errors():
            if not self._read_record():
                self._begin()

    @property
    def received(self) -> int:
        """How many bytes of the content have arrived."""
        return sum(self._counts)

    def arrived_until(self, position: int) -> int:
        """The end of the bytes that have arrived from a position on.

        Args:
            position: Offset of a byte before which all bytes have arrived.
        """
        number = position // self._step
        while number < len(self._counts) and self._counts[number] == self._length_of(number):
            number += 1
        return number * self._step + self._counts[number] if number < len(self._counts) else self.size

    def missing(self, most: int) -> list[tuple[int, int]]:
        """Offset and length of the ranges that have not arrived, in order.

        Args:
            most: The largest range in bytes, but at least one part.
        """
        ranges: list[tuple[int, int]] = []
        for number, count in enumerate(self._counts):
            start, end = number * self._step + count, number * self._step + self._length_of(number)
            if start == end:
                continue
            if ranges and sum(ranges[-1]) == start and end - ranges[-1][0] <= most:
                ranges[-1] = (ranges[-1][0], end - ranges[-1][0])
            else:
                ranges.append((start, end - start))
        return ranges

    def buffer_at(self, offset: int, length: int) -> None:
        """None: a file has no memory."""

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Write bytes at an offset, and count them. Any thread may call it.

        Raises:
            StorageError: If the disk is full or fails.
        """
        with self.errors():
            self._write(offset, memoryview(data))
            self._count(offset, len(data))
        self._write_back.wrote(len(data))

    def read_at(self, offset: int, length: int) -> bytes:
        """Read bytes that have arrived.

        Raises:
            StorageError: If they cannot be read.
        """
        with self.errors():
            return os.pread(self._fd, length, offset)

    def clear(self) -> None:
        """Discard all bytes.

        Raises:
            StorageError: If the disk fails.
        """
        with self.errors():
            self._begin()
        self.times_cleared += 1

    def finish(self, *, durable: bool) -> None:
        """Remove the record: the content is complete, and was verified.

        Args:
            durable: Whether the content is on the disk when this returns.

        Raises:
            StorageError: If the disk fails.
        """
        with self.errors():
            if durable:
                os.fsync(self._fd)
            os.ftruncate(self._fd, self.size)

    def errors(self) -> contextlib.AbstractContextManager[None]:
        """Translate an `OSError` about this file into a `StorageError`."""
        return local_errors("write", self._path, self._details)

    def _begin(self) -> None:
        os.ftruncate(self._fd, 0)
        self._counts = array("I", bytes(_COUNT.size * -(-self.size // self._step)))
        try:
            allocate(self._fd, self._counts_at + _COUNT.size * len(self._counts))
        except OSError:
            os.ftruncate(self._fd, 0)  # a full disk has given a part of the space, which others need now
            raise
        self._write(self._counts_at, memoryview(self._counts.tobytes()))
        self._write(self.size, memoryview(_HEAD.pack(_MAGIC, self._sha256, self.size, self._step)))

    def _read_record(self) -> bool:
        """Read the record. Returns False if there is none of this content."""
        head = os.pread(self._fd, _HEAD.size, self.size)
        if len(head) != _HEAD.size:
            return False
        *content, step = _HEAD.unpack(head)
        if content != [_MAGIC, self._sha256, self.size] or not 1 <= step <= _LARGEST_STEP:
            return False
        self._step = step
        parts = -(-self.size // step)
        found = os.pread(self._fd, _COUNT.size * parts, self._counts_at)
        if len(found) != _COUNT.size * parts:
            return False
        self._counts = array("I", found)
        return all(count <= self._length_of(number) for number, count in enumerate(self._counts))

    def _length_of(self, number: int) -> int:
        return min(self._step, self.size - number * self._step)

    @property
    def _counts_at(self) -> int:
        return self.size + _HEAD.size

    def _write(self, offset: int, view: memoryview) -> None:
        while view:
            written = os.pwrite(self._fd, view, offset)
            offset += written
            view = view[written:]

    def _count(self, start: int, length: int) -> None:
        end = start + length
        for number in range(start // self._step, -(-end // self._step)):
            first = number * self._step
            count = min(end, first + self._step) - first
            with self._lock:  # bytes behind a gap do not count
                if max(start - first, 0) <= self._counts[number] < count:
                    self._counts[number] = count
                    os.pwrite(self._fd, _COUNT.pack(count), self._counts_at + _COUNT.size * number)
