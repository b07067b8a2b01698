"""`AzureReader`: reads one blob, pinned to its ETag; and `BodyAdapter`, which leaves the bodies of downloads to it."""

from __future__ import annotations

import contextlib
import io
import re
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ServiceResponseError
from urllib3.exceptions import HTTPError

from gllm_storage.azure.errors import UnreadableAnswerError, is_transient, status_of, translated
from gllm_storage.azure.requests import info_of, is_folder, lowered
from gllm_storage.concurrency.stop import check_stop
from gllm_storage.http.adapter import DirectAdapter, RawBody
from gllm_storage.store.checksums import MD5_UNDERSCORED
from gllm_storage.store.diagnosis import of_connection
from gllm_storage.store.download import READ_CHUNK
from gllm_storage.store.reader import (
    ObjectChangedError,
    ObjectReader,
    ReadInterruptedError,
    lengths_differ,
    measured,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from contextlib import AbstractContextManager

    from azure.storage.blob import BlobProperties
    from requests import PreparedRequest, Response
    from urllib3 import HTTPResponse

    from gllm_storage.azure.requests import AzureRequests
    from gllm_storage.errors import ErrorDetails
    from gllm_storage.info import ObjectInfo
    from gllm_storage.store.reader import Memory

_CONTENT = frozenset({200, 206})
_NOT_FOUND = 404
_NOT_SATISFIABLE = 416
_RANGE = re.compile(r"bytes ([0-9]+)-[0-9]+/([0-9]+)")
_CHANGED = frozenset({412, _NOT_SATISFIABLE})
"""HTTP statuses of a range of another version: the precondition failed, or the range begins behind the end."""


@dataclass(frozen=True)
class AzureAnswer:
    """An answer with a complete blob; or with its beginning, if the blob is larger than a part.

    Attributes:
        version: The facts about the blob, from the headers.
        body: The body of the answer.
    """

    version: ObjectInfo
    body: HTTPResponse | RawBody

    def chunks(self, buffer: memoryview | None) -> Generator[bytes | memoryview, None, None]:
        """The content.

        Raises:
            ReadInterruptedError: If the body broke.
        """
        yield from _chunks(self.body, buffer)

    def close(self) -> None:
        """Close the answer; its connection serves further requests if the body was read to its end."""
        self.body.close()


class AzureReader(ObjectReader):
    """Reads one blob.

    Args:
        requests: Requests to the container.
        key: The blob's name.
        details: The operation, for errors.
    """

    asks_for_places: ClassVar[bool] = True

    def __init__(self, requests: AzureRequests, key: str, details: ErrorDetails) -> None:
        self._requests = requests
        self._key = key
        self._details = details

    def head(self) -> ObjectInfo:
        """Get Blob Properties; a size of 0 is confirmed by Get Blob."""
        return measured(lambda: info_of(self._requests.properties(self._key, self._details)), self, self._details)

    def begin(self) -> AzureAnswer | None:
        """Get Blob of the first part, without Get Blob Properties before: the headers hold the same facts.

        Returns:
            The answer; None if the caller has to send Get Blob Properties, because the request was refused, as that of an
            empty blob, or the headers do not say enough.

        Raises:
            azure.core.exceptions.AzureError: If the blob does not exist, or the store is busy, fails, or does not answer.
        """
        part_size = self._requests.connection.settings.part_size
        try:
            body, properties = self._requests.send(partial(self._get, 0, part_size), self._details)
        except (HttpResponseError, UnreadableAnswerError) as error:
            if is_transient(error) or status_of(error) == _NOT_FOUND:
                raise
            return None
        version = _version_in(body, properties, part_size)
        if version is None:
            body.close()
            return None
        return AzureAnswer(version, body)

    def read(
        self,
        version: ObjectInfo,
        start: int,
        length: int,
        buffer: Memory | None = None,
    ) -> Generator[bytes | memoryview, None, None]:
        """Get Blob of a range, with ``If-Match``.

        Raises:
            ObjectChangedError: If the object, or the answer, is of another version.
            ReadInterruptedError: If the body broke; the bytes that arrived were yielded.
            UnreadableAnswerError: If the answer has no body.
            azure.core.exceptions.AzureError: If the store refuses, or does not answer.
        """
        condition = {"etag": f'"{version.etag}"', "match_condition": MatchConditions.IfNotModified}
        # Azure has no range without bytes, and refuses a range of an empty blob.
        get = partial(self._get, start, max(1, length), **condition)
        try:
            body, properties = self._requests.send(get, self._details)
        except HttpResponseError as error:
            if status_of(error) == _NOT_SATISFIABLE and not length:
                return
            if status_of(error) in _CHANGED:
                raise ObjectChangedError from error
            raise
        with contextlib.closing(body):
            self._check(str(properties.etag), body.headers.get("Content-Range", ""), version, start)
            yield from _chunks(body, buffer)

    def _get(self, start: int, length: int, **condition: Any) -> tuple[HTTPResponse | RawBody, BlobProperties]:
        """The body of a range that has not been read, and the properties in the headers."""
        options = self._requests.connection.key_options
        with kept_body() as kept:
            # `decompress`: the stored bytes, since size, ranges and checksum are of these.
            answer = self._requests.blob(self._key).download_blob(
                start, length, max_concurrency=1, decompress=False, **condition, **options
            )
        if kept.body is None:
            raise UnreadableAnswerError("its answer has no body")
        return kept.body, answer.properties

    def _check(self, etag: str, content_range: str, version: ObjectInfo, start: int) -> None:
        """Check that the answer is of the requested range and version; the SDK looks at neither.

        Args:
            etag: The answer's ETag.
            content_range: Its Content-Range.
            version: The version.
            start: Offset of the first byte.

        Raises:
            ObjectChangedError: If it is not.
            StorageError: If the object is longer or shorter than the version.
        """
        if etag.strip('"') != version.etag:
            raise ObjectChangedError
        found = _RANGE.fullmatch(content_range)
        if found is None:
            return  # the SDK has refused a wrong one
        if int(found[2]) != version.size:
            raise lengths_differ(self._details, version.size, int(found[2]))
        if int(found[1]) != start:
            raise ObjectChangedError

    def translated(self) -> AbstractContextManager[None]:
        """Raise errors of this library in place of the SDK's."""
        return translated(self._details)


def _version_in(body: HTTPResponse | RawBody, properties: BlobProperties, part_size: int) -> ObjectInfo | None:
    """The version in the headers of the first part of a blob; None if they do not tell, or if it is not an object."""
    found = _RANGE.fullmatch(body.headers.get("Content-Range", ""))
    if found is None or not properties.etag or is_folder(properties.metadata):
        return None
    size, length = int(found[2]), body.headers.get("Content-Length", "")
    if int(found[1]) or length != str(min(size, part_size)):
        return None
    properties.size = size  # the SDK's is that of the range
    # A server that leaves the MD5 of the blob out of an answer with a range would hide that our checksum counts.
    if MD5_UNDERSCORED in lowered(properties.metadata) and not properties.content_settings.content_md5:
        return None
    return info_of(properties)


def _chunks(body: HTTPResponse | RawBody, buffer: Memory | None) -> Iterator[bytes | memoryview]:
    chunks = body.pieces(READ_CHUNK, buffer) if isinstance(body, RawBody) else body.stream(READ_CHUNK, decode_content=False)
    try:
        for chunk in chunks:
            check_stop()
            yield chunk
    except (HTTPError, OSError) as error:
        diagnosis = of_connection(error)
        said = str(error.args[0] if isinstance(error, HTTPError) and error.args else error)
        message = diagnosis.cause if diagnosis else said
        raise ReadInterruptedError from ServiceResponseError(message or "the body of the answer broke")


class _Kept(threading.local):
    """The answer to a download of this thread, whose body is left to the caller; None outside `kept_body`."""

    wanted = False
    body: HTTPResponse | RawBody | None = None

    def begin(self) -> None:
        self.wanted, self.body = True, None


_kept = _Kept()


@contextlib.contextmanager
def kept_body() -> Iterator[_Kept]:
    """Keep the body of the download that the block sends: `BodyAdapter` shows an empty one to the SDK.

    The SDK reads the complete range into memory before `download_blob` returns, and joins its pieces to a second copy. It
    also repeats a download whose body broke by itself, after an uncancellable `time.sleep`, from the start.
    """
    _kept.begin()
    try:
        yield _kept
    except BaseException:
        if _kept.body is not None:
            _kept.body.close()
        raise
    finally:
        _kept.wanted = False


class BodyAdapter(DirectAdapter):
    """An adapter that keeps the bodies of downloads for `kept_body`."""

    def send(self, request: PreparedRequest, *args: Any, stream: bool = False, **kwargs: Any) -> Response:
        """Send a request."""
        response = super().send(request, *args, stream=stream, **kwargs)
        if not (stream and _kept.wanted and response.status_code in _CONTENT):
            return response
        _kept.body = response.raw
        response.raw = io.BytesIO()
        return response
