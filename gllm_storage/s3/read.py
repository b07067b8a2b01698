"""`S3Reader`: reads of one S3 object, pinned to one version by its ETag.

Every ranged read carries ``If-Match`` with the ETag of the version. Some servers ignore that header, or ``Range``, so each
answer is checked as well: its ETag, its ``Content-Range`` and its length.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from botocore.exceptions import ClientError

from gllm_storage.errors import ErrorDetails, StorageUnavailableError
from gllm_storage.info import ObjectInfo, plain_etag
from gllm_storage.s3.errors import SDK_ERRORS, code_of, is_transient, status_of, translated
from gllm_storage.s3.requests import info_from_head, size_in
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
    from collections.abc import Generator, Mapping

    from gllm_storage.s3.requests import S3Requests
    from gllm_storage.store.reader import Memory

_OK = 200
_NOT_SATISFIABLE = 416
_CHANGED = {412, _NOT_SATISFIABLE}
_MISSING = {"NoSuchKey", "NoSuchBucket"}
"""Error codes that leave no question for a HeadObject. A 404 without one of them may come from a proxy."""
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)", re.ASCII)


@dataclass(frozen=True)
class S3Answer:
    """The answer to a GetObject of the complete object.

    Attributes:
        version: The facts in its headers.
        body: The body: boto3's, or the direct client's.
        details: The operation, for errors.
    """

    version: ObjectInfo
    body: Any
    details: ErrorDetails

    def chunks(self, buffer: memoryview | None) -> Generator[bytes | memoryview, None, None]:
        """The body, piece by piece.

        Raises:
            ReadInterruptedError: If the connection breaks before the end of the body.
        """
        return _chunks(self.body, self.details, buffer)

    def close(self) -> None:
        """Close the connection, unless the complete body was read."""
        self.body.close()


@dataclass(frozen=True)
class S3Reader(ObjectReader):
    """Reads one object.

    Attributes:
        requests: The control requests of the bucket.
        key: The key.
        details: The operation, for errors.
    """

    asks_for_places: ClassVar[bool] = True

    requests: S3Requests
    key: str
    details: ErrorDetails

    def head(self) -> ObjectInfo:
        """HeadObject, with the stored checksum; a size of 0 is confirmed by a GetObject.

        Raises:
            ObjectNotFoundError: If the object does not exist.
            StorageError: If the request fails.
        """
        return measured(self._head, self, self.details)

    def begin(self) -> S3Answer | None:
        """GetObject of the complete object. Its headers hold the same facts as a HeadObject, so that request is saved.

        The checksum in the headers shows later whether the body is complete. Without a checksum, a HeadObject confirms the
        size and the ETag.

        Returns:
            The answer; None if the caller has to send a HeadObject, because the request was refused, or the size is unknown
            or not confirmed.

        Raises:
            StorageError: If the confirming HeadObject fails.
            botocore.exceptions.ClientError: If the store is busy or failing (429, 5xx), or there is no such key or bucket.
            botocore.exceptions.BotoCoreError: If no answer arrives.
        """
        try:
            answer = self.requests.connection.client.get_object(**self._place(), ChecksumMode="ENABLED")
        except ClientError as error:
            if is_transient(error) or code_of(error) in _MISSING:
                raise
            return None
        if not is_complete(answer):
            answer["Body"].close()
            return None
        return self._confirmed(S3Answer(info_from_head(answer, self.details.url), answer["Body"], self.details))

    def _head(self) -> ObjectInfo:
        answer = self.requests.head(self.key, self.details.operation, checksums=True)
        return info_from_head(answer, self.details.url)

    def _confirmed(self, answer: S3Answer) -> S3Answer | None:
        """The answer, if it has a checksum, or if a HeadObject returns the same size and ETag; None otherwise."""
        version = answer.version
        if version.checksum is not None or self.requests.is_confirmed(self.key, version.size, version.etag or ""):
            return answer
        try:
            confirmed = self._head()
        except BaseException:
            answer.close()
            raise
        if (confirmed.size, confirmed.etag) == (version.size, version.etag):
            return dataclasses.replace(answer, version=confirmed)
        answer.close()
        return None

    def read(
        self, version: ObjectInfo, start: int, length: int, buffer: Memory | None = None
    ) -> Generator[bytes | memoryview, None, None]:
        """GetObject of a range, or of the complete object, with ``If-Match``; see `ObjectReader.read`.

        Raises:
            ObjectChangedError: If the object, or the answer, is of another version.
            RangesIgnoredError: If the answer is the complete object, and a range was requested.
            ReadInterruptedError: If the connection breaks before the end of the body.
            botocore.exceptions.ClientError: If the store refuses.
            botocore.exceptions.BotoCoreError: If no answer arrives.
        """
        complete = start == 0 and length == version.size
        answer = self._get_object(version, start, length, complete=complete)
        with contextlib.closing(answer["Body"]) as body:
            self._check(answer, version, start, length, complete=complete)
            yield from _chunks(body, self.details, buffer)

    def read_at_once(self, start: int, end: int | None) -> tuple[ObjectInfo, bytes] | None:
        """GetObject of a range of the current version; see `ObjectReader.read_at_once`.

        Raises:
            botocore.exceptions.ClientError: If the store refuses.
            botocore.exceptions.BotoCoreError: If no answer arrives.
        """
        parameters = self._place()
        wanted = f"bytes={start}" if end is None else f"bytes={start}-{end - 1}"
        try:
            answer = self.requests.connection.client.get_object(**parameters, Range=wanted)
        except ClientError as error:
            if status_of(error) == _NOT_SATISFIABLE:
                return ObjectInfo(self.details.url, 0), b""  # the object ends before the slice begins
            raise
        with contextlib.closing(answer["Body"]) as body:
            version = _version_of(answer, start, end, self.details.url)
            if version is None:
                return None
            content = bytearray()
            try:
                for chunk in _chunks(body, self.details):
                    content += chunk
            except ReadInterruptedError:
                return None
        return (version, bytes(content)) if len(content) == answer.get("ContentLength") else None

    def translated(self) -> contextlib.AbstractContextManager[None]:
        """Raise errors of this library in place of botocore's."""
        return translated(self.details)

    def _place(self) -> dict[str, Any]:
        return {"Bucket": self.requests.bucket, "Key": self.key, **self.requests.connection.parameters("GetObject")}

    def _check(self, answer: Mapping[str, Any], version: ObjectInfo, start: int, length: int, *, complete: bool) -> None:
        """Check that an answer is the requested range of the requested version: some servers ignore both headers.

        Raises:
            ObjectChangedError: If it is of another version, or another range.
            RangesIgnoredError: If it is the complete object, and a range was requested.
            StorageError: If the object is longer or shorter than the version.
        """
        etag = plain_etag(str(answer.get("ETag", "")))
        if etag and version.etag and etag != version.etag:
            raise ObjectChangedError
        content_range = answer.get("ContentRange")
        size = None if content_range is None and not complete else size_in(answer)
        if size not in {None, version.size}:
            raise lengths_differ(self.details, version.size, size or 0) if etag else ObjectChangedError
        if content_range is None and not complete:
            raise RangesIgnoredError
        if content_range is not None and not str(content_range).startswith(f"bytes {start}-{start + length - 1}/"):
            raise ObjectChangedError
        if answer.get("ContentLength") not in {None, length}:
            raise ObjectChangedError

    def _get_object(self, version: ObjectInfo, start: int, length: int, *, complete: bool) -> Mapping[str, Any]:
        parameters = self._place()
        if version.etag:
            parameters["IfMatch"] = f'"{version.etag}"'
        if not complete:
            parameters["Range"] = f"bytes={start}-{start + length - 1}"
        try:
            return self.requests.connection.client.get_object(**parameters)
        except ClientError as error:
            if status_of(error) in _CHANGED:
                raise ObjectChangedError from error
            raise


