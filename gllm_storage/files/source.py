"""Sources of an upload: a local file, or a buffer in memory.

Several threads read a source at several offsets, and a part that failed is read again. So a source must not change during
the upload: parts of two states would make an object that never existed. A file that changed shows by its size and its
modification time (`require_unchanged`); a buffer only by its checksum.

A write through `mmap` changes the modification time when it makes a clean page dirty, and not when the page is dirty
already. So such a write is noticed only if the dirty pages went to the disk before the upload began (`sync`), which takes
long for a file that was just written. Where a source is read twice, the checksums of both passes are compared.

Some files have content beyond their size, which is mostly 0: those in ``/proc``, and some on FUSE mounts. They are read to
their end into a temporary file first.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gllm_storage.concurrency.stop import check_stop
from gllm_storage.errors import OURS, AccessDeniedError, Remedy, StorageError, is_of_user

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _typeshed import ReadableBuffer

    from gllm_storage.errors import ErrorDetails

_TO_READ = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
"""Without O_NONBLOCK, opening a named pipe would wait for a writer. `source_of` refuses the pipe."""
CHUNK = 2**20
"""Bytes that are read, written or hashed at a time."""


class SourceChangedError(StorageError):
    """The source of an upload, a local file or a buffer, changed while it was read."""


class Source(Protocol):
    """The content of an upload. Any thread may read it, at any offset, repeatedly."""

    @property
    def size(self) -> int:
        """Size of the content in bytes."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes from an offset.

        Raises:
            StorageError: If the source ends before, or cannot be read.
        """

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill a buffer with the bytes from an offset on.

        Raises:
            StorageError: If the source ends before, or cannot be read.
        """

    def require_unchanged(self) -> None:
        """Check that the content did not change since the source was made. A source that cannot tell does nothing.

        Raises:
            StorageError: If the content changed.
        """

    def changed(self) -> StorageError:
        """The error for content that changed while it was read."""


class local_errors:
    """Translate an `OSError` about a local file into a `StorageError` that names the file and the cause.

    Args:
        action: The verb for the message: ``"read"`` or ``"write"``.
        path: The local file.
        details: The operation, for errors.

    Raises:
        AccessDeniedError: If the block raises `PermissionError`.
        StorageError: If the block raises another `OSError`, or `ValueError`.
    """

    __slots__ = ("_action", "_details", "_path")

    def __init__(self, action: str, path: str, details: ErrorDetails) -> None:
        self._action = action
        self._path = path
        self._details = details

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        # Some errors of this library are OSErrors, too. ValueError: a null character in the path.
        if isinstance(error, (OSError, ValueError)) and not isinstance(error, OURS) and not is_of_user(error):
            raise local_error(self._action, self._path, error, self._details) from error


def local_error(action: str, path: str, error: OSError | ValueError, details: ErrorDetails) -> StorageError:
    """The error for an `OSError` about a local file; arguments as in `local_errors`."""
    return _kind(error)(
        f"{details.operation} of {details.url}: cannot {action} local file {path!r}: {_cause(error)}", details
    )


def _kind(error: Exception) -> type[StorageError]:
    """The class of the error: `AccessDeniedError`, which is also a `PermissionError`, for a forbidden file."""
    return AccessDeniedError if isinstance(error, PermissionError) else StorageError


def _cause(error: OSError | ValueError) -> object:
    """The reason alone: the text of an `OSError` repeats the file name, which the message has already."""
    return getattr(error, "strerror", None) or error


