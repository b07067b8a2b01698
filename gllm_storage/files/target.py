"""Targets of a download: a local file that appears complete or not at all, or memory.

`atomic_target` writes to a temporary file ``.gllm-<32 hex digits>.tmp`` in the destination's folder. The last step gives it
the destination's name; a name can change atomically only within one filesystem, hence the same folder.

- To replace, `os.replace` is atomic.
- To create exclusively, a rename would replace a file that another process made a moment ago. `os.link` fails instead
  (EEXIST), and the new name shows complete content from the start; afterwards the temporary name is removed. An NFS client
  that lost the answer to its link request repeats it, and is told EEXIST about its own link: so EEXIST with the same inode
  is success.
- Filesystems without hard links (exFAT, some FUSE mounts) get `renameat2(RENAME_NOREPLACE)`. If that is missing too, the
  write is refused. To create the destination with O_EXCL and fill it is not an alternative: other processes would read an
  incomplete file, and after a failure it could not be removed without the risk of removing another process's file.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import os
import re
import secrets
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gllm_storage.errors import ConflictCheckUnsupportedError, Remedy, StorageError
from gllm_storage.files.source import CHUNK, local_errors, not_a_file, require_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gllm_storage.errors import ErrorDetails
    from gllm_storage.files.source import Source


class TargetExistsError(FileExistsError):
    """The destination of an exclusive write exists."""


_TEMPORARY = re.compile(r"\.gllm-[0-9a-f]{32}\.tmp")
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}
_RENAME_NOREPLACE = 1
_CREATE_ATTEMPTS = 10
_AT_FDCWD = -100
_MAX_LINKS = 40
_DEVICE_FOLDERS = ("/dev/", "/proc/")
_SHARED_MEMORY = "/dev/shm/"  # noqa: S108 - a folder in which users keep files, not a temporary file of this module


def is_temporary(name: str) -> bool:
    """Whether a file name is that of a temporary file here: of a write in progress, or of a process that was killed."""
    return _TEMPORARY.fullmatch(name) is not None


class Sink(Protocol):
    """Receives the bytes of a download."""

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Store bytes at an offset. Any thread may call it."""

    def buffer_at(self, offset: int, length: int) -> memoryview | None:
        """The sink's own memory for these bytes.

        Bytes that are received there need no copy: `write_at` recognizes them. None if the sink has no such memory.
        """


class Target(Sink, Protocol):
    """Receives a complete object, and can read it back to compute its checksum."""

    def allocate(self, size: int) -> None:
        """Discard the content and make room for `size` bytes.

        Raises:
            StorageError: If there is not enough room.
        """

    def read_at(self, offset: int, length: int) -> bytes:
        """Read back bytes that were written.

        Raises:
            StorageError: If they cannot be read.
        """


