"""What was written and is not stored yet: in memory while there is room, and then in an unnamed temporary file."""

from __future__ import annotations

import io
import os
import tempfile
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
"""Memory is taken from the budget in steps of so many bytes: a hundred open files of a few bytes take hardly any."""
_PARTS_IN_MEMORY = 2
_NAME = "<temporary file>"


class Spool:
    """Bytes that are written at any position, and then read as a source.

    Args:
        memory_limit: How many bytes all transfers of the process may hold.
        reserve: Bytes of it to leave for what is in flight.
        most: How many bytes are kept in memory at most.
        details: What the upload is about, for errors.
        held: Bytes that were taken from the budget already.
    """

    def __init__(self, memory_limit: int, reserve: int, most: int, details: ErrorDetails, held: int = 0) -> None:
        self._limit = memory_limit
        self._reserve = reserve
        self._most = most
        self._details = details
        self._held = held
        self._memory: io.BytesIO | None = io.BytesIO()
        self._file: IO[bytes] | None = None
        self._position = 0
        self.size = 0

    @property
    def in_memory(self) -> bool:
        """Whether all of it is."""
        return self._memory is not None

    def write(self, data: ReadableBuffer) -> int:
        """Write at the position.

        Raises:
            StorageError: If the disk is full or fails.
        """
        view = bytes_of(data)
        end = self._position + len(view)
        if self._memory is not None and end > self._held and not self._hold(end):
            self._move_to_file(self._memory)
        if self._memory is not None:
            self._memory.seek(self._position)
            self._memory.write(view)
        else:
            self._write_to_file(view, self._position)
        self._position = end
        self.size = max(self.size, end)
        return len(view)

    def tell(self) -> int:
        """Position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position; behind the end, what is left out becomes zeros.

        Raises:
            ValueError: If it would be negative.
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
        """What was written; nothing may be written any more while it is in use."""
        if self._memory is not None:
            return MemorySource(self._memory.getvalue(), self._details)
        return source_of(self._fd(), _NAME, self._details)

    def send(self) -> bytes:
        """What was written, all of it in memory, and is in flight now: the caller gives it back to the budget."""
        content = b"" if self._memory is None else self._memory.getvalue()
        self._memory = None
        memory_budget().send_held(len(content))
        memory_budget().let_go(self._held - len(content))
        self._held = 0
        return content

    def close(self) -> None:
        """Forget it, and give back the memory or the disk."""
        self._memory = None
        self._let_go()
        if self._file is not None:
            self._file.close()

    def _hold(self, end: int) -> bool:
        """Whether there is room in memory for so many bytes."""
        wanted = min(-(-end // _STEP) * _STEP, self._most)
        more = wanted - self._held
        if end > self._most or not memory_budget().try_hold(more, self._limit, self._reserve):
            return False
        self._held = wanted
        return True

    def _let_go(self) -> None:
        memory_budget().let_go(self._held)
        self._held = 0

    def _move_to_file(self, memory: io.BytesIO) -> None:
        content = memory.getbuffer()
        for start in range(0, len(content), CHUNK):
            self._write_to_file(content[start : start + CHUNK], start)
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
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by `close`
        return self._file.fileno()


def spool_of(settings: TransferSettings, details: ErrorDetails, most: int | None = None) -> Spool:
    """A spool for a file of any size.

    Args:
        settings: How objects are moved.
        details: What the upload is about, for errors.
        most: Bytes behind which it is of no use to keep it in memory; without it, where uploads go in parts.
    """
    wanted = settings.multipart_threshold if most is None else most
    return Spool(settings.memory_limit, settings.part_size, min(wanted, _PARTS_IN_MEMORY * settings.part_size), details)
