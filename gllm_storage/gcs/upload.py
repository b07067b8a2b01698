"""Uploads and reads of one object, with the promises: https://cloud.google.com/storage/docs/json_api/v1/objects/insert."""

from __future__ import annotations

import contextlib
import json
import secrets
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import urllib3

from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import AccessDeniedError, StorageError, StorageUnavailableError
from gllm_storage.gcs.errors import (
    SDK_ERRORS,
    RefusedError,
    UnreadableAnswerError,
    is_flipped,
    is_lost_session,
    is_transient,
    lost_session,
    translated,
)
from gllm_storage.gcs.requests import info_of, path_of, require_resource
from gllm_storage.gcs.session import ResumableUpload
from gllm_storage.store import checksums
from gllm_storage.store.checksums import WRITE_ID_UNDERSCORED
from gllm_storage.store.create import Answer, Sighting
from gllm_storage.store.download import READ_CHUNK
from gllm_storage.store.reader import ObjectChangedError, RangesIgnoredError, ReadInterruptedError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    from requests import Response

    from gllm_storage.errors import ErrorDetails
    from gllm_storage.files.source import Source
    from gllm_storage.gcs.requests import GCSRequests
    from gllm_storage.info import ObjectInfo
    from gllm_storage.store.transfer import Transfer

_TRIES = 3
"""How often an object is sent whose upload session is lost."""
_CORRUPTIONS = 2
"""How often an object is sent whose content does not arrive as it left."""
_OK = 200
_NOT_FOUND = 404
_CONFLICT = 409
_GONE = 410
_PRECONDITION_FAILED = 412
_RANGE_NOT_SATISFIABLE = 416
_SERVER_ERROR = 500


@dataclass(frozen=True)
class GCSReader:
    """One object, as `gllm_storage.store.download` reads it.

    Attributes:
        requests: Sends the requests.
        bucket: The bucket.
        key: The object's name.
        details: What it is about, for errors.
    """

    requests: GCSRequests
    bucket: str
    key: str
    details: ErrorDetails

    def head(self) -> ObjectInfo:
        """Objects: get."""
        resource = self.requests.resource(self.bucket, self.key, self.details)
        return info_of(resource, f"gs://{self.bucket}/{self.key}")

    def read(
        self,
        version: ObjectInfo,
        start: int,
        length: int,
        buffer: memoryview | None = None,  # noqa: ARG002 - the SDK has its own
    ) -> Generator[bytes, None, None]:
        """The content, or a range of it, of one generation.

        Raises:
            ObjectChangedError: If that generation is not there any more, or the answer is of another one.
            RangesIgnoredError: If the answer is the whole object, and a range was asked for.
            ReadInterruptedError: If the answer came and then broke.
            RefusedError: If the store refuses.
            requests.RequestException: If there is no answer.
        """
        whole = start == 0 and length == version.size
        with contextlib.closing(self._get(version, start, length, whole=whole)) as answer:
            _check_answer(answer, version, start, length, whole=whole)
            yield from _chunks(answer, self.details)

    def translated(self) -> contextlib.AbstractContextManager[None]:
        """Raise our errors in place of those that asking Google raises."""
        return translated(self.details)

    def _get(self, version: ObjectInfo, start: int, length: int, *, whole: bool) -> Response:
        connections = self.requests.connections
        params = {"alt": "media", **({"generation": version.version} if version.version else {})}
        # What is stored, not what it unpacks to: size and checksum are of that, and ranges are ignored otherwise.
        # https://cloud.google.com/storage/docs/transcoding
        headers = {"Accept-Encoding": "gzip"}
        if not whole:
            headers["Range"] = f"bytes={start}-{start + length - 1}"

        def get() -> Response:
            path = path_of(self.bucket, self.key, "/download/storage/v1")
            return connections.send("GET", path, params=params, headers=headers, stream=True)

        try:
            return connections.retry(get, self.details)
        except RefusedError as error:
            if error.status in {_NOT_FOUND, _PRECONDITION_FAILED, _RANGE_NOT_SATISFIABLE}:
                raise ObjectChangedError from error
            raise


