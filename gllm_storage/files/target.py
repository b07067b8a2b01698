"""Targets of a download: a local file that appears complete or not at all, or memory.

`atomic_target` writes to a file without a name (O_TMPFILE), which the kernel removes with the process, however that ends.
The last step gives it the destination's name. Where the filesystem has no such files (NFS, FAT, some FUSE mounts), the file
is named ``.gllm-<32 hex digits>.tmp`` and is in the destination's folder, since a name can change atomically only within one
filesystem.

- To replace, `os.replace` is atomic. No system call lets a file without a name replace another one: it gets a temporary name
  first, in the same instant.
- To create exclusively, a rename would replace a file that another process made a moment ago. `os.link` fails instead
  (EEXIST), and the new name shows complete content from the start; afterwards a temporary name is removed. An NFS client
  that lost the answer to its link request repeats it, and is told EEXIST about its own link: so EEXIST with the same inode
  is success.
- Filesystems without hard links (exFAT, some FUSE mounts) get `renameat2(RENAME_NOREPLACE)`. If that is missing too, the
  write is refused, before any content is written: both are tried on an empty file first. To create the destination with
  O_EXCL and fill it is not an alternative: other processes would read an incomplete file, and after a failure it could not
  be removed without the risk of removing another process's file.

Before it gets its name, the content is on the disk, and afterwards the name (`files.durability`), unless `durable` is False.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import secrets
import stat
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from gllm_storage.errors import OURS, ConflictCheckUnsupportedError, Remedy, is_of_user
from gllm_storage.files.durability import WriteBack, libc, start_write_back, sync_file, sync_folders
from gllm_storage.files.source import CHUNK, local_error, local_errors, not_a_file, require_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gllm_storage.errors import ErrorDetails, StorageError
    from gllm_storage.files.source import Source

    Buffer: TypeAlias = bytes | bytearray | memoryview
    Note: TypeAlias = Callable[[os.stat_result], object]


class TargetExistsError(FileExistsError):
    """The destination of an exclusive write exists."""


_TEMPORARY = re.compile(r"\.gllm-[0-9a-f]{32}\.tmp")
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}
_RENAME_NOREPLACE = 1
_CREATE_ATTEMPTS = 10
_AT_FDCWD = -100
_MAX_LINKS = 40
_SHARED = stat.S_ISVTX | stat.S_IWOTH
"""The mode bits of a folder such as ``/tmp``: all users may write, and remove only their own files."""
_AT_ONCE = 2**18
"""A file of at most this many bytes is written at once, and needs no reservation: a full disk shows as soon."""
BACKDATE_NS = 25_000_000
"""More than a tick of the clock of Linux's filesystems (4 to 10 ms), within which a change leaves the time as it was."""
SCRATCH = "<temporary file>"
"""The name of a file without a name in messages."""
_UNNAMED = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC if hasattr(os, "O_TMPFILE") else None
"""The flags that open a file without a name; None on systems other than Linux."""
_OPENS_PATHS = hasattr(os, "O_PATH")
"""Whether the system opens a folder only to tell its path: Linux."""
_linkable: set[int] = set()
"""The devices on which a file without a name got one."""
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
        """Discard the content and allocate `size` bytes.

        Raises:
            StorageError: If the disk has too little space.
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
        """Discard the content and allocate `size` bytes."""
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
    """A local file that has no content, or no name, until it is complete.

    Attributes:
        path: Path of the destination.
        temporary: A path of the file, for code that opens it by itself: a path in ``/proc`` if the file has no name.
        fd: Descriptor of the file, open for reading and writing.
    """

    path: str
    temporary: str
    fd: int
    _details: ErrorDetails
    _write_back: WriteBack | None

    def allocate(self, size: int) -> None:
        """Reserve `size` bytes on the disk, so that a full disk is noticed before the download.

        Raises:
            StorageError: If the disk has too little space.
        """
        try:
            # An empty file that is cut to 0 bytes counts as a replaced one: ext4 writes it when it is closed.
            if os.fstat(self.fd).st_size:
                os.ftruncate(self.fd, 0)
            if size > _AT_ONCE:
                allocate(self.fd, size)
        except OSError as error:
            raise self._error(error) from error

    def buffer_at(self, offset: int, length: int) -> None:
        """None: a file has no memory."""

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Write bytes at an offset. Any thread may call it.

        Raises:
            StorageError: If the disk is full or fails.
        """
        try:
            done = os.pwrite(self.fd, data, offset)
            while done < len(data):
                done += os.pwrite(self.fd, memoryview(data)[done:], offset + done)
        except OSError as error:
            raise self._error(error) from error
        if self._write_back is not None:
            self._write_back.wrote(len(data))

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

    def _error(self, error: OSError) -> StorageError:
        return local_error("write", self.path, error, self._details)


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


