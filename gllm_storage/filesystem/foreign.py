"""`ForeignStore`: the objects of any fsspec filesystem, such as sftp, webdav or zip.

It gives the promises that can be kept from outside: a local file that is complete or unchanged, sizes that are checked, and
errors of this library. Exclusive creates are refused, because fsspec does not promise them: several filesystems check first
and write afterwards, and several ignore ``mode="create"`` silently.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

from fsspec import AbstractFileSystem
from fsspec.callbacks import Callback

from gllm_storage.concurrency.bandwidth import pace
from gllm_storage.concurrency.stop import running_stop
from gllm_storage.errors import (
    AccessDeniedError,
    ConflictCheckUnsupportedError,
    ErrorDetails,
    IntegrityError,
    ObjectNotFoundError,
    Remedy,
    StorageError,
    StorageUnavailableError,
    translation,
)
from gllm_storage.files.source import CHUNK, LocalSource
from gllm_storage.info import Stored, in_order, info_from_fsspec
from gllm_storage.paths import without_user
from gllm_storage.settings import TransferSettings
from gllm_storage.store.port import ObjectStore, UploadRequest
from gllm_storage.store.reader import ObjectChangedError, ObjectReader, RangesIgnoredError, replaced_too_often
from gllm_storage.store.retry import RESTART

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from gllm_storage.files.source import Source
    from gllm_storage.files.target import LocalTarget
    from gllm_storage.info import ObjectInfo
    from gllm_storage.store.transfer import Progress, Transfer

_DENIED = {401, 403}
_BUSY = {408, 429}
_FIRST_SERVER_ERROR = 500
_OF_A_PATH = (FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError)
_WITHOUT_PLACE = frozenset(
    {"asynchronous", "auto_mkdir", "batch_size", "listings_expiry_time", "loop", "max_paths", "use_listings_cache"}
)
"""Options of all fsspec filesystems. They do not decide which files a filesystem has."""
_ROUNDS = 100_000
"""Of the hash of the options, which may have a password: each guess at it takes as long as the hash, about 40 ms."""


class ForeignStore(ObjectStore):
    """The objects of a folder of any fsspec filesystem.

    Args:
        filesystem: The filesystem.
        scheme: The scheme of its URLs.
        base: The part of a URL between the scheme and the key, up to and including its last ``/``.
        disk: ``fsync`` and ``sync_source`` of `TransferSettings`, if they differ from their defaults.
    """

    provider: ClassVar[str] = "fsspec"
    serves_threads: ClassVar[bool] = False  # fsspec's ftp, for example, has one connection
    names_targets: ClassVar[bool] = True  # some filesystems write another file, and rename it

    def __init__(
        self, filesystem: AbstractFileSystem, scheme: str, base: str, disk: Mapping[str, bool] | None = None
    ) -> None:
        self._filesystem = filesystem
        self._scheme = scheme
        self.is_in_process = scheme == "memory"
        self._base = base
        # Not every filesystem may be called by several threads: fsspec's ftp, for example, has one connection.
        self._settings = TransferSettings(max_concurrency=1, **(disk or {}))

    @property
    def settings(self) -> TransferSettings:
        """The defaults, with one call at a time."""
        return self._settings

    @cached_property
    def place(self) -> str:
        """The provider, and the folder without its user; a hash stands for the user and for the storage options.

        An option may decide which server or account a URL leads to, as webdav's ``base_url`` does.
        """
        url, shown = self.url(""), f"fsspec {self.details('', 'list').url}"
        named = self._filesystem.storage_options
        options = {name: value for name, value in named.items() if name not in _WITHOUT_PLACE}
        facts = [self._filesystem.storage_args, options, "" if without_user(url) == url else url]
        if not any(facts):
            return shown
        digest = hashlib.pbkdf2_hmac("sha256", _text_of(facts).encode(), b"gllm-storage place", _ROUNDS, 8)
        return f"{shown} with options {digest.hex()}"

    def url(self, key: str) -> str:
        """The URL of a key, with the password of the base, if it has one."""
        return f"{self._scheme}://{self._base}{key}"

    def shown_url(self, key: str) -> str:
        """The URL of a key without the user and the password of the base."""
        return without_user(self.url(key))

    def upload(self, request: UploadRequest) -> Stored:
        """Upload by the filesystem's ``put_file``, and compare the size of the stored object.

        Raises:
            ConflictCheckUnsupportedError: If the request is exclusive; nothing was written.
            IntegrityError: If the stored object has another size than the source.
            StorageError: If the upload fails.
        """
        if request.exclusive:
            raise self.no_exclusive_create(request.details)
        request.transfer.stop.check()
        path = self._path(request.key)
        with _local_file(request.source) as local, _translated(request.details):
            told = _Told(request.transfer.progress, request.source.size)
            self._filesystem.put_file(local, path, callback=told)
            told.settle()
            entry = self._filesystem.info(path)
        stored = self._described(entry, self.url(request.key), request.details)
        request.source.require_unchanged()
        if stored.size != request.source.size:
            raise IntegrityError(
                f"upload of {request.details.url}: {request.source.size} bytes were sent and {stored.size} are stored",
                request.details,
                Remedy.UPLOAD_AGAIN,
            )
        return Stored.of(stored)

    def no_exclusive_create(self, details: ErrorDetails) -> ConflictCheckUnsupportedError:
        """The error for an exclusive create."""
        kind = type(self._filesystem).__name__
        return ConflictCheckUnsupportedError(
            f"{details.url}: the fsspec filesystem {kind} does not promise exclusive creates, so nothing was written",
            details,
            Remedy.NO_CONFLICT_CHECK,
        )

    def open_reader(self, key: str, operation: str = "read") -> ObjectReader:
        """Reads by the filesystem's ``cat_file``, and compares the facts about the object before and after."""
        return _ForeignReader(self, key, operation)

    def read_range(self, key: str, start: int, length: int, details: ErrorDetails) -> bytes:
        """Bytes of whichever version is there.

        Raises:
            ObjectNotFoundError: If the object does not exist.
            StorageError: If it cannot be read.
        """
        with _translated(details):
            return bytes(self._filesystem.cat_file(self._path(key), start, start + length))

    def fetch(self, key: str, target: LocalTarget, transfer: Transfer) -> None:
        """Download by the filesystem's ``get_file``; begin again if the object was replaced meanwhile.

        Raises:
            ObjectNotFoundError: If the object does not exist.
            IntegrityError: If the local file has another size than the object.
            StorageError: If the download fails.
        """
        details = transfer.details
        version = self._fetch(key, target, transfer)
        received = os.stat(target.temporary).st_size
        if received != version.size:
            raise IntegrityError(
                f"download of {details.url}: {received} of {version.size} bytes arrived", details, Remedy.REPEAT_NOW
            )

    def _fetch(self, key: str, target: LocalTarget, transfer: Transfer) -> ObjectInfo:
        """Download until the object is the same before and after; returns its description."""
        details = transfer.details
        before = self.info(key, details.operation)
        attempt = 0
        while True:
            attempt += 1
            transfer.stop.check()
            transfer.accept(before)
            transfer.progress.expect(before.size)
            with _translated(details):
                told = _Told(transfer.progress, before.size)
                self._filesystem.get_file(self._path(key), target.temporary, callback=told)
                told.settle()
            transfer.stop.check()
            after = self.info(key, details.operation)
            if after == before:
                return after
            if attempt == RESTART.limit:
                raise replaced_too_often(details, attempt)
            RESTART.again(details, attempt, "the object was replaced", "restart", transfer.stop)
            before = after

    def info(self, key: str, operation: str = "info") -> ObjectInfo:
        """The facts that the filesystem has about a file; a folder is not an object.

        Raises:
            ObjectNotFoundError: If the file does not exist.
            StorageError: If the request fails, or the filesystem does not know the size.
        """
        return self._described(self._entry_of(key, operation), self.url(key), self.details(key, operation))

    def exists(self, key: str) -> bool:
        """Whether a file exists now, also one of unknown size."""
        try:
            self._entry_of(key, "exists")
        except ObjectNotFoundError:
            return False
        return True

    def _entry_of(self, key: str, operation: str) -> dict[str, Any]:
        details = self.details(key, operation)
        self._filesystem.invalidate_cache()  # it may answer from a listing made before another process's write
        with _translated(details):
            entry: dict[str, Any] = self._filesystem.info(self._path(key))
        if entry.get("type") == "directory":
            raise ObjectNotFoundError(f"{details.url} is a folder, not a file", details)
        return entry

    def _described(self, entry: Mapping[str, Any], url: str, details: ErrorDetails) -> ObjectInfo:
        if entry.get("size") is None:  # such as a web server that compresses the file
            kind = type(self._filesystem).__name__
            raise StorageError(
                f"{without_user(url)}: {kind} does not tell the size of the file, so that no copy could be verified", details
            )
        return info_from_fsspec(entry, url)

    def delete(self, key: str) -> None:
        """Delete by the filesystem's ``rm_file``; of a link to a folder, or to nothing, the link.

        A folder is not an object. Several filesystems, such as webdav, would delete it with its content.
        """
        details = self.details(key, "delete")
        try:
            self._entry_of(key, "delete")
        except (ObjectNotFoundError, StorageError):
            if not self._is_listed(key, details):
                raise
        with _translated(details):
            self._filesystem.rm_file(self._path(key))

    def _is_listed(self, key: str, details: ErrorDetails) -> bool:
        """Whether the listing of its folder has a key, and not as a folder: a link of which `info` follows, for example."""
        try:
            with _translated(details):
                found: list[dict[str, Any]] = self._filesystem.ls(self._path(key[: key.rfind("/") + 1]), detail=True)
        except (ObjectNotFoundError, StorageError):
            return False
        return any(self._key(each["name"]) == key and each["type"] != "directory" for each in found)

    def require_bucket(self, operation: str = "info", *, recently: bool = True) -> None:  # noqa: ARG002 - always requested anew
        """Check that the folder exists.

        Raises:
            ObjectNotFoundError: If it does not, or is a file.
            StorageError: If it cannot be listed.
        """
        details, path = self.details("", operation), self._path("")
        self._filesystem.invalidate_cache()
        with _translated(details):
            found: list[dict[str, Any]] = self._filesystem.ls(path, detail=True)
            exists = bool(found) or not path.strip("/") or self._filesystem.isdir(path)
        if not exists:
            raise ObjectNotFoundError(f"{details.url} does not exist", details)
        if any(not self._key(each["name"]) and each["type"] != "directory" for each in found):
            raise ObjectNotFoundError(f"{details.url} is a file, not a folder", details)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All files whose key begins with a prefix, in key order."""
        details = self.details(prefix, "list")
        for key, entry in self._listed(prefix, details):
            if (found := self._found(key, entry, details)) is not None:
                yield found

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        """As `ObjectStore.list_keys`, without a request for the size of each file."""
        return (key for key, _ in self._listed(prefix, self.details(prefix, "list")))

    def _listed(self, prefix: str, details: ErrorDetails) -> Iterator[tuple[str, dict[str, Any]]]:
        self._filesystem.invalidate_cache()
        found = dict(self._files_below(self._path(prefix[: prefix.rfind("/") + 1]), details))
        for name in sorted(found):
            key = self._key(name)
            if key and key.startswith(prefix):  # a file at the place of the folder is listed in itself
                yield key, found[name]

    def _found(self, key: str, entry: dict[str, Any], details: ErrorDetails) -> ObjectInfo | None:
        """The facts about a file of a listing; None if it does not exist any more.

        A listing of a web server has no sizes, and several filesystems list a link with the size and the time of the link.
        """
        is_file = entry["type"] == "file"
        if is_file and entry.get("size") is not None:
            return info_from_fsspec(entry, self.url(key))
        try:
            with _translated(details):
                behind: dict[str, Any] = self._filesystem.info(self._path(key))
        except (ObjectNotFoundError, StorageError) as error:
            if is_file and not isinstance(error, ObjectNotFoundError):
                raise
            behind = {}
        if behind and behind.get("type") != "directory":
            return self._described(behind, self.url(key), details)
        return None if is_file else info_from_fsspec({**entry, "size": entry.get("size") or 0}, self.url(key))

    def _files_below(self, top: str, details: ErrorDetails) -> Iterator[tuple[str, dict[str, Any]]]:
        """The names of all files in a folder, and the facts about them.

        fsspec's own ``find`` leaves out the folders that it cannot list, so that their files would seem to be deleted.
        """
        seen, folders = {top.rstrip("/")}, [top]
        while folders:
            try:
                with _translated(details):
                    found: list[dict[str, Any]] = self._filesystem.ls(folders.pop(), detail=True)
            except ObjectNotFoundError:  # deleted since
                continue
            for each in self._children(found):
                if each["type"] != "directory":
                    yield each["name"], each
                elif each["name"].rstrip("/") not in seen:  # some filesystems list a folder in itself
                    seen.add(each["name"].rstrip("/"))
                    folders.append(each["name"])

    def list_folder(self, prefix: str = "") -> Iterator[ObjectInfo | str]:
        """The files and folders directly behind a prefix."""
        if prefix and not prefix.endswith("/"):
            yield from super().list_folder(prefix)
            return
        self._filesystem.invalidate_cache()
        try:
            with _translated(self.details(prefix, "list")):
                found: list[dict[str, Any]] = self._filesystem.ls(self._path(prefix), detail=True)
        except ObjectNotFoundError:
            return
        details = self.details(prefix, "list")
        described = (self._child(each, details) for each in self._children(found))
        yield from in_order(each for each in described if each is not None)

    def _children(self, listed: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The entries of a listing. The page of a web server also has links to itself, in another order: ``?C=N;O=D``."""
        is_page = self._scheme in {"http", "https"}
        return (each for each in listed if not (is_page and each["name"].rpartition("/")[2].startswith("?")))

    def _child(self, entry: dict[str, Any], details: ErrorDetails) -> ObjectInfo | str | None:
        key = self._key(entry["name"])
        return f"{self.url(key)}/" if entry["type"] == "directory" else self._found(key, entry, details)

    def _path(self, key: str) -> str:
        return str(self._filesystem._strip_protocol(self.url(key)))  # noqa: SLF001 - fsspec's own hook for this

    def _key(self, path: str) -> str:
        return path.removeprefix(self._path("").rstrip("/")).strip("/")


