"""Copies within S3: in one request, or in parts side by side, all parts of one version of the source.

A copy in parts is an upload whose parts the store reads itself. So it is written with the same care as an upload: a write-id
shows whether the copy succeeded when an answer was lost, and no failure, not even Ctrl-C, leaves the multipart upload open.
"""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from botocore.exceptions import ClientError

from gllm_storage.concurrency.stop import stopped_by
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import Remedy, StorageError, StorageUnavailableError
from gllm_storage.info import Stored
from gllm_storage.s3.errors import SDK_ERRORS, code_of, is_not_found, not_found, require_any, status_of, translated
from gllm_storage.s3.settings import MAX_PUT
from gllm_storage.settings import MIB
from gllm_storage.store.checksums import WRITE_ID
from gllm_storage.store.create import Answer, write_object
from gllm_storage.store.reader import ObjectChangedError
from gllm_storage.store.retry import RESTART
from gllm_storage.store.transfer import part_ranges, part_size_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gllm_storage.errors import ErrorDetails
    from gllm_storage.info import ObjectInfo
    from gllm_storage.s3.requests import S3Requests
    from gllm_storage.store.transfer import Transfer

PART_SIZE = 64 * MIB
"""Nothing of a part passes through this machine, so it may be larger than those of an upload."""
_DESCRIPTION = (
    "CacheControl",
    "ContentDisposition",
    "ContentEncoding",
    "ContentLanguage",
    "ContentType",
    "Expires",
    "WebsiteRedirectLocation",
)
"""What a CopyObject takes along from its source beside the user metadata and the tags, and a multipart upload does not."""
_ENCRYPTION = ("ServerSideEncryption", "SSEKMSKeyId", "BucketKeyEnabled")
_BOUND = {"EXPRESS_ONEZONE", "FSX_OPENZFS", "OUTPOSTS", "SNOW"}
"""Storage classes that say where a bucket is; another bucket's objects cannot have them."""
_PRECONDITION_FAILED = 412
_SERVER_ERROR = 500


@dataclass(frozen=True)
class Place:
    """Where an object is.

    Attributes:
        bucket: The bucket.
        key: The key.
        version_id: Which version is meant; None for the current one.
    """

    bucket: str
    key: str
    version_id: str | None = None

    @property
    def url(self) -> str:
        """Its URL."""
        return f"s3://{self.bucket}/{self.key}"

    def parameters(self) -> dict[str, str]:
        """Its parameters for botocore."""
        version = {"VersionId": self.version_id} if self.version_id else {}
        return {"Bucket": self.bucket, "Key": self.key, **version}


@dataclass(frozen=True)
class Copy:
    """One object to become another.

    Attributes:
        source: What is copied.
        target: Where to; what is there is replaced.
        options: Further parameters of CopyObject and CreateMultipartUpload, such as ``StorageClass``.
        threshold: Objects of more bytes than this are copied in parts.
        keep_etag: Whether to copy in the parts in which the source was uploaded, which gives the same ETag.
        transfer: What it is about, and what stops it.
    """

    source: Place
    target: Place
    options: Mapping[str, Any]
    threshold: int
    keep_etag: bool
    transfer: Transfer


def copy_object(requests: S3Requests, copy: Copy) -> None:
    """Copy an object: its content, metadata and tags, and the storage class unless the options name one.

    Args:
        requests: The control requests of the target's bucket.
        copy: The copy.

    Raises:
        ObjectNotFoundError: If the source object does not exist.
        StorageUnavailableError: If the source was replaced during each attempt.
        StorageError: If the copy fails; nothing was changed then, and nothing is left behind.
    """
    attempt = 0
    while True:
        attempt += 1
        version = _head(requests, copy)
        this = dataclasses.replace(copy, transfer=copy.transfer.attempt())
        try:
            with translated(_about(copy)):
                _copy_version(requests, this, version)
        except ObjectChangedError as error:
            if attempt == RESTART.limit:
                raise StorageUnavailableError(
                    f"copy of {copy.source.url}: the object was replaced during each of {attempt} attempts to copy it",
                    copy.transfer.details,
                    Remedy.REPEAT,
                ) from error
            RESTART.again(_about(copy), attempt, "the source object was replaced", "restart", copy.transfer.stop)
        else:
            return


def _about(copy: Copy) -> ErrorDetails:
    return dataclasses.replace(copy.transfer.details, operation=f"copy to {copy.target.url}")


def _head(requests: S3Requests, copy: Copy) -> Mapping[str, Any]:
    """HeadObject of the source, or of the version that the caller named."""
    source, connection = copy.source, requests.connection
    if source.version_id is None:
        return connection.store(source.bucket).requests.head(source.key, "copy")
    with translated(copy.transfer.details):
        try:
            return connection.client.head_object(**connection.parameters("HeadObject"), **_any(source.parameters()))
        except ClientError as error:
            if is_not_found(error):
                raise not_found(copy.transfer.details) from error
            raise