class MemoryTarget:
    """A target in memory."""

    def __init__(self) -> None:
        self.allocate(0)

    def allocate(self, size: int) -> None:
        """Discard the content and make room for `size` bytes."""
        self._buffer = io.BytesIO(bytes(size))  # its `getvalue` returns bytes without a copy; a bytearray needs one

    def buffer_at(self, offset: int, length: int) -> None:
        """None: `getvalue` would have to copy while another view of the buffer exists."""

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Store bytes at an offset."""
        with self._buffer.getbuffer() as view:
            view[offset : offset + len(data)] = data

    def read_at(self, offset: int, length: int) -> bytes:
        """Read back bytes that were written."""
        with self._buffer.getbuffer() as view:
            return bytes(view[offset : offset + length])

    def getvalue(self) -> bytes:
        """The content."""
        return self._buffer.getvalue()


@dataclass(frozen=True)
class LocalTarget:
    """A temporary file in the destination's folder, which `atomic_target` renames when the content is complete.

    Attributes:
        path: Path of the destination.
        temporary: Path of the temporary file.
        fd: Descriptor of the temporary file, open for reading and writing.
    """

    path: str
    temporary: str
    fd: int
    _details: ErrorDetails

    def allocate(self, size: int) -> None:
        """Reserve `size` bytes on the disk, so that a full disk is noticed before the download.

        Raises:
            StorageError: If there is not enough room.
        """
        with self.errors():
            os.ftruncate(self.fd, 0)
            if size:
                _allocate(self.fd, size)

    def buffer_at(self, offset: int, length: int) -> None:
        """None: a file has no memory."""

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Write bytes at an offset. Any thread may call it.

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
        """Read back bytes that were written.

        Raises:
            StorageError: If the file cannot be read.
        """
        with self.errors():
            return os.pread(self.fd, length, offset)

    def errors(self) -> contextlib.AbstractContextManager[None]:
        """Translate an `OSError` about this file into a `StorageError`."""
        return local_errors("write", self.path, self._details)


def copy(source: Source, target: LocalTarget, progress: Callable[[int], None]) -> None:
    """Copy a complete source into a local file.

    Args:
        source: The source.
        target: The target.
        progress: Called with the number of bytes of each step; it may raise to end the copy.

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
def atomic_target(
    path: str, details: ErrorDetails, *, exclusive: bool = False, durable: bool = False
) -> Iterator[LocalTarget]:
    """Write a local file atomically: at every moment it is either the old file or the complete new one.

    Missing folders are created. A symbolic link is kept, and the file that it points to is replaced. A replaced file keeps
    its permissions. If the block raises, the temporary file and the created folders are removed.

    Args:
        path: The destination.
        details: The operation, for errors.
        exclusive: Whether to fail if the destination exists, atomically. A symbolic link counts as existing.
        durable: Whether to write the content to the disk (fsync) before it gets the destination's name.

    Raises:
        TargetExistsError: If `exclusive`, and the destination exists.
        ConflictCheckUnsupportedError: If `exclusive`, and the folder's filesystem has neither hard links nor `renameat2`.
        StorageError: If the destination is a folder or a device, or cannot be written.
    """
    if _is_device(path):
        raise not_a_file(path, "not a regular file", details)
    with local_errors("write", path, details):
        destination = os.path.abspath(path) if exclusive else os.path.realpath(path)
        mode = _mode_of(destination)
    if path.endswith(os.sep):
        raise not_a_file(path, "a folder, because it ends with a separator", details)
    if mode is not None and not exclusive:
        require_regular(path, mode, details)
    temporary = os.path.join(os.path.dirname(destination), f".gllm-{secrets.token_hex(16)}.tmp")
    owner = os.getpid()
    created: list[str] = []
    fd = -1
    try:
        with local_errors("write", path, details):
            fd = _create(temporary, created)
        yield LocalTarget(destination, temporary, fd, details)
        with local_errors("write", path, details):
            if mode is not None and not exclusive:
                os.fchmod(fd, stat.S_IMODE(mode))
            if durable:
                os.fsync(fd)
            # Close before the rename: a network filesystem may report a full quota only here.
            closing, fd = fd, -1
            os.close(closing)
        _publish(temporary, destination, details, exclusive=exclusive)
        created.clear()
    finally:
        if os.getpid() == owner:  # a forked child must not remove the file that its parent is writing
            _clean_up(temporary, fd, created)


def rename(source: str, path: str, details: ErrorDetails, *, exclusive: bool) -> None:
    """Move a local file to another name atomically. Missing folders are created; a link at the destination is followed.

    Args:
        source: The file.
        path: The destination.
        details: The operation, for errors.
        exclusive: Whether to fail if the destination exists, atomically.

    Raises:
        TargetExistsError: If `exclusive`, and the destination exists.
        ConflictCheckUnsupportedError: As for `atomic_target`.
        StorageError: If the destination is a folder or a device, or the file cannot be moved; EXDEV is the cause if the
            destination is on another file system.
    """
    with local_errors("write", path, details):
        destination = os.path.abspath(path) if exclusive else os.path.realpath(path)
        mode = _mode_of(destination)
    if mode is not None and not exclusive:
        require_regular(path, mode, details)
    created: list[str] = []
    try:
        with local_errors("write", path, details):
            _make_folders(os.path.dirname(destination), created)
        _publish(source, destination, details, exclusive=exclusive)
        created.clear()
        with contextlib.suppress(FileNotFoundError):  # an exclusive move, and a move onto another link of the same file
            if _is_same_file(source, destination):
                os.unlink(source)
    finally:
        with contextlib.suppress(OSError):  # a folder that another process uses meanwhile is not empty, and stays
            for folder in reversed(created):
                os.rmdir(folder)