class _ForeignReader(ObjectReader):
    """Reads one object."""

    def __init__(self, store: ForeignStore, key: str, operation: str) -> None:
        self._store = store
        self._key = key
        self._details = store.details(key, operation)

    def head(self) -> ObjectInfo:
        return self._store.info(self._key, self._details.operation)

    def read(
        self,
        version: ObjectInfo,
        start: int,
        length: int,
        buffer: memoryview | None = None,  # noqa: ARG002 - fsspec reads into memory of its own
    ) -> Generator[bytes | memoryview, None, None]:
        content = self._store.read_range(self._key, start, length, self._details)
        # By the content's version alone: the callers drop the checksum from the description.
        if _version_of(self.head()) != _version_of(version):
            raise ObjectChangedError
        if len(content) > length:
            raise RangesIgnoredError
        yield content

    def translated(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()  # the store has translated them


class _Told(Callback):
    """An fsspec callback for the calls of a filesystem, which counts the bytes of one attempt for a `Progress`.

    Filesystems differ in the methods that they call, and in the size that they report. An asynchronous filesystem calls in
    the thread of fsspec's loop, which must not wait, since it serves other filesystems, too: then the bandwidth is limited
    file by file.
    """

    def __init__(self, progress: Progress, size: int) -> None:
        super().__init__()
        self._progress = progress
        self._told = 0
        self._left = size  # of the bytes to wait for

    def call(self, hook_name: str | None = None, **kwargs: Any) -> None:
        """Called by fsspec after each change of the size or the value."""
        super().call(hook_name, **kwargs)
        more = self.value - self._told
        if more > 0:
            self._told = self.value
            self._progress(more)
            if running_stop() is not None:
                self._wait_for(min(more, self._left))

    def settle(self) -> None:
        """Wait, if the bandwidth is limited, for the bytes that the filesystem did not report to this thread."""
        self._wait_for(self._left)

    def _wait_for(self, count: int) -> None:
        self._left -= count
        pace(count)


@contextlib.contextmanager
def _local_file(source: Source) -> Iterator[str]:
    """The path of a local file with the content of a source: ``put_file`` takes nothing else."""
    if isinstance(source, LocalSource) and source.is_at_path():
        yield source.path
        return
    with tempfile.NamedTemporaryFile(prefix="gllm-storage-") as file:
        for offset in range(0, source.size, CHUNK):
            file.write(source.read_at(offset, min(CHUNK, source.size - offset)))
        file.flush()
        yield file.name


def _text_of(value: object) -> str:
    """A text of a storage option: the same one in each process, and for no other option."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(sorted(f'{_text_of(name)}: {_text_of(each)}' for name, each in value.items()))}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_text_of, value))}]"
    if isinstance(value, (set, frozenset)):
        return f"{{{', '.join(sorted(map(_text_of, value)))}}}"
    if isinstance(value, AbstractFileSystem):
        return f"{type(value)}{_text_of([value.storage_args, value.storage_options])}"
    return repr(value) if value is None or isinstance(value, (str, bytes, int, float)) else _text_of_object(value)


def _text_of_object(value: object) -> str:
    try:
        return repr(pickle.dumps(value))
    except Exception:  # noqa: BLE001 - each class has its own; no other process can have such an object
        return f"{type(value)} at {id(value)}"


def _version_of(info: ObjectInfo) -> tuple[object, ...]:
    return info.size, info.etag, info.last_modified


def _translated(details: ErrorDetails) -> contextlib.AbstractContextManager[None]:
    """Raise errors of this library in place of a filesystem's, each of which has its own exceptions."""
    return translation(details, (Exception,), partial(_translate, sys.exception()))


def _translate(before: BaseException | None, error: Exception, details: ErrorDetails) -> Exception:
    what = f"fsspec {details.operation} of {details.url} failed"
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return _not_found(error, before, details, what)
    if isinstance(error, PermissionError):
        return _denied(error, details, what)
    if isinstance(error, (ConnectionError, TimeoutError)):
        return _unavailable(error, details, what)
    return _answer(error, details, what) or StorageError(f"{what}: {type(error).__name__}: {error}", details)


def _not_found(error: OSError, before: BaseException | None, details: ErrorDetails, what: str) -> Exception:
    """The HTTP filesystem of fsspec says "not found" for all failures, also for a silent host: the causes tell."""
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
    """The causes of an error, except for the exception that was being handled `before` the filesystem was called."""
    seen: set[int] = set()
    cause = error.__cause__ or error.__context__
    while cause is not None and cause is not before and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _answer(error: BaseException, details: ErrorDetails, what: str) -> StorageError | None:
    """The error for a server's answer, or for a server that did not answer, if the exception tells."""
    status = getattr(error, "status", None)
    if not isinstance(status, int):
        return _unavailable(error, details, what) if _is_unanswered(error) else None
    if status in _DENIED:
        return _denied(error, replace(details, status=status), what)
    if status in _BUSY or status >= _FIRST_SERVER_ERROR:
        return _unavailable(error, replace(details, status=status), what)
    return None


def _is_unanswered(error: BaseException) -> bool:
    """Whether aiohttp, which fsspec's HTTP filesystem uses, got no answer; only some of its errors are an `OSError`."""
    aiohttp: Any = sys.modules.get("aiohttp")
    if not hasattr(aiohttp, "ClientPayloadError"):  # not imported, or another thread imports it at the moment
        return False
    return isinstance(error, (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError))


def _denied(error: BaseException, details: ErrorDetails, what: str) -> AccessDeniedError:
    return AccessDeniedError(f"{what}: {error}", details, Remedy.CHECK_CREDENTIALS)


def _unavailable(error: BaseException, details: ErrorDetails, what: str) -> StorageUnavailableError:
    return StorageUnavailableError(f"{what}: {str(error) or type(error).__name__}", details, Remedy.CHECK_HOST)
