"""The boto3 engine: it moves the bytes of one object, in one request or in parts side by side."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import urllib3
from botocore.exceptions import ClientError

from gllm_storage import checksums
from gllm_storage.errors import StorageError, StorageUnavailableError
from gllm_storage.exclusive import backoff
from gllm_storage.local_files import CHUNK
from gllm_storage.s3.body import ChecksumHeaders, FileSection
from gllm_storage.s3.errors import DIGEST_CODES, SDK_ERRORS, code_of, require_any, status_of
from gllm_storage.s3.parallel import run_all, stopped_by

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mypy_boto3_s3.client import S3Client

    from gllm_storage.errors import ErrorDetails
    from gllm_storage.s3.transfer import Download, Upload

_logger = logging.getLogger(__name__)

_IN_MEMORY = 128 * 2**20
"""Parts that are under way are held in memory up to this many bytes in all; larger ones are read as they are sent."""
_CHANGED = {412, 416}


class ObjectChangedError(Exception):
    """The object was replaced while it was being read."""


class _RangesIgnoredError(Exception):
    """The server answered a ranged read with the whole object."""


class BotoEngine:
    """Moves objects by boto3.

    Args:
        client: The boto3 client.
        parameters: Gives the parameters that an operation takes in addition, such as ``RequestPayer``.
        checksum_headers: What is known of the endpoint.
    """

    def __init__(
        self, client: S3Client, parameters: Callable[[str], dict[str, Any]], checksum_headers: ChecksumHeaders
    ) -> None:
        self.client = client
        self.parameters = parameters
        self.checksum_headers = checksum_headers

    def begin_upload(self, upload: Upload, metadata: Mapping[str, str]) -> PutUpload | MultipartUpload:
        """Prepare one attempt at an upload. Nothing is sent yet."""
        kind = MultipartUpload if upload.plan.multipart else PutUpload
        return kind(self, upload, metadata)

    def fetch(self, download: Download) -> None:
        """Read an object's content into its target.

        Raises:
            ObjectChangedError: If the object was replaced meanwhile.
            botocore.exceptions.ClientError: If the store refuses.
            StorageError: If the content cannot be had or written, after all retries.
        """
        size, step = download.version.size, download.part_size
        ranges = [(start, min(step, size - start)) for start in range(0, size, step)]
        if not ranges:
            return
        try:
            if len(ranges) == 1:
                self._fetch_range(download, 0, size)
            else:
                in_parts = dataclasses.replace(download, transfer=download.transfer.attempt())
                tasks = [partial(self._fetch_range, in_parts, *each) for each in ranges]
                run_all(tasks, download.transfer.settings.max_concurrency, in_parts.transfer.stop)
        except _RangesIgnoredError:
            self._fetch_range(download, 0, size)

    def fetch_range(self, download: Download, start: int, length: int) -> None:
        """Read one range into the target, which must not be the whole object.

        Raises:
            ObjectChangedError: If the object was replaced meanwhile.
            botocore.exceptions.ClientError: If the store refuses.
            StorageError: If the range cannot be had, after all retries, or the endpoint ignores ranges.
        """
        try:
            self._fetch_range(download, start, length)
        except _RangesIgnoredError as error:
            details = download.transfer.details
            raise StorageError(
                f"{details.operation} of {details.url}: the endpoint ignores ranges; download the object instead",
                details,
            ) from error

    def _fetch_range(self, download: Download, start: int, length: int) -> None:
        for attempt in range(download.transfer.settings.max_attempts):
            download.transfer.stop.check()
            answer = self._get_object(download, start, length)
            try:
                with contextlib.closing(answer["Body"]) as body:
                    _check_answer(answer, download, start, length)
                    _copy_body(body, download, start, length)
            except (*SDK_ERRORS, StorageUnavailableError) as error:
                # botocore tries a request again, but not the reading of an answer's body.
                if attempt + 1 == download.transfer.settings.max_attempts:
                    raise
                _logger.info("reading %s at %d failed (%s); trying again", download.transfer.details.url, start, error)
                backoff(attempt)
            else:
                download.transfer.progress(length)
                return

    def _get_object(self, download: Download, start: int, length: int) -> Mapping[str, Any]:
        parameters: dict[str, Any] = {"Bucket": download.bucket, "Key": download.key, **self.parameters("GetObject")}
        if download.version.etag:
            parameters["IfMatch"] = f'"{download.version.etag}"'
        if not _is_whole(download, start, length):
            parameters["Range"] = f"bytes={start}-{start + length - 1}"
        try:
            return self.client.get_object(**parameters)
        except ClientError as error:
            if status_of(error) in _CHANGED:
                raise ObjectChangedError from error
            raise


def _is_whole(download: Download, start: int, length: int) -> bool:
    return start == 0 and length == download.version.size


def _check_answer(answer: Mapping[str, Any], download: Download, start: int, length: int) -> None:
    """Check that the answer is of the version and the range that were asked for: some servers ignore both headers."""
    etag = str(answer.get("ETag", "")).strip('"')
    if etag and download.version.etag and etag != download.version.etag:
        raise ObjectChangedError
    content_range = answer.get("ContentRange")
    if content_range is None and not _is_whole(download, start, length):
        raise _RangesIgnoredError
    if content_range is not None and not str(content_range).startswith(f"bytes {start}-{start + length - 1}/"):
        raise ObjectChangedError
    if answer.get("ContentLength") != length:
        raise ObjectChangedError


def _copy_body(body: Any, download: Download, start: int, length: int) -> None:
    received = 0
    for chunk in _chunks(body, download.transfer.details):
        download.transfer.stop.check()
        if received + len(chunk) > length:
            raise ObjectChangedError
        download.target.write_at(start + received, chunk)
        received += len(chunk)
    if received != length:
        raise StorageUnavailableError(
            f"download of {download.transfer.details.url}: the connection ended after {received} of {length} bytes",
            download.transfer.details,
        )


def _chunks(body: Any, details: ErrorDetails) -> Iterator[bytes]:
    try:
        yield from body.iter_chunks(CHUNK)
    except urllib3.exceptions.HTTPError as error:  # botocore lets some of these through, such as a TLS record gone bad
        raise StorageUnavailableError(f"{details.operation} of {details.url}: reading failed: {error}", details) from error


class PutUpload:
    """An upload in one PutObject."""

    committing = True

    def __init__(self, engine: BotoEngine, upload: Upload, metadata: Mapping[str, str]) -> None:
        self._engine = engine
        self._upload = upload
        self._metadata = metadata

    def send(self) -> None:
        """Send the object.

        Raises:
            botocore.exceptions.ClientError: If the store refuses.
            botocore.exceptions.BotoCoreError: If there is no answer.
            StorageError: If the file changed.
        """
        upload = self._upload
        body, checksum = _body(upload, 0, upload.source.size)
        _require_same(upload, checksum)
        condition = {"IfNoneMatch": "*"} if upload.plan.conditional else {}
        for attempt in _digest_attempts(upload):
            try:
                answer = self._engine.checksum_headers.call(
                    self._engine.client.put_object,
                    {"ChecksumCRC64NVME": checksums.encode(checksum)},
                    **self._engine.parameters("PutObject"),
                    **upload.write_parameters,
                    **upload.place,
                    **condition,
                    Metadata=dict(self._metadata),
                    Body=body,
                )
            except ClientError as error:
                _raise_unless_flipped(error, attempt, body)
            else:
                require_any(answer, "ETag")
                upload.transfer.progress(upload.source.size)
                return

    def discard(self) -> None:
        """Nothing stays of a PutObject that failed."""


class MultipartUpload:
    """An upload in parts."""

    def __init__(self, engine: BotoEngine, upload: Upload, metadata: Mapping[str, str]) -> None:
        self._engine = engine
        self._upload = upload
        self._metadata = metadata
        self._upload_id: str | None = None
        self._full_object = False
        self._given_up = False
        self.committing = False

    def send(self) -> None:
        """Send all parts and make an object of them.

        Raises:
            botocore.exceptions.ClientError: If the store refuses.
            botocore.exceptions.BotoCoreError: If there is no answer.
            StorageError: If the file changed.
        """
        upload = self._upload
        # Creating and completing run in a thread as well: Ctrl-C, which comes to this one, must not lose the answer that
        # says what there is to abort, nor leave a completion on its way.
        run_all([self._create], 1, upload.transfer.stop)
        ranges = upload.plan.part_ranges(upload.source.size)
        tasks = [partial(self._send_part, number, *each) for number, each in enumerate(ranges, start=1)]
        sent = run_all(tasks, upload.transfer.settings.max_concurrency, upload.transfer.stop)
        complete = partial(self._complete, [part for part, _ in sent], _fold([crc for _, crc in sent], ranges))
        run_all([complete], 1, upload.transfer.stop)

    def _create(self) -> None:
        answer = self._engine.checksum_headers.call(
            self._engine.client.create_multipart_upload,
            {"ChecksumAlgorithm": "CRC64NVME", "ChecksumType": "FULL_OBJECT"},
            **self._engine.parameters("CreateMultipartUpload"),
            **self._upload.write_parameters,
            **self._upload.place,
            Metadata=dict(self._metadata),
        )
        require_any(answer, "UploadId")
        self._upload_id = answer["UploadId"]
        if self._given_up:
            self._abort()  # the answer came when nobody waited for it any more
        # ministack and older servers know only composite checksums, and then refuse a right full-object one.
        self._full_object = answer.get("ChecksumType") == "FULL_OBJECT"

    def _complete(self, parts: list[dict[str, Any]], checksum: int) -> None:
        upload = self._upload
        _require_same(upload, checksum)
        condition = {"IfNoneMatch": "*"} if upload.plan.conditional else {}
        whole = {"ChecksumCRC64NVME": checksums.encode(checksum), "ChecksumType": "FULL_OBJECT"}
        self.committing = True
        answer = self._engine.checksum_headers.call(
            self._engine.client.complete_multipart_upload,
            whole if self._full_object else {},
            **self._engine.parameters("CompleteMultipartUpload"),
            **upload.place,
            UploadId=self._upload_id,
            MultipartUpload={"Parts": parts},
            **condition,
        )
        require_any(answer, "ETag", "Location", "Key")  # Ceph 16 leaves the ETag empty

    def _send_part(self, number: int, offset: int, length: int) -> tuple[dict[str, Any], int]:
        upload = self._upload
        body, checksum = _body(upload, offset, length)
        encoded = checksums.encode(checksum)
        for attempt in _digest_attempts(upload):
            try:
                answer = self._engine.checksum_headers.call(
                    self._engine.client.upload_part,
                    {"ChecksumCRC64NVME": encoded},
                    **self._engine.parameters("UploadPart"),
                    **upload.place,
                    UploadId=self._upload_id,
                    PartNumber=number,
                    Body=body,
                )
            except ClientError as error:
                _raise_unless_flipped(error, attempt, body)
            else:
                require_any(answer, "ETag")
                break
            finally:
                if self._given_up:
                    # The upload was aborted while a stalled server held this part; S3 may have kept it.
                    self._abort()
        upload.transfer.progress(length)
        part = {"PartNumber": number, "ETag": answer["ETag"]}
        if answer.get("ChecksumCRC64NVME"):
            part["ChecksumCRC64NVME"] = encoded
        return part, checksum

    def discard(self) -> None:
        """Abort the upload, so that no parts stay."""
        self._given_up = True
        if self._upload_id is not None:
            self._abort()

    def _abort(self) -> None:
        place = {**self._engine.parameters("AbortMultipartUpload"), **self._upload.place}
        # Completed or aborted already, or unreachable: there is nothing better to do.
        with stopped_by(None), contextlib.suppress(*SDK_ERRORS):
            self._engine.client.abort_multipart_upload(**place, UploadId=str(self._upload_id))


def _require_same(upload: Upload, checksum: int) -> None:
    """Check that what is sent is what the file held when the upload began.

    Raises:
        StorageError: If it is not.
    """
    upload.source.require_unchanged()
    if upload.expected_crc not in {None, checksum}:
        raise upload.source.changed()


def _body(upload: Upload, offset: int, length: int) -> tuple[bytes | FileSection, int]:
    """A request's body and its CRC. In memory, where that is small: then what is sent is what was checked."""
    if length * upload.transfer.settings.max_concurrency <= _IN_MEMORY or length <= CHUNK:
        data = upload.source.read_at(offset, length)
        return data, checksums.crc64nvme(data)
    checksum = checksums.crc_of(upload.source.read_at, length, start=offset)
    return FileSection(upload.source, offset, length, upload.transfer.stop), checksum


def _fold(crcs: list[int], ranges: list[tuple[int, int]]) -> int:
    whole = 0
    for crc, (_, length) in zip(crcs, ranges, strict=True):
        whole = checksums.combine_crc64nvme(whole, crc, length)
    return whole


def _digest_attempts(upload: Upload) -> range:
    return range(upload.transfer.settings.max_attempts, 0, -1)


def _raise_unless_flipped(error: ClientError, attempts_left: int, body: bytes | FileSection) -> None:
    """A body that arrived otherwise than it left is sent again, which botocore does not do."""
    if code_of(error) not in DIGEST_CODES or attempts_left <= 1:
        raise error
    if isinstance(body, FileSection):
        body.seek(0)