def allocate(fd: int, size: int) -> None:
    """Allocate disk space for the content of a file.

    Raises:
        OSError: If the disk is full or fails.
    """
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}:
            raise
        os.ftruncate(fd, size)


@dataclass(frozen=True)
class Preserved:
    """The facts about a source file that its copy gets.

    Attributes:
        mtime_ns: The time of modification, in nanoseconds since 1970; None for that of the download.
        mode: The permissions; bits beside those of reading, writing and execution are ignored. None for the usual ones.
    """

    mtime_ns: int | None = None
    mode: int | None = None

    def give(self, path: str | int) -> None:
        """Give the facts to a file.

        Args:
            path: Its path, or its descriptor.

        Raises:
            OSError: If the file system refuses that.
        """
        if self.mode is not None:
            os.chmod(path, self.mode & 0o777)
        if self.mtime_ns is not None:
            os.utime(path, ns=(self.mtime_ns, self.mtime_ns))


class atomic_target:  # noqa: N801 - a context manager, used as a function; a generator costs five times as much
    """Write a local file atomically: at every moment it is either the old file or the complete new one.

    Args:
        path: As in `Draft`.
        details: As in `Draft`.
        exclusive: As in `Draft`.
        durable: As in `Draft`.
        named: As in `Draft`.
        note: As in `Draft`.
        preserved: As in `Draft`.

    Raises:
        TargetExistsError: If `exclusive`, and the destination exists.
        ConflictCheckUnsupportedError: If `exclusive`, and the folder's filesystem has neither hard links nor `renameat2`.
        StorageError: If the destination is a folder or a device, or cannot be written.
    """

    __slots__ = ("_draft", "_make")

    def __init__(
        self,
        path: str,
        details: ErrorDetails,
        *,
        exclusive: bool = False,
        durable: bool = True,
        named: bool = False,
        note: Note | None = None,
        preserved: Callable[[], Preserved] | None = None,
    ) -> None:
        manner: Any = {"exclusive": exclusive, "durable": durable, "named": named, "note": note, "preserved": preserved}
        self._make = partial(Draft, path, details, **manner)

    def __enter__(self) -> LocalTarget:
        self._draft = self._make()
        return self._draft.as_target()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            if error is None:
                self._draft.settle()
                self._draft.publish()
        finally:
            self._draft.discard()


def rename(source: str, path: str, details: ErrorDetails, *, exclusive: bool, durable: bool = True) -> None:
    """Move a local file to another name atomically. Missing folders are created; a link at the destination is followed.

    Args:
        source: The file.
        path: The destination.
        details: The operation, for errors.
        exclusive: Whether to fail if the destination exists, atomically.
        durable: Whether the content and both names are on the disk when this returns.

    Raises:
        TargetExistsError: If `exclusive`, and the destination exists.
        ConflictCheckUnsupportedError: As for `atomic_target`.
        StorageError: If the destination is a folder or a device, or the file cannot be moved; EXDEV is the cause if the
            destination is on another file system.
    """
    with local_errors("write", path, details):
        destination = os.path.abspath(path) if exclusive else _resolved(path)
        mode = _mode_of(destination)
    if mode is not None and not exclusive:
        require_regular(path, mode, details)
    created: list[str] = []
    try:
        with _naming_errors(path, details, exclusive=exclusive):
            if durable:
                sync_file(source)
            _make_folders(os.path.dirname(destination), created)
            if exclusive:
                _link(source, destination)
            else:
                os.replace(source, destination)
        changed = {os.path.dirname(each) for each in (source, destination, *created)}
        created.clear()
        with contextlib.suppress(FileNotFoundError):  # an exclusive move, and a move onto another link of the same file
            if os.path.samestat(os.lstat(source), os.lstat(destination)):
                os.unlink(source)
    finally:
        _remove_folders(created)
    if durable:
        sync_folders(changed, details)


