"""`GCSReader`: reads of one object, pinned to one generation."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import urllib3

from gllm_storage.errors import StorageUnavailableError
from gllm_storage.gcs.errors import RefusedError, is_transient, translated
from gllm_storage.gcs.requests import info_of, path_of
from gllm_storage.store.diagnosis import of_connection
from gllm_storage.store.download import READ_CHUNK
from gllm_storage.store.reader import (
    ObjectChangedError,
    ObjectReader,
    RangesIgnoredError,
    ReadInterruptedError,
    lengths_differ,
    measured,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from requests import Response

    from gllm_storage.errors import ErrorDetails
    from gllm_storage.gcs.store import GCSStore
    from gllm_storage.info import ObjectInfo

_RANGE = re.compile(r"bytes [0-9]+-[0-9]+/([0-9]+)")
_NO_SUCH_RANGE = frozenset({404, 412, 416})
"""Answers to the read of a generation that does not exist any more, or is shorter."""


@dataclass(frozen=True)
class GCSReader(ObjectReader):
    """Reads one object.

    Attributes:
        store: The store.
        key: The key of the object.
        details: The operation, for errors.
    """

    store: GCSStore
    key: str
    details: ErrorDetails

    def head(self) -> ObjectInfo:
        """Objects: get; a size of 0 is confirmed by a download."""
        return measured(
            lambda: info_of(self.store.resource(self.key, self.details), self.store.url(self.key)), self, self.details
        )

    def read(
        self,
        version: ObjectInfo,
        start: int,
        length: int,
        buffer: memoryview | None = None,  # noqa: ARG002 - urllib3 has a buffer of its own
    ) -> Generator[bytes, None, None]:
        """The content, or a range of it, of one generation.

        Raises:
            ObjectChangedError: If that generation does not exist any more, or the answer is of another one.
            RangesIgnoredError: If the answer is the complete object, and a range was requested.
            ReadInterruptedError: If the body of the answer broke.
            RefusedError: If the store refuses.
            requests.RequestException: If there is no answer.
        """
        is_complete = start == 0 and length == version.size
        with contextlib.closing(self._get(version, None if is_complete else (start, length))) as answer:
            self._check(answer, version, start, length, is_complete=is_complete)
            yield from _chunks(answer, self.details)

    def translated(self) -> contextlib.AbstractContextManager[None]:
        """Raise errors of this library in place of those of requests and google-auth."""
        return translated(self.details)

    def _check(self, answer: Response, version: ObjectInfo, start: int, length: int, *, is_complete: bool) -> None:
        """Check that the answer is of the generation and the range that were requested.

        Raises:
            ObjectChangedError: If it is of another generation, or another range.
            RangesIgnoredError: If it is not a range, and one was requested.
            StorageError: If the object is longer or shorter than the version.
        """
        generation = answer.headers.get("X-Goog-Generation")
        if generation and version.version and generation != version.version:
            raise ObjectChangedError
        expected, content_range = f"bytes {start}-{start + length - 1}/", answer.headers.get("Content-Range")
        if content_range is None and not is_complete:
            raise RangesIgnoredError
        size = _size_in(answer)
        if size not in {None, version.size}:
            raise lengths_differ(self.details, version.size, size or 0) if generation else ObjectChangedError
        # Google's testbench sends the range with status 200 if it is told to break answers off.
        if content_range is not None and not content_range.startswith(expected):
            raise ObjectChangedError
        if answer.headers.get("Content-Length", str(length)) != str(length):
            raise ObjectChangedError

    def _get(self, version: ObjectInfo, span: tuple[int, int] | None) -> Response:
        requests = self.store.requests
        path = path_of(self.store.bucket, self.key, "/download/storage/v1")
        params = {"alt": "media", **({"generation": version.version} if version.version else {})}
        # The stored bytes, not the unpacked ones: size and checksum are of the stored bytes, and ranges are ignored
        # otherwise. https://cloud.google.com/storage/docs/transcoding
        headers = {"Accept-Encoding": "gzip", **self.store.connection.options.customer_key_headers()}
        if span is not None:
            headers["Range"] = f"bytes={span[0]}-{sum(span) - 1}"
        try:
            return requests.policy.call(
                lambda: requests.send("GET", path, params=params, headers=headers, stream=True), is_transient, self.details
            )
        except RefusedError as error:
            if error.status in _NO_SUCH_RANGE:
                raise ObjectChangedError from error
            raise


def _size_in(answer: Response) -> int | None:
    """Size in bytes of the object of which an answer holds all or a range; None if it does not tell."""
    content_range, length = answer.headers.get("Content-Range"), answer.headers.get("Content-Length", "")
    if content_range is None:
        return int(length) if length.isdecimal() else None
    found = _RANGE.fullmatch(content_range)
    return int(found[1]) if found else None


def _chunks(answer: Response, details: ErrorDetails) -> Iterator[bytes]:
    try:
        yield from answer.raw.stream(READ_CHUNK, decode_content=False)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        diagnosis = of_connection(error)
        why = diagnosis.cause if diagnosis else error
        unavailable = StorageUnavailableError(f"{details.operation} of {details.url}: reading failed: {why}", details)
        unavailable.__cause__ = error
        raise ReadInterruptedError from unavailable