def _copy_version(requests: S3Requests, copy: Copy, version: Mapping[str, Any]) -> None:
    size = version["ContentLength"]
    parts_of_source = version["ETag"].strip('"').partition("-")[2]
    if copy.keep_etag and parts_of_source:
        ranges = _ranges_of_source(requests, copy, version, int(parts_of_source))
    elif copy.keep_etag or size <= min(copy.threshold, MAX_PUT):
        run_all([partial(_copy_whole, requests, copy, version)], 1, copy.transfer.stop)
        return
    else:
        ranges = part_ranges(size, part_size_for(size, PART_SIZE))
    write_object(_CopyInParts(requests, copy, version, ranges), exclusive=False)


def _copy_whole(requests: S3Requests, copy: Copy, version: Mapping[str, Any]) -> None:
    """CopyObject. It is of one version in any case, so it need not be pinned to the one we looked at."""
    parameters = _accepted(requests, "CopyObject", {**_storage(copy, version), **_settings(requests, copy, "CopyObject")})
    try:
        answer = requests.connection.client.copy_object(
            **parameters, **_any(copy.target.parameters()), CopySource=_any(copy.source.parameters())
        )
    except ClientError as error:
        if is_not_found(error):
            raise not_found(copy.transfer.details) from error
        raise
    require_any(answer.get("CopyObjectResult", {}), "ETag", "LastModified")


def _ranges_of_source(
    requests: S3Requests, copy: Copy, version: Mapping[str, Any], number_of_parts: int
) -> list[tuple[int, int]]:
    """(offset, length) of the parts in which the source was uploaded."""

    def length_of(number: int) -> int:
        parameters = {**requests.connection.parameters("HeadObject"), **copy.source.parameters()}
        return int(requests.connection.client.head_object(**parameters, PartNumber=number)["ContentLength"])

    numbers = range(1, number_of_parts + 1)
    workers = copy.transfer.settings.max_concurrency
    lengths = run_all([partial(length_of, number) for number in numbers], workers, copy.transfer.stop)
    if sum(lengths) != version["ContentLength"]:
        raise StorageError(
            f"copy of {copy.source.url}: the endpoint does not tell the lengths of its {number_of_parts} parts, so "
            "the ETag cannot be preserved",
            copy.transfer.details,
            Remedy.NO_PRESERVE_ETAG,
        )
    offsets = [sum(lengths[:index]) for index in range(len(lengths))]
    return list(zip(offsets, lengths, strict=True))