class _naming_errors:
    """Translate the errors of a file that gets its name.

    Raises:
        TargetExistsError: If it is an exclusive name, and exists.
        ConflictCheckUnsupportedError: If it is an exclusive name, and the folder's filesystem has no such names.
        StorageError: After any other failure.
    """

    __slots__ = ("_details", "_exclusive", "_path")

    def __init__(self, path: str, details: ErrorDetails, *, exclusive: bool) -> None:
        self._path = path
        self._details = details
        self._exclusive = exclusive

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if not isinstance(error, (OSError, ValueError)) or isinstance(error, OURS) or is_of_user(error):
            return
        if self._exclusive and isinstance(error, FileExistsError):
            raise TargetExistsError(*error.args) from error
        if self._exclusive and isinstance(error, OSError) and error.errno in _NO_HARD_LINKS:
            raise ConflictCheckUnsupportedError(
                f"{self._details.operation} of {self._details.url}: the folder's filesystem has neither hard links nor "
                f"renameat2 ({error.strerror}), so it cannot create exclusively",
                self._details,
                Remedy.USE_OTHER_FOLDER,
            ) from error
        raise local_error("write", self._path, error, self._details) from error


def _remove_folders(created: list[str]) -> None:
    with contextlib.suppress(OSError):  # a folder that another process uses meanwhile is not empty, and stays
        while created:
            os.rmdir(created.pop())


@contextlib.contextmanager
def scratch_target(details: ErrorDetails) -> Iterator[LocalTarget]:
    """A file without a name in the folder for temporary files. It is gone after the block, however the process ends.

    Args:
        details: The operation, for errors.

    Raises:
        StorageError: If the file cannot be made.
    """
    with local_errors("write", SCRATCH, details):
        import tempfile  # it takes 4 ms to import, and most verbs need none

        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - an error in the block is not one of this file
    with file:
        fd = file.fileno()
        yield LocalTarget(SCRATCH, _path_of(fd), fd, details, None)


class Folders:
    """The folders into which one call writes many files. The links on the way to each of them are followed once."""

    def __init__(self) -> None:
        self._real: dict[str, str] = {}

    def place(self, path: str) -> tuple[str, int | None] | None:
        """The destination that a path names, and its mode; as `_place_of`.

        Returns:
            None if the path is unusual, such as a link.
        """
        destination = self.destination(path)
        if destination is None:
            return None
        try:
            mode = os.lstat(destination).st_mode
        except FileNotFoundError:
            return destination, None
        except (OSError, ValueError):
            return None
        return None if stat.S_ISLNK(mode) else (destination, mode)

    def destination(self, path: str) -> str | None:
        """The destination that a path names, if it does not exist or is not a link; None if the path is unusual."""
        folder, _, name = path.rpartition("/")
        real = self._real.get(folder)
        if real is None:
            real = self._real[folder] = _plain_folder(folder)
        return f"{real}/{name}" if real and name not in {"", ".", ".."} else None


def _plain_folder(folder: str) -> str:
    """The path of an existing folder without links; empty if it is the root, or has devices."""
    if os.sep != "/" or not folder.startswith("/") or _has_devices(f"{folder}/"):
        return ""
    try:
        real = _real_folder(folder) if _OPENS_PATHS else os.path.realpath(folder)
    except (OSError, ValueError):
        return ""
    # The kernel adds " (deleted)" to the path of a folder that is gone.
    is_folder = os.path.isdir(real) if not _OPENS_PATHS or real.endswith(")") else True
    return real if is_folder and real != "/" and not _has_devices(f"{real}/") else ""


def _real_folder(folder: str) -> str:
    """The path of a folder without links, from the kernel: `os.path.realpath` takes 3 microseconds for each name in it.

    Raises:
        OSError: If there is no such folder, or no ``/proc``.
    """
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _place_of(path: str, details: ErrorDetails, *, exclusive: bool) -> tuple[str, int | None]:
    """The destination that a path names, and its mode; None if it does not exist, or if the file is created exclusively.

    Raises:
        StorageError: If the path names a folder or a device, or cannot be followed.
    """
    if _is_device(path):
        raise not_a_file(path, "not a regular file", details)
    with local_errors("write", path, details):
        destination = os.path.abspath(path) if exclusive else _resolved(path)
        mode = None if exclusive else _mode_of(destination)
    if path.endswith(os.sep):
        raise not_a_file(path, "a folder, because it ends with a separator", details)
    return destination, mode


