"""`WebDAVStore`: the files of a WebDAV server behind gllm_storage's port (RFC 4918)."""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import replace
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote, unquote, urlsplit
from xml.etree import ElementTree as ET

import requests
import urllib3
from requests.adapters import HTTPAdapter

from gllm_storage.concurrency.fork import PerProcess
from gllm_storage.concurrency.stop import check_stop, stopped_by
from gllm_storage.errors import (
    AccessDeniedError,
    ErrorDetails,
    ObjectNotFoundError,
    Remedy,
    StorageError,
    StorageUnavailableError,
    attempts_of,
    translation,
)
from gllm_storage.files.target import is_temporary
from gllm_storage.info import ObjectInfo, Stored
from gllm_storage.settings import TransferSettings
from gllm_storage.store import retry
from gllm_storage.store.port import ObjectStore, UploadRequest
from gllm_storage.store.reader import ObjectChangedError, ObjectReader, RangesIgnoredError, ReadInterruptedError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from gllm_storage.files.source import Source
    from gllm_storage.store.transfer import Transfer

PIECE = 2**18
NOT_FOUND, EXISTS, CONFLICT, PRECONDITION_FAILED, NO_SUCH_RANGE, PARTIAL = 404, 405, 409, 412, 416, 206
FORBIDDEN = "?;"
"""wsgidav decodes the Destination of a MOVE before it takes it apart, and stores ``a?b`` and ``a;b`` as ``a``."""
SDK_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, ET.ParseError)


