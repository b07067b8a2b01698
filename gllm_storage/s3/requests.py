"""The control requests on the objects of a bucket: HEAD, listings, the check of the bucket; and their answers."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import BucketNotFoundError, ErrorDetails, ObjectNotFoundError, Remedy, StorageError
from gllm_storage.info import ObjectInfo, plain_etag
from gllm_storage.s3.body import crc64nvme_of, md5_of
from gllm_storage.s3.errors import (
    SDK_ERRORS,
    UnreadableAnswerError,
    code_of,
    is_not_found,
    not_found,
    require_any,
    status_of,
    translate,
    translated,
)
from gllm_storage.s3.listing import pages_of
from gllm_storage.store.checksums import ALGORITHMS, CHECKSUM, WRITE_ID, etag_of_parts, is_well_formed, kept_checksum
from gllm_storage.store.retry import s3_requests

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from botocore.model import OperationModel

    from gllm_storage.info import Stored
    from gllm_storage.s3.connection import S3Connection
    from gllm_storage.store.transfer import Transfer

_logger = logging.getLogger(__name__)

_NEEDS_DIAGNOSIS = {400, 403}
_NOT_FOUND = 404
_RANGE = re.compile(r"bytes [0-9]+-[0-9]+/([0-9]+)")
_RECENTLY = 30.0
_EXISTS = {301, 403}
_BATCH = 1000
"""The most keys that DeleteObjects takes."""
_BUSY = {"InternalError", "ServiceUnavailable", "SlowDown"}
_STATUS = {"AccessDenied": 403}
_GONE = {"NoSuchKey", "NoSuchVersion"}
_BODIES = {"PutObject", "UploadPart"}
_DIGESTS = ("content-md5", "x-amz-checksum-", "x-amz-trailer")
_KEPT = f"x-amz-meta-{CHECKSUM}"
_CHECKSUM_FIELDS = {f"Checksum{algorithm.upper()}": algorithm for algorithm in ALGORITHMS}
_CHECKSUM_HEADERS = {f"x-amz-checksum-{algorithm}": algorithm for algorithm in ALGORITHMS}
_CONFIRMED = 4096
"""Keys whose size is remembered."""
_NO_BULK_DELETE = {400, 405, 411, 501}
"""The status of an endpoint that refuses DeleteObjects as such."""


@dataclass(frozen=True)
class Completed:
    """The facts about a completed multipart upload that the store has to confirm.

    Attributes:
        size: Size in bytes.
        etags: The ETags of the parts, in order.
        write_id: The write-id in the user metadata.
        checksum: CRC-64/NVME of the complete content, in base64; None if it is unknown.
    """

    size: int
    etags: Sequence[str]
    write_id: str
    checksum: str | None = None


class S3Requests:
    """The control requests of one bucket.

    Args:
        connection: The endpoint.
        bucket: The bucket.
    """

    def __init__(self, connection: S3Connection, bucket: str) -> None:
        self.connection = connection
        self.bucket = bucket
        self._seen = -_RECENTLY
        self._confirmed: dict[str, tuple[int, str]] = {}
        self.deletes_in_bulk = True
        """Whether the endpoint has not refused DeleteObjects yet."""

    def details(self, key: str, operation: str) -> ErrorDetails:
        """The facts about an operation on a key, for errors."""
        return ErrorDetails("s3", f"s3://{self.bucket}/{key}", operation)

    def head(self, key: str, operation: str, *, checksums: bool = False) -> Mapping[str, Any]:
        """HeadObject.

        Args:
            key: The key.
            operation: The operation that asks, for errors.
            checksums: Whether to request the stored checksum.

        Raises:
            ObjectNotFoundError: If the object does not exist.
            BucketNotFoundError: If the bucket does not exist.
            StorageError: If the request fails.
        """
        details, connection = self.details(key, operation), self.connection
        place: dict[str, Any] = {"Bucket": self.bucket, "Key": key, **connection.parameters("HeadObject")}
        mode: dict[str, Any] = {"ChecksumMode": "ENABLED"} if checksums else {}
        try:
            with translated(details):
                try:
                    answer = connection.client.head_object(**place, **mode)
                except ClientError as error:
                    if not (is_not_found(error) or status_of(error) in _NEEDS_DIAGNOSIS):
                        raise
                    raise self._diagnosed(key, details, error) from error
                require_any(answer, "ETag")
                if not isinstance(answer.get("ContentLength"), int) or answer["ContentLength"] < 0:
                    raise UnreadableAnswerError("its answer to a HEAD request has no Content-Length")
        except ObjectNotFoundError:
            self.require_bucket(details)
            raise
        self._seen = time.monotonic()
        if checksums and _checksum(answer, metadata_of(answer)) is None:  # else a download has to compare with the checksum
            self.confirm(key, answer["ContentLength"], plain_etag(answer["ETag"]))
        return answer

    def confirm(self, key: str, size: int, etag: str) -> None:
        """Remember the size of a version of an object that a HEAD request has stated.

        Args:
            key: The key.
            size: Size in bytes.
            etag: The ETag without quotes.
        """
        if len(self._confirmed) >= _CONFIRMED:
            self._confirmed.clear()
        self._confirmed[key] = size, etag

    def knows(self, key: str) -> bool:
        """Whether a HEAD request has stated the size of a version of an object."""
        return key in self._confirmed

    def is_confirmed(self, key: str, size: int, etag: str) -> bool:
        """Whether a HEAD request has stated that a version of an object has this size.

        An answer to GetObject without a checksum may be a page of a proxy, or cut; its size and its ETag are compared with
        those of a HEAD request. An ETag names a version, so that an earlier HEAD request is as good as a new one.
        """
        return self._confirmed.get(key) == (size, etag)

    def find(self, key: str, operation: str) -> ObjectInfo | None:
        """HeadObject, without the checksum; None if the object does not exist.

        Raises:
            StorageError: If the request fails.
        """
        try:
            return info_from_head(self.head(key, operation), f"s3://{self.bucket}/{key}")
        except ObjectNotFoundError:
            return None

    def incomplete(self, key: str, operation: str, answer: Mapping[str, Any], completed: Completed) -> ObjectInfo | None:
        """The object of a completed multipart upload, if the store has lost some of it.

        The ETag of most stores is computed from the parts that the object has, which is enough. If it tells nothing, as on
        Ceph 16 or with encryption by KMS, a HEAD request says the size.

        Args:
            key: The key.
            operation: The operation, for errors.
            answer: The answer to CompleteMultipartUpload.
            completed: The complete object.

        Returns:
            None if the object is complete, is another writer's, or if that is unknown.
        """
        etag = plain_etag(str(answer.get("ETag") or ""))
        if etag and etag == etag_of_parts(completed.etags):
            return None
        is_same = completed.checksum and completed.checksum == answer.get("ChecksumCRC64NVME")
        if is_same and _is_of_object(answer.get("ChecksumType"), etag, "crc64nvme"):
            return None
        try:
            found = self.find(key, operation)
        except StorageError:
            return None  # such as credentials without read permission
        if found is None or found.size == completed.size:
            return None
        is_ours = (found.metadata or {}).get(WRITE_ID) == completed.write_id or (bool(etag) and found.etag == etag)
        return found if is_ours else None

    def delete_version(self, key: str, stored: Stored) -> None:
        """Delete an object if it is still that version, as far as the store can tell.

        Raises:
            StorageError: If it cannot be deleted.
        """
        version: dict[str, Any] = {"VersionId": stored.version} if stored.version else {"IfMatch": f'"{stored.etag}"'}
        place: dict[str, Any] = {"Bucket": self.bucket, "Key": key, **self.connection.parameters("DeleteObject")}
        with translated(self.details(key, "delete")):
            self.connection.client.delete_object(**place, **version)

    def pages(self, prefix: str, **only: Any) -> Iterator[Any]:
        """The pages of a listing.

        Args:
            prefix: The prefix of the keys.
            **only: Further parameters of ListObjectsV2, such as ``Delimiter``.

        Raises:
            StorageError: If the request for any page fails.
        """
        with translated(self.details(prefix, "list")):
            parameters = {"Bucket": self.bucket, "Prefix": prefix, **only, **self.connection.parameters("ListObjectsV2")}
            yield from pages_of(self.connection.client, parameters)

    def require_bucket(self, details: ErrorDetails, *, recently: bool = True) -> None:
        """Check that the bucket exists: a HeadObject answers a bare 404 for a missing key and a missing bucket alike.

        Args:
            details: The operation that asks, for errors.
            recently: Whether an answer within the last seconds is enough, which saves a request for each missing key.

        Raises:
            BucketNotFoundError: If the bucket does not exist.
            StorageError: If the request fails.
        """
        if recently and time.monotonic() - self._seen < _RECENTLY:
            return
        connection = self.connection
        with translated(details):
            try:
                connection.client.head_bucket(Bucket=self.bucket, **connection.parameters("HeadBucket"))
            except ClientError as error:
                if status_of(error) == _NOT_FOUND:
                    raise self._no_bucket(details) from error
                # 403: no permission for this request; 301: the bucket is in another region. It exists, which is enough.
                if status_of(error) not in _EXISTS:
                    raise
        self._seen = time.monotonic()

    def _no_bucket(self, details: ErrorDetails) -> BucketNotFoundError:
        known = dataclasses.replace(details, status=_NOT_FOUND, code="NoSuchBucket")
        return BucketNotFoundError(
            f"s3 {details.operation} of {details.url} failed: there is no bucket {self.bucket!r} at "
            f"{self.connection.endpoint_url}",
            known,
            Remedy.CREATE_BUCKET,
        )

    def _diagnosed(self, key: str, details: ErrorDetails, error: ClientError) -> Exception:
        """The error for a refused HEAD request, whose answer has no body to say more than "400" or "403"."""
        if is_not_found(error):
            return not_found(dataclasses.replace(details, status=status_of(error), code=code_of(error)))
        return translate(self._explained(key, error), details)

    def _explained(self, key: str, error: ClientError) -> ClientError:
        """The same refusal with its reason, such as ExpiredToken, from a GET of one byte."""
        connection = self.connection
        try:
            answer = connection.client.get_object(
                Bucket=self.bucket, Key=key, Range="bytes=0-0", **connection.parameters("GetObject")
            )
        except ClientError as explained:
            return explained if status_of(explained) in _NEEDS_DIAGNOSIS else error
        except SDK_ERRORS:
            return error
        answer["Body"].close()
        return error


def delete_objects(requests: S3Requests, keys: Sequence[str], transfer: Transfer) -> None:
    """Delete objects by DeleteObjects, which reports failures one by one in a successful answer.

    An object that does not exist is not an error.

    Args:
        requests: The control requests of the bucket.
        keys: The keys, any number of them.
        transfer: The operation, and its stop.

    Raises:
        StorageError: If one could not be deleted; the objects before it were.
    """
    policy = s3_requests(transfer.settings.max_attempts)
    for start in range(0, len(keys), _BATCH):
        left = list(keys[start : start + _BATCH])
        attempt = 0
        while left:
            attempt += 1
            transfer.stop.check()
            failures = _delete(requests, left, transfer)
            for failure in failures:
                if attempt == policy.limit or failure.get("Code") not in _BUSY:
                    raise _error(requests.bucket, failure, attempt, transfer)
            left = [failure["Key"] for failure in failures]
            if left:
                policy.again(transfer.details, attempt, str(failures[0].get("Code")), stop=transfer.stop)


def _delete(requests: S3Requests, keys: Sequence[str], transfer: Transfer) -> list[dict[str, Any]]:
    """The failures among the answers.

    Some stores have no DeleteObjects, or demand a header of it that we do not send. Their objects are deleted one by one.
    """
    if requests.deletes_in_bulk:
        try:
            return _delete_in_bulk(requests, keys, transfer)
        except StorageError as error:
            # A refusal for another reason, such as credentials, has another class.
            if type(error) is not StorageError or error.status not in _NO_BULK_DELETE:
                raise
            _logger.info("the endpoint refuses DeleteObjects (%s); objects are deleted one by one", error.code)
            requests.deletes_in_bulk = False
    tasks = [partial(_delete_one, requests, key, transfer) for key in keys]
    run_all(tasks, transfer.settings.max_concurrency, transfer.stop)
    return []


def _delete_in_bulk(requests: S3Requests, keys: Sequence[str], transfer: Transfer) -> list[dict[str, Any]]:
    wanted: Any = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
    with translated(transfer.details):
        answer: Any = requests.connection.client.delete_objects(
            Bucket=requests.bucket, Delete=wanted, **requests.connection.parameters("DeleteObjects")
        )
    return [failure for failure in answer.get("Errors", []) if failure.get("Code") not in _GONE]


def _delete_one(requests: S3Requests, key: str, transfer: Transfer) -> None:
    connection = requests.connection
    details = dataclasses.replace(transfer.details, url=f"s3://{requests.bucket}/{key}")
    with contextlib.suppress(ObjectNotFoundError), translated(details):
        connection.client.delete_object(Bucket=requests.bucket, Key=key, **connection.parameters("DeleteObject"))


def add_digest(model: OperationModel, params: dict[str, Any], *, amazon: bool, **_: Any) -> None:
    """Add a digest to a request that needs one: a handler of botocore's event ``before-call``.

    - Where S3 requires a digest, as in DeleteObjects, boto3 sends a CRC-32. Servers of before 2022 answer
      400 MissingContentMD5 to it; so they get Content-MD5 too. Amazon does not: its directory buckets refuse it.
    - Buckets with Object Lock refuse objects and parts without a digest. Our own requests have one; s3fs's have none with
      ``request_checksum_calculation="when_required"``.
    """
    body: Any = params.get("body") or b""
    headers, required = params["headers"], model.http_checksum.get("requestChecksumRequired")
    if required and not model.has_streaming_input:
        if not amazon:
            headers.setdefault("Content-MD5", md5_of(body))
        return
    # boto3 makes a file of bytes. A body that cannot be rewound is sent as it is.
    readable = isinstance(body, (bytes, bytearray)) or hasattr(body, "seek")
    if model.name in _BODIES and readable and not _has_digest(params):
        name, digest = ("x-amz-checksum-crc64nvme", crc64nvme_of) if amazon else ("Content-MD5", md5_of)
        headers[name] = digest(body)


def _has_digest(params: dict[str, Any]) -> bool:
    computed = params.get("context", {}).get("checksum", {}).get("request_algorithm")
    return bool(computed) or any(name.lower().startswith(_DIGESTS) for name in params["headers"])


def _error(bucket: str, failure: dict[str, Any], attempts: int, transfer: Transfer) -> Exception:
    code = failure.get("Code", "")
    status = 503 if code in _BUSY else _STATUS.get(code, 400)
    answer: Any = {"Error": failure, "ResponseMetadata": {"HTTPStatusCode": status, "RetryAttempts": attempts - 1}}
    details = dataclasses.replace(transfer.details, url=f"s3://{bucket}/{failure.get('Key', '')}")
    return translate(ClientError(answer, "DeleteObjects"), details)


def info_from_head(answer: Mapping[str, Any], url: str) -> ObjectInfo:
    """The facts in the answer to a HeadObject or GetObject."""
    metadata = metadata_of(answer)
    return ObjectInfo(
        url=url,
        size=answer["ContentLength"],
        etag=plain_etag(answer["ETag"]) or None,
        last_modified=answer.get("LastModified"),
        checksum=_checksum(answer, metadata),
        metadata=metadata,
        version=answer.get("VersionId"),
        content_type=answer.get("ContentType"),
        content_encoding=answer.get("ContentEncoding") or None,
        content_disposition=answer.get("ContentDisposition"),
        content_language=answer.get("ContentLanguage"),
        cache_control=answer.get("CacheControl"),
        storage_class=answer.get("StorageClass"),
        kms_key=answer.get("SSEKMSKeyId"),
    )


def size_in(answer: Mapping[str, Any]) -> int | None:
    """Size in bytes of the object of which an answer to GetObject holds all or a range; None if it does not tell."""
    content_range = answer.get("ContentRange")
    if content_range is None:
        length: int | None = answer.get("ContentLength")
        return length
    found = _RANGE.fullmatch(str(content_range))
    return int(found[1]) if found else None


def objects_in(page: Mapping[str, Any], bucket: str) -> Iterator[ObjectInfo]:
    """The objects of a page of a listing, without folder markers (empty objects whose key ends with ``/``)."""
    for entry in page.get("Contents", []):
        if entry["Size"] or not entry["Key"].endswith("/"):
            yield info_from_listing(entry, f"s3://{bucket}/{entry['Key']}")


def info_from_listing(entry: Mapping[str, Any], url: str) -> ObjectInfo:
    """The facts in an entry of a listing."""
    return ObjectInfo(
        url=url,
        size=entry["Size"],
        etag=plain_etag(str(entry.get("ETag", ""))) or None,
        last_modified=entry.get("LastModified"),
    )


def metadata_of(answer: Mapping[str, Any]) -> Mapping[str, str]:
    """The user metadata of an answer."""
    # Some servers keep the case that HTTP libraries give to header names.
    return {name.lower(): value for name, value in answer.get("Metadata", {}).items()}


def _checksum(answer: Mapping[str, Any], metadata: Mapping[str, str]) -> str | None:
    """The full-object checksum: the store's own, or else ours from the metadata, which was computed from the file."""
    stored = {_CHECKSUM_FIELDS[name]: answer[name] for name in _CHECKSUM_FIELDS.keys() & answer.keys()}
    kept = metadata.get(CHECKSUM, "")
    if not (kept or stored):
        return None
    return _chosen(kept, answer["ContentLength"], stored, answer.get("ChecksumType"), str(answer.get("ETag", "")))