def _clean_up(temporary: str, fd: int, created: list[str]) -> None:
    with contextlib.suppress(OSError):
        os.unlink(temporary)
    if fd >= 0:
        with contextlib.suppress(OSError):
            os.close(fd)
    with contextlib.suppress(OSError):  # a folder that another process uses meanwhile is not empty, and stays
        for folder in reversed(created):
            os.rmdir(folder)


def _is_device(path: str) -> bool:
    """Whether a path, or a link on its way, is in ``/dev`` (but not ``/dev/shm``) or in ``/proc``.

    The links are followed one by one, since the last one is not always in there: ``/dev/stdout`` leads to the file to which
    the shell redirects the output, and a download must not replace that file.
    """
    with contextlib.suppress(OSError, ValueError):
        for _ in range(_MAX_LINKS):
            path = f"/{os.path.abspath(path).lstrip('/')}"
            if path.startswith(_DEVICE_FOLDERS) and not path.startswith(_SHARED_MEMORY):
                return True
            path = os.path.join(os.path.dirname(path), os.readlink(path))
    return False


def _mode_of(path: str) -> int | None:
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None


def _create(temporary: str, created: list[str]) -> int:
    """Create the temporary file and its missing folders, and append those folders to `created`."""
    for _ in range(_CREATE_ATTEMPTS):
        # The file first, since its folder mostly exists. Several attempts, since another download into the same new folder
        # may fail and remove the folder between the two steps.
        with contextlib.suppress(FileNotFoundError):
            return os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        _make_folders(os.path.dirname(temporary), created)
    return os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def _make_folders(folder: str, created: list[str]) -> None:
    missing = []
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for each in reversed(missing):
        with contextlib.suppress(FileExistsError, FileNotFoundError):
            os.mkdir(each)
            created.append(each)


def _publish(temporary: str, destination: str, details: ErrorDetails, *, exclusive: bool) -> None:
    if not exclusive:
        with local_errors("write", destination, details):
            os.replace(temporary, destination)
        return
    try:
        with local_errors("write", destination, details):
            _link(temporary, destination)
    except StorageError as error:
        cause = error.__cause__
        if isinstance(cause, FileExistsError):
            raise TargetExistsError(*cause.args) from cause
        if isinstance(cause, OSError) and cause.errno in _NO_HARD_LINKS:
            raise ConflictCheckUnsupportedError(
                f"{details.operation} of {details.url}: the folder's filesystem has neither hard links nor renameat2 "
                f"({cause.strerror}), so it cannot create exclusively",
                details,
                Remedy.USE_OTHER_FOLDER,
            ) from cause
        raise


def _link(temporary: str, destination: str) -> None:
    """Give the temporary file the destination's name, atomically, unless that exists."""
    try:
        os.link(temporary, destination)
    except FileExistsError:
        # An NFS client repeats a request whose answer was lost, and gets EEXIST for its own link.
        if not _is_same_file(temporary, destination):
            raise
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        _rename_without_replacing(temporary, destination)


def _is_same_file(temporary: str, destination: str) -> bool:
    try:
        return os.path.samestat(os.lstat(destination), os.lstat(temporary))
    except FileNotFoundError:
        return False


def _rename_without_replacing(temporary: str, destination: str) -> None:
    """Rename a file unless the destination exists, on filesystems without hard links.

    Raises:
        OSError: EEXIST if the destination exists; ENOSYS or EINVAL if the kernel or the filesystem cannot do it.
    """
    code = _renameat2(temporary, destination)
    if code:
        raise OSError(code, os.strerror(code), destination)


def _renameat2(source: str, destination: str) -> int:
    """Call Linux's renameat2 with RENAME_NOREPLACE. Returns 0 or an errno: ENOSYS if libc has no such function."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return errno.ENOSYS
    outcome = libc.renameat2(
        _AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(destination), ctypes.c_uint(_RENAME_NOREPLACE)
    )
    return ctypes.get_errno() if outcome else 0
