"""File objects whose content appears when they are closed, whole, or not at all."""

from __future__ import annotations

import io
import logging
import os
from typing import IO, TYPE_CHECKING, Any, Protocol, Self, cast

from gllm_storage.errors import ErrorDetails, StorageError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import TracebackType

    from _typeshed import ReadableBuffer


_logger = logging.getLogger(__name__)


class WritableFile(Protocol):
    """What an `AtomicWriter` writes to."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write some bytes; how many that were."""

    def tell(self) -> int:
        """Position."""

    def seek(self, offset: int, whence: int = ..., /) -> int:
        """Move the position; `OSError` where that cannot be."""

    def seekable(self) -> bool:
        """Whether it can."""


class AtomicWriter(io.BufferedIOBase):
    """Writes to a file that a context manager publishes at its end, and takes back after an exception.

    Closing publishes. Leaving a ``with`` block by an exception, or dropping the object unclosed, takes back; the latter is
    logged as a warning, because a caller who forgot to close would otherwise not learn that nothing was stored.

    It belongs to the process that opened it. What a forked child does with its copy, above all dropping it when it ends,
    neither publishes nor takes back.

    Args:
        published: Gives the file; its normal exit publishes what was written.
        path: What is written, for messages.
        mode: ``"wb"`` or ``"xb"``; to be looked at only.
        fs: The filesystem that it is of; as above.
        autocommit: Whether closing publishes. If not, `commit` does, or `discard` takes back: fsspec's transactions.
    """

    def __init__(
        self,
        published: AbstractContextManager[WritableFile],
        path: str = "a file",
        mode: str = "wb",
        *,
        fs: Any = None,
        autocommit: bool = True,
    ) -> None:
        self.path = self.name = path
        self.mode = mode
        self.fs = fs
        self.autocommit = autocommit
        self._pid = os.getpid()
        self._published = published
        self._file = published.__enter__()
        self._open = True

    def writable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Whether what was written is still here; parts of a stream are on their way to the store."""
        return self._file.seekable()

    def write(self, data: ReadableBuffer) -> int:
        """Write the bytes of a buffer.

        Returns:
            How many they were.

        Raises:
            ValueError: If the file is closed.
            StorageError: If they cannot be stored; nothing is stored then, whatever is written after them.
        """
        if not self._open or self.closed:
            raise ValueError("write to closed file")
        self._require_own_process()
        return self._file.write(data)

    def tell(self) -> int:
        """Position."""
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position.

        Raises:
            OSError: If it is not `seekable`.
        """
        return self._file.seek(offset, whence)

    def flush(self) -> None:
        """Nothing to do before the end: nobody sees the content until then."""

    def close(self) -> None:
        """Publish what was written, unless that is left to `commit`.

        Raises:
            FileExistsError: If the file was opened exclusively, and somebody else made it meanwhile.
            StorageError: If it cannot be published.
        """
        if self.autocommit:
            self._finish(None)
        else:
            super().close()

    def commit(self) -> None:
        """Publish what was written, if it was not taken back.

        Raises:
            FileExistsError: If the file was opened exclusively, and somebody else made it meanwhile.
            StorageError: If it cannot be published.
            ValueError: If it was not closed: layers on top of it may not have written everything.
        """
        if self._open and not self.closed:
            self.discard()
            raise ValueError(f"{self.path} was not closed before the end of its transaction: nothing was stored")
        self._finish(None)

    def discard(self) -> None:
        """Take back what was written."""
        if self._pid == os.getpid():
            self._take_back(GeneratorExit())

    def _require_own_process(self) -> None:
        if self._pid != os.getpid():
            details = ErrorDetails(url=self.path, operation="write")
            raise StorageError(
                f"{self.path} was opened for writing by process {self._pid}, from which this one was forked: it can neither "
                "write nor close it. Open it here",
                details,
            )

    def _finish(self, error: BaseException | None) -> None:
        if not self._open:
            return
        if error is None:
            self._require_own_process()
        self._open = False
        try:
            self._published.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)
        finally:
            super().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.close()
        elif self._pid == os.getpid():
            self._take_back(error)

    def _take_back(self, error: BaseException) -> None:
        try:
            self._finish(error)
        except BaseException as raised:
            if raised is not error:  # a context manager raises again what it was given
                raise

    def take_back(self) -> None:
        """Forget what was written, because nobody holds the file any more."""
        if self._open and self._pid == os.getpid():
            _logger.warning("%s was opened for writing and dropped unclosed: nothing was stored", self.path)
            self.discard()

    def __del__(self) -> None:
        if hasattr(self, "_open"):
            self.take_back()


class AtomicTextWriter(io.TextIOWrapper):
    """Text over a binary file whose own `__exit__` takes back after an exception.

    `io.TextIOWrapper` would close it instead, which publishes what an exception has left half written.

    Args:
        file: The binary file.
        **options: ``encoding``, ``errors``, ``newline``, as for the built-in `open`.
    """

    def __init__(self, file: AtomicWriter, **options: Any) -> None:
        # Into a file that cannot be sought, io.TextIOWrapper writes no byte order mark: it might be in the middle. This one
        # is at its start, so it says for this once that it can.
        vars(file)["seekable"] = lambda: True
        try:
            super().__init__(cast("IO[bytes]", file), **options)
        finally:
            del vars(file)["seekable"]
        self._file = file

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.close()
        else:
            self._file.__exit__(kind, error, trace)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.take_back()
