"""Uploads of one object: in one PutObject, or in parts (multipart.py); and their outcome, for `store.create`."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlencode

from botocore.exceptions import ClientError

from gllm_storage.concurrency.stop import Stop
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import ObjectExistsError, StorageError, note_attempts
from gllm_storage.files.source import CHUNK
from gllm_storage.http.pool import run_in_place
from gllm_storage.info import Stored, plain_etag
from gllm_storage.s3.body import Body, body_of, send_intact
from gllm_storage.s3.errors import (
    DIGEST_CODES,
    SDK_ERRORS,
    TRANSIENT_EXCEPTIONS,
    code_of,
    is_refusal,
    is_repeated,
    is_transient,
    require_any,
    set_attempts,
    status_of,
)
from gllm_storage.s3.multipart import MultipartUpload
from gllm_storage.store import checksums
from gllm_storage.store.checksums import CHECKSUM, WRITE_ID
from gllm_storage.store.create import Answer, exists_error, require_size
from gllm_storage.store.retry import rescued, s3_requests
from gllm_storage.store.transfer import part_ranges

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mypy_boto3_s3.client import S3Client

    from gllm_storage.errors import ErrorDetails
    from gllm_storage.files.source import Source
    from gllm_storage.info import ObjectInfo, ObjectProperties
    from gllm_storage.s3.probe import UploadPlan
    from gllm_storage.s3.requests import S3Requests
    from gllm_storage.s3.settings import S3TransferSettings
    from gllm_storage.store.port import UploadRequest

_CONCURRENT_CODES = {"ConditionalRequestConflict", "ConcurrentModification", "OperationAborted"}
_NOT_SENT = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ParamValidationError"}
_NOT_PARAMETERS = {"Metadata", "acl", "chunksize", "max_concurrency"}
"""Options that are not parameters of PutObject: s3fs's own."""
_PARAMETERS = {
    "content_type": "ContentType",
    "content_encoding": "ContentEncoding",
    "content_disposition": "ContentDisposition",
    "content_language": "ContentLanguage",
    "cache_control": "CacheControl",
    "metadata": "Metadata",
    "storage_class": "StorageClass",
    "acl": "ACL",
    "encryption": "ServerSideEncryption",
    "kms_key": "SSEKMSKeyId",
}
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z\-]+")
_IN_PLACE = 2**16
"""Bytes of a body that is sent together with the head of its request."""
_CRC_SECTION = 64 * 2**20
_CRC_PIECE = 2**18
_CRC_WORKERS = 4
_PRECONDITION_FAILED = 412
_NOT_IMPLEMENTED = 501


def parameters_of(properties: ObjectProperties, connection: Mapping[str, Any]) -> dict[str, Any]:
    """Properties as parameters of PutObject and CreateMultipartUpload.

    Args:
        properties: The properties.
        connection: The parameters of the connection, which these override.

    Raises:
        ValueError: If S3 does not accept a value, or the connection has a customer key and a property names another key.
    """
    given = properties.given()
    if "SSECustomerKey" in connection and (properties.encryption or properties.kms_key):
        raise ValueError("encryption and kms_key contradict sse_customer_key of the client; leave one out")
    texts = {name: value for name, value in given.items() if isinstance(value, str)}
    texts |= {f"metadata {name!r}": value for name, value in given.get("metadata", {}).items()}
    for name, value in texts.items():
        if not value.isascii():
            raise ValueError(f"{name}={value!r}: S3 accepts ASCII only")
    for name in given.get("metadata", {}):
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"metadata {name!r}: S3 accepts letters, digits and punctuation of HTTP headers in names")
    parameters = {_PARAMETERS[name]: value for name, value in given.items() if name in _PARAMETERS}
    if "tags" in given:
        parameters["Tagging"] = urlencode(given["tags"], quote_via=quote)
    if "SSEKMSKeyId" in parameters and not str(connection.get("ServerSideEncryption", "")).startswith("aws:kms"):
        parameters.setdefault("ServerSideEncryption", "aws:kms")
    return parameters