class Draft:
    """A local file that is written and has not got its name yet.

    Missing folders are created. A symbolic link is kept, and the file that it points to is replaced, except in a folder such
    as ``/tmp`` where the link belongs to another user. A replaced file keeps its permissions, but not its setuid, setgid and
    sticky bits. A draft that is discarded leaves nothing, not even the folders.

    Args:
        path: The destination.
        details: The operation, for errors.
        exclusive: Whether to fail if the destination exists, atomically. A symbolic link counts as existing.
        durable: Whether content and name are on the disk when `publish` returns.
        named: Whether the file needs a name from the start, because other code renames another file to it.
        folders: The folders of the other files of this call.
        late: Whether `publish` may be the first to look whether the destination exists: that of a list mostly does not.
        note: Called with the state of the file when it has its name, if it still has the content of this draft. The file's
            time of modification is then set `BACKDATE_NS` back, so that each later change gives it another time.
        preserved: Called before the file gets its name, for the facts that it gets from its source.

    Raises:
        ConflictCheckUnsupportedError: If `exclusive`, and the folder's filesystem has neither hard links nor `renameat2`.
        StorageError: If the destination is a folder or a device, or cannot be written.
    """

    def __init__(
        self,
        path: str,
        details: ErrorDetails,
        *,
        exclusive: bool = False,
        durable: bool = True,
        named: bool = False,
        folders: Folders | None = None,
        late: bool = False,
        note: Note | None = None,
        preserved: Callable[[], Preserved] | None = None,
    ) -> None:
        folders = folders or Folders()
        unseen = folders.destination(path) if late and not (exclusive or named) else None
        if unseen is None:
            place = None if exclusive else folders.place(path)
            self._destination, mode = place or _place_of(path, details, exclusive=exclusive)
        else:
            self._destination, mode = unseen, None
        self._unseen = None if unseen is None else folders
        if mode is not None:
            require_regular(path, mode, details)
        self._path = path
        self._details = details
        self._exclusive = exclusive
        self._durable = durable
        self._note = note
        self._preserved = preserved
        self._mode = mode
        self._needs_reopening = named
        self._owner = os.getpid()
        self._created: list[str] = []
        self._temporary: str | None
        self._fd, self._temporary = -1, None
        try:
            with self._errors():
                self._fd, self._temporary = self._open(named=named)
            if self._temporary is not None:
                if exclusive:
                    self._require_exclusive(self._temporary)
                self._see()  # a rename would replace a link
        except BaseException:
            self.discard()
            raise

    def as_target(self) -> LocalTarget:
        """The open file, to be filled piece by piece."""
        shown = _path_of(self._fd) if self._temporary is None else self._temporary
        write_back = WriteBack(self._fd) if self._durable else None
        return LocalTarget(self._destination, shown, self._fd, self._details, write_back)

    def fill(self, content: Buffer) -> None:
        """Write the complete content at once, in place of `as_target`.

        Raises:
            StorageError: If the disk is full or fails.
        """
        try:
            done = os.write(self._fd, content)
            while done < len(content):
                done += os.write(self._fd, memoryview(content)[done:])
        except OSError as error:
            raise local_error("write", self._path, error, self._details) from error
        if self._durable:
            start_write_back(self._fd)

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return local_errors("write", self._path, self._details)

    def _open(self, *, named: bool) -> tuple[int, str | None]:
        folder = os.path.dirname(self._destination)
        fd = -1 if named else _open_unnamed(folder, once=self._exclusive)
        if fd >= 0:
            return fd, None
        temporary = temporary_beside(self._destination)
        return _create(temporary, self._created), temporary

    def _require_exclusive(self, temporary: str) -> None:
        """Try on the empty file how it can get an unused name.

        Raises:
            ConflictCheckUnsupportedError: If it cannot.
        """
        other = temporary_beside(temporary)
        try:
            with _naming_errors(self._path, self._details, exclusive=True):
                _link(temporary, other)
                with contextlib.suppress(FileNotFoundError):  # renamed, not linked
                    os.unlink(temporary)
                os.rename(other, temporary)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(other)
            raise

    def settle(self) -> None:
        """Finish the content: set the permissions, and write it to the disk. Any thread may call it.

        Raises:
            StorageError: If the disk is full or fails.
        """
        if self._mode is None and not self._durable and not self._needs_reopening:
            return
        with self._errors():
            if self._needs_reopening and self._temporary is not None:  # it may be another file by now
                os.close(self._fd)
                self._fd = -1
                self._fd = os.open(self._temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            if self._mode is not None:
                os.fchmod(self._fd, self._mode & 0o777)
            if self._durable:
                os.fdatasync(self._fd)

    def publish(self) -> None:
        """Give the file its name.

        Raises:
            TargetExistsError: If the draft is exclusive, and the destination exists.
            ConflictCheckUnsupportedError: If the draft is exclusive, and the folder's filesystem cannot do that.
            StorageError: If the file cannot get its name, or its folder cannot be written to the disk.
        """
        finished = self._stamped()
        with _naming_errors(self._path, self._details, exclusive=self._exclusive):
            self._flush()
            if self._temporary is None:
                self._name_unnamed()
            elif self._exclusive:
                _link(self._temporary, self._destination)
            else:
                os.replace(self._temporary, self._destination)
        created, self._created = self._created, []
        if self._note is not None and finished is not None and (named := self._state_if_same(finished)) is not None:
            self._note(named)
        self.discard()
        if self._durable:
            sync_folders({os.path.dirname(each) for each in (self._destination, *created)}, self._details)

    def _stamped(self) -> os.stat_result | None:
        """Give the file its time and its mode; its state then, if a later change shows in it."""
        if self._note is None and self._preserved is None:
            return None
        preserved = Preserved() if self._preserved is None else self._preserved()
        try:
            preserved.give(self._fd)
            return _backdated(self._fd) if preserved.mtime_ns is None and self._note is not None else os.fstat(self._fd)
        except OSError:  # such as FAT's, which has no modes
            return None

    def _state_if_same(self, finished: os.stat_result) -> os.stat_result | None:
        """The state of the file at the destination, if it is this one, and nothing was written since."""
        try:
            named = os.lstat(self._destination)
        except OSError:
            return None
        same = os.path.samestat(named, finished) and named.st_size == finished.st_size
        return named if same and named.st_mtime_ns == finished.st_mtime_ns else None

    def _flush(self) -> None:
        """Close the file: a network filesystem may report a full quota only here. Without a name it has to stay open."""
        if self._temporary is None:
            os.close(os.dup(self._fd))
        else:
            closing, self._fd = self._fd, -1
            os.close(closing)

    def _name_unnamed(self) -> None:
        for _ in range(_CREATE_ATTEMPTS):
            # The name first, since its folder mostly exists. Several attempts, since another download into the same new
            # folder may fail and remove the folder between the two steps.
            try:
                self._link_unnamed()
            except FileNotFoundError:
                _make_folders(os.path.dirname(self._destination), self._created)
            else:
                return
        self._link_unnamed()

    def _link_unnamed(self) -> None:
        if self._exclusive or self._mode is None:
            try:
                _link_open(self._fd, self._destination)
            except FileExistsError:
                if self._exclusive:
                    raise
                self._see()
            else:
                return
        temporary = temporary_beside(self._destination)
        _link_open(self._fd, temporary)
        try:
            os.replace(temporary, self._destination)
        except BaseException:
            os.unlink(temporary)
            raise

    def _see(self) -> None:
        """Read the status of the destination, if that was put off, and take its permissions.

        Raises:
            StorageError: If it is a link, a folder or a device.
        """
        folders, self._unseen = self._unseen, None
        if folders is None:
            return
        place = folders.place(self._path)
        if place is None:
            raise not_a_file(self._path, "a link", self._details)
        self._mode = place[1]
        if self._mode is not None:
            require_regular(self._path, self._mode, self._details)
            self.settle()

    def discard(self) -> None:
        """Remove the file, unless it has its name, and the folders that were created for it."""
        if os.getpid() != self._owner:  # a forked child must not remove the file that its parent is writing
            return
        temporary, self._temporary = self._temporary, None
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        fd, self._fd = self._fd, -1
        try:
            if fd >= 0:
                os.close(fd)
        except OSError:  # the file has its name, or gets none: `_flush` has reported what counts
            pass
        if self._created:
            _remove_folders(self._created)


def _backdated(fd: int) -> os.stat_result | None:
    """Set the time of modification back; the state of the file then."""
    try:
        status = os.fstat(fd)
        os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns - BACKDATE_NS))
        return os.fstat(fd)
    except OSError:
        return None