def _check_answer(answer: Response, version: ObjectInfo, start: int, length: int, *, whole: bool) -> None:
    """Check that the answer is of the generation and the range that were asked for."""
    generation = answer.headers.get("X-Goog-Generation")
    if generation and version.version and generation != version.version:
        raise ObjectChangedError
    asked, content_range = f"bytes {start}-{start + length - 1}/", answer.headers.get("Content-Range")
    # Google's testbench answers 200 to a range that it gives, where it is told to break answers off.
    if answer.status_code == _OK and not whole and not str(content_range).startswith(asked):
        raise RangesIgnoredError
    if content_range is not None and not content_range.startswith(asked):
        raise ObjectChangedError
    if answer.headers.get("Content-Length", str(length)) != str(length):
        raise ObjectChangedError


def _chunks(answer: Response, details: ErrorDetails) -> Iterator[bytes]:
    try:
        yield from answer.raw.stream(READ_CHUNK, decode_content=False)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        unavailable = StorageUnavailableError(f"{details.operation} of {details.url}: reading failed: {error}", details)
        unavailable.__cause__ = error
        raise ReadInterruptedError from unavailable


@dataclass(frozen=True)
class GCSUpload:
    """One file to become one object.

    Attributes:
        source: The file.
        requests: Sends the requests.
        bucket: The bucket.
        key: The object's name.
        transfer: What it is about, who watches, and what stops it.
        exclusive: Whether the write carries ``ifGenerationMatch=0``.
        resource: What the object gets beside its content: ``metadata``, ``contentType``, ``storageClass``, ….
        parameters: Further query parameters, such as ``kmsKeyName``.
    """

    source: Source
    requests: GCSRequests
    bucket: str
    key: str
    transfer: Transfer
    exclusive: bool
    resource: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)

    def path(self) -> str:
        """Path of the bucket's uploads in the API."""
        return f"/upload/storage/v1/b/{quote(self.bucket, safe='')}/o"

    def query(self, upload_type: str) -> dict[str, str]:
        """Query parameters of the request that begins the upload."""
        condition = {"ifGenerationMatch": "0"} if self.exclusive else {}
        return {"uploadType": upload_type, **condition, **self.parameters}

    def described(self, write_id: str, crc: int) -> dict[str, Any]:
        """The object resource to send. Google compares the CRC32C with what it received, and keeps it."""
        metadata = {**(self.resource.get("metadata") or {}), WRITE_ID_UNDERSCORED: write_id}
        return {**self.resource, "name": self.key, "metadata": metadata, "crc32c": checksums.encode(crc, "crc32c")}


