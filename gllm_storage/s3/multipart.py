"""The boto3 engine: it uploads the bytes of one object, in one request or in parts side by side."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from botocore.exceptions import ClientError

from gllm_storage.concurrency.budget import in_flight
from gllm_storage.concurrency.stop import stopped_by
from gllm_storage.concurrency.workers import run_all
from gllm_storage.files.source import CHUNK, MemorySource
from gllm_storage.s3.body import ChecksumHeaders, FileSection, ViewSection
from gllm_storage.s3.errors import DIGEST_CODES, SDK_ERRORS, code_of, require_any
from gllm_storage.store import checksums
from gllm_storage.store.checksums import WRITE_ID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mypy_boto3_s3.client import S3Client

    from gllm_storage.s3.upload import Upload

Body: TypeAlias = bytes | ViewSection | FileSection
"""What a request sends."""

_SHARE = 4
"""A part is held in memory while it is sent if that takes no more than this fraction of the limit; others are read as they
are sent."""
_buffers = threading.local()


@dataclass
class Receipt:
    """What is known of an object that was written.

    Attributes:
        write_id: The write-id in its metadata.
        answer: What the store said of it; None if that was lost, or there is no such object.
    """

    write_id: str | None = None
    answer: Mapping[str, Any] | None = None


class BotoEngine:
    """Uploads objects by boto3.

    Args:
        client: The boto3 client.
        parameters: Gives the parameters that an operation takes in addition, such as ``RequestPayer``.
        checksum_headers: What is known of the endpoint.
        receipt: Told what became of the upload.
    """

    def __init__(
        self,
        client: S3Client,
        parameters: Callable[[str], dict[str, Any]],
        checksum_headers: ChecksumHeaders,
        receipt: Receipt | None = None,
    ) -> None:
        self.client = client
        self.parameters = parameters
        self.checksum_headers = checksum_headers
        self.receipt = receipt or Receipt()

    def begin_upload(self, upload: Upload, metadata: Mapping[str, str]) -> PutUpload | MultipartUpload:
        """Prepare one attempt at an upload. Nothing is sent yet."""
        kind = MultipartUpload if upload.plan.multipart else PutUpload
        return kind(self, upload, metadata)


class PutUpload:
    """An upload in one PutObject."""

    committing = True

    def __init__(self, engine: BotoEngine, upload: Upload, metadata: Mapping[str, str]) -> None:
        self._engine = engine
        self._upload = upload
        self._metadata = metadata
        engine.receipt.write_id = metadata.get(WRITE_ID)

    def send(self) -> None:
        """Send the object.

        Raises:
            botocore.exceptions.ClientError: If the store refuses.
            botocore.exceptions.BotoCoreError: If there is no answer.
            StorageError: If the file changed.
        """
        # In a thread: Ctrl-C, which comes to this one, must not leave the request on its way.
        run_all([self._put], 1, self._upload.transfer.stop)

    def _put(self) -> None:
        with _body(self._upload, 0, self._upload.source.size) as (body, checksum):
            self._put_body(body, checksum)

    def _put_body(self, body: Body, checksum: int) -> None:
        upload = self._upload
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
                self._engine.receipt.answer = answer
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
        engine.receipt.write_id = metadata.get(WRITE_ID)
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
        self.create()
        ranges = upload.plan.part_ranges(upload.source.size)
        tasks = [partial(self._send_range, number, *each) for number, each in enumerate(ranges, start=1)]
        sent = run_all(tasks, upload.transfer.settings.max_concurrency, upload.transfer.stop, upload.plan.part_size)
        whole = checksums.fold_crc64nvme((crc, length) for (_, crc), (_, length) in zip(sent, ranges, strict=True))
        self.complete([part for part, _ in sent], whole)

    # Creating and completing run in a thread as well: Ctrl-C, which comes to this one, must not lose the answer that says
    # what there is to abort, nor leave a completion on its way.

    def create(self) -> None:
        """Begin; there is something to abort then.

        Raises:
            botocore.exceptions.ClientError: If the store refuses.
            botocore.exceptions.BotoCoreError: If there is no answer.
        """
        run_all([self._create], 1, self._upload.transfer.stop)

    def complete(self, parts: list[dict[str, Any]], checksum: int) -> None:
        """Make an object of the parts.

        Args:
            parts: What `send_part` returned, in their order.
            checksum: CRC of the whole.

        Raises:
            botocore.exceptions.ClientError: If the store refuses.
            botocore.exceptions.BotoCoreError: If there is no answer.
            StorageError: If the file changed.
        """
        run_all([partial(self._complete, parts, checksum)], 1, self._upload.transfer.stop)

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
        self._engine.receipt.answer = answer

    def _send_range(self, number: int, offset: int, length: int) -> tuple[dict[str, Any], int]:
        with _body(self._upload, offset, length) as (body, checksum):
            part = self.send_part(number, body, checksum)
        self._upload.transfer.progress(length)
        return part, checksum

    def send_part(self, number: int, body: Body, checksum: int) -> dict[str, Any]:
        """Send a part.

        Args:
            number: Its number, from 1.
            body: Its bytes.
            checksum: Their CRC.

        Returns:
            What `complete` wants to know of it.

        Raises:
            botocore.exceptions.ClientError: If the store refuses.
            botocore.exceptions.BotoCoreError: If there is no answer.
            StorageError: If the file changed.
        """
        upload = self._upload
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
        part = {"PartNumber": number, "ETag": answer["ETag"]}
        if answer.get("ChecksumCRC64NVME"):
            part["ChecksumCRC64NVME"] = encoded
        return part

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


@contextlib.contextmanager
def _body(upload: Upload, offset: int, length: int) -> Iterator[tuple[Body, int]]:
    """A request's body and its CRC. In memory, where that is small: then what is sent is what was checked."""
    source, settings, stop = upload.source, upload.transfer.settings, upload.transfer.stop
    if length <= CHUNK:
        data = source.read_at(offset, length)
        yield data, checksums.crc64nvme(data)
    elif isinstance(source, MemorySource):
        view = source.view_at(offset, length)
        yield ViewSection(view, stop), checksums.crc64nvme(view)
    elif length <= settings.memory_limit // _SHARE:
        with in_flight(length, settings.memory_limit, stop):
            view = _buffer(length)
            source.read_into(offset, view)
            yield ViewSection(view, stop), checksums.crc64nvme(view)
    else:
        checksum = checksums.crc_of(source.read_at, length, start=offset)
        yield FileSection(source, offset, length, stop), checksum


def _buffer(length: int) -> memoryview:
    """Memory of this thread, which the next part that it sends uses again: new memory costs page faults."""
    if len(getattr(_buffers, "memory", b"")) < length:
        _buffers.memory = bytearray(length)
    return memoryview(_buffers.memory)[:length]


def _digest_attempts(upload: Upload) -> range:
    return range(upload.transfer.settings.max_attempts, 0, -1)


def _raise_unless_flipped(error: ClientError, attempts_left: int, body: Body) -> None:
    """A body that arrived otherwise than it left is sent again, which botocore does not do."""
    if code_of(error) not in DIGEST_CODES or attempts_left <= 1:
        raise error
    if not isinstance(body, bytes):
        body.seek(0)