class WebDAVStore(ObjectStore):
    """The files of a server; a key is the path on the server.

    A file is sent to a temporary name and then moved to its key: on most servers, a truncated PUT leaves a truncated file.

    Args:
        root: URL of the server: ``"http://host:port"``.
        base: The beginning of object URLs: ``"webdav://host:port"``.
        auth: User name and password.
        settings: Sizes and attempts.
        timeout: Seconds to wait for a connection, and for each piece of an answer.
    """

    provider: ClassVar[str] = "webdav"
    # RFC 4918 does not require that a server checks "Overwrite: F" of a MOVE, or "If-None-Match: *" of a PUT, atomically
    # with the write. wsgidav checks first and writes afterwards. Measured: of 60 races of 8 conditional PUTs, 4 had more
    # than one winner.
    creates_exclusively: ClassVar[bool] = False

    def __init__(
        self,
        root: str,
        base: str,
        auth: tuple[str, str] | None = None,
        settings: TransferSettings | None = None,
        timeout: float = 60.0,
    ) -> None:
        self._root, self._base, self._auth, self._timeout = root, base, auth, timeout
        self._settings = settings or TransferSettings()
        self._policy = retry.requests(self._settings.max_attempts)
        self._session: PerProcess[requests.Session] = PerProcess(self._new_session)  # a fork must not share sockets

    @property
    def settings(self) -> TransferSettings:
        """Sizes and attempts."""
        return self._settings

    def url(self, key: str) -> str:
        """``webdav://host:port/key``."""
        return f"{self._base}/{key}"

    def upload(self, request: UploadRequest) -> Stored:
        """PUT to a temporary name, then MOVE to the key."""
        source, transfer = request.source, request.transfer
        if request.exclusive:
            raise self.no_exclusive_create(request.details)

        def put(temporary: str) -> None:
            body = _Body(source, transfer)
            self._send_once("PUT", temporary, data=body.pieces() if source.size else b"")
            if body.failure is not None:
                raise body.failure
            source.require_unchanged()

        self._publish(request.key, transfer, put)
        return Stored(self.url(request.key), source.size)

    def open_reader(self, key: str, operation: str = "read") -> ObjectReader:
        """GET with Range and If-Match."""
        return WebDAVReader(self, key, operation)

    def info(self, key: str, operation: str = "info") -> ObjectInfo:
        """PROPFIND of one file. A HEAD request does not distinguish a file from a folder."""
        details = self.details(key, operation)
        with translated(details):
            found = self._facts(key, details)
        if found is None:
            raise ObjectNotFoundError(f"{details.url} is a folder", details)
        return found

    def delete(self, key: str) -> None:
        """DELETE of a file. Folders are kept: their DELETE would also delete files that another client adds meanwhile."""
        details = self.details(key, "delete")
        self.info(key, "delete")  # DELETE of a folder deletes the files in it
        with translated(details):
            self.send("DELETE", key, details)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """PROPFIND of each folder, because many servers refuse a PROPFIND with infinite depth."""
        return self._walk(prefix[: prefix.rfind("/") + 1], prefix, self.details(prefix, "list"))

    def copy(
        self, key: str, target: ObjectStore, target_key: str, transfer: Transfer, options: Mapping[str, Any] | None = None
    ) -> None:
        """COPY on the server to a temporary name, then MOVE."""
        if not isinstance(target, WebDAVStore) or target._root != self._root:  # noqa: SLF001 - another of this class
            super().copy(key, target, target_key, transfer, options)
            return
        with stopped_by(transfer.stop):
            self.info(key, "copy")  # COPY of a folder copies the files in it

        def copy(temporary: str) -> None:
            self._send_once("COPY", key, {"Destination": self.address(temporary), "Overwrite": "T"})

        target._publish(target_key, transfer, copy)  # noqa: SLF001 - another of this class

    # ------------------------------------------------------------------ requests

    def send(
        self, method: str, key: str, details: ErrorDetails, headers: Mapping[str, str] | None = None, **options: Any
    ) -> requests.Response:
        """Send a request, and repeat it after transient failures.

        Raises:
            requests.HTTPError: If the server answers with an error.
            requests.RequestException: If the answer is missing.
        """
        send = partial(self._send_once, method, key, headers, **options)
        return self._policy.call(send, _is_transient, details)

    def _send_once(
        self, method: str, key: str, headers: Mapping[str, str] | None = None, **options: Any
    ) -> requests.Response:
        answer = self._session.get().request(
            method, self.address(key), headers=headers, timeout=self._timeout, allow_redirects=False, **options
        )
        if answer.status_code >= requests.codes.moved:
            answer.close()
            raise requests.HTTPError(f"HTTP {answer.status_code} {answer.reason}", response=answer)
        return answer

    def address(self, key: str) -> str:
        """The HTTP URL of a key."""
        return f"{self._root}/{quote(key, safe='/~')}"

    def _new_session(self) -> requests.Session:
        session = requests.Session()
        session.auth = self._auth
        session.trust_env = False  # no proxy, and no password from ~/.netrc
        adapter = HTTPAdapter(pool_maxsize=2 * self.settings.max_concurrency)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        return session

    def _publish(self, key: str, transfer: Transfer, write: Callable[[str], None]) -> None:
        """Write a file under a temporary name, and rename it to the key."""
        details, folder = transfer.details, key[: key.rfind("/") + 1]
        if any(each in key for each in FORBIDDEN):
            raise ValueError(f"{details.url} has a character that not every server keeps: one of {FORBIDDEN}")

        def attempt() -> str:
            # A new name for each attempt: the server may still write the data of a broken connection.
            temporary = f"{folder}.gllm-{secrets.token_hex(16)}.tmp"
            with self._discarding(temporary, details):
                write(temporary)
            return temporary

        with stopped_by(transfer.stop), translated(details):
            try:
                if self._facts(key, details) is None:  # MOVE would delete the files in the folder
                    raise StorageError(f"{details.url} is a folder", details, Remedy.DELETE_FIRST)
            except requests.HTTPError as error:
                if error.response.status_code != NOT_FOUND:
                    raise
                self._make_folder(folder, details)
            temporary = self._policy.call(attempt, _is_transient, details)
            with self._discarding(temporary, details):
                self._move(temporary, key, details)

    @contextlib.contextmanager
    def _discarding(self, temporary: str, details: ErrorDetails) -> Iterator[None]:
        try:
            yield
        except BaseException:
            with stopped_by(None), contextlib.suppress(Exception):
                self.send("DELETE", temporary, details)
            raise

    def _move(self, temporary: str, key: str, details: ErrorDetails) -> None:
        try:
            self.send("MOVE", temporary, details, {"Destination": self.address(key), "Overwrite": "T"})
        except requests.RequestException as error:
            # The answer to a MOVE may be lost, and the repeated MOVE finds nothing. No other client knows the temporary
            # name: if it is gone, the file was moved.
            attempts = attempts_of(error) or 1
            if (error.response is not None and attempts == 1) or not self._is_gone(temporary, details):
                raise
            retry.rescued(details, attempts, self.settings.max_attempts, error)

    def _is_gone(self, key: str, details: ErrorDetails) -> bool:
        try:
            self._facts(key, details)
        except requests.RequestException as error:
            return error.response is not None and error.response.status_code == NOT_FOUND
        return False

    def _make_folder(self, folder: str, details: ErrorDetails) -> None:
        parent = folder[: folder.rstrip("/").rfind("/") + 1]
        for may_make_parent in (True, False):
            try:
                if folder:
                    self.send("MKCOL", folder, details)
            except requests.HTTPError as error:
                if error.response.status_code == EXISTS:
                    return
                if error.response.status_code != CONFLICT or not (parent and may_make_parent):
                    raise
                self._make_folder(parent, details)
            else:
                return

    def _facts(self, key: str, details: ErrorDetails) -> ObjectInfo | None:
        """The facts about a file; None for a folder."""
        return next(iter(self._propfind(key, "0", details).values()))

    def _walk(self, folder: str, prefix: str, details: ErrorDetails) -> Iterator[ObjectInfo]:
        with contextlib.suppress(ObjectNotFoundError), translated(details):
            found = self._propfind(folder, "1", details)
            # The name of a folder ends with "/", so this order is also the order of the keys in the folders.
            for key in sorted(each for each in found if each.startswith(folder) and each != folder):
                info = found[key]
                if info is None and (key.startswith(prefix) or prefix.startswith(key)):
                    yield from self._walk(key, prefix, details)
                elif info is not None and key.startswith(prefix) and not is_temporary(key.rpartition("/")[2]):
                    yield info

    def _propfind(self, key: str, depth: str, details: ErrorDetails) -> dict[str, ObjectInfo | None]:
        answer = self.send("PROPFIND", key, details, {"Depth": depth}, data=b"")
        found: dict[str, ObjectInfo | None] = {}
        for each in ET.fromstring(answer.content).iter("{DAV:}response"):  # noqa: S314 - the server is trusted
            name = unquote(urlsplit(each.findtext("{DAV:}href", "")).path).strip("/")
            if each.find(".//{DAV:}collection") is not None:
                found[f"{name}/" if name else ""] = None
                continue
            facts = {part.tag.removeprefix("{DAV:}"): part.text or "" for part in each.iter()}
            size, etag = int(facts.get("getcontentlength") or 0), facts.get("getetag")
            found[name] = info_of(self.url(name), size, etag, facts.get("getlastmodified"))
        return found


