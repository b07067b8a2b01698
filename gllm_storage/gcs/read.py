"""`GCSReader`: reads of one object, pinned to one generation."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from gllm_storage.concurrency.stop import check_stop
from gllm_storage.errors import StorageUnavailableError
from gllm_storage.gcs.errors import RefusedError, is_missing_object, is_transient, translated
from gllm_storage.gcs.requests import info_of, path_of
from gllm_storage.http.sender import BROKEN
from gllm_storage.info import ObjectInfo
from gllm_storage.store.diagnosis import of_connection
from gllm_storage.store.reader import (
    ObjectChangedError,
    ObjectReader,
    RangesIgnoredError,
    ReadInterruptedError,
    lengths_differ,
    measured,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    from gllm_storage.errors import ErrorDetails
    from gllm_storage.gcs.store import GCSStore
    from gllm_storage.http.sender import Reply
    from gllm_storage.store.reader import Memory

_RANGE = re.compile(r"bytes [0-9]+-[0-9]+/([0-9]+)")
_NO_SUCH_RANGE = frozenset({404, 412, 416})
"""Answers to the read of a generation that does not exist any more, or is shorter."""
_DIGEST = re.compile(r"(crc32c|md5)=([A-Za-z0-9+/]+=*)")
_OK = 200


@dataclass(frozen=True)
class GCSAnswer:
    """An answer with a complete object.

    Attributes:
        version: Size, generation and checksum of the object, from the headers.
        answer: The answer.
        details: The operation, for errors.
    """

    version: ObjectInfo
    answer: Reply
    details: ErrorDetails

    def chunks(self, buffer: memoryview | None) -> Generator[bytes | memoryview, None, None]:
        """The content.

        Raises:
            ReadInterruptedError: If the body of the answer broke.
        """
        yield from _chunks(self.answer, self.details, buffer)

    def close(self) -> None:
        """Close the answer; its connection serves further requests if the body was read to its end."""
        self.answer.close()


@dataclass(frozen=True)
class GCSReader(ObjectReader):
    """Reads one object.

    Attributes:
        store: The store.
        key: The key of the object.
        details: The operation, for errors.
    """

    asks_for_places: ClassVar[bool] = True

    store: GCSStore
    key: str
    details: ErrorDetails

    def head(self) -> ObjectInfo:
        """Objects: get; a size of 0 is confirmed by a download."""
        return measured(
            lambda: info_of(self.store.resource(self.key, self.details), self.store.url(self.key)), self, self.details
        )

    def begin(self) -> GCSAnswer | None:
        """A download of the complete object, without a request for its resource before: the headers hold the same facts.

        Returns:
            The answer; None if the caller has to ask for the resource, because the request was refused, or the headers do
            not say which version this is, or have no checksum.

        Raises:
            ObjectNotFoundError: If the object does not exist.
            BucketNotFoundError: If the bucket does not exist.
            RefusedError: If the store is busy or failing.
            requests.RequestException: If no answer arrives.
        """
        generation = self.store.generation
        try:
            answer = self._send({"generation": generation} if generation else {}, {})
        except RefusedError as error:
            if is_transient(error):
                raise
            if is_missing_object(error):
                raise self.store.missing(error, self.details) from error
            return None
        version = _version_in(answer, self.store.url(self.key))
        if version is None or (generation and version.version != generation):
            answer.close()
            return None
        return GCSAnswer(version, answer, self.details)

    def read(
        self,
        version: ObjectInfo,
        start: int,
        length: int,
        buffer: Memory | None = None,
    ) -> Generator[bytes | memoryview, None, None]:
        """The content, or a range of it, of one generation.

        Raises:
            ObjectChangedError: If that generation does not exist any more, or the answer is of another one.
            RangesIgnoredError: If the answer is the complete object, and a range was requested.
            ReadInterruptedError: If the body of the answer broke.
            RefusedError: If the store refuses.
            requests.RequestException: If no answer arrives.
        """
        is_complete = start == 0 and length == version.size
        with contextlib.closing(self._get(version, None if is_complete else (start, length))) as answer:
            self._check(answer, version, start, length, is_complete=is_complete)
            yield from _chunks(answer, self.details, buffer)

    def translated(self) -> contextlib.AbstractContextManager[None]:
        """Raise errors of this library in place of those of requests and google-auth."""
        return translated(self.details)

    def _check(self, answer: Reply, version: ObjectInfo, start: int, length: int, *, is_complete: bool) -> None:
        """Check that the answer is of the generation and the range that were requested.

        Raises:
            ObjectChangedError: If it is of another generation, or another range.
            RangesIgnoredError: If it is not a range, and one was requested.
            StorageError: If the object is longer or shorter than the version.
        """
        generation = answer.headers.get("x-goog-generation")
        if generation and version.version and generation != version.version:
            raise ObjectChangedError
        expected, content_range = f"bytes {start}-{start + length - 1}/", answer.headers.get("content-range")
        if content_range is None and not is_complete:
            raise RangesIgnoredError
        size = _size_in(answer)
        if size not in {None, version.size}:
            raise lengths_differ(self.details, version.size, size or 0) if generation else ObjectChangedError
        # Google's testbench sends the range with status 200 if it is told to break answers off.
        if content_range is not None and not content_range.startswith(expected):
            raise ObjectChangedError
        if answer.headers.get("content-length", str(length)) != str(length):
            raise ObjectChangedError

    def _get(self, version: ObjectInfo, span: tuple[int, int] | None) -> Reply:
        params = {"generation": version.version} if version.version else {}
        headers = {} if span is None else {"Range": f"bytes={span[0]}-{sum(span) - 1}"}
        try:
            return self._send(params, headers)
        except RefusedError as error:
            if error.status in _NO_SUCH_RANGE:
                raise ObjectChangedError from error
            raise

    def _send(self, params: Mapping[str, str], headers: Mapping[str, str]) -> Reply:
        requests = self.store.requests
        path = path_of(self.store.bucket, self.key, "/download/storage/v1")
        # The stored bytes, not the unpacked ones: size and checksum are of the stored bytes, and ranges are ignored
        # otherwise. https://cloud.google.com/storage/docs/transcoding
        headers = {"Accept-Encoding": "gzip", **self.store.connection.options.customer_key_headers(), **headers}
        send = partial(requests.send, "GET", path, params={"alt": "media", **params}, headers=headers, stream=True)
        return requests.policy.call(send, is_transient, self.details)


def _version_in(answer: Reply, url: str) -> ObjectInfo | None:
    """The version in the headers of an answer with a complete object; None if it is not complete, or they do not tell.

    A server that compresses the answer does not know its length in advance. A proxy or a cache may answer a part.
    """
    headers = answer.headers
    generation, length = headers.get("x-goog-generation", ""), headers.get("content-length", "")
    digests = dict(_DIGEST.findall(headers.get("x-goog-hash", "")))
    algorithm = next((each for each in ("crc32c", "md5") if each in digests), None)
    is_part = answer.status_code != _OK or "content-range" in headers
    if is_part or algorithm is None or not (generation.isdecimal() and length.isdecimal()):
        return None
    if headers.get("x-goog-stored-content-length", length) != length:
        return None
    return ObjectInfo(url, int(length), checksum=f"{algorithm}:{digests[algorithm]}", version=generation)


def _size_in(answer: Reply) -> int | None:
    """Size in bytes of the object of which an answer holds all or a range; None if it does not tell."""
    content_range, length = answer.headers.get("content-range"), answer.headers.get("content-length", "")
    if content_range is None:
        return int(length) if length.isdecimal() else None
    found = _RANGE.fullmatch(content_range)
    return int(found[1]) if found else None


def _chunks(answer: Reply, details: ErrorDetails, buffer: Memory | None) -> Iterator[bytes | memoryview]:
    try:
        yield from answer.chunks(buffer)
    except BROKEN as error:
        check_stop()
        diagnosis = of_connection(error)
        why = diagnosis.cause if diagnosis else error
        unavailable = StorageUnavailableError(f"{details.operation} of {details.url}: reading failed: {why}", details)
        unavailable.__cause__ = error
        raise ReadInterruptedError from unavailable
