"""Uploads and downloads of one S3 object, with the promises; the bytes are moved by an engine (boto.py)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from botocore.exceptions import ClientError

from gllm_storage import checksums
from gllm_storage.errors import ErrorDetails, IntegrityError, StorageUnavailableError
from gllm_storage.exclusive import Answer, Sighting, backoff, write_object
from gllm_storage.s3.boto import ObjectChangedError
from gllm_storage.s3.errors import SDK_ERRORS, code_of, status_of, translated
from gllm_storage.s3.parallel import Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gllm_storage.local_files import LocalSource, LocalTarget
    from gllm_storage.objects import ObjectInfo
    from gllm_storage.s3.plan import TransferSettings, UploadPlan

WRITE_ID = "gllm-write-id"
CHECKSUM = "gllm-crc64nvme"
"""Keys in the user metadata."""

_RESTARTS = 5
"""How often a download starts over because the object was replaced."""
_CORRUPTIONS = 2
"""How often a download is tried whose content does not match the checksum."""
_CONCURRENT_CODES = {"ConditionalRequestConflict", "ConcurrentModification", "OperationAborted"}
_NOT_SENT = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ParamValidationError"}
_PRECONDITION_FAILED = 412
_SERVER_ERROR = 500
_NOT_IMPLEMENTED = 501


def no_progress(_: int) -> None:
    """Nobody watches."""


class Sink(Protocol):
    """Where downloaded bytes go."""

    def write_at(self, offset: int, data: bytes) -> None:
        """Take bytes at an offset of the object; any thread may give them."""


class MemorySink:
    """A range of an object, in memory.

    Args:
        start: Where in the object it begins.
        length: Its length in bytes.
    """

    def __init__(self, start: int, length: int) -> None:
        self._start = start
        self._buffer = bytearray(length)

    def write_at(self, offset: int, data: bytes) -> None:
        """Take bytes at an offset of the object."""
        self._buffer[offset - self._start : offset - self._start + len(data)] = data

    def getvalue(self) -> bytes:
        """What was taken."""
        return bytes(self._buffer)


@dataclass(frozen=True)
class Transfer:
    """What all uploads and downloads have.

    Attributes:
        details: What it is about, for errors.
        settings: How objects are moved.
        progress: Told the number of bytes that were moved, from any thread.
        expect: Told the whole number before.
        stop: Ends the transfer when set.
    """

    details: ErrorDetails
    settings: TransferSettings
    progress: Callable[[int], None] = no_progress
    expect: Callable[[int], None] = no_progress
    stop: Stop = field(default_factory=Stop)

    def attempt(self) -> Transfer:
        """The same, with a stop of its own for one attempt."""
        return dataclasses.replace(self, stop=Stop(self.stop))


@dataclass(frozen=True)
class Upload:
    """One file to become one object.

    Attributes:
        source: The file.
        place: The parameters that name the object, for every request about it.
        write_parameters: Further parameters of PutObject and CreateMultipartUpload, such as ``StorageClass``.
        metadata: User metadata.
        plan: How it goes.
        transfer: What it is about, who watches, and what stops it.
        keep_checksum: Whether the file's CRC-64/NVME goes into the user metadata.
        expected_crc: The CRC, once it is known.
    """

    source: LocalSource
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
        crc = checksums.crc_of(self.source.read_at, self.source.size)
        kept = f"{checksums.encode(crc)}-{self.source.size}"
        return dataclasses.replace(self, expected_crc=crc, metadata={**self.metadata, CHECKSUM: kept})


@dataclass(frozen=True)
class Download:
    """One version of one object to be read.

    Attributes:
        bucket: The bucket.
        key: The key.
        version: What HeadObject said: the size, and the ETag that pins the version.
        target: Where it goes.
        transfer: What it is about, who watches, and what stops it.
        part_size: Bytes in a ranged read.
    """

    bucket: str
    key: str
    version: ObjectInfo
    target: Sink
    transfer: Transfer
    part_size: int


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

    def fetch(self, download: Download) -> None:
        """Read the content; raises `ObjectChangedError` if the object was replaced meanwhile."""


class S3Write:
    """A write as `gllm_storage.exclusive` takes it.

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


def download_object(engine: Engine, first: Download, target: LocalTarget, head: Callable[[], ObjectInfo]) -> None:
    """Read one version of an object, whole and verified, into a target.

    Args:
        engine: Moves the bytes.
        first: What to do; `version` is what `head` said.
        target: The download's target.
        head: HeadObject, for the new version when the object was replaced.

    Raises:
        ObjectNotFoundError: If the object was deleted meanwhile.
        IntegrityError: If the content does not match its checksum, twice.
        StorageError: If the download fails.
    """
    details = first.transfer.details
    download, corruptions = dataclasses.replace(first, transfer=first.transfer.attempt()), 0
    for attempt in range(_RESTARTS + _CORRUPTIONS):
        target.allocate(download.version.size)
        try:
            with translated(details):
                engine.fetch(download)
            _verify(download, target)
        except ObjectChangedError:
            backoff(attempt)
        except IntegrityError:
            corruptions += 1
            if corruptions == _CORRUPTIONS:
                raise
        else:
            return
        download = dataclasses.replace(download, version=head(), transfer=first.transfer.attempt())
    raise StorageUnavailableError(
        f"download of {details.url}: the object was replaced again and again while it was read; gave up after "
        f"{_RESTARTS + _CORRUPTIONS} attempts. Try again",
        details,
    )


def _verify(download: Download, target: LocalTarget) -> None:
    """Compare what stands in the file with the checksum that the store, or our metadata, keeps."""
    if download.version.checksum is None:
        return
    algorithm, expected = download.version.checksum.split(":", 1)
    found = checksums.checksum_of(target.read_at, download.version.size, algorithm)
    if found != expected:
        details = download.transfer.details
        raise IntegrityError(
            f"download of {details.url}: the content has {algorithm} {found}, but {expected} was stored; the local file was "
            "left as it was. If this stays so, the object is damaged: upload it again",
            details,
        )