def write_parameters(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a request as parameters for botocore, which takes no None."""
    given = {name: value for name, value in options.items() if name not in _NOT_PARAMETERS and value is not None}
    return {**given, "ACL": options["acl"]} if options.get("acl") else given


@dataclass(frozen=True)
class S3Upload:
    """An upload request, and the form in which S3 gets it.

    Attributes:
        request: The request.
        requests: The control requests of the bucket.
        plan: The form.
        settings: Part size and concurrency of this upload.
        crc: CRC-64/NVME of the content, if it was computed before anything is sent.
        content: The content, if it is small and was read then.
    """

    request: UploadRequest
    requests: S3Requests
    plan: UploadPlan
    settings: S3TransferSettings
    crc: int | None = None
    content: bytes | None = None

    @cached_property
    def place(self) -> dict[str, Any]:
        """The parameters that name the object, for every request about it."""
        return {"Bucket": self.requests.bucket, "Key": self.request.key}

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """The options as parameters for botocore."""
        return write_parameters(self.request.options)

    @cached_property
    def checksum(self) -> str | None:
        """The CRC as a text, if it is known: the metadata have it, and a header."""
        return None if self.crc is None else checksums.encode(self.crc)

    def metadata(self, write_id: str) -> dict[str, str]:
        """The user metadata: the caller's, the write-id, and the CRC if it is known."""
        kept = {} if self.checksum is None else {CHECKSUM: f"{self.checksum}-{self.request.source.size}"}
        return {**(self.request.options.get("Metadata") or {}), **kept, WRITE_ID: write_id}

    def with_crc(self) -> S3Upload:
        """The same upload with the CRC of its content, which goes into the metadata and so has to be known first.

        Amazon keeps a checksum of the complete object itself. Other stores may not, so there the metadata keep ours.
        """
        if self.crc is not None or self.requests.connection.is_amazon:
            return self
        source = self.request.source
        content = source.read_at(0, source.size) if source.size <= CHUNK and not self.plan.multipart else None
        crc = _crc_of(source, self.request.transfer.stop) if content is None else checksums.crc64nvme(content)
        return S3Upload(self.request, self.requests, self.plan, self.settings, crc, content)

    def require_same(self, crc: int) -> None:
        """Check that the sent content is the content at the beginning of the upload.

        Raises:
            StorageError: If it is not.
        """
        self.request.source.require_unchanged()
        if self.crc not in {None, crc}:
            raise self.request.source.changed()

    def require_absent(self) -> None:
        """Check that no object exists, before an exclusive upload that the store completes without a condition.

        Only a `content_id` permits such an upload without a warning: an object that appears after this check is replaced by
        an equal one. Readers of it may notice.

        Raises:
            ObjectExistsError: If one exists.
            StorageError: If the request fails.
        """
        request = self.request
        is_checked = self.plan.conditional or not (request.exclusive and request.content_id)
        if not is_checked and self.requests.find(request.key, request.details.operation) is not None:
            raise exists_error(request.details)

    def stored(self, answer: Mapping[str, Any], checksum: str, size: int) -> Stored:
        """The stored object of that size and CRC, from the answer to the request that made it."""
        etag = plain_etag(str(answer.get("ETag") or "")) or None
        url = f"s3://{self.requests.bucket}/{self.request.key}"
        return Stored(url, size, etag, answer.get("VersionId"), f"crc64nvme:{checksum}")

    def require_size(self, stored: Stored, size: int) -> Stored:
        """Check the size of the stored object; see `store.create.require_size`.

        Raises:
            IntegrityError: If the store holds less or more than the content.
        """
        delete = partial(self.requests.delete_version, self.request.key, stored) if self.request.exclusive else None
        return require_size(stored, size, self.request.details, delete)


class Attempt(Protocol):
    """One attempt at an upload."""

    @property
    def committing(self) -> bool:
        """Whether the request that makes the object visible may have been sent."""

    def send(self) -> Stored:
        """Send everything.

        Raises:
            Exception: Any exception of botocore, or a `StorageError`.
        """

    def discard(self) -> None:
        """Leave nothing behind. Raises no `Exception`."""


class S3Write:
    """A write of an upload, for `store.create.write_object`.

    Args:
        upload: The upload.
        attempt: The attempt of a stream that has sent its parts already; None makes one for each `write`.
    """

    def __init__(self, upload: S3Upload, attempt: Attempt | None = None) -> None:
        self._upload = upload
        self._sent = attempt
        self._attempt: Attempt | None = None
        self._attempts = 0
        self._answer: Answer | None = None

    @property
    def details(self) -> ErrorDetails:
        """The operation, for errors."""
        return self._upload.request.details

    @property
    def conditional(self) -> bool:
        """Whether the request carries ``If-None-Match: *``, and the endpoint enforces it."""
        return self._upload.plan.conditional

    def head(self) -> ObjectInfo | None:
        """HeadObject."""
        return self._upload.requests.find(self._upload.request.key, self.details.operation)

    def write(self, write_id: str) -> Stored:
        """Send the object, with the write-id in its user metadata."""
        self._attempt = self._sent or self._new_attempt(write_id)
        return self._attempt.send()

    def discard(self) -> None:
        """Abort the multipart upload, if there is one.

        With a content id the parts stay for the next upload, unless S3 does not take them any more.
        """
        keeps = self._upload.request.content_id and self._answer not in {Answer.EXISTS, Answer.CONCURRENT}
        if self._attempt and not keeps:
            self._attempt.discard()

    def judge(self, error: Exception) -> Answer:
        """The meaning of an answer of S3, or of none."""
        self._answer = self._judge(error)
        return self._answer

    def _judge(self, error: Exception) -> Answer:
        if isinstance(error, ObjectExistsError):
            return Answer.EXISTS
        if self._attempt is None or not self._attempt.committing:
            # Another process may have gone on with the same parts, and completed the upload.
            is_gone = isinstance(error, ClientError) and code_of(error) == "NoSuchUpload"
            return Answer.UNKNOWN if is_gone and self._upload.request.content_id else Answer.FAILED
        if isinstance(error, ClientError):
            return judge_answer(error, conditional=self.conditional)
        if isinstance(error, SDK_ERRORS) and type(error).__name__ not in _NOT_SENT:
            return Answer.UNKNOWN
        return Answer.FAILED

    def _new_attempt(self, write_id: str) -> Attempt:
        self._upload = self._upload.with_crc()  # now, and not before: the HEAD request may have made it unnecessary
        self._attempts += 1
        metadata, stop = self._upload.metadata(write_id), Stop(self._upload.request.transfer.stop)
        if not self._upload.plan.multipart:
            return PutUpload(self._upload, metadata, stop)
        # After a conflict S3 wants a new upload with all its parts.
        return MultipartUpload(
            self._upload, metadata, stop, goes_on=bool(self._upload.request.content_id) and self._attempts == 1
        )


class PutUpload:
    """An upload in one PutObject.

    Args:
        upload: The upload.
        metadata: All user metadata.
        stop: Cancels it.
    """

    committing = True

    def __init__(self, upload: S3Upload, metadata: Mapping[str, str], stop: Stop) -> None:
        self._upload = upload
        self._metadata = metadata
        self._stop = stop

    def send(self) -> Stored:
        """Send the object.

        Raises:
            botocore.exceptions.ClientError: If the store refuses.
            botocore.exceptions.BotoCoreError: If no answer arrives.
            StorageError: If the file changed.
        """
        # Ctrl-C, which interrupts the main thread, must not leave the request in progress.
        upload = self._upload
        if upload.request.source.size <= _IN_PLACE and upload.requests.connection.writes_in_place:
            return run_in_place(self._put, self._stop)
        (stored,) = run_all([self._put], 1, self._stop)
        return stored

    def discard(self) -> None:
        """Do nothing: a failed PutObject leaves nothing."""

    def _put(self) -> Stored:
        upload = self._upload
        source, connection = upload.request.source, upload.requests.connection
        condition = {"IfNoneMatch": "*"} if upload.plan.conditional else {}
        progress = upload.request.transfer.progress
        with self._body() as (body, crc):
            upload.require_same(crc)
            checksum = upload.checksum or checksums.encode(crc)
            parameters = {
                **connection.parameters("PutObject"),
                **write_parameters(upload.request.options),
                **condition,
                "Bucket": upload.requests.bucket,
                "Key": upload.request.key,
                "Metadata": dict(self._metadata),
            }
            if source.size > upload.settings.multipart_threshold:
                stored = self._send_large(body, checksum, parameters)
            else:
                answer = self._send(connection.client, body, checksum, parameters, upload.settings.max_attempts)
                stored = upload.stored(answer, checksum, source.size)
        progress(source.size)
        return stored

    def _body(self) -> contextlib.AbstractContextManager[tuple[Body, int]]:
        upload, source = self._upload, self._upload.request.source
        if upload.content is not None and upload.crc is not None:
            return contextlib.nullcontext((upload.content, upload.crc))
        return body_of(source, 0, source.size, upload.settings, self._stop, progress=upload.request.transfer.progress)

    def _send_large(self, body: Body, checksum: str, parameters: Mapping[str, Any]) -> Stored:
        """Send a large object once, and again at most once.

        A HEAD request precedes the second time: the answer may be the only thing that was lost.
        """
        upload = self._upload
        details, stop = upload.request.details, self._stop
        policy = dataclasses.replace(s3_requests(upload.settings.max_attempts), limit=min(2, upload.settings.max_attempts))
        attempt = 0
        while True:
            attempt += 1
            client = upload.requests.connection.patient_client(upload.request.source.size)
            try:
                answer = self._send(client, body, checksum, parameters, 1)
                return upload.stored(answer, checksum, upload.request.source.size)
            except (ClientError, *TRANSIENT_EXCEPTIONS) as error:
                if isinstance(error, ClientError):
                    set_attempts(error, attempt)
                else:
                    note_attempts(error, attempt)
                if attempt == policy.limit or not _is_worth_resending(error):
                    raise
                found = self._find_ours()
                if found is not None:
                    rescued(details, attempt, policy.limit, error)
                    return found
                policy.again(details, attempt, error, stop=stop)
            if not isinstance(body, bytes):
                body.seek(0)

    def _find_ours(self) -> Stored | None:
        """The object, if this upload has stored it."""
        requests, request = self._upload.requests, self._upload.request
        with contextlib.suppress(StorageError):  # this request is only for speed
            found = requests.find(request.key, request.details.operation)
            is_ours = found is not None and (found.metadata or {}).get(WRITE_ID) == self._metadata[WRITE_ID]
            if found is not None and is_ours and found.size == request.source.size:
                return Stored.of(found)
        return None

    def _send(self, client: S3Client, body: Body, checksum: str, parameters: Mapping[str, Any], limit: int) -> Any:
        details = self._upload.request.details
        send = partial(
            self._upload.requests.connection.checksum_headers.call,
            client.put_object,
            {"ChecksumCRC64NVME": checksum},
            details,
            **parameters,
            Body=body,
        )
        answer = send_intact(send, body, limit, details)
        require_any(answer, "ETag")
        return answer


def _is_worth_resending(error: Exception) -> bool:
    """Whether the same request may succeed the second time: no answer, a busy server, or bytes that changed on the way."""
    return not isinstance(error, ClientError) or is_transient(error) or code_of(error) in DIGEST_CODES


def judge_answer(error: ClientError, *, conditional: bool) -> Answer:
    """The meaning of S3's refusal of the request that makes an object visible."""
    status, code = status_of(error), code_of(error)
    if conditional and status == _PRECONDITION_FAILED:
        return Answer.EXISTS
    if conditional and code in _CONCURRENT_CODES:
        return Answer.CONCURRENT
    if conditional and not is_repeated(error) and (status == _NOT_IMPLEMENTED or code == "NotImplemented"):
        return Answer.REFUSED
    return Answer.FAILED if is_refusal(error) else Answer.UNKNOWN


def _crc_of(source: Source, stop: Stop) -> int:
    """CRC of the complete content, by several threads: nothing is sent meanwhile."""
    ranges = part_ranges(source.size, _CRC_SECTION)
    tasks = [partial(_crc_of_section, source, stop, *each) for each in ranges]
    crcs = run_all(tasks, _CRC_WORKERS, stop) if len(tasks) > 1 else [tasks[0]()]
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