def is_complete(answer: Mapping[str, Any]) -> bool:
    """Whether an answer to GetObject without a range can be the complete object, judged by its headers.

    A server that compresses the answer does not know its length in advance. A proxy or a cache may answer a part.
    """
    status = answer["ResponseMetadata"]["HTTPStatusCode"]
    is_part = status != _OK or answer.get("ContentRange") is not None
    return not is_part and bool(answer.get("ETag")) and answer.get("ContentLength") is not None


def _version_of(answer: Mapping[str, Any], start: int, end: int | None, url: str) -> ObjectInfo | None:
    """The version of an answer to a ranged read; None if the answer is not that range, cut where the object ends."""
    found = _CONTENT_RANGE.fullmatch(str(answer.get("ContentRange")))
    if found is None:
        return None
    first, last, size = map(int, found.groups())
    if (first, last + 1) != slice(start, end).indices(size)[:2] or answer.get("ContentLength") != last + 1 - first:
        return None
    return ObjectInfo(url, size, etag=plain_etag(str(answer.get("ETag", ""))) or None)


def _chunks(body: Any, details: ErrorDetails, buffer: Memory | None = None) -> Generator[bytes | memoryview, None, None]:
    try:
        yield from body.iter_chunks(READ_CHUNK, buffer)
    except SDK_ERRORS as error:
        raise ReadInterruptedError from error
    except _http_errors() as error:  # botocore does not translate all of them, such as a broken TLS record
        diagnosis = of_connection(error)
        why = diagnosis.cause if diagnosis else error
        unavailable = StorageUnavailableError(f"{details.operation} of {details.url}: reading failed: {why}", details)
        unavailable.__cause__ = error
        raise ReadInterruptedError from unavailable


def _http_errors() -> type[Exception]:
    """The exceptions of boto3's HTTP library. Only a failed read asks for them: the library takes 35 ms to import."""
    import urllib3  # noqa: PLC0415 - as above

    return urllib3.exceptions.HTTPError
