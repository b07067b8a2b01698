"""Any fsspec filesystem that is not ours, behind the methods that the verbs use.

It gives what can be given from outside: a local target that is whole or as it was, sizes that are checked, errors in our
words. Exclusive creates are refused, because fsspec does not promise them: several filesystems look first and write then,
and several ignore ``mode="create"`` silently.
"""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fsspec.callbacks import DEFAULT_CALLBACK, Callback

from gllm_storage.errors import (
    AccessDeniedError,
    ConflictCheckUnsupportedError,
    ErrorDetails,
    IntegrityError,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
)
from gllm_storage.files.source import open_source
from gllm_storage.files.target import atomic_target
from gllm_storage.info import in_order, info_from_fsspec
from gllm_storage.paths import without_password

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fsspec import AbstractFileSystem

    from gllm_storage.info import ObjectInfo

_RESTARTS = 5
_DENIED = {401, 403}
_BUSY = {408, 429}
_FIRST_SERVER_ERROR = 500
_OF_A_PATH = (FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError)


class ForeignStore:
    """The verbs' methods on any fsspec filesystem.

    Args:
        filesystem: The filesystem.
        scheme: The scheme of its URLs.
        base: What stands before every key in a URL, after the scheme.
    """

    def __init__(self, filesystem: AbstractFileSystem, scheme: str, base: str) -> None:
        self._filesystem = filesystem
        self._scheme = scheme
        self._base = base

    def store_file(self, lpath: str, rpath: str, *, exclusive: bool, callback: Callback | None = None) -> None:
        """Upload a local file.

        Raises:
            FileNotFoundError: If the local file does not exist.
            ConflictCheckUnsupportedError: If `exclusive`; nothing was written.
            StorageError: If the upload fails.
        """
        details = self._details(rpath, "upload")
        if exclusive:
            raise ConflictCheckUnsupportedError(
                f"{details.url}: fsspec filesystem {type(self._filesystem).__name__} does not promise exclusive creates, so "
                "check_conflict=True was refused and nothing was written. Use check_conflict=False, or another store",
                details,
            )
        with open_source(lpath, details) as source:
            with _translated(details):
                self._filesystem.put_file(lpath, self._path(rpath), callback=callback or DEFAULT_CALLBACK)
                stored = self._filesystem.info(self._path(rpath))["size"]
            source.require_unchanged()
        if stored != source.size:
            raise IntegrityError(
                f"upload of {details.url}: {source.size} bytes were sent and {stored} are stored; upload it again",
                details,
            )

    def fetch_file(self, rpath: str, lpath: str, *, callback: Callback | None = None) -> None:
        """Download a file; the local file is whole, or as it was.

        Raises:
            ObjectNotFoundError: If there is no such file.
            StorageError: If the download fails.
        """
        details = self._details(rpath, "download")
        with atomic_target(lpath, details) as target:
            before = self._info(rpath, "download")
            for _ in range(_RESTARTS):
                with _translated(details):
                    self._filesystem.get_file(self._path(rpath), target.temporary, callback=callback or DEFAULT_CALLBACK)
                after = self._info(rpath, "download")
                if before == after:
                    break
                before = after
            else:
                raise StorageUnavailableError(
                    f"download of {details.url}: the file was changed again and again while it was read. Try again",
                    details,
                )
            received = os.stat(target.temporary).st_size
            if received != before.size:
                raise IntegrityError(
                    f"download of {details.url}: {received} of {before.size} bytes arrived; try again", details
                )

    def rm_file(self, path: str) -> None:
        """Delete a file.

        Raises:
            ObjectNotFoundError: If there is no such file.
            StorageError: If it cannot be deleted.
        """
        self._info(path, "delete")
        with _translated(self._details(path, "delete")):
            self._filesystem.rm_file(self._path(path))

    def object_info(self, path: str) -> ObjectInfo:
        """What the filesystem knows of a file.

        Raises:
            ObjectNotFoundError: If there is no such file.
            StorageError: If it cannot be told.
        """
        return self._info(path, "info")

    def object_exists(self, path: str) -> bool:
        """Whether there is such a file; a folder is none.

        Raises:
            StorageError: If it cannot be told.
        """
        try:
            self._info(path, "exists")
        except ObjectNotFoundError:
            return False
        return True

    def iter_objects(self, path: str) -> Iterator[ObjectInfo]:
        """All files whose path begins with `path`, in key order.

        Raises:
            StorageError: If listing fails.
        """
        details = self._details(path, "list")
        root = self._path(self._base).rstrip("/")
        folder = path[: path.rfind("/") + 1]
        self._filesystem.invalidate_cache()
        try:
            with _translated(details):
                found: dict[str, dict[str, Any]] = self._filesystem.find(self._path(folder), detail=True)
        except ObjectNotFoundError:
            return
        if not found:
            self._require_answer(folder, details)
        for name in sorted(found):
            key = name.removeprefix(root).lstrip("/")
            if (self._base + key).startswith(path):
                yield info_from_fsspec(found[name], f"{self._scheme}://{self._base}{key}")

    def iter_folder(self, path: str) -> Iterator[ObjectInfo | str]:
        """What is directly in a folder: files, and URLs of folders.

        Raises:
            StorageError: If listing fails.
        """
        details = self._details(path, "list")
        self._filesystem.invalidate_cache()
        try:
            with _translated(details):
                found: list[dict[str, Any]] = self._filesystem.ls(self._path(path), detail=True)
        except ObjectNotFoundError:
            return
        yield from in_order(self._entry(each) for each in found)

    def _entry(self, found: dict[str, Any]) -> ObjectInfo | str:
        key = found["name"].removeprefix(self._path(self._base).rstrip("/")).strip("/")
        url = f"{self._scheme}://{self._base}{key}"
        return f"{url}/" if found["type"] == "directory" else info_from_fsspec(found, url)

    def _require_answer(self, folder: str, details: ErrorDetails) -> None:
        """`find` of most filesystems leaves out what it cannot list, and finds nothing on a host that does not answer."""
        try:
            with _translated(details):
                self._filesystem.ls(self._path(folder), detail=False)
        except (AccessDeniedError, StorageUnavailableError):
            raise
        except (StorageError, ObjectNotFoundError):
            return

    def _info(self, path: str, operation: str) -> ObjectInfo:
        details = self._details(path, operation)
        self._filesystem.invalidate_cache()  # listings that another process has outdated would answer
        with _translated(details):
            entry = self._filesystem.info(self._path(path))
        if entry.get("type") == "directory":
            raise ObjectNotFoundError(f"{details.url} is a folder, not a file", details)
        return info_from_fsspec(entry, f"{self._scheme}://{path}")

    def _path(self, path: str) -> str:
        return str(self._filesystem._strip_protocol(f"{self._scheme}://{path}"))  # noqa: SLF001 - fsspec's own hook for this

    def _details(self, path: str, operation: str) -> ErrorDetails:
        return ErrorDetails("fsspec", without_password(f"{self._scheme}://{path}"), operation)


