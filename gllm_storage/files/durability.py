"""Durability: a power cut must not undo these writes.

A rename is atomic for other processes, and not for the disk: without `fdatasync` before it, the disk may know the new name
earlier than the content, and after a power cut the file has its full size and holds zeros (seen on ext4 and XFS). The name
itself is on the disk when the folder was synchronized.

Write-back begins while the content arrives (`WriteBack`), so that the `fdatasync` at the end has little left to do. A call
that writes many files synchronizes each folder once (`folders_synced_once`).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import threading
from typing import TYPE_CHECKING, Any

from gllm_storage.files.source import local_errors

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Iterable, Iterator

    from gllm_storage.errors import ErrorDetails

_SYNC_FILE_RANGE_WRITE = 2
_STEP = 8 * 2**20
"""Bytes after which write-back begins anew."""
_CANNOT_SYNC = {errno.EACCES, errno.EINVAL, errno.ENOENT, errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EBADF}
"""A folder without read permission, a folder that was removed since, or a filesystem that cannot synchronize folders."""


@functools.cache
def libc() -> ctypes.CDLL:
    """The C library of the process, for the system calls that Python lacks."""
    import ctypes  # it takes 2 ms to import, and only transfers of files need it

    return ctypes.CDLL(None, use_errno=True)


@functools.cache
def _sync_file_range() -> Any:
    function = getattr(libc(), "sync_file_range", None)
    if function is not None:
        import ctypes  # see `libc`

        function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return function


def start_write_back(fd: int) -> None:
    """Let the kernel write the dirty pages of a file to the disk, without waiting. Linux only; errors are ignored."""
    function = _sync_file_range()
    if function is not None:
        function(fd, 0, 0, _SYNC_FILE_RANGE_WRITE)


def sync_file(path: str) -> None:
    """Write the content of a file to the disk. A file without read permission is left as it is.

    Raises:
        OSError: If the disk fails.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except PermissionError:
        return
    try:
        os.fdatasync(fd)
    finally:
        os.close(fd)


class WriteBack:
    """Starts the write-back of a file piece by piece, while it is written.

    Args:
        fd: The descriptor.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._waiting = 0

    def wrote(self, count: int) -> None:
        """Note written bytes. Any thread may call it; a race only moves the start of the next write-back."""
        self._waiting += count
        if self._waiting >= _STEP:
            self._waiting = 0
            start_write_back(self._fd)


_running = threading.local()


class FolderSyncs:
    """The folders in which a call gave names to files, to be synchronized once each at its end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, ErrorDetails] = {}

    def add(self, folders: Iterable[str], details: ErrorDetails) -> None:
        """Note folders. Any thread may call it.

        Args:
            folders: The folders.
            details: The operation, for errors.
        """
        with self._lock:
            for each in folders:
                self._waiting.setdefault(each, details)

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Let the targets that this thread finishes in the block leave their folders to this object."""
        before = getattr(_running, "folders", None)
        _running.folders = self
        try:
            yield
        finally:
            _running.folders = before

    def sync(self) -> None:
        """Synchronize the folders.

        Raises:
            StorageError: If the disk fails.
        """
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for folder, details in waiting.items():
            _sync_folder(folder, details)


@contextlib.contextmanager
def folders_synced_once() -> Iterator[FolderSyncs]:
    """Synchronize each folder once, at the end of the block, and not after each file that got a name in it.

    Within another such block, the outer one does it. Threads that the block starts join by `FolderSyncs.joined`.

    Raises:
        StorageError: If the disk fails.
    """
    outer: FolderSyncs | None = getattr(_running, "folders", None)
    if outer is not None:
        yield outer
        return
    folders = FolderSyncs()
    try:
        with folders.joined():
            yield folders
    except BaseException:
        with contextlib.suppress(Exception):  # the files that were finished before the failure stay
            folders.sync()
        raise
    folders.sync()


def sync_folders(folders: Iterable[str], details: ErrorDetails) -> None:
    """Synchronize folders: now, or at the end of the surrounding `folders_synced_once`.

    Args:
        folders: The folders.
        details: The operation, for errors.

    Raises:
        StorageError: If the disk fails.
    """
    outer: FolderSyncs | None = getattr(_running, "folders", None)
    if outer is not None:
        outer.add(folders, details)
        return
    for each in folders:
        _sync_folder(each, details)


def _sync_folder(folder: str, details: ErrorDetails) -> None:
    with local_errors("write", folder, details):
        try:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno not in _CANNOT_SYNC:
                raise