class WebDAVReader(ObjectReader):
    """Reads one file.

    A server that overwrites files in place can mix two versions in one answer; `WebDAVStore` never does that.
    """

    def __init__(self, store: WebDAVStore, key: str, operation: str) -> None:
        self._store, self._key, self._details = store, key, store.details(key, operation)

    def head(self) -> ObjectInfo:
        """PROPFIND."""
        return self._store.info(self._key, self._details.operation)

    def read(
        self,
        version: ObjectInfo,
        start: int,
        length: int,
        buffer: memoryview | None = None,  # noqa: ARG002 - urllib3 has its own buffer
    ) -> Generator[bytes | memoryview, None, None]:
        """GET of a range, or of the complete file."""
        complete = start == 0 and length == version.size
        headers = {"Accept-Encoding": "identity"}
        headers |= {"If-Match": f'"{version.etag}"'} if version.etag else {}
        headers |= {} if complete else {"Range": f"bytes={start}-{start + length - 1}"}
        try:
            answer = self._store.send("GET", self._key, self._details, headers, stream=True)
        except requests.HTTPError as error:
            if error.response.status_code in {PRECONDITION_FAILED, NO_SUCH_RANGE}:
                raise ObjectChangedError from error
            raise
        with answer:
            _check_answer(answer, version, start, length, complete=complete)
            try:
                yield from answer.raw.stream(PIECE, decode_content=False)
            except urllib3.exceptions.HTTPError as error:
                raise ReadInterruptedError from error

    def translated(self) -> contextlib.AbstractContextManager[None]:
        """Translate the errors of requests."""
        return translated(self._details)


