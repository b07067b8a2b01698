"""`MultipartUpload`: an object in parts side by side, which one last request makes visible."""

from __future__ import annotations

import contextlib
import hashlib
from functools import partial
from typing import TYPE_CHECKING, Any

from gllm_storage.concurrency.stop import stopped_by
from gllm_storage.concurrency.workers import run_all
from gllm_storage.files.source import CHUNK
from gllm_storage.info import Stored, plain_etag, strong_etag
from gllm_storage.s3.body import Body, body_of, send_intact
from gllm_storage.s3.errors import SDK_ERRORS, require_any
from gllm_storage.s3.requests import Completed
from gllm_storage.s3.unfinished import find_unfinished
from gllm_storage.store import checksums
from gllm_storage.store.checksums import WRITE_ID

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gllm_storage.concurrency.stop import Stop
    from gllm_storage.s3.upload import S3Upload


class MultipartUpload:
    """An upload in parts.

    Creating and completing run in a thread: Ctrl-C, which interrupts the main thread, must neither lose the answer with the
    upload id to abort, nor leave a completion in progress.

    Args:
        upload: The upload.
        metadata: All user metadata.
        stop: Cancels it.
        goes_on: Whether the parts of an interrupted upload of the same content are used.
    """

    def __init__(self, upload: S3Upload, metadata: Mapping[str, str], stop: Stop, *, goes_on: bool = False) -> None:
        self._upload = upload
        self._connection = upload.requests.connection
        self._metadata = metadata
        self._stop = stop
        self._upload_id: str | None = None
        self._full_object = False
        self._discarded = False
        self._goes_on = goes_on
        self._kept: Mapping[int, Mapping[str, Any]] = {}
        self.committing = False

    def send(self) -> Stored:
        """Send all parts and make an object of them.

        Raises:
            botocore.exceptions.ClientError: If the store refuses.
            botocore.exceptions.BotoCoreError: If no answer arrives.
            StorageError: If the file changed.
        """
        upload = self._upload
        self.create()
        ranges = upload.plan.part_ranges(upload.request.source.size)
        tasks = [partial(self._send_range, number, *each) for number, each in enumerate(ranges, start=1)]
        sent = run_all(tasks, upload.settings.max_concurrency, self._stop, paced=True)
        crc = checksums.fold_crc64nvme((crc, length) for (_, crc), (_, length) in zip(sent, ranges, strict=True))
        return self.complete([part for part, _ in sent], crc, upload.request.source.size)

    def create(self) -> None:
        """Begin the upload; from here on there is one to abort.

        Raises:
            botocore.exceptions.ClientError: If the store refuses.
            botocore.exceptions.BotoCoreError: If no answer arrives.
        """
        run_all([self._create], 1, self._stop)

    def complete(self, parts: list[dict[str, Any]], crc: int, size: int) -> Stored:
        """Make an object of the parts.

        Args:
            parts: The results of `send_part`, in the order of the parts.
            crc: CRC-64/NVME of the complete content.
            size: Size of the complete content in bytes.

        Raises:
            botocore.exceptions.ClientError: If the store refuses.
            botocore.exceptions.BotoCoreError: If no answer arrives.
            IntegrityError: If the store has lost some of the content.
            StorageError: If the file changed.
        """
        (stored,) = run_all([partial(self._complete, parts, crc, size)], 1, self._stop)
        return stored

    def _create(self) -> None:
        if self._goes_on:
            lengths = [length for _, length in self._upload.plan.part_ranges(self._upload.request.source.size)]
            earlier = find_unfinished(self._connection, self._upload.place, lengths)
            if earlier is not None:
                self._upload_id, self._kept, self._full_object = earlier.upload_id, earlier.parts, earlier.full_object
                return
        answer = self._connection.checksum_headers.call(
            self._connection.client.create_multipart_upload,
            {"ChecksumAlgorithm": "CRC64NVME", "ChecksumType": "FULL_OBJECT"},
            self._upload.request.details,
            **self._connection.parameters("CreateMultipartUpload"),
            **self._upload.parameters,
            **self._upload.place,
            Metadata=dict(self._metadata),
        )
        require_any(answer, "UploadId")
        self._upload_id = answer["UploadId"]
        if self._discarded:
            self._abort()  # the answer came after the upload was discarded
        # ministack and older servers know only composite checksums, and then refuse a right full-object one.
        self._full_object = answer.get("ChecksumType") == "FULL_OBJECT"

    def _complete(self, parts: list[dict[str, Any]], crc: int, size: int) -> Stored:
        upload, connection = self._upload, self._connection
        upload.require_same(crc)
        upload.require_absent()
        condition = {"IfNoneMatch": "*"} if upload.plan.conditional else {}
        full = {"ChecksumCRC64NVME": checksums.encode(crc), "ChecksumType": "FULL_OBJECT"}
        self.committing = True
        answer = connection.checksum_headers.call(
            connection.client.complete_multipart_upload,
            full if self._full_object else {},
            upload.request.details,
            **connection.parameters("CompleteMultipartUpload"),
            **upload.place,
            UploadId=self._upload_id,
            MultipartUpload={"Parts": parts},
            **condition,
        )
        require_any(answer, "ETag", "Location", "Key")  # Ceph 16 leaves the ETag empty
        completed = Completed(size, [part["ETag"] for part in parts], self._metadata[WRITE_ID], checksums.encode(crc))
        found = upload.requests.incomplete(upload.request.key, upload.request.details.operation, answer, completed)
        if found is not None:
            upload.require_size(Stored.of(found), size)
        return upload.stored(answer, checksums.encode(crc), size)

    def _send_range(self, number: int, offset: int, length: int) -> tuple[dict[str, Any], int]:
        upload = self._upload
        with body_of(upload.request.source, offset, length, upload.settings, self._stop) as (body, crc):
            part = self._kept_part(number, offset, length, crc) or self.send_part(number, body, crc)
        upload.request.transfer.progress(length)
        return part, crc

    def _kept_part(self, number: int, offset: int, length: int, crc: int) -> dict[str, Any] | None:
        """A part that the store has with these bytes, by its CRC-64/NVME or its MD5; None if it must be sent."""
        found = self._kept.get(number)
        if found is None or found.get("Size") != length:
            return None
        part = {"PartNumber": number, "ETag": found["ETag"]}
        if (stated := found.get("ChecksumCRC64NVME")) is not None:
            return {**part, "ChecksumCRC64NVME": stated} if stated == checksums.encode(crc) else None
        md5 = hashlib.md5(usedforsecurity=False)
        for start in range(offset, offset + length, CHUNK):
            md5.update(self._upload.request.source.read_at(start, min(CHUNK, offset + length - start)))
        return part if plain_etag(found["ETag"]) == md5.hexdigest() else None

    def send_part(self, number: int, body: Body, crc: int) -> dict[str, Any]:
        """Send a part.

        Args:
            number: Its number, from 1.
            body: Its bytes.
            crc: Their CRC-64/NVME.

        Returns:
            The facts about the part that `complete` takes.

        Raises:
            botocore.exceptions.ClientError: If the store refuses.
            botocore.exceptions.BotoCoreError: If no answer arrives.
            StorageError: If the file changed.
        """
        send = partial(self._send_body, number, body, checksums.encode(crc))
        answer = send_intact(send, body, self._upload.settings.max_attempts, self._upload.request.details)
        require_any(answer, "ETag")
        part = {"PartNumber": number, "ETag": strong_etag(answer["ETag"])}
        return {**part, "ChecksumCRC64NVME": checksums.encode(crc)} if answer.get("ChecksumCRC64NVME") else part

    def _send_body(self, number: int, body: Body, encoded: str) -> Any:
        connection = self._connection
        try:
            return connection.checksum_headers.call(
                connection.client.upload_part,
                {"ChecksumCRC64NVME": encoded},
                self._upload.request.details,
                **connection.parameters("UploadPart"),
                **self._upload.place,
                UploadId=self._upload_id,
                PartNumber=number,
                Body=body,
            )
        finally:
            if self._discarded:
                # The upload was aborted while a stalled server held this part; S3 may have kept the part.
                self._abort()

    def discard(self) -> None:
        """Abort the upload, so that no parts stay in the store."""
        self._discarded = True
        if self._upload_id is not None:
            self._abort()

    def _abort(self) -> None:
        place = {**self._connection.parameters("AbortMultipartUpload"), **self._upload.place}
        # Completed or aborted already, or the store is unreachable: there is nothing better to do.
        with stopped_by(None), contextlib.suppress(*SDK_ERRORS):
            self._connection.client.abort_multipart_upload(**place, UploadId=str(self._upload_id))
