"""`LocalStoreFileSystem`: fsspec's, with whole files, exclusive creates and errors in our words."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any

from fsspec.callbacks import DEFAULT_CALLBACK, Callback
from fsspec.implementations.local import LocalFileSystem

from gllm_storage.errors import (
    AccessDeniedError,
    ErrorDetails,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
)
from gllm_storage.files.source import SourceChangedError, open_source
from gllm_storage.files.target import TargetExistsError, atomic_target, copy, is_temporary
from gllm_storage.filesystem.opening import AtomicOpening, FilesAndFolders
from gllm_storage.filesystem.writing import AtomicWriter
from gllm_storage.info import ObjectInfo
from gllm_storage.store.create import exists_error

if TYPE_CHECKING:
    from collections.abc import Iterator

_RESTARTS = 5
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}


class LocalStoreFileSystem(AtomicOpening, FilesAndFolders, LocalFileSystem):  # type: ignore[misc]  # fsspec publishes no types
    """fsspec's local filesystem, as a store of whole files.

    Not called LocalFileSystem: pyarrow goes by that name, and would write past it with its own.

    A file appears under its name when it is complete, and is then never changed, only replaced. `put_file` with
    ``mode="create"`` and ``open(…, "xb")`` give a temporary file its name by a hard link, which fails if the name is taken.
    """

    def store_file(self, lpath: str, rpath: str, *, exclusive: bool, callback: Callback | None = None) -> None:
        """As `put_file`, for one file: a folder is refused."""
        path = self._strip_protocol(rpath)
        details, told = _details(path, "upload"), callback or DEFAULT_CALLBACK
        with open_source(lpath, details) as source:
            told.set_size(source.size)
            with _stored(path, details, exclusive=exclusive) as target:
                copy(source, target, told.relative_update)
                source.require_unchanged()

    def fetch_file(self, rpath: str, lpath: str, *, callback: Callback | None = None) -> None:
        """As `get_file`, for one file: a folder is no object."""
        path = self._strip_protocol(rpath)
        details, told = _details(path, "download"), callback or DEFAULT_CALLBACK
        with atomic_target(lpath, details) as target:
            for _attempt in range(_RESTARTS):
                _look(path, details)
                # SourceChangedError: it was written to in place, by somebody who does not use this library.
                with (
                    contextlib.suppress(SourceChangedError),
                    _absent_as_not_found(details),
                    open_source(path, details) as source,
                ):
                    told.set_size(source.size)
                    copy(source, target, told.relative_update)
                    source.require_unchanged()
                    return
            raise StorageUnavailableError(
                f"download of {details.url}: the file was written to again and again while it was read. Try again", details
            )

    def object_info(self, path: str) -> ObjectInfo:
        """What is known of a file.

        Raises:
            ObjectNotFoundError: If there is no such file; a folder is none.
            StorageError: If it cannot be told.
        """
        path = self._strip_protocol(path)
        return _info(path, _look(path, _details(path, "info")))

    def object_exists(self, path: str) -> bool:
        """Whether there is such a file; a folder is none.

        Raises:
            StorageError: If it cannot be told.
        """
        path = self._strip_protocol(path)
        try:
            _look(path, _details(path, "exists"))
        except ObjectNotFoundError:
            return False
        return True

    def iter_objects(self, path: str) -> Iterator[ObjectInfo]:
        """All files whose path begins with `path`, in key order; files that are still being written are left out.

        Raises:
            StorageError: If a folder cannot be read.
        """
        details = _details(path, "list")
        for found in sorted(_files_below(path[: path.rfind("/") + 1], details)):
            if not found.startswith(path):
                continue
            with contextlib.suppress(ObjectNotFoundError):  # deleted meanwhile
                yield _info(found, _look(found, details))

    def iter_folder(self, path: str) -> Iterator[ObjectInfo | str]:
        """What is directly in a folder: files, and URLs of folders; files that are still being written are left out.

        Raises:
            StorageError: If the folder cannot be read.
        """
        folder, details = path[: path.rfind("/") + 1], _details(path, "list")
        with _translated(details), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            with os.scandir(folder) as entries:
                found = [f"{folder}{each.name}{'/' if _is_folder(each) else ''}" for each in entries]
            for each in sorted(found):
                if each.endswith("/"):
                    yield f"file://{each}"
                elif not is_temporary(os.path.basename(each)):
                    with contextlib.suppress(ObjectNotFoundError):  # deleted meanwhile, or no file
                        yield _info(each, _look(each, details))

    def rm_file(self, path: str) -> None:
        """Delete a file.

        Raises:
            ObjectNotFoundError: If there is no such file; a folder is none.
            StorageError: If it cannot be deleted.
        """
        path = self._strip_protocol(path)
        details = _details(path, "delete")
        _look(path, details)
        with _translated(details):
            os.unlink(path)

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **kwargs: Any) -> Any:
        path = self._strip_protocol(path)
        details = _details(path, "open")
        if mode == "rb":
            _look(path, details)
        if mode not in {"wb", "xb"}:
            return super()._open(path, mode, block_size, **kwargs)
        written = _written(path, details, exclusive=mode == "xb")
        return AtomicWriter(written, details.url, autocommit=kwargs.get("autocommit", True))


@contextlib.contextmanager
def _stored(path: str, details: ErrorDetails, *, exclusive: bool) -> Iterator[Any]:
    if exclusive and os.path.lexists(path):
        raise exists_error(details)  # only for speed: the link decides
    try:
        with atomic_target(path, details, exclusive=exclusive, durable=True) as target:
            yield target
    except TargetExistsError as error:
        raise exists_error(details) from error


@contextlib.contextmanager
def _written(path: str, details: ErrorDetails, *, exclusive: bool) -> Iterator[IO[bytes]]:
    owner = os.getpid()
    with _stored(path, details, exclusive=exclusive) as target, os.fdopen(os.dup(target.fd), "wb") as file:
        try:
            yield file
        finally:
            if os.getpid() != owner:  # what a forked child finds in its copy of the buffer is its parent's to write
                os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


@contextlib.contextmanager
def _translated(details: ErrorDetails) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _translate(error, details) from error


def _translate(error: OSError, details: ErrorDetails) -> Exception:
    if error.errno in _ABSENT:
        return ObjectNotFoundError(f"{details.url} does not exist (file {details.operation})", details)
    kind = AccessDeniedError if isinstance(error, PermissionError) else StorageError
    return kind(f"file {details.operation} of {details.url} failed: {error.strerror}. Check the folder", details)


@contextlib.contextmanager
def _absent_as_not_found(details: ErrorDetails) -> Iterator[None]:
    try:
        yield
    except ObjectNotFoundError:
        raise
    except FileNotFoundError as error:
        raise _translate(error, details) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads around in a circle
        return False


def _look(path: str, details: ErrorDetails) -> os.stat_result:
    with _translated(details):
        status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ObjectNotFoundError(f"{details.url} is no file (file {details.operation})", details)
    return status


def _files_below(folder: str, details: ErrorDetails) -> Iterator[str]:
    def fail(error: OSError) -> None:
        if error.errno not in _ABSENT:
            raise _translate(error, details) from error

    for parent, _, names in os.walk(folder, onerror=fail):
        yield from (os.path.join(parent, name) for name in names if not is_temporary(name))


def _info(path: str, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(
        url=f"file://{path}",
        size=status.st_size,
        etag=f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}",
        last_modified=datetime.fromtimestamp(status.st_mtime, tz=UTC),
        metadata={},
    )


def _details(path: str, operation: str) -> ErrorDetails:
    return ErrorDetails("file", f"file://{path}", operation)