def _is_device(path: str) -> bool:
    """Whether a path, or a link on its way, is in ``/dev`` (but not ``/dev/shm``) or in ``/proc``.

    The links are followed one by one, since the last one is not always in there: ``/dev/stdout`` leads to the file to which
    the shell redirects the output, and a download must not replace that file.
    """
    with contextlib.suppress(OSError, ValueError):
        for _ in range(_MAX_LINKS):
            path = f"/{os.path.abspath(path).lstrip('/')}"
            if _has_devices(path):
                return True
            path = os.path.join(os.path.dirname(path), os.readlink(path))
    return False


def _has_devices(path: str) -> bool:
    return path.startswith(_DEVICE_FOLDERS) and not path.startswith(_SHARED_MEMORY)


def _mode_of(path: str) -> int | None:
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None


def _resolved(path: str) -> str:
    """The file that a path leads to, by the kernel's rule for links in sticky folders.

    https://docs.kernel.org/admin-guide/sysctl/fs.html#protected-symlinks: a link at the end of a path is not followed in a
    folder such as ``/tmp``, which all users may write to, if it belongs neither to this user nor to the folder's owner.
    Another user would choose the file that gets replaced. The rule holds here even where the kernel's is off.

    Raises:
        PermissionError: If a link must not be followed.
        OSError: If there are too many links, or a folder cannot be read.
    """
    for _ in range(_MAX_LINKS):
        folder = os.path.realpath(os.path.dirname(path))
        path = os.path.join(folder, os.path.basename(path))
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return os.path.normpath(path)
        if not stat.S_ISLNK(status.st_mode):
            return os.path.normpath(path)
        parent = os.stat(folder)
        if parent.st_mode & _SHARED == _SHARED and status.st_uid not in {os.geteuid(), parent.st_uid}:
            raise PermissionError(
                errno.EACCES,
                f"the symbolic link {path!r} belongs to another user, in a folder that all users may write to, and is not "
                "followed",
                path,
            )
        path = os.path.join(folder, os.readlink(path))
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def temporary_beside(path: str) -> str:
    """A temporary name in the folder of a path."""
    return os.path.join(os.path.dirname(path), f".gllm-{secrets.token_hex(16)}.tmp")


