"""Uploads of one S3 object, with the promises; the bytes are moved by an engine (boto.py)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from botocore.exceptions import ClientError

from gllm_storage.concurrency.workers import run_all
from gllm_storage.s3.errors import SDK_ERRORS, code_of, status_of, translated
from gllm_storage.store import checksums
from gllm_storage.store.checksums import CHECKSUM, WRITE_ID
from gllm_storage.store.create import Answer, Sighting, write_object
from gllm_storage.store.transfer import part_ranges

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gllm_storage.concurrency.stop import Stop
    from gllm_storage.errors import ErrorDetails
    from gllm_storage.files.source import Source
    from gllm_storage.s3.plan import UploadPlan
    from gllm_storage.store.transfer import Transfer

_CONCURRENT_CODES = {"ConditionalRequestConflict", "ConcurrentModification", "OperationAborted"}
_NOT_SENT = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ParamValidationError"}
_CRC_SECTION = 64 * 2**20
_CRC_PIECE = 2**18
_CRC_WORKERS = 4
_PRECONDITION_FAILED = 412
_SERVER_ERROR = 500
_NOT_IMPLEMENTED = 501


@dataclass(frozen=True)
class Upload:
    """One file to become one object.

    Attributes:
        source: The file; empty for a stream, which sends part by part what it is given.
        place: The parameters that name the object, for every request about it.
        write_parameters: Further parameters of PutObject and CreateMultipartUpload, such as ``StorageClass``.
        metadata: User metadata.
        plan: How it goes.
        transfer: What it is about, who watches, and what stops it.
        keep_checksum: Whether the file's CRC-64/NVME goes into the user metadata.
        expected_crc: The CRC, once it is known.
    """

    source: Source
    place: Mapping[str, Any]
    write_parameters: Mapping[str, Any]
    metadata: Mapping[str, str]
    plan: UploadPlan
    transfer: Transfer
    keep_checksum: bool = False
    expected_crc: int | None = None

    def prepared(self) -> Upload:
        """The same with what has to be known before anything is sent: the metadata go first."""
        if not self.keep_checksum or self.expected_crc is not None:
            return self
        crc = _crc_of(self.source, self.transfer)
        kept = f"{checksums.encode(crc)}-{self.source.size}"
        return dataclasses.replace(self, expected_crc=crc, metadata={**self.metadata, CHECKSUM: kept})


def _crc_of(source: Source, transfer: Transfer) -> int:
    """CRC of all that is to be sent, by several threads: nothing is sent meanwhile."""
    ranges = part_ranges(source.size, _CRC_SECTION)
    tasks = [partial(_crc_of_section, source, transfer.stop, *each) for each in ranges]
    crcs = run_all(tasks, _CRC_WORKERS, transfer.stop) if len(tasks) > 1 else [tasks[0]()]
    return checksums.fold_crc64nvme((crc, length) for crc, (_, length) in zip(crcs, ranges, strict=True))


def _crc_of_section(source: Source, stop: Stop, offset: int, length: int) -> int:
    buffer = memoryview(bytearray(min(length, _CRC_PIECE)))  # stays in the processor's cache
    crc = 0
    for start in range(offset, offset + length, _CRC_PIECE):
        stop.check()
        view = buffer[: min(_CRC_PIECE, offset + length - start)]
        source.read_into(start, view)
        crc = checksums.update(view, crc, "crc64nvme")
    return crc


class OngoingUpload(Protocol):
    """One attempt at an upload."""

    @property
    def committing(self) -> bool:
        """Whether the request that makes the object visible may have been sent."""

    def send(self) -> None:
        """Send everything; raises what the SDK raises, or a `StorageError`."""

    def discard(self) -> None:
        """Leave nothing behind; raises no `Exception`."""


class Engine(Protocol):
    """What moves the bytes."""

    def begin_upload(self, upload: Upload, metadata: Mapping[str, str]) -> OngoingUpload:
        """Prepare one attempt at an upload."""


class S3Write:
    """A write as `gllm_storage.store.create` takes it.

    Args:
        engine: Moves the bytes.
        upload: What to write.
        head: HeadObject of the object: its user metadata, or None if it is not there.
    """

    def __init__(self, engine: Engine, upload: Upload, head: Callable[[], Mapping[str, str] | None]) -> None:
        self._engine = engine
        self._upload = upload
        self._head = head
        self._ongoing: OngoingUpload | None = None

    @property
    def details(self) -> ErrorDetails:
        """What the write is about."""
        return self._upload.transfer.details

    @property
    def conditional(self) -> bool:
        """Whether the request carries ``If-None-Match: *``, and the endpoint enforces it."""
        return self._upload.plan.conditional

    def look(self) -> Sighting | None:
        """HeadObject."""
        metadata = self._head()
        return None if metadata is None else Sighting(metadata.get(WRITE_ID))

    def write(self, write_id: str) -> None:
        """Send the object, with the write-id in its user metadata."""
        self._upload = self._upload.prepared()  # now, and not before: looking first may have made it unnecessary
        attempt = dataclasses.replace(self._upload, transfer=self._upload.transfer.attempt())
        self._ongoing = self._engine.begin_upload(attempt, {**self._upload.metadata, WRITE_ID: write_id})
        self._ongoing.send()

    def discard(self) -> None:
        """Abort the multipart upload, if there is one."""
        if self._ongoing:
            self._ongoing.discard()

    def judge(self, error: Exception) -> Answer:
        """What an answer of S3, or none, says about the write."""
        if self._ongoing is None or not self._ongoing.committing:
            return Answer.FAILED
        if isinstance(error, ClientError):
            return _judge_answer(error, conditional=self._upload.plan.conditional)
        if isinstance(error, SDK_ERRORS) and type(error).__name__ not in _NOT_SENT:
            return Answer.UNKNOWN
        return Answer.FAILED


def _judge_answer(error: ClientError, *, conditional: bool) -> Answer:
    status, code = status_of(error), code_of(error)
    if conditional and status == _PRECONDITION_FAILED:
        return Answer.EXISTS
    if conditional and code in _CONCURRENT_CODES:
        return Answer.CONCURRENT
    if conditional and (status == _NOT_IMPLEMENTED or code == "NotImplemented"):
        return Answer.REFUSED
    # NoSuchUpload on completing: an earlier request, whose answer was lost, has completed it.
    if status >= _SERVER_ERROR or code in {"NoSuchUpload", "RequestTimeout"}:
        return Answer.UNKNOWN
    return Answer.FAILED


def upload_object(engine: Engine, upload: Upload, head: Callable[[], Mapping[str, str] | None], *, exclusive: bool) -> None:
    """Upload a file.

    Args:
        engine: Moves the bytes.
        upload: What to do.
        head: HeadObject of the object: its user metadata, or None if it is not there.
        exclusive: Whether to fail if the object exists.

    Raises:
        ObjectExistsError: If `exclusive`, and the object exists.
        StorageError: If the upload fails. Nothing was changed then, and nothing is left behind.
    """
    with translated(upload.transfer.details):
        write_object(S3Write(engine, upload, head), exclusive=exclusive)
