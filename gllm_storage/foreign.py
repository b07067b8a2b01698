"""Any fsspec filesystem that is not ours, behind the methods that the verbs use.

It gives what can be given from outside: a local target that is whole or as it was, sizes that are checked, errors in our
words. Exclusive creates are refused, because fsspec does not promise them: several filesystems look first and write then,
and several ignore ``mode="create"`` silently.
"""

from __future__ import annotations

import contextlib
import os
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
from gllm_storage.local_files import atomic_target, open_source
from gllm_storage.objects import info_from_fsspec
from gllm_storage.paths import without_password

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fsspec import AbstractFileSystem

    from gllm_storage.objects import ObjectInfo

_RESTARTS = 5


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

    def store_file(self, lpath: str, rpath: str, *, exclusive: bool, callback: Callback = DEFAULT_CALLBACK) -> None:
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
                self._filesystem.put_file(lpath, self._path(rpath), callback=callback)
                stored = self._filesystem.info(self._path(rpath))["size"]
            source.require_unchanged()
        if stored != source.size:
            raise IntegrityError(
                f"upload of {details.url}: {source.size} bytes were sent and {stored} are stored; upload it again",
                details,
            )

    def fetch_file(self, rpath: str, lpath: str, *, callback: Callback = DEFAULT_CALLBACK) -> None:
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
                    self._filesystem.get_file(self._path(rpath), target.temporary, callback=callback)
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
        for name in sorted(found):
            key = name.removeprefix(root).lstrip("/")
            if (self._base + key).startswith(path):
                yield info_from_fsspec(found[name], f"{self._scheme}://{self._base}{key}")

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
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ObjectNotFoundError(f"{details.url} does not exist (fsspec {details.operation})", details) from error
    except PermissionError as error:
        raise AccessDeniedError(f"{what}: {error}. Check the credentials and what they permit", details) from error
    except (ConnectionError, TimeoutError) as error:
        raise StorageUnavailableError(f"{what}: {error}. Check the network; the call can be repeated", details) from error
    except Exception as error:
        raise StorageError(f"{what}: {type(error).__name__}: {error}", details) from error