@dataclass(frozen=True)
class LocalSource:
    """A local file, open for reading at any offset by any thread.

    Attributes:
        path: Path of the file.
        size: Size in bytes when the file was opened.
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
        try:
            data = os.pread(self._fd, length, offset)
            while len(data) < length:
                more = os.pread(self._fd, length - len(data), offset + len(data))
                if not more:
                    raise self._ended(offset + len(data))
                data += more
        except OSError as error:
            raise local_error("read", self.path, error, self._details) from error
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
                    raise self._ended(offset)
                offset, view = offset + count, view[count:]

    def status(self) -> os.stat_result:
        """The facts that the file system has about the open file now."""
        return os.fstat(self._fd)

    def has_more(self) -> bool:
        """Whether the file goes on behind its size, and did not grow.

        Raises:
            StorageError: If the file cannot be read.
        """
        try:
            return bool(os.pread(self._fd, 1, self.size)) and os.fstat(self._fd).st_size == self.size
        except OSError as error:
            raise local_error("read", self.path, error, self._details) from error

    def require_unchanged(self) -> None:
        """Check that size and modification time are those of the opened file.

        Raises:
            SourceChangedError: If one of them differs.
        """
        now = os.fstat(self._fd)
        if (now.st_size, now.st_mtime_ns) != (self.size, self._modified_ns):
            raise self.changed()

    def is_at_path(self) -> bool:
        """Whether the path leads to this file, and not to one that replaced it, nor to one without a true size."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._fd))
        except OSError:
            return False

    def _ended(self, offset: int) -> StorageError:
        """The error for a file that ends before its size: it was cut, or its size was never true, as in ``/sys``."""
        if os.fstat(self._fd).st_size != self.size:
            return self.changed()
        return StorageError(
            f"{self._details.operation} of {self._details.url}: local file {self.path!r} ends at byte {offset}, although "
            f"its size is {self.size} bytes, so nothing was stored",
            self._details,
            Remedy.NAME_FILE,
        )

    def changed(self) -> SourceChangedError:
        """The error for a file that changed while it was read."""
        return SourceChangedError(
            f"{self._details.operation} of {self._details.url}: local file {self.path!r} changed while it was read, so "
            "nothing was stored",
            self._details,
            Remedy.FINISH_WRITING,
        )


class open_source:
    """Open a local file for upload.

    Args:
        path: The file.
        details: The upload, for errors.
        sync: Whether to write the file's dirty pages to the disk first, so that a write by mmap during the upload is
            noticed.

    Raises:
        FileNotFoundError: If the file does not exist.
        StorageError: If the path names a directory or another kind of file, or the file cannot be opened.
    """

    __slots__ = ("_details", "_fds", "_path", "_sync")

    def __init__(self, path: str, details: ErrorDetails, *, sync: bool = False) -> None:
        self._path = path
        self._details = details
        self._sync = sync
        self._fds: list[int] = []

    def __enter__(self) -> LocalSource:
        path, details = self._path, self._details
        try:
            fd = os.open(path, _TO_READ)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(errno.ENOENT, "No such file to upload", path) from error
        except (OSError, ValueError) as error:
            raise _kind(error)(f"cannot upload local file {path!r}: {_cause(error)}", details) from error
        self._fds.append(fd)
        try:
            return _completed(fd, path, details, self._fds, sync=self._sync)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        while self._fds:
            os.close(self._fds.pop())


def content_of(path: str, most: int, is_meant: Callable[[os.stat_result], bool] | None = None) -> bytes | None:
    """The content of a small local file that did not change while it was read.

    Args:
        path: The file.
        most: The most bytes.
        is_meant: Whether a state of the file is the one that is wanted; None for any.

    Returns:
        The content; None in every other case, which `open_source` handles or explains.
    """
    try:
        fd = os.open(path, _TO_READ)
    except (OSError, ValueError):
        return None
    try:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode) or before.st_size > most or not (is_meant is None or is_meant(before)):
            return None
        data = os.read(fd, before.st_size + 1)
        after = os.fstat(fd)
    except OSError:
        return None
    finally:
        os.close(fd)
    is_same = len(data) == before.st_size == after.st_size and before.st_mtime_ns == after.st_mtime_ns
    return data if is_same else None


@contextlib.contextmanager
def complete_source(fd: int, path: str, details: ErrorDetails, *, sync: bool = False) -> Iterator[LocalSource]:
    """Make a source of an open local file, also of one whose size is not true. The caller closes the descriptor.

    Args:
        fd: The descriptor.
        path: The path of the file, for errors.
        details: The operation, for errors.
        sync: As in `open_source`.

    Raises:
        StorageError: If the file is a directory, or not a regular file, or cannot be read.
    """
    copies: list[int] = []
    try:
        yield _completed(fd, path, details, copies, sync=sync)
    finally:
        for copy in copies:
            os.close(copy)


def _completed(fd: int, path: str, details: ErrorDetails, copies: list[int], *, sync: bool) -> LocalSource:
    """As `complete_source`; the caller also closes the descriptors that are added to `copies`."""
    # The state of the file before its pages become clean: a write that makes one of them dirty again is later.
    source = source_of(fd, path, details)
    if sync:
        with local_errors("read", path, details):
            _write_back(fd)
    if not source.has_more():
        return source
    copies.append(_copy_of(fd, path, details))
    return source_of(copies[-1], path, details)


