"""`LocalStore`: a folder of the local machine, or of a shared file system, as a store.

A file appears under its name when it is complete, and is then never changed, only replaced. Exclusive creates give a
temporary file its name by a hard link or by ``renameat2``, which fail if the name is taken (`files.target`).
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from gllm_storage.concurrency.bandwidth import pace
from gllm_storage.errors import AccessDeniedError, ErrorDetails, ObjectNotFoundError, Remedy, StorageError, translation
from gllm_storage.files.source import CHUNK, LocalSource, SourceChangedError, bytes_of, complete_source, source_of
from gllm_storage.files.target import LocalTarget, TargetExistsError, atomic_target, copy, is_temporary, rename
from gllm_storage.info import ObjectInfo, Stored
from gllm_storage.settings import TransferSettings
from gllm_storage.store.create import exists_error
from gllm_storage.store.port import ObjectStore, ObjectWriter, UploadRequest
from gllm_storage.store.reader import ObjectChangedError, ObjectReader, replaced_too_often
from gllm_storage.store.retry import RESTART

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from _typeshed import ReadableBuffer

    from gllm_storage.store.transfer import Transfer

_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}
_BUFFER = 2**16


class LocalStore(ObjectStore):
    """The files below a folder; a key is the path relative to the folder.

    Args:
        folder: The folder, absolute. The first upload makes it.
        settings: The settings of transfers.
    """

    provider: ClassVar[str] = "file"
    creates_exclusively: ClassVar[bool] = True

    def __init__(self, folder: str, settings: TransferSettings = TransferSettings()) -> None:  # noqa: B008 - frozen
        self._folder = f"{folder.rstrip('/')}/"
        self._settings = settings

    @property
    def settings(self) -> TransferSettings:
        """The settings of transfers."""
        return self._settings

    def local_folder(self, prefix: str) -> str:
        """The folder of a prefix."""
        return self._path(prefix)

    def url(self, key: str) -> str:
        """``file:///folder/key``."""
        return f"file://{self._path(key)}"

    @property
    def shows_writes_at_once(self) -> bool:
        """Whether the folder is not on a disk that machines share through a cache of names, such as NFS."""
        from gllm_storage.local.mounts import caches_names  # noqa: PLC0415 - only garbage collection needs it

        return not caches_names(self._folder)

    def upload(self, request: UploadRequest) -> Stored:
        """Copy the source into the folder."""
        with self.publishing(request) as target:
            copy(request.source, target, _moves(request.transfer))
            request.source.require_unchanged()
            return self.stored(request.key, target)

    def open_writer(self, request: UploadRequest) -> ObjectWriter:
        """Write a temporary file beside the file of the key."""
        return _LocalWriter(self, request)

    @contextlib.contextmanager
    def publishing(self, request: UploadRequest) -> Iterator[LocalTarget]:
        """A temporary file, which gets the name of the key at the end of the block.

        Raises:
            ObjectExistsError: If the request is exclusive, and the name is taken.
            StorageError: If the file cannot be written.
        """
        details = request.details
        if request.exclusive:
            self._require_absent(request.key, details)  # only for speed: the link decides
        try:
            durable = request.transfer.settings.fsync
            with atomic_target(self._path(request.key), details, exclusive=request.exclusive, durable=durable) as target:
                yield target
        except TargetExistsError as error:
            raise exists_error(details) from error

    def stored(self, key: str, target: LocalTarget) -> Stored:
        """The facts about a complete temporary file; its new name changes none of them."""
        with target.errors():
            status = os.fstat(target.fd)
        return Stored(self.url(key), status.st_size, _etag(status))

    def require_create(self, key: str, operation: str = "open") -> None:
        """Check that the name is not taken, not even by a folder or a dangling link."""
        self._require_absent(key, self.details(key, operation))

    def _require_absent(self, key: str, details: ErrorDetails) -> None:
        if os.path.lexists(self._path(key)):
            raise exists_error(details)

    def open_reader(self, key: str, operation: str = "read") -> ObjectReader:
        """Reads by `os.preadv`, and only the version whose ETag `head` returned."""
        return _LocalReader(self, key, operation)

    def fetch(self, key: str, target: LocalTarget, transfer: Transfer) -> None:
        """Copy the file; begin again if it changes in place, as only a writer without this library makes it."""

        def to_target(source: LocalSource) -> None:
            transfer.accept(ObjectInfo(self.url(key), source.size, _etag(source.status())))
            transfer.progress.expect(source.size)
            copy(source, target, _moves(transfer))

        self._read_unchanged(key, transfer, to_target)

    def copy(
        self, key: str, target: ObjectStore, target_key: str, transfer: Transfer, options: Mapping[str, Any] | None = None
    ) -> None:
        """Upload the file to the target; begin again if it changes in place."""
        self._copy_to(target, key, target_key, transfer, options=options)

    def copy_version(
        self, key: str, target_key: str, transfer: Transfer, *, exclusive: bool = False, version: ObjectInfo | None = None
    ) -> None:
        """Copy the file within the folder; begin again if it changes in place."""
        self._copy_to(self, key, target_key, transfer, exclusive=exclusive, version=version)

    def _copy_to(
        self,
        target: ObjectStore,
        key: str,
        target_key: str,
        transfer: Transfer,
        options: Mapping[str, Any] | None = None,
        *,
        exclusive: bool = False,
        version: ObjectInfo | None = None,
    ) -> None:
        def to_target(source: LocalSource) -> None:
            self.require_version(key, version, transfer.details)
            receiving = target.receiving(target_key, transfer)
            transfer.stored(target.upload(target.request(target_key, source, receiving, exclusive, options)))

        self._read_unchanged(key, transfer, to_target)

    def move(
        self, key: str, target_key: str, transfer: Transfer, *, exclusive: bool = False, version: ObjectInfo | None = None
    ) -> None:
        """Rename the file; copy and delete it if it is a link, or if the target is on another file system.

        Raises:
            ObjectNotFoundError: If the file does not exist.
            ObjectExistsError: If `exclusive` is set, and the target exists.
            StorageError: If the file cannot be moved.
        """
        details, path = transfer.details, self._path(key)
        if version is None:
            self.info(key, details.operation)  # a folder is not an object
        if exclusive:
            self._require_absent(target_key, self.details(target_key, details.operation))  # for speed: the link decides
        if os.path.islink(path):
            super().move(key, target_key, transfer, exclusive=exclusive, version=version)
            return
        try:
            rename(path, self._path(target_key), details, exclusive=exclusive, durable=transfer.settings.fsync)
        except TargetExistsError as error:
            raise exists_error(self.details(target_key, details.operation)) from error
        except StorageError as error:
            if getattr(error.__cause__, "errno", None) != errno.EXDEV:
                raise
            super().move(key, target_key, transfer, exclusive=exclusive, version=version)

    def _read_unchanged(self, key: str, transfer: Transfer, read: Callable[[LocalSource], None]) -> None:
        attempt = 0
        while True:
            attempt += 1
            try:
                with self.opened(key, transfer.details) as source:
                    read(source)
                    source.require_unchanged()
            except SourceChangedError as error:
                if attempt == RESTART.limit:
                    raise replaced_too_often(transfer.details, attempt) from error
                RESTART.again(transfer.details, attempt, "the file changed while it was read", "restart", transfer.stop)
            else:
                return

    @contextlib.contextmanager
    def opened(self, key: str, details: ErrorDetails, etag: str | None = None) -> Iterator[LocalSource]:
        """Open a file for reading.

        Args:
            key: The key.
            details: The operation, for errors.
            etag: The version to read; None for any.

        Raises:
            ObjectNotFoundError: If there is no regular file.
            ObjectChangedError: If the file is another version.
            StorageError: If it cannot be opened.
        """
        with translated(details):
            # O_NONBLOCK: to open a named pipe would otherwise wait for a writer.
            fd = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            with translated(details):
                status = os.fstat(fd)
            _require_file(status, details)
            if etag not in {None, _etag(status)}:
                raise ObjectChangedError
            if etag is not None:
                yield source_of(fd, self._path(key), details)
                return
            with complete_source(fd, self._path(key), details) as source:
                yield source
        finally:
            os.close(fd)

    def info(self, key: str, operation: str = "info") -> ObjectInfo:
        """The facts that the file system has about a file."""
        details = self.details(key, operation)
        with translated(details):
            status = os.stat(self._path(key))
        _require_file(status, details)
        return ObjectInfo(
            url=self.url(key),
            size=status.st_size,
            etag=_etag(status),
            last_modified=datetime.fromtimestamp(status.st_mtime, tz=UTC),
            metadata={},
        )

    def delete(self, key: str) -> None:
        """Remove the file; its folders stay."""
        self.info(key, "delete")  # a folder is not an object
        with translated(self.details(key, "delete")):
            os.unlink(self._path(key))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All files whose key begins with a prefix, in key order; temporary files of unfinished writes are left out."""
        for key in self._keys(prefix):
            with contextlib.suppress(ObjectNotFoundError):  # deleted since, or not a regular file
                yield self.info(key, "list")

    def list_folder(self, prefix: str = "") -> Iterator[ObjectInfo | str]:
        """The files and folders directly behind a prefix, empty folders included."""
        folder, details = prefix[: prefix.rfind("/") + 1], self.details(prefix, "list")
        with translated(details):
            keys = self._entries_of(folder, links=True)
        for key in keys:
            if not key.startswith(prefix):
                continue
            if key.endswith("/"):
                yield self.url(key)
                continue
            with contextlib.suppress(ObjectNotFoundError):  # deleted since, or not a regular file
                yield self.info(key, "list")

    def _keys(self, prefix: str) -> Iterator[str]:
        """The keys with a prefix, in order; only the folders above the current key are in memory. Links are not followed."""
        with translated(self.details(prefix, "list")):
            waiting = [self._entries_of(prefix[: prefix.rfind("/") + 1])]
            while waiting:
                key = next(waiting[-1], None)
                if key is None:
                    waiting.pop()
                elif not key.startswith(prefix):
                    continue
                elif key.endswith("/"):
                    waiting.append(self._entries_of(key))
                else:
                    yield key

    def _entries_of(self, folder: str, *, links: bool = False) -> Iterator[str]:
        """The keys in a folder, and the folders in it with a slash at their end, in order.

        Args:
            folder: Empty, or with a slash at its end.
            links: Whether links to folders are among them.
        """
        try:
            with os.scandir(self._path(folder)) as entries:
                names = [_name_in_order(each, links=links) for each in entries]
        except OSError as error:
            if error.errno in _ABSENT:
                return iter(())
            raise
        return iter(sorted(f"{folder}{name}" for name in names if name is not None))

    def _path(self, key: str) -> str:
        return self._folder + key


class _LocalReader(ObjectReader):
    """Reads one file."""

    def __init__(self, store: LocalStore, key: str, operation: str) -> None:
        self._store = store
        self._key = key
        self._details = store.details(key, operation)

    def head(self) -> ObjectInfo:
        found = self._store.info(self._key, self._details.operation)
        with (
            contextlib.suppress(ObjectChangedError),  # the first read notices it
            self._store.opened(self._key, self._details, found.etag) as source,
        ):
            if source.has_more():
                details = self._details
                raise StorageError(
                    f"file {details.operation} of {details.url}: the file goes on behind its size of {found.size} bytes, as "
                    "files in /proc do, so it cannot be read in ranges",
                    details,
                    Remedy.DOWNLOAD_INSTEAD,
                )
        return found

    def read(
        self, version: ObjectInfo, start: int, length: int, buffer: memoryview | None = None
    ) -> Generator[bytes | memoryview, None, None]:
        view = buffer if buffer is not None else memoryview(bytearray(min(length, CHUNK)))
        with self._store.opened(self._key, self._details, version.etag) as source:
            for offset in range(start, start + length, max(1, len(view))):
                piece = view[: start + length - offset]
                try:
                    source.read_into(offset, piece)
                    source.require_unchanged()
                except SourceChangedError as error:
                    raise ObjectChangedError from error
                yield piece

    def translated(self) -> contextlib.AbstractContextManager[None]:
        return translated(self._details)


class _LocalWriter:
    """An `ObjectWriter` on a temporary file beside its target.

    It has a buffer of its own: `io.BufferedWriter` would write the bytes that a forked child finds in its copy of the
    buffer, when the child drops it, into the parent's file.

    Threads may share a writer, and rely on the interpreter's lock to keep `seek` and `write` together: nothing lets another
    thread run after `seek` has moved the position, or before `write` has taken its range.
    """

    def __init__(self, store: LocalStore, request: UploadRequest) -> None:
        self._store = store
        self._key = request.key
        self._pid = os.getpid()
        self._lock = threading.Lock()  # `discard` may come from another thread, and closes the descriptor
        self._failure: StorageError | None = None
        self._writing = threading.Lock()  # for the buffer
        self._buffer = bytearray()
        self._start = 0  # of the buffer
        self._position = self._size = 0
        self._scope: contextlib.AbstractContextManager[LocalTarget] | None = store.publishing(request)
        self._target = self._scope.__enter__()

    def write(self, data: ReadableBuffer) -> int:
        content = data if isinstance(data, bytes) else bytes_of(data)
        size = len(content)
        # Another thread may run at each call: there is none before the position and the size have moved.
        start = self._position
        self._position = end = start + size
        if size and end > self._size:
            self._size = end
        with self._writing:
            self._write_at(start, content)
        return size

    def _write_at(self, start: int, content: bytes | memoryview) -> None:
        end = self._start + len(self._buffer)
        if start != end or len(self._buffer) + len(content) > _BUFFER:
            self._flush()
            self._start = start
        if len(content) > _BUFFER:
            self._put(memoryview(content))
        else:
            self._buffer += content

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with self._writing:
            self._flush()
        position = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence] + offset
        if position < 0:
            raise ValueError(f"negative seek position {position}")
        self._position = position
        return position

    def seekable(self) -> bool:
        return True

    def commit(self) -> Stored:
        try:
            with self._writing:
                self._flush()
            stored = self._store.stored(self._key, self._target)
        except BaseException:
            self.discard()
            raise
        self._leave(None)
        return stored

    def discard(self) -> None:
        if self._pid == os.getpid():  # a forked child has only a copy
            self._leave(GeneratorExit())

    def _leave(self, error: BaseException | None) -> None:
        with self._lock:
            scope, self._scope = self._scope, None
            if scope is not None:
                scope.__exit__(None if error is None else type(error), error, None)

    def _flush(self) -> None:
        if self._buffer:
            self._put(memoryview(self._buffer))
            self._buffer = bytearray()

    def _put(self, view: memoryview) -> None:
        if self._failure is not None:
            raise self._failure
        try:
            with self._lock:
                if self._scope is None:
                    raise ValueError("write to a discarded file")
                self._target.write_at(self._start, view)
        except StorageError as error:
            self._failure = error
            self.discard()
            raise
        self._start += len(view)


def _moves(transfer: Transfer) -> Callable[[int], None]:
    """Report moved bytes, wait if the bandwidth is limited, and end the transfer if it was cancelled."""

    def moved(count: int) -> None:
        transfer.stop.check()
        transfer.progress(count)
        pace(count)

    return moved


def translated(details: ErrorDetails) -> contextlib.AbstractContextManager[None]:
    """Raise errors of this library in place of an `OSError`."""
    return translation(details, (OSError,), _translate)


def _translate(error: OSError, details: ErrorDetails) -> Exception:
    if error.errno in _ABSENT:
        return ObjectNotFoundError(f"{details.url} does not exist (file {details.operation})", details)
    kind = AccessDeniedError if isinstance(error, PermissionError) else StorageError
    return kind(f"file {details.operation} of {details.url} failed: {error.strerror}", details, Remedy.CHECK_FOLDER)


def _require_file(status: os.stat_result, details: ErrorDetails) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ObjectNotFoundError(f"{details.url} is not a file (file {details.operation})", details)


def _name_in_order(entry: os.DirEntry[str], *, links: bool) -> str | None:
    """A folder's name has a slash at its end, which counts for the order of its keys; None for an entry without keys."""
    if _is_folder(entry):
        return f"{entry.name}/" if links or not entry.is_symlink() else None
    return None if is_temporary(entry.name) else entry.name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _etag(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"