def _path_of(fd: int) -> str:
    """A path of an open file; of this process by number, since a child process may be given the path."""
    return f"/proc/{os.getpid()}/fd/{fd}"


def _open_unnamed(folder: str, *, once: bool) -> int:
    """Make a file without a name in a folder, or in the nearest folder above that exists.

    Args:
        folder: The folder.
        once: Whether to try the link anew, although it has worked on this filesystem before.

    Returns:
        Its descriptor; -1 if the filesystem has no such files, or cannot name them later. Also -1 after any other failure:
        the file with a name meets it again, and reports it.
    """
    if _UNNAMED is None:
        return -1
    while True:
        try:
            fd = os.open(folder, _UNNAMED, 0o666)
        except FileNotFoundError:
            if folder == os.path.dirname(folder):
                return -1
            folder = os.path.dirname(folder)
        except OSError:
            return -1
        else:
            break
    device = os.fstat(fd).st_dev
    if (device in _linkable and not once) or _can_link_unnamed(folder, _UNNAMED):
        _linkable.add(device)
        return fd
    os.close(fd)
    return -1


def _can_link_unnamed(folder: str, flags: int) -> bool:
    """Whether a file without a name can get one: it needs ``/proc``, and hard links. Tried with another file."""
    name = temporary_beside(os.path.join(folder, "x"))
    try:
        fd = os.open(folder, flags, 0o600)
        try:
            _link_open(fd, name)
            os.unlink(name)
        finally:
            os.close(fd)
    except OSError:
        return False
    return True


def _link_open(fd: int, name: str) -> None:
    """Give an open file without a name its first name, unless that exists.

    Raises:
        FileExistsError: If the name exists, and is not that of the same file.
        OSError: If the file cannot be named.
    """
    try:
        # With a `src_dir_fd`, Python calls linkat with AT_SYMLINK_FOLLOW; without, the link in /proc would be linked.
        os.link(f"/proc/self/fd/{fd}", name, src_dir_fd=fd, follow_symlinks=True)
    except FileExistsError:
        if not _is_status_of(name, os.fstat(fd)):
            raise


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


def _link(temporary: str, destination: str) -> None:
    """Give the temporary file the destination's name, atomically, unless that exists."""
    try:
        os.link(temporary, destination)
    except FileExistsError:
        # An NFS client repeats a request whose answer was lost, and gets EEXIST for its own link.
        if not _is_status_of(destination, os.lstat(temporary)):
            raise
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        _rename_without_replacing(temporary, destination)


def _is_status_of(name: str, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.lstat(name), status)
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
    import ctypes  # see `libc`

    library = libc()
    if not hasattr(library, "renameat2"):
        return errno.ENOSYS
    outcome = library.renameat2(
        _AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(destination), ctypes.c_uint(_RENAME_NOREPLACE)
    )
    return ctypes.get_errno() if outcome else 0
