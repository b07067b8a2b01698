"""`Spool`: written content that is not sent yet; in memory while the budget allows, then in an unnamed temporary file."""

from __future__ import annotations

import io
import mmap
import os
import threading
from typing import TYPE_CHECKING

from gllm_storage.concurrency.budget import memory_budget
from gllm_storage.files.source import CHUNK, MemorySource, bytes_of, local_errors, source_of

if TYPE_CHECKING:
    from typing import IO

    from _typeshed import ReadableBuffer

    from gllm_storage.errors import ErrorDetails
    from gllm_storage.files.source import Source
    from gllm_storage.settings import TransferSettings

_STEP = 2**16
"""Bytes by which a spool grows in the memory budget. A hundred open files of a few bytes each use little of it."""
_PARTS_IN_MEMORY = 2
"""The most parts that a spool keeps in memory."""
_NAME = "<temporary file>"
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
"""Not shared with a forked child, which may have a copy of an open file."""


def memory_of(content: memoryview) -> mmap.mmap | None:
    """The memory of the content that `Spool.send` gave, to be used again; None if it is not a spool's."""
    return content.obj if isinstance(content.obj, mmap.mmap) else None


class Spool:
    """A buffer that takes writes at any position, and is then read as a `Source`.

    The memory counts in the budget of the process (`concurrency.budget`). When the budget is full, or the content exceeds
    `most`, all of it moves to a temporary file.

    Args:
        memory_limit: The most bytes that all transfers of the process hold.
        reserve: Bytes of the limit that are left for requests in flight.
        most: The most bytes to keep in memory.
        details: The upload, for errors.
        held: Bytes that the caller holds in the budget already, for this spool.
        memory: Memory of another spool, from `memory_of`, which is used again if it has the same size: a larger one would
            take more than the budget counts. Only for content that is written from the beginning to the end: a gap would
            show the content before.
    """

    def __init__(
        self,
        memory_limit: int,
        reserve: int,
        most: int,
        details: ErrorDetails,
        *,
        held: int = 0,
        memory: mmap.mmap | None = None,
    ) -> None:
        self._limit = memory_limit
        self._reserve = reserve
        self._most = most
        self._details = details
        self._held = held
        # Not io.BytesIO: malloc keeps memory that a thread frees. Measured: 100 writers at the same time grew the process by
        # 360 MiB where 120 MiB were held. Untouched pages of a mapping need no memory.
        size = max(1, min(most, memory_limit))
        self._memory: mmap.mmap | None = memory if memory and len(memory) == size else mmap.mmap(-1, size, flags=_PRIVATE)
        self._file: IO[bytes] | None = None
        self._position = 0
        self._lock = threading.Lock()
        self.size = 0

    @property
    def in_memory(self) -> bool:
        """Whether the content is in memory, and not in a file."""
        return self._memory is not None

    def write(self, data: ReadableBuffer) -> int:
        """Write a buffer at the position, and move the position behind it.

        Threads may share a spool: the position moves before anything can let another thread run.

        Returns:
            The number of bytes.

        Raises:
            StorageError: If the disk is full or fails.
        """
        view = bytes_of(data)
        size = len(view)  # a call, at which another thread may run: not between the two statements below
        start = self._position
        self._position = end = start + size
        try:
            with self._lock:
                self._write_at(view, start, end)
        except BaseException:
            if self._position == end:
                self._position = start
            raise
        return size

    def _write_at(self, view: memoryview, start: int, end: int) -> None:
        if self._memory is not None and end > self._held and not self._hold(end):
            self._move_to_file(self._memory)
        if self._memory is not None:
            self._memory[start:end] = view
        else:
            self._write_to_file(view, start)
        self.size = max(self.size, end)

    def tell(self) -> int:
        """The position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position. A write behind the end fills the gap with zeros.

        Returns:
            The new position.

        Raises:
            ValueError: If the position would be negative.
        """
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        if start + offset < 0:
            raise ValueError(f"negative seek position {start + offset}")
        self._position = start + offset
        return self._position

    def seekable(self) -> bool:
        """Always."""
        return True

    def source(self) -> Source:
        """The content as a source. Nothing may be written while the source is in use.

        Raises:
            StorageError: If the temporary file cannot be read.
        """
        if self._memory is not None:
            return MemorySource(memoryview(self._memory)[: self.size], self._details)
        return source_of(self._fd(), _NAME, self._details)

    def send(self) -> memoryview:
        """Hand out the content, which must be in memory. Its bytes are in flight now: the caller releases them."""
        content = memoryview(b"") if self._memory is None else memoryview(self._memory)[: self.size]
        self._memory = None  # it is unmapped when the last view of it is gone
        memory_budget().send_held(len(content))
        memory_budget().let_go(self._held - len(content))
        self._held = 0
        return content

    def close(self) -> None:
        """Discard the content, and release the memory or the disk space."""
        self._memory = None
        self._let_go()
        if self._file is not None:
            self._file.close()

    def _hold(self, end: int) -> bool:
        """Hold memory for content of `end` bytes; whether that was possible."""
        wanted = min(-(-end // _STEP) * _STEP, self._most)
        more = wanted - self._held
        if end > self._most or not memory_budget().try_hold(more, self._limit, self._reserve):
            return False
        self._held = wanted
        return True

    def _let_go(self) -> None:
        memory_budget().let_go(self._held)
        self._held = 0

    def _move_to_file(self, memory: mmap.mmap) -> None:
        with memoryview(memory) as content:
            for start in range(0, self.size, CHUNK):
                with content[start : min(start + CHUNK, self.size)] as piece:
                    self._write_to_file(piece, start)
        self._memory = None
        self._let_go()

    def _write_to_file(self, view: memoryview, offset: int) -> None:
        with local_errors("write", _NAME, self._details):
            fd = self._fd()
            while len(view):
                written = os.pwrite(fd, view, offset)
                offset += written
                view = view[written:]

    def _fd(self) -> int:
        if self._file is None:
            import tempfile  # it takes 4 ms to import, and most verbs need none

            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by `close`
        return self._file.fileno()


def spool_of(settings: TransferSettings, details: ErrorDetails, most: int | None = None) -> Spool:
    """Make a spool for the content of one upload.

    Args:
        settings: Part size, multipart threshold and memory limit.
        details: The upload, for errors.
        most: The most bytes to keep in memory, and never more than two parts; by default the multipart threshold.
    """
    wanted = settings.multipart_threshold if most is None else most
    return Spool(settings.memory_limit, settings.part_size, min(wanted, _PARTS_IN_MEMORY * settings.part_size), details)
