"""Copies within S3: by one CopyObject, or by a multipart upload whose parts S3 reads from the source object.

One CopyObject copies one version of the source object, with its metadata and tags. It is limited to 5 GiB, and slow on large
objects. A copy in parts has none of these properties by itself:

- *One version.* The source object may be replaced between two parts. So each part carries the ETag of the first HeadObject
  as a precondition. Ceph 16 ignores that precondition, so a second HeadObject follows the last part. If the object was
  replaced, the copy is aborted and starts again with the new version.
- *Properties.* CreateMultipartUpload knows nothing of the source object. Metadata, headers and tags are read from it and
  sent along.
- *Lost answers.* The copy carries a write-id like every write of this library (store/create.py), and a failure, including
  Ctrl-C, aborts the multipart upload.
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
from gllm_storage.info import Stored, plain_etag, strong_etag
from gllm_storage.s3.errors import SDK_ERRORS, is_not_found, not_found, require_any, status_of, translated
from gllm_storage.s3.requests import Completed, size_in
from gllm_storage.s3.settings import MAX_PUT
from gllm_storage.s3.upload import judge_answer
from gllm_storage.settings import MIB
from gllm_storage.store.checksums import WRITE_ID
from gllm_storage.store.create import Answer, require_size, write_object
from gllm_storage.store.reader import ObjectChangedError, lengths_differ
from gllm_storage.store.retry import RESTART
from gllm_storage.store.transfer import part_ranges, part_size_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gllm_storage.errors import ErrorDetails
    from gllm_storage.info import ObjectInfo
    from gllm_storage.s3.requests import S3Requests
    from gllm_storage.store.transfer import Transfer

PART_SIZE = 64 * MIB
"""Bytes in a part. The bytes do not pass through this machine, so the part is larger than that of an upload."""
_COPIED_HEADERS = (
    "CacheControl",
    "ContentDisposition",
    "ContentEncoding",
    "ContentLanguage",
    "ContentType",
    "Expires",
    "WebsiteRedirectLocation",
)
"""Properties that CopyObject copies by itself, beside user metadata and tags."""
_ENCRYPTION = ("ServerSideEncryption", "SSEKMSKeyId", "BucketKeyEnabled")
_CLASSES_OF_PLACES = {"EXPRESS_ONEZONE", "FSX_OPENZFS", "OUTPOSTS", "SNOW"}
"""Storage classes that belong to the location of a bucket. The target bucket may be elsewhere, so they are not copied."""
_PRECONDITION_FAILED = 412


@dataclass(frozen=True)
class Place:
    """An object, or one version of it.

    Attributes:
        bucket: The bucket.
        key: The key.
        version_id: The version; None for the current one.
    """

    bucket: str
    key: str
    version_id: str | None = None

    @property
    def url(self) -> str:
        """The URL of the object."""
        return f"s3://{self.bucket}/{self.key}"

    def parameters(self) -> dict[str, str]:
        """The parameters of botocore that name the object."""
        version = {"VersionId": self.version_id} if self.version_id else {}
        return {"Bucket": self.bucket, "Key": self.key, **version}


@dataclass(frozen=True)
class Copy:
    """One copy of an object.

    Attributes:
        source: The source object.
        target: The target object; an existing one is replaced.
        options: Further parameters of CopyObject and CreateMultipartUpload, such as ``StorageClass``.
        threshold: Objects of more bytes than this are copied in parts.
        keep_etag: Whether to copy in the same parts in which the source object was uploaded, which gives the same ETag.
        transfer: The operation, the settings, and the stop.
        exclusive: Whether to fail if the target exists: the completion of a copy in parts carries the precondition.
        etag: The version of the source object to copy, by its ETag; None for any.
    """

    source: Place
    target: Place
    options: Mapping[str, Any]
    threshold: int
    keep_etag: bool
    transfer: Transfer
    exclusive: bool = False
    etag: str | None = None


def copy_object(requests: S3Requests, copy: Copy) -> None:
    """Copy an object: its content, metadata and tags, and its storage class unless the options name another.

    Args:
        requests: The control requests of the target bucket.
        copy: The copy.

    Raises:
        ObjectNotFoundError: If the source object does not exist.
        StorageUnavailableError: If the source object was replaced during each of 7 attempts.
        StorageError: If the copy fails; nothing was changed then, and nothing is left behind. Also if `keep_etag` is set,
            and the endpoint does not tell the lengths of the parts.
    """
    attempt = 0
    while True:
        attempt += 1
        version = _version_to_copy(requests, copy)
        this = dataclasses.replace(copy, transfer=copy.transfer.attempt())
        try:
            with translated(_details(copy)):
                _copy_version(requests, this, version)
        except ObjectChangedError as error:
            if attempt == RESTART.limit:
                raise StorageUnavailableError(
                    f"copy of {copy.source.url}: the object was replaced during each of {attempt} attempts to copy it",
                    copy.transfer.details,
                    Remedy.REPEAT,
                ) from error
            RESTART.again(_details(copy), attempt, "the source object was replaced", "restart", copy.transfer.stop)
        else:
            return


def _details(copy: Copy) -> ErrorDetails:
    """The operation with both URLs, for errors."""
    return dataclasses.replace(copy.transfer.details, operation=f"copy to {copy.target.url}")


def _head(requests: S3Requests, copy: Copy) -> Mapping[str, Any]:
    """HeadObject of the source object, or of the version that the caller named."""
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


def _version_to_copy(requests: S3Requests, copy: Copy) -> Mapping[str, Any]:
    """HeadObject of the source object.

    Raises:
        StorageUnavailableError: If it is not the version to copy.
    """
    version = _head(requests, copy)
    if copy.etag and plain_etag(version["ETag"]) != copy.etag:
        raise StorageUnavailableError(
            f"{copy.transfer.details.operation} of {copy.source.url}: the object was replaced meanwhile",
            copy.transfer.details,
            Remedy.REPEAT,
        )
    return version


def _copy_version(requests: S3Requests, copy: Copy, version: Mapping[str, Any]) -> None:
    size = version["ContentLength"]
    parts_of_source = plain_etag(version["ETag"]).partition("-")[2]
    if copy.exclusive or (copy.keep_etag and parts_of_source) or size > min(copy.threshold, MAX_PUT):
        _confirm_size(requests, copy, version)
    if copy.exclusive:
        ranges = part_ranges(size, part_size_for(size, PART_SIZE))
        created = write_object(_CopyInParts(requests, copy, version, ranges), exclusive=True, stop=copy.transfer.stop)
        require_size(created, size, _details(copy), partial(requests.delete_version, copy.target.key, created))
        copy.transfer.stored(created)
        return
    if copy.keep_etag and parts_of_source:
        ranges = _ranges_of_source(requests, copy, version, int(parts_of_source))
    elif copy.keep_etag or size <= min(copy.threshold, MAX_PUT):
        run_all([partial(_copy_by_one_request, requests, copy, version)], 1, copy.transfer.stop)
        return
    else:
        ranges = part_ranges(size, part_size_for(size, PART_SIZE))
    copied = write_object(_CopyInParts(requests, copy, version, ranges), exclusive=False)
    require_size(copied, size, _details(copy))
    copy.transfer.stored(copied)


def _confirm_size(requests: S3Requests, copy: Copy, version: Mapping[str, Any]) -> None:
    """Check the size of the source object by a GetObject of one byte: some stores state a wrong one in answers to HEAD.

    Raises:
        ObjectChangedError: If the source object was replaced.
        StorageError: If the size is wrong.
    """
    parameters = {**requests.connection.parameters("GetObject"), **copy.source.parameters()}
    try:
        answer = requests.connection.client.get_object(
            **_any(parameters), Range="bytes=0-0", IfMatch=strong_etag(version["ETag"])
        )
    except ClientError as error:
        raise (ObjectChangedError if _is_changed(error) else error) from error
    answer["Body"].close()
    size = size_in(answer)
    if plain_etag(answer.get("ETag") or "") == plain_etag(version["ETag"]) and size not in {None, version["ContentLength"]}:
        raise lengths_differ(_details(copy), version["ContentLength"], size or 0)


def _copy_by_one_request(requests: S3Requests, copy: Copy, version: Mapping[str, Any]) -> None:
    """CopyObject. One request copies one version, whichever it is, so it needs no precondition."""
    pinned = {"CopySourceIfMatch": strong_etag(version["ETag"])} if copy.etag else {}
    wanted = {**_storage(copy, version), **_parameters(requests, copy, "CopyObject"), **pinned}
    parameters = _accepted(requests, "CopyObject", wanted)
    try:
        answer = requests.connection.client.copy_object(
            **parameters, **_any(copy.target.parameters()), CopySource=_any(copy.source.parameters())
        )
    except ClientError as error:
        if copy.etag and _is_changed(error):
            raise ObjectChangedError from error
        if is_not_found(error):
            raise not_found(copy.transfer.details) from error
        raise
    result = answer.get("CopyObjectResult", {})
    require_any(result, "ETag", "LastModified")
    etag = plain_etag(result.get("ETag", "")) or None
    copy.transfer.stored(Stored(copy.target.url, version["ContentLength"], etag, answer.get("VersionId")))


def properties_to_copy(requests: S3Requests, copy: Copy) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """The properties of the source object as parameters of PutObject, for a copy through this machine.

    Args:
        requests: The control requests of the target bucket.
        copy: The copy.

    Returns:
        The parameters, and the HeadObject that they come from.

    Raises:
        ObjectNotFoundError: If the source object does not exist.
        StorageUnavailableError: If it is not the version to copy.
        StorageError: If a request fails.
    """
    version = _version_to_copy(requests, copy)
    with translated(_details(copy)):
        in_parts = _CopyInParts(requests, copy, version, [])
        options = {**_storage(copy, version), **in_parts.properties(), **copy.options}
    return {**options, "Metadata": dict(version.get("Metadata") or {})}, version


def _ranges_of_source(
    requests: S3Requests, copy: Copy, version: Mapping[str, Any], number_of_parts: int
) -> list[tuple[int, int]]:
    """(offset, length) of the parts in which the source object was uploaded, by one HeadObject for each part.

    Raises:
        StorageError: If the lengths do not add up to the size of the object: the endpoint ignores ``PartNumber``.
    """

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
    """A copy in parts, as a `Write` for `store.create.write_object`."""

    def __init__(
        self, requests: S3Requests, copy: Copy, version: Mapping[str, Any], ranges: Sequence[tuple[int, int]]
    ) -> None:
        self._requests = requests
        self._copy = copy
        self._version = version
        self._ranges = ranges
        self.conditional = copy.exclusive
        self._place = _any(copy.target.parameters())
        self._upload_id: str | None = None
        self._write_id = ""
        self._discarded = False
        self._committing = False

    @property
    def details(self) -> ErrorDetails:
        """The operation, for errors; a conflict is about the target object."""
        copy = self._copy
        return dataclasses.replace(copy.transfer.details, url=copy.target.url) if copy.exclusive else _details(copy)

    def head(self) -> ObjectInfo | None:
        """HeadObject of the target object."""
        return self._requests.find(self._copy.target.key, "copy")

    def write(self, write_id: str) -> Stored:
        """Copy all parts, check that the source object is still the same, and complete the upload.

        Raises:
            ObjectChangedError: If the source object was replaced meanwhile.
            Exception: Any exception of the SDK.
        """
        transfer, self._write_id = self._copy.transfer, write_id
        # Each request runs in a thread. Ctrl-C interrupts the main thread only, so it can neither lose the answer with the
        # upload id, without which the upload cannot be aborted, nor leave a completion in progress.
        run_all([partial(self._create, write_id)], 1, transfer.stop)
        tasks = [partial(self._copy_part, number, *each) for number, each in enumerate(self._ranges, start=1)]
        parts = run_all(tasks, transfer.settings.max_concurrency, transfer.stop)
        run_all([self._require_unchanged], 1, transfer.stop)
        run_all([partial(self._complete, parts)], 1, transfer.stop)
        return Stored(self._copy.target.url, int(self._version["ContentLength"]))

    def judge(self, error: Exception) -> Answer:
        """The meaning of an error: UNKNOWN if the answer to the completion may have been lost, else FAILED."""
        if not self._committing or not isinstance(error, SDK_ERRORS):
            return Answer.FAILED
        return judge_answer(error, conditional=self.conditional) if isinstance(error, ClientError) else Answer.UNKNOWN

    def discard(self) -> None:
        """Abort the upload, so that no parts stay in the store."""
        self._discarded = True
        if self._upload_id is not None:
            self._abort()

    def _create(self, write_id: str) -> None:
        operation = "CreateMultipartUpload"
        wanted = {**_storage(self._copy, self._version), **_parameters(self._requests, self._copy, operation)}
        parameters = {**wanted, **self.properties(), "Metadata": {**self._metadata(), WRITE_ID: write_id}}
        answer = self._requests.connection.client.create_multipart_upload(
            **_accepted(self._requests, operation, parameters), **self._place
        )
        require_any(answer, "UploadId")
        self._upload_id = answer["UploadId"]
        if self._discarded:
            self._abort()  # the answer arrived after `discard`, which did not know the upload id yet

    def _copy_part(self, number: int, offset: int, length: int) -> dict[str, Any]:
        try:
            answer = self._requests.connection.client.upload_part_copy(
                **_accepted(self._requests, "UploadPartCopy", _parameters(self._requests, self._copy, "UploadPartCopy")),
                **self._place,
                UploadId=str(self._upload_id),
                PartNumber=number,
                CopySource=_any(self._copy.source.parameters()),
                CopySourceIfMatch=strong_etag(self._version["ETag"]),
                CopySourceRange=f"bytes={offset}-{offset + length - 1}",
            )
        except ClientError as error:
            raise (ObjectChangedError if _is_changed(error) else error) from error
        finally:
            if self._discarded:
                # The upload was aborted while a stalled server held this part; S3 may have kept the part.
                self._abort()
        result: Any = answer.get("CopyPartResult", {})
        require_any(result, "ETag")
        return {"PartNumber": number, **{name: value for name, value in result.items() if name != "LastModified"}}

    def _require_unchanged(self) -> None:
        """Check by a HeadObject that all parts are of one version: Ceph 16 ignores ``CopySourceIfMatch``.

        Raises:
            ObjectChangedError: If the source object was replaced.
        """
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
            **_any({"IfNoneMatch": "*"} if self.conditional else {}),
        )
        require_any(answer, "ETag", "Location", "Key")  # Ceph 16 leaves the ETag empty
        completed = Completed(int(self._version["ContentLength"]), [part["ETag"] for part in parts], self._write_id)
        found = self._requests.incomplete(self._copy.target.key, "copy", answer, completed)
        if found is not None:
            require_size(Stored.of(found), completed.size, self.details)

    def _abort(self) -> None:
        place = {**self._requests.connection.parameters("AbortMultipartUpload"), **self._place}
        # Completed or aborted already, or the store is unreachable: there is nothing better to do.
        with stopped_by(None), contextlib.suppress(*SDK_ERRORS):
            self._requests.connection.client.abort_multipart_upload(**place, UploadId=str(self._upload_id))

    def _replaces(self) -> bool:
        return self._copy.options.get("MetadataDirective") == "REPLACE"

    def _metadata(self) -> Mapping[str, str]:
        given: Mapping[str, str] = (self._copy.options if self._replaces() else self._version).get("Metadata") or {}
        return given

    def properties(self) -> dict[str, Any]:
        """The headers and tags of the source object, which CopyObject would copy by itself."""
        version = self._version
        found = {} if self._replaces() else {name: version[name] for name in _COPIED_HEADERS if version.get(name)}
        if version.get("TagCount") and self._copy.options.get("TaggingDirective") != "REPLACE":
            source = self._copy.source.parameters()
            connection = self._requests.connection
            parameters = {**connection.parameters("GetObjectTagging"), **_any(source)}
            tags = connection.client.get_object_tagging(**parameters)["TagSet"]
            found["Tagging"] = urlencode({tag["Key"]: tag["Value"] for tag in tags})
        return found


def _storage(copy: Copy, version: Mapping[str, Any]) -> dict[str, Any]:
    """The storage class and the encryption of the source object, which neither kind of copy keeps by itself."""
    kept = {}
    storage_class = version.get("StorageClass")
    if storage_class and storage_class not in _CLASSES_OF_PLACES:
        kept["StorageClass"] = storage_class
    # A KMS key works in one region only, and another bucket may be in another region.
    if copy.source.bucket == copy.target.bucket and str(version.get("ServerSideEncryption", "")).startswith("aws:kms"):
        kept.update({name: version[name] for name in _ENCRYPTION if version.get(name)})
    return kept


def _parameters(requests: S3Requests, copy: Copy, operation: str) -> dict[str, Any]:
    """The parameters of the connection, overridden by the options of the call."""
    parameters = requests.connection.parameters(operation)
    owner = requests.connection.parameters("HeadObject").get("ExpectedBucketOwner")
    if owner:
        parameters["ExpectedSourceBucketOwner"] = owner
    return {**parameters, **{name: value for name, value in copy.options.items() if value is not None}}


def _accepted(requests: S3Requests, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that an operation knows; others are dropped, as by s3fs."""
    members = requests.connection.members(operation)
    return {name: value for name, value in parameters.items() if name in members}


def _is_changed(error: ClientError) -> bool:
    """Whether the source object was replaced or deleted since the HeadObject."""
    return status_of(error) == _PRECONDITION_FAILED or is_not_found(error)


def _any(value: Any) -> Any:
    """The value without its type, because the stubs of boto3 require exact dictionaries."""
    return value