@contextlib.contextmanager
def _translated(details: ErrorDetails) -> Iterator[None]:
    """Our errors for whatever a foreign filesystem raises; each has a vocabulary of its own."""
    what = f"fsspec {details.operation} of {details.url} failed"
    before = sys.exception()
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _not_found(error, before, details, what) from error
    except PermissionError as error:
        raise _denied(error, details, what) from error
    except (ConnectionError, TimeoutError) as error:
        raise _unavailable(error, details, what) from error
    except Exception as error:
        answer = _answer(error, details, what)
        raise answer or StorageError(f"{what}: {type(error).__name__}: {error}", details) from error


def _not_found(error: OSError, before: BaseException | None, details: ErrorDetails, what: str) -> Exception:
    """The HTTP filesystem of fsspec says "not found" to everything, also to a host that does not answer: the causes tell."""
    for cause in _causes(error, before):
        answer = _answer(cause, details, what)
        if answer is not None:
            return answer
        if isinstance(cause, PermissionError):
            return _denied(cause, details, what)
        if isinstance(cause, OSError) and not isinstance(cause, _OF_A_PATH):
            return _unavailable(cause, details, what)
    return ObjectNotFoundError(f"{details.url} does not exist (fsspec {details.operation})", details)


def _causes(error: BaseException, before: BaseException | None) -> Iterator[BaseException]:
    """What led to an error, but for what was being handled `before` the filesystem was called: that is the caller's."""
    seen: set[int] = set()
    cause = error.__cause__ or error.__context__
    while cause is not None and cause is not before and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _answer(error: BaseException, details: ErrorDetails, what: str) -> StorageError | None:
    """What a server answered, or that it did not, if the error says so."""
    status = getattr(error, "status", None)
    if not isinstance(status, int):
        return _unavailable(error, details, what) if _is_no_answer(error) else None
    if status in _DENIED:
        return _denied(error, replace(details, status=status), what)
    if status in _BUSY or status >= _FIRST_SERVER_ERROR:
        return _unavailable(error, replace(details, status=status), what)
    return None


def _is_no_answer(error: BaseException) -> bool:
    """Whether aiohttp, which fsspec's own HTTP filesystem uses, got none; only some of its errors are an `OSError`."""
    aiohttp = sys.modules.get("aiohttp")
    return aiohttp is not None and isinstance(error, (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError))


def _denied(error: BaseException, details: ErrorDetails, what: str) -> AccessDeniedError:
    return AccessDeniedError(f"{what}: {error}. Check the credentials and what they permit", details)


def _unavailable(error: BaseException, details: ErrorDetails, what: str) -> StorageUnavailableError:
    reason = str(error) or type(error).__name__
    return StorageUnavailableError(f"{what}: {reason}. Check the network; the call can be repeated", details)