def _check_answer(answer: requests.Response, version: ObjectInfo, start: int, length: int, *, complete: bool) -> None:
    """Check the version and the range of an answer: a server may ignore both headers."""
    given = answer.headers
    found = info_of(version.url, version.size, given.get("ETag"), given.get("Last-Modified"))
    if (found.etag, found.last_modified) != (version.etag, version.last_modified):
        raise ObjectChangedError
    if not complete and answer.status_code != PARTIAL:
        raise RangesIgnoredError
    is_range = given.get("Content-Range", "").startswith(f"bytes {start}-{start + length - 1}/")
    if given.get("Content-Length") != str(length) or not (complete or is_range):
        raise ObjectChangedError


class _Body:
    """The content of a PUT in chunks, so that the request can end before all content is sent.

    After a closed connection, the server may continue, and make the file after the DELETE of the temporary name.
    """

    def __init__(self, source: Source, transfer: Transfer) -> None:
        self._source, self._transfer = source, transfer
        self.failure: BaseException | None = None

    def pieces(self) -> Iterator[bytes]:
        """The pieces, until the source fails or the transfer is cancelled."""
        try:
            for offset in range(0, self._source.size, PIECE):
                check_stop()
                piece = self._source.read_at(offset, min(PIECE, self._source.size - offset))
                yield piece
                self._transfer.progress(len(piece))
        except BaseException as error:  # noqa: BLE001 - raised by `upload`, after the answer
            self.failure = error


def info_of(url: str, size: int, etag: str | None, modified: str | None) -> ObjectInfo:
    """The facts about a file. A weak ETag does not identify the exact content, so it is ignored."""
    strong = etag.strip('"') if etag and not etag.startswith("W/") else None
    return ObjectInfo(url, size, strong or None, parsedate_to_datetime(modified) if modified else None)


def translated(details: ErrorDetails) -> contextlib.AbstractContextManager[None]:
    """Translate the errors of requests into errors of the library."""
    return translation(details, SDK_ERRORS, _translate)


def _translate(error: Exception, details: ErrorDetails) -> Exception:
    what = f"webdav {details.operation} of {details.url} failed: {error}"
    answer = getattr(error, "response", None)
    if answer is None:
        is_garbage = isinstance(error, ET.ParseError)
        kind: type[StorageError] = StorageError if is_garbage else StorageUnavailableError
        return kind(what, details, Remedy.CHECK_ENDPOINT if is_garbage else Remedy.CHECK_NETWORK)
    details = replace(details, status=answer.status_code)
    if answer.status_code in {requests.codes.unauthorized, requests.codes.forbidden}:
        return AccessDeniedError(what, details, Remedy.CHECK_CREDENTIALS)
    if answer.status_code == NOT_FOUND and details.operation != "upload":
        return ObjectNotFoundError(f"{details.url} does not exist", details)
    if answer.status_code in retry.TRANSIENT_STATUSES:
        return StorageUnavailableError(what, details, Remedy.REPEAT)
    return StorageError(what, details)


def _is_transient(error: Exception) -> bool:
    if isinstance(error, requests.HTTPError):
        return error.response.status_code in retry.TRANSIENT_STATUSES
    return isinstance(error, requests.RequestException)
