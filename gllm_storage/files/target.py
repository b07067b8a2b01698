"""Targets of a download: a local file that appears complete or not at all, or memory."""

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
_FOLDER_ATTEMPTS = 10
_AT_FDCWD = -100
_MOST_LINKS = 40
_NO_PLACES_FOR_FILES = ("/dev/", "/proc/")
_IN_MEMORY = "/dev/shm/"  # noqa: S108 - not a temporary file of ours, but a place where files may well be kept


def is_temporary(name: str) -> bool:
    """Whether a file's name is one of a write that is under way, or was killed."""
    return _TEMPORARY.fullmatch(name) is not None


class Sink(Protocol):
    """Where downloaded bytes go."""

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Take bytes at an offset of the object; any thread may give them."""

    def buffer_at(self, offset: int, length: int) -> memoryview | None:
        """Where such bytes may be put before they are given, and need not be copied then; None if there is no such place."""


class Target(Sink, Protocol):
    """Where a whole object goes, to be read back and compared with its checksum."""

    def allocate(self, size: int) -> None:
        """Make room for so many bytes; what is there already is worth nothing."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes as they were taken."""


class MemoryTarget:
    """An object in memory."""

    def __init__(self) -> None:
        self.allocate(0)

    def allocate(self, size: int) -> None:
        """Make room for so many bytes."""
        self._buffer = io.BytesIO(bytes(size))  # gives out its bytes without a copy, as a bytearray does not

    def buffer_at(self, offset: int, length: int) -> None:
        """None: its buffer gives out its bytes without a copy only while nobody else holds it."""

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Take bytes at an offset of the object."""
        with self._buffer.getbuffer() as view:
            view[offset : offset + len(data)] = data

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes as they were taken."""
        with self._buffer.getbuffer() as view:
            return bytes(view[offset : offset + length])

    def getvalue(self) -> bytes:
        """What was taken."""
        return self._buffer.getvalue()


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

    def buffer_at(self, offset: int, length: int) -> None:
        """None: a file is written to."""

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
    """A destination that is, at every moment, either what it was before or complete.

    The destination's folders are made; a symbolic link is followed, so that it goes on pointing at the new content; the
    permissions of a file that is replaced are kept. When the block ends in an exception, the temporary file and the
    folders made for it are gone.

    Args:
        path: The destination.
        details: What the operation is about, for errors.
        exclusive: Whether to fail if the destination exists, atomically.
        durable: Whether the content is on the disk before it gets its name.

    Raises:
        TargetExistsError: If `exclusive`, and the destination exists.
        ConflictCheckUnsupportedError: If `exclusive`, and the folder's filesystem cannot do that.
        StorageError: If the destination is a directory or otherwise no regular file, or cannot be written.
    """
    if _is_a_stream_or_device(path):
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
    made: list[str] = []
    fd = -1
    try:
        with local_errors("write", path, details):
            fd = _create(temporary, made)
        yield LocalTarget(destination, temporary, fd, details)
        with local_errors("write", path, details):
            if mode is not None and not exclusive:
                os.fchmod(fd, stat.S_IMODE(mode))
            if durable:
                os.fsync(fd)
            # Closed before it gets its name: a network filesystem reports a full quota only now.
            closing, fd = fd, -1
            os.close(closing)
        _publish(temporary, destination, details, exclusive=exclusive)
        made.clear()
    finally:
        if os.getpid() == owner:  # a forked child drops its copy of what its parent is writing
            _clean_up(temporary, fd, made)


def _clean_up(temporary: str, fd: int, made: list[str]) -> None:
    with contextlib.suppress(OSError):
        os.unlink(temporary)
    if fd >= 0:
        with contextlib.suppress(OSError):
            os.close(fd)
    with contextlib.suppress(OSError):  # somebody else put something there meanwhile: it stays
        for folder in reversed(made):
            os.rmdir(folder)


def _is_a_stream_or_device(path: str) -> bool:
    """Whether a path lies where no file can be kept.

    ``/dev/stdout`` is a link: to its end it would lead to the file that output was sent to, which is not to be replaced.
    """
    with contextlib.suppress(OSError, ValueError):
        for _ in range(_MOST_LINKS):
            path = f"/{os.path.abspath(path).lstrip('/')}"
            if path.startswith(_NO_PLACES_FOR_FILES) and not path.startswith(_IN_MEMORY):
                return True
            path = os.path.join(os.path.dirname(path), os.readlink(path))
    return False


def _mode_of(path: str) -> int | None:
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None


def _create(temporary: str, made: list[str]) -> int:
    """Make the temporary file and its folders; those that were made are added to `made`."""
    for _ in range(_FOLDER_ATTEMPTS):
        # Tried before the folder is made: it is there, mostly. And a download beside this one that failed may have taken
        # back the folder that both use.
        with contextlib.suppress(FileNotFoundError):
            return os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        _make_folders(os.path.dirname(temporary), made)
    return os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def _make_folders(folder: str, made: list[str]) -> None:
    missing = []
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for each in reversed(missing):
        with contextlib.suppress(FileExistsError, FileNotFoundError):
            os.mkdir(each)
            made.append(each)


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
    """Give the temporary file its name, unless the name is taken: atomically."""
    try:
        os.link(temporary, destination)
    except FileExistsError:
        # NFS may lose the answer to a link that it made, and then refuse the repeated request.
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
    """For filesystems without hard links: Linux's renameat2.

    There is no third way: a claim on the name by O_EXCL would show an empty file, and could not be taken back safely.
    """
    code = _renameat2(temporary, destination)
    if code:
        raise OSError(code, os.strerror(code), destination)


def _renameat2(source: str, destination: str) -> int:
    """Rename, failing with EEXIST if the destination exists; returns an errno, ENOSYS where there is no such call."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return errno.ENOSYS
    outcome = libc.renameat2(
        _AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(destination), ctypes.c_uint(_RENAME_NOREPLACE)
    )
    return ctypes.get_errno() if outcome else 0