class _CopyInParts:
    """A copy in parts, as `gllm_storage.store.create` takes a write."""

    conditional = False

    def __init__(
        self, requests: S3Requests, copy: Copy, version: Mapping[str, Any], ranges: Sequence[tuple[int, int]]
    ) -> None:
        self._requests = requests
        self._copy = copy
        self._version = version
        self._ranges = ranges
        self._place = _any(copy.target.parameters())
        self._upload_id: str | None = None
        self._discarded = False
        self._committing = False

    @property
    def details(self) -> ErrorDetails:
        """What the write is about."""
        return _about(self._copy)

    def head(self) -> ObjectInfo | None:
        """HeadObject of the target."""
        return self._requests.find(self._copy.target.key, "copy")

    def write(self, write_id: str) -> Stored:
        """Copy all parts and make an object of them."""
        transfer = self._copy.transfer
        # In threads: Ctrl-C, which interrupts the main thread, must neither lose the answer with the upload id to abort, nor
        # leave a completion in progress.
        run_all([partial(self._create, write_id)], 1, transfer.stop)
        tasks = [partial(self._copy_part, number, *each) for number, each in enumerate(self._ranges, start=1)]
        parts = run_all(tasks, transfer.settings.max_concurrency, transfer.stop)
        run_all([self._require_unchanged], 1, transfer.stop)
        run_all([partial(self._complete, parts)], 1, transfer.stop)
        return Stored(self._copy.target.url, int(self._version["ContentLength"]))

    def judge(self, error: Exception) -> Answer:
        """Whether an object may have come of it after all: an answer may have been lost."""
        if not self._committing or not isinstance(error, SDK_ERRORS):
            return Answer.FAILED
        if isinstance(error, ClientError):
            lost = status_of(error) >= _SERVER_ERROR or code_of(error) in {"NoSuchUpload", "RequestTimeout"}
            return Answer.UNKNOWN if lost else Answer.FAILED
        return Answer.UNKNOWN

    def discard(self) -> None:
        """Abort the upload, so that no parts stay."""
        self._discarded = True
        if self._upload_id is not None:
            self._abort()

    def _create(self, write_id: str) -> None:
        operation = "CreateMultipartUpload"
        wanted = {**_storage(self._copy, self._version), **_settings(self._requests, self._copy, operation)}
        parameters = {**wanted, **self._description(), "Metadata": {**self._metadata(), WRITE_ID: write_id}}
        answer = self._requests.connection.client.create_multipart_upload(
            **_accepted(self._requests, operation, parameters), **self._place
        )
        require_any(answer, "UploadId")
        self._upload_id = answer["UploadId"]
        if self._discarded:
            self._abort()  # the answer came after the copy was discarded

    def _copy_part(self, number: int, offset: int, length: int) -> dict[str, Any]:
        try:
            answer = self._requests.connection.client.upload_part_copy(
                **_accepted(self._requests, "UploadPartCopy", _settings(self._requests, self._copy, "UploadPartCopy")),
                **self._place,
                UploadId=str(self._upload_id),
                PartNumber=number,
                CopySource=_any(self._copy.source.parameters()),
                CopySourceIfMatch=self._version["ETag"],
                CopySourceRange=f"bytes={offset}-{offset + length - 1}",
            )
        except ClientError as error:
            raise (ObjectChangedError if _is_changed(error) else error) from error
        finally:
            if self._discarded:
                self._abort()  # a stalled server held this part when the upload was aborted, and may have kept it
        result: Any = answer.get("CopyPartResult", {})
        require_any(result, "ETag")
        return {"PartNumber": number, **{name: value for name, value in result.items() if name != "LastModified"}}

    def _require_unchanged(self) -> None:
        """Look once more: Ceph 16 ignores the condition of a part, and the parts may then be of two versions."""
        now = _head(self._requests, self._copy)
        if any(now.get(name) != self._version.get(name) for name in ("ETag", "LastModified", "ContentLength")):
            raise ObjectChangedError

    def _complete(self, parts: list[dict[str, Any]]) -> None:
        self._committing = True
        answer = self._requests.connection.client.complete_multipart_upload(
            **self._requests.connection.parameters("CompleteMultipartUpload"),
            **self._place,
            UploadId=str(self._upload_id),
            MultipartUpload={"Parts": _any(parts)},
        )
        require_any(answer, "ETag", "Location", "Key")  # Ceph 16 leaves the ETag empty

    def _abort(self) -> None:
        place = {**self._requests.connection.parameters("AbortMultipartUpload"), **self._place}
        # Completed or aborted already, or unreachable: there is nothing better to do.
        with stopped_by(None), contextlib.suppress(*SDK_ERRORS):
            self._requests.connection.client.abort_multipart_upload(**place, UploadId=str(self._upload_id))

    def _replaces(self) -> bool:
        return self._copy.options.get("MetadataDirective") == "REPLACE"

    def _metadata(self) -> Mapping[str, str]:
        given: Mapping[str, str] = (self._copy.options if self._replaces() else self._version).get("Metadata") or {}
        return given

    def _description(self) -> dict[str, Any]:
        """What CopyObject would take along by itself."""
        version = self._version
        described = {} if self._replaces() else {name: version[name] for name in _DESCRIPTION if version.get(name)}
        if version.get("TagCount") and self._copy.options.get("TaggingDirective") != "REPLACE":
            source = self._copy.source.parameters()
            connection = self._requests.connection
            parameters = {**connection.parameters("GetObjectTagging"), **_any(source)}
            tags = connection.client.get_object_tagging(**parameters)["TagSet"]
            described["Tagging"] = urlencode({tag["Key"]: tag["Value"] for tag in tags})
        return described


def _storage(copy: Copy, version: Mapping[str, Any]) -> dict[str, Any]:
    """How the source is stored, which neither kind of copy keeps by itself."""
    kept = {}
    storage_class = version.get("StorageClass")
    if storage_class and storage_class not in _BOUND:
        kept["StorageClass"] = storage_class
    # A key is of one region, and all we know to be in the same one is the same bucket.
    if copy.source.bucket == copy.target.bucket and str(version.get("ServerSideEncryption", "")).startswith("aws:kms"):
        kept.update({name: version[name] for name in _ENCRYPTION if version.get(name)})
    return kept


def _settings(requests: S3Requests, copy: Copy, operation: str) -> dict[str, Any]:
    """What the filesystem and the caller want; the caller's word counts."""
    settings = requests.connection.parameters(operation)
    owner = requests.connection.parameters("HeadObject").get("ExpectedBucketOwner")
    if owner:
        settings["ExpectedSourceBucketOwner"] = owner
    return {**settings, **{name: value for name, value in copy.options.items() if value is not None}}


def _accepted(requests: S3Requests, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the parameters that an operation takes; s3fs, too, drops the others."""
    members = requests.connection.members(operation)
    return {name: value for name, value in parameters.items() if name in members}


def _is_changed(error: ClientError) -> bool:
    """Whether the source is no longer what it was when we looked."""
    return status_of(error) == _PRECONDITION_FAILED or is_not_found(error)


def _any(value: Any) -> Any:
    """Untyped, for the stubs of boto3, which want exact dictionaries."""
    return value
