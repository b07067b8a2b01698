"""Sources of an upload: a local file, which must not change while it is sent, or bytes in memory."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gllm_storage.errors import Remedy, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import ReadableBuffer

    from gllm_storage.errors import ErrorDetails

CHUNK = 2**20
"""Bytes moved at a time."""


class SourceChangedError(StorageError):
    """A local file changed while it was read."""


class Source(Protocol):
    """Bytes to be uploaded, which any thread may read at any offset, again and again."""

    @property
    def size(self) -> int:
        """How many there are."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly `length` of them.

        Raises:
            StorageError: If they cannot be read.
        """

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill a buffer with those from an offset on.

        Raises:
            StorageError: If they cannot be read.
        """

    def require_unchanged(self) -> None:
        """Check, where that can be told, that they are the same as when the source was made.

        Raises:
            StorageError: If they are not.
        """

    def changed(self) -> StorageError:
        """The error for bytes that changed while they were read."""


@contextlib.contextmanager
def local_errors(action: str, path: str, details: ErrorDetails) -> Iterator[None]:
    """Turn an `OSError` about a local file into a `StorageError` that names the file and the cause.

    Args:
        action: What was tried, as in ``"read"``.
        path: The local file.
        details: What the whole operation is about.
    """
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise StorageError(
            f"{details.operation} of {details.url}: cannot {action} local file {path!r}: {_cause(error)}", details
        ) from error


def _cause(error: OSError | ValueError) -> object:
    """In words; an `OSError` would name the file once more."""
    return getattr(error, "strerror", None) or error


@dataclass(frozen=True)
class LocalSource:
    """A local file, open for reading at any offset by any thread.

    Attributes:
        path: Its path.
        size: Its size in bytes when it was opened.
    """

    path: str
    size: int
    _fd: int
    _modified_ns: int
    _details: ErrorDetails

    def read_at(self, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes.

        Raises:
            StorageError: If the file ends before, or cannot be read.
        """
        with local_errors("read", self.path, self._details):
            data = os.pread(self._fd, length, offset)
            while len(data) < length:
                more = os.pread(self._fd, length - len(data), offset + len(data))
                if not more:
                    raise self.changed()
                data += more
        return data

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill a buffer.

        Raises:
            StorageError: If the file ends before, or cannot be read.
        """
        with local_errors("read", self.path, self._details):
            while view:
                count = os.preadv(self._fd, [view], offset)
                if not count:
                    raise self.changed()
                offset, view = offset + count, view[count:]

    def require_unchanged(self) -> None:
        """Check that nobody wrote to the file since it was opened.

        Raises:
            StorageError: If somebody did.
        """
        now = os.fstat(self._fd)
        if (now.st_size, now.st_mtime_ns) != (self.size, self._modified_ns):
            raise self.changed()

    def changed(self) -> SourceChangedError:
        """The error for a file that changed while it was read."""
        return SourceChangedError(
            f"{self._details.operation} of {self._details.url}: local file {self.path!r} changed while it was read, so "
            "nothing was stored",
            self._details,
            Remedy.FINISH_WRITING,
        )


@contextlib.contextmanager
def open_source(path: str, details: ErrorDetails) -> Iterator[LocalSource]:
    """Open a local file for upload.

    Args:
        path: The file.
        details: What the upload is about, for errors.

    Raises:
        FileNotFoundError: If the file does not exist.
        StorageError: If it is a directory, not a regular file, or not readable.
    """
    try:
        # O_NONBLOCK: opening a named pipe would wait for a writer; it is refused just below.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(errno.ENOENT, "No such file to upload", path) from error
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot upload local file {path!r}: {_cause(error)}", details) from error
    try:
        yield source_of(fd, path, details)
    finally:
        os.close(fd)


def source_of(fd: int, path: str, details: ErrorDetails) -> LocalSource:
    """An open local file as a source.

    Raises:
        StorageError: If it is a directory, or not a regular file.
    """
    status = os.fstat(fd)
    require_regular(path, status.st_mode, details)
    return LocalSource(path, status.st_size, fd, status.st_mtime_ns, details)


def require_regular(path: str, mode: int, details: ErrorDetails) -> None:
    """Check that a path names a regular file.

    Raises:
        StorageError: If it names a directory or anything else.
    """
    if stat.S_ISREG(mode):
        return
    raise not_a_file(path, "a directory" if stat.S_ISDIR(mode) else "not a regular file", details)


def not_a_file(path: str, kind: str, details: ErrorDetails) -> StorageError:
    """The error for a local path that is not a regular file."""
    message = f"{details.operation} of {details.url}: local path {path!r} is {kind}"
    return StorageError(message, details, Remedy.NAME_FILE)


class MemorySource:
    """Bytes in memory.

    Args:
        data: The bytes. They are not copied: what is done to a buffer while it is sent is found out by its checksum.
        details: What the upload is about, for errors.

    Raises:
        TypeError: If `data` is no buffer.
        BufferError: If its bytes are not in one piece, in their order.
    """

    def __init__(self, data: ReadableBuffer, details: ErrorDetails) -> None:
        self._data = data
        self._view = bytes_of(data)
        self._details = details

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self._view)

    def read_at(self, offset: int, length: int) -> bytes:
        """Some of them, as an object of their own."""
        if isinstance(self._data, bytes) and (offset, length) == (0, self.size):
            return self._data
        return bytes(self._view[offset : offset + length])

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill a buffer with those from an offset on."""
        view[:] = self._view[offset : offset + len(view)]

    def view_at(self, offset: int, length: int) -> memoryview:
        """Some of them, where they are."""
        return self._view[offset : offset + length]

    def require_unchanged(self) -> None:
        """Nothing tells without reading them."""

    def changed(self) -> StorageError:
        """The error for bytes that changed while they were read."""
        return SourceChangedError(
            f"{self._details.operation} of {self._details.url}: the buffer was changed while it was sent, so nothing was "
            "stored",
            self._details,
            Remedy.FINISH_WRITING,
        )


def bytes_of(data: ReadableBuffer) -> memoryview:
    """The bytes of a buffer, where they are, whatever its items are.

    Raises:
        TypeError: If it is no buffer.
        BufferError: If its bytes are not in one piece, in their order.
    """
    view = memoryview(data)
    if not view.c_contiguous:
        raise BufferError("only a C-contiguous buffer can be written; make one by .copy()")
    if view.format == "B" and view.ndim == 1:
        return view
    return pickle.PickleBuffer(view).raw()  # memoryview.cast knows neither big-endian nor structured items


def is_immutable(view: memoryview) -> bool:
    """Whether nobody can change the bytes of a view, so that they need not be copied to be kept."""
    return isinstance(view.obj, bytes)