def _copy_of(fd: int, path: str, details: ErrorDetails) -> int:
    """The descriptor of a temporary file with the content of an open file, read to its end.

    Raises:
        StorageError: If it cannot be read.
    """
    import tempfile  # it takes 4 ms to import, and most verbs need none

    with tempfile.TemporaryFile(buffering=0) as file:
        with local_errors("read", path, details):
            position = 0
            while data := os.pread(fd, CHUNK, position):
                check_stop()
                position += len(data)
                file.write(data)
        return os.dup(file.fileno())


def _write_back(fd: int) -> None:
    try:
        os.fdatasync(fd)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.EROFS, errno.ENOSYS, errno.ENOTSUP}:  # it has no pages to write
            raise


def source_of(fd: int, path: str, details: ErrorDetails) -> LocalSource:
    """Make a source of an open local file. The caller closes the descriptor.

    Raises:
        StorageError: If the file is a directory, or not a regular file.
    """
    status = os.fstat(fd)
    require_regular(path, status.st_mode, details)
    return LocalSource(path, status.st_size, fd, status.st_mtime_ns, details)


def require_regular(path: str, mode: int, details: ErrorDetails) -> None:
    """Check that a path names a regular file.

    Raises:
        StorageError: If it names a directory, a device, a socket or a pipe.
    """
    if stat.S_ISREG(mode):
        return
    raise not_a_file(path, "a directory" if stat.S_ISDIR(mode) else "not a regular file", details)


def not_a_file(path: str, kind: str, details: ErrorDetails) -> StorageError:
    """The error for a local path that is not a regular file."""
    message = f"{details.operation} of {details.url}: local path {path!r} is {kind}"
    return StorageError(message, details, Remedy.NAME_FILE)


class MemorySource:
    """A buffer in memory as a source.

    Args:
        data: The buffer. It is not copied. A change during the upload is detected by the checksum of the stored object.
        details: The upload, for errors.

    Raises:
        TypeError: If `data` does not support the buffer protocol.
        BufferError: If the buffer is not C-contiguous.
    """

    def __init__(self, data: ReadableBuffer, details: ErrorDetails) -> None:
        self._data = data
        self._view = bytes_of(data)
        self._details = details

    @property
    def size(self) -> int:
        """Size of the buffer in bytes."""
        return len(self._view)

    def read_at(self, offset: int, length: int) -> bytes:
        """A copy of `length` bytes; the original object if it is `bytes` and all of it is requested."""
        if isinstance(self._data, bytes) and (offset, length) == (0, self.size):
            return self._data
        return bytes(self._view[offset : offset + length])

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill another buffer with the bytes from an offset on."""
        view[:] = self._view[offset : offset + len(view)]

    def view_at(self, offset: int, length: int) -> memoryview:
        """A view of `length` bytes, without a copy."""
        return self._view[offset : offset + length]

    def require_unchanged(self) -> None:
        """Do nothing: a buffer has no modification time."""

    def changed(self) -> StorageError:
        """The error for a buffer that changed while it was sent."""
        return SourceChangedError(
            f"{self._details.operation} of {self._details.url}: the buffer was changed while it was sent, so nothing was "
            "stored",
            self._details,
            Remedy.FINISH_WRITING,
        )


def bytes_of(data: ReadableBuffer) -> memoryview:
    """A flat view of the bytes of a buffer, of any item type, without a copy.

    Raises:
        TypeError: If `data` does not support the buffer protocol.
        BufferError: If the buffer is not C-contiguous.
    """
    view = memoryview(data)
    if not view.c_contiguous:
        raise BufferError("the buffer is not C-contiguous, so it cannot be written; make a contiguous one with .copy()")
    if view.format == "B" and view.ndim == 1:
        return view
    import pickle  # noqa: PLC0415 - it takes 2 ms to import, and most buffers are bytes

    return pickle.PickleBuffer(view).raw()  # memoryview.cast refuses big-endian and structured items


def is_immutable(view: memoryview) -> bool:
    """Whether the bytes of a view can never change, so that a later use needs no copy of them."""
    return isinstance(view.obj, bytes)