class GCSWrite:
    """A write as `gllm_storage.store.create` takes it.

    Args:
        upload: What to write.
    """

    def __init__(self, upload: GCSUpload) -> None:
        self._upload = upload
        self._session: ResumableUpload | None = None
        self._crc: int | None = None
        self._in_one = upload.source.size <= upload.transfer.settings.multipart_threshold

    @property
    def details(self) -> ErrorDetails:
        """What the write is about."""
        return self._upload.transfer.details

    @property
    def conditional(self) -> bool:
        """Whether it carries ``ifGenerationMatch=0``, which Google enforces when the object becomes visible."""
        return self._upload.exclusive

    def look(self) -> Sighting | None:
        """Objects: get."""
        found = self._upload.requests.look(self._upload.bucket, self._upload.key, self.details)
        return None if found is None else Sighting(found.get("metadata", {}).get(WRITE_ID_UNDERSCORED))

    def write(self, write_id: str) -> None:
        """Send the object, with the write-id in its metadata; again if it was changed on the way or its session lost.

        Raises:
            RefusedError: If the store refuses.
            requests.RequestException: If there is no answer.
            StorageError: If the file changed.
        """
        for attempt in range(1, _TRIES + 1):
            try:
                if self._in_one:
                    # In a thread: Ctrl-C, which comes to this one, must not leave the request on its way.
                    run_all([partial(self._send_in_one, write_id)], 1, self._upload.transfer.attempt().stop)
                else:
                    self._send_by_session(write_id)
            except RefusedError as error:
                if attempt >= self._tries_after(error):
                    raise
                self.discard()
            else:
                return

    def _tries_after(self, error: RefusedError) -> int:
        """How often the object may be sent in all. Nothing was stored by a session that was lost before its last chunk."""
        if is_lost_session(error) and self._session and not self._session.committing:
            return _TRIES
        return _CORRUPTIONS if is_flipped(error) else 1

    def discard(self) -> None:
        """Cancel the upload session, if there is one."""
        if self._session:
            self._session.discard()

    def judge(self, error: Exception) -> Answer:
        """What an answer of Google, or none, says about the write."""
        if not isinstance(error, SDK_ERRORS) or is_flipped(error):
            return Answer.FAILED
        status = error.status if isinstance(error, RefusedError) else 0
        if self.conditional and status in {_PRECONDITION_FAILED, _CONFLICT}:
            return Answer.EXISTS if status == _PRECONDITION_FAILED else Answer.CONCURRENT
        begun = self._session is None or self._session.committing
        # Gone: the session; an earlier request, whose answer was lost, may have completed it.
        open_ended = isinstance(error, UnreadableAnswerError) or is_transient(error) or status >= _SERVER_ERROR
        return Answer.UNKNOWN if begun and (open_ended or status == _GONE) else Answer.FAILED

    def _send_in_one(self, write_id: str) -> None:
        """One multipart request: the description and the content."""
        upload, source = self._upload, self._upload.source
        data = source.read_at(0, source.size)
        source.require_unchanged()
        description = upload.described(
            write_id, checksums.crc_of(lambda at, length: data[at : at + length], len(data), "crc32c")
        )
        boundary = f"gllm-{secrets.token_hex(16)}"
        body = _multipart(boundary, description, data)
        answer = upload.requests.connections.ask(
            "POST",
            upload.path(),
            self.details,
            params=upload.query("multipart"),
            headers={"Content-Type": f'multipart/related; boundary="{boundary}"'},
            data=body,
        )
        require_resource(answer)
        upload.transfer.progress(source.size)

    def _send_by_session(self, write_id: str) -> None:
        """A resumable upload, whose last request makes the object visible."""
        upload, source = self._upload, self._upload.source
        if self._crc is None:
            self._crc = checksums.crc_of(source.read_at, source.size, "crc32c")
        self._session = ResumableUpload(
            connections=upload.requests.connections,
            path=upload.path(),
            query=upload.query("resumable"),
            resource=upload.described(write_id, self._crc),
            source=source,
            transfer=upload.transfer.attempt(),
        )
        self._session.send()
        if self._session.doubtful:
            self._require_ours(write_id)

    def _require_ours(self, write_id: str) -> None:
        """Look whose object is there, where it was only when it was asked again that the session said it is complete.

        One whose last chunk was refused, because another object had appeared, may say so: Google's testbench does, and
        describes the object that it did not make. What Google itself says is not documented.

        Raises:
            RefusedError: If the object is not ours, or it cannot be told.
        """
        try:
            there = self.look()
        except AccessDeniedError:
            if not self.conditional:
                return  # nothing can have been refused
            raise lost_session("it says that the object is complete, and we may not look whose it is") from None
        except StorageError as error:
            raise lost_session(f"it says that the object is complete, which could not be looked at: {error}") from error
        if there and there.write_id == write_id:
            return
        if there and self.conditional:
            raise RefusedError(_PRECONDITION_FAILED, "conditionNotMet", "another object has appeared")
        raise lost_session("it says that the object is complete, and another object is there, or none")


def _multipart(boundary: str, description: Mapping[str, Any], data: bytes) -> bytes:
    head = (
        f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{json.dumps(description)}\r\n"
        f"--{boundary}\r\nContent-Type: {description.get('contentType', 'application/octet-stream')}\r\n\r\n"
    )
    return b"".join([head.encode(), data, f"\r\n--{boundary}--".encode()])
