"""Local files, on both ends: sources that must not change while they are sent, targets that appear whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import secrets
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gllm_storage.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gllm_storage.errors import ErrorDetails

CHUNK = 2**20
"""Bytes moved at a time."""

_TEMPORARY = re.compile(r"\.gllm-[0-9a-f]{32}\.tmp")
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}
_RENAME_NOREPLACE = 1
_AT_FDCWD = -100


def is_temporary(name: str) -> bool:
    """Whether a file's name is one of a write that is under way, or was killed."""
    return _TEMPORARY.fullmatch(name) is not None


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
    except OSError as error:
        raise StorageError(
            f"{details.operation} of {details.url}: cannot {action} local file {path!r}: {error.strerror or error}",
            details,
        ) from error


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
                    raise self._changed()
                data += more
        return data

    def is_unchanged(self) -> bool:
        """Whether nobody wrote to the file since it was opened."""
        now = os.fstat(self._fd)
        return (now.st_size, now.st_mtime_ns) == (self.size, self._modified_ns)

    def require_unchanged(self) -> None:
        """Check that nobody wrote to the file since it was opened.

        Raises:
            StorageError: If somebody did.
        """
        if not self.is_unchanged():
            raise self._changed()

    def _changed(self) -> StorageError:
        return StorageError(
            f"{self._details.operation} of {self._details.url}: local file {self.path!r} changed while it was read, so "
            "nothing was stored. Finish writing it first, then try again",
            self._details,
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
        raise StorageError(f"cannot upload local file {path!r}: {error}", details) from error
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
    _require_regular(path, status.st_mode, details)
    return LocalSource(path, status.st_size, fd, status.st_mtime_ns, details)


def _require_regular(path: str, mode: int, details: ErrorDetails) -> None:
    if stat.S_ISREG(mode):
        return
    kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
    raise StorageError(f"{details.operation} of {details.url}: local path {path!r} is {kind}; give one file", details)


@dataclass(frozen=True)
class LocalTarget:
    """A temporary file beside its destination, which it replaces when everything is in it.

    Attributes:
        path: The destination.
        temporary: The temporary file's path.
        fd: Its descriptor, open for reading and writing.
    """

    path: str
    temporary: str
    fd: int
    _details: ErrorDetails

    def allocate(self, size: int) -> None:
        """Make the file `size` bytes long, so that a full disk shows before a byte is fetched.

        Raises:
            StorageError: If there is no room.
        """
        with self.errors():
            os.ftruncate(self.fd, 0)
            if size:
                _allocate(self.fd, size)

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Write at an offset; any thread may.

        Raises:
            StorageError: If the disk is full or fails.
        """
        view = memoryview(data)
        with self.errors():
            while view:
                written = os.pwrite(self.fd, view, offset)
                offset += written
                view = view[written:]

    def read_at(self, offset: int, length: int) -> bytes:
        """Read back what was written.

        Raises:
            StorageError: If the file cannot be read.
        """
        with self.errors():
            return os.pread(self.fd, length, offset)

    def errors(self) -> contextlib.AbstractContextManager[None]:
        """Turn an `OSError` about this file into a `StorageError`."""
        return local_errors("write", self.path, self._details)


def copy(source: LocalSource, target: LocalTarget, progress: Callable[[int], None]) -> None:
    """Copy a whole file.

    Args:
        source: From where.
        target: To where.
        progress: Told the number of bytes of each step.

    Raises:
        StorageError: If the source ends early, or either cannot be read or written.
    """
    target.allocate(source.size)
    for offset in range(0, source.size, CHUNK):
        data = source.read_at(offset, min(CHUNK, source.size - offset))
        target.write_at(offset, data)
        progress(len(data))


def _allocate(fd: int, size: int) -> None:
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}:
            raise
        os.ftruncate(fd, size)


@contextlib.contextmanager
def atomic_target(path: str, details: ErrorDetails, *, exclusive: bool = False) -> Iterator[LocalTarget]:
    """A destination that is, at every moment, either what it was before or complete.

    The destination's folders are made; a symbolic link is followed, so that it goes on pointing at the new content; the
    permissions of a file that is replaced are kept. When the block ends in an exception, the temporary file and the
    folders made for it are gone.

    Args:
        path: The destination.
        details: What the operation is about, for errors.
        exclusive: Whether to fail if the destination exists, atomically.

    Raises:
        FileExistsError: If `exclusive`, and the destination exists.
        StorageError: If the destination is a directory or otherwise no regular file, or cannot be written.
    """
    destination = os.path.abspath(path) if exclusive else os.path.realpath(path)
    folder = os.path.dirname(destination)
    with local_errors("write", path, details):
        mode = _mode_of(destination)
    if mode is not None and not exclusive:
        _require_regular(path, mode, details)
    with _made_folders(path, folder, details):
        temporary = os.path.join(folder, f".gllm-{secrets.token_hex(16)}.tmp")
        with local_errors("write", path, details):
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            target = LocalTarget(destination, temporary, fd, details)
            yield target
            _publish(target, mode, exclusive=exclusive)
        finally:
            os.close(fd)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)


def _mode_of(path: str) -> int | None:
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def _made_folders(path: str, folder: str, details: ErrorDetails) -> Iterator[None]:
    """Make a folder and its parents; take back those that were made when the block fails."""
    missing = []
    while not os.path.isdir(folder):
        missing.append(folder)
        parent = os.path.dirname(folder)
        if parent == folder:
            break
        folder = parent
    made: list[str] = []
    try:
        with local_errors("write", path, details):
            for each in reversed(missing):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(each)
                    made.append(each)
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # somebody else put something there meanwhile: it stays
            for each in reversed(made):
                os.rmdir(each)
        raise


def _publish(target: LocalTarget, mode: int | None, *, exclusive: bool) -> None:
    if exclusive:
        try:
            _link(target)
        except FileExistsError:
            raise
        except OSError as error:
            with target.errors():
                raise error  # noqa: TRY201 - to translate it
        return
    with target.errors():
        if mode is not None:
            os.fchmod(target.fd, stat.S_IMODE(mode))
        os.replace(target.temporary, target.path)


def _link(target: LocalTarget) -> None:
    """Give the temporary file its name, unless the name is taken: atomically."""
    try:
        os.link(target.temporary, target.path)
    except FileExistsError:
        # NFS may lose the answer to a link that it made, and then refuse the repeated request.
        if not _is_same_file(target):
            raise
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        _rename_without_replacing(target)


def _is_same_file(target: LocalTarget) -> bool:
    try:
        return os.path.samestat(os.lstat(target.path), os.fstat(target.fd))
    except FileNotFoundError:
        return False


def _rename_without_replacing(target: LocalTarget) -> None:
    """For filesystems without hard links: Linux's renameat2, or else a claim on the name by O_EXCL."""
    code = _renameat2(target.temporary, target.path)
    if code == 0:
        return
    if code == errno.EEXIST:
        raise FileExistsError(code, os.strerror(code), target.path)
    os.close(os.open(target.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    try:
        os.replace(target.temporary, target.path)
    except BaseException:
        os.unlink(target.path)  # the claim is ours
        raise


def _renameat2(source: str, destination: str) -> int:
    """Rename, failing with EEXIST if the destination exists; returns an errno, ENOSYS where there is no such call."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return errno.ENOSYS
    outcome = libc.renameat2(
        _AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(destination), ctypes.c_uint(_RENAME_NOREPLACE)
    )
    return ctypes.get_errno() if outcome else 0