def checksum_in(headers: Mapping[str, str], size: int) -> str | None:
    """The full-object checksum in the headers of an answer, with names in lower case; as `_checksum`."""
    stored = {algorithm: headers[name] for name, algorithm in _CHECKSUM_HEADERS.items() if name in headers}
    kept = headers.get(_KEPT, "")
    if not (kept or stored):
        return None
    return _chosen(kept, size, stored, headers.get("x-amz-checksum-type"), headers.get("etag", ""))


def _chosen(kept: str, size: int, stored: Mapping[str, str | None], kind: str | None, etag: str) -> str | None:
    """Choose among the checksums of an answer.

    The store computes its checksum from the content. Ours may be of another content: a client that replaces an object can
    carry the metadata along.

    Servers that do not know an algorithm have been seen to answer with another one's value under its name.

    Args:
        kept: Our checksum in the metadata.
        size: Size of the object.
        stored: The store's checksums, by algorithm.
        kind: Their type.
        etag: The ETag.
    """
    ours = kept_checksum(kept, size)
    if ours and not kind and "-" in etag:  # the server does not say of what its checksum is
        return ours
    for algorithm in ALGORITHMS:
        value = stored.get(algorithm)
        if value and is_well_formed(value, algorithm) and _is_of_object(kind, etag, algorithm):
            return f"{algorithm}:{value}"
    return ours


def _is_of_object(kind: str | None, etag: str, algorithm: str) -> bool:
    """Whether the checksum in an answer is known to be of the complete object.

    A composite checksum is one of the parts' checksums, which says nothing of bytes read in ranges. Amazon marks it by
    ``ChecksumType`` and by ``-5`` at its end. moto marks it by neither: there the ETag tells that the object has parts. A
    CRC-64/NVME is always of the complete object:
    https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html.
    """
    return bool(kind == "FULL_OBJECT" or (not kind and (algorithm == "crc64nvme" or "-" not in etag)))
