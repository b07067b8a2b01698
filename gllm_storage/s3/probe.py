"""The probe: which preconditions an S3 endpoint enforces. The plan: the form of an upload that follows from them.

An exclusive create needs a server that enforces ``If-None-Match: *``. S3-compatible servers enforce it, refuse it, or ignore
it and overwrite the object, and the same server may treat PutObject and CompleteMultipartUpload differently:

=======================  =====================  =========================
server                   PutObject              CompleteMultipartUpload
=======================  =====================  =========================
Amazon S3                enforced               enforced
SeaweedFS 4, LocalStack  enforced               checked, not atomically
Ceph 16                  enforced               ignored
OpenStack Swift          refused                checked, not atomically
``rclone serve s3``      ignored                ignored
=======================  =====================  =========================

Amazon documents it: https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html. On any other endpoint the
probe finds out, once per bucket and process: it writes a small object beside the first target, sends both operations with
the precondition to that key, and deletes the object.

The probe has one writer, so it cannot see whether the check of CompleteMultipartUpload is atomic, and a race of a few
writers shows it only sometimes: two writers both succeeded in 11 of 60 rounds on SeaweedFS. The name of the server tells
nothing either: the JuiceFS gateway says that it is MinIO. So on an endpoint that is not Amazon's an exclusive create goes in
one PutObject, up to `exclusive_put_limit`, unless ``conditional_writes="enforced"`` says that the endpoint can be trusted.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import warnings
from collections import defaultdict
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError, ConnectTimeoutError, EndpointConnectionError, NoCredentialsError

from gllm_storage.concurrency.fork import PerProcess
from gllm_storage.concurrency.stop import Stop
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import ConflictCheckUnsupportedError, ErrorDetails, NonAtomicWriteWarning, Remedy, StorageError
from gllm_storage.s3.errors import SDK_ERRORS, require_any, status_of, translate, translated
from gllm_storage.s3.settings import EXCLUSIVE_PUT_LIMIT, MAX_PUT, S3TransferSettings
from gllm_storage.settings import MIB
from gllm_storage.store import checksums
from gllm_storage.store.transfer import part_ranges, part_size_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from gllm_storage.s3.connection import S3Connection
    from gllm_storage.settings import TransferSettings


class Condition(Enum):
    """The effect of ``If-None-Match: *`` on an operation when the object exists."""

    ENFORCED = "enforced"
    CHECKED = "checked, but perhaps not atomically"
    IGNORED = "ignored: the object is overwritten"
    REFUSED = "refused"


@dataclass(frozen=True)
class ConditionalWrites:
    """The effect of the precondition on each of the two operations that make an object.

    Attributes:
        put: The effect on PutObject.
        complete: The effect on CompleteMultipartUpload.
    """

    put: Condition
    complete: Condition


ALL_ENFORCED = ConditionalWrites(Condition.ENFORCED, Condition.ENFORCED)

_logger = logging.getLogger(__name__)

_PRECONDITION_FAILED = 412
_SERVER_ERROR = 500
_NOT_SENT = (EndpointConnectionError, ConnectTimeoutError, NoCredentialsError)
_REFUSALS = {400, 405, 501}
_found: dict[tuple[str, str], ConditionalWrites] = {}
# The results are plain values, which a forked child can use. A lock may be locked for ever there.
_probing: PerProcess[defaultdict[tuple[str, str], threading.Lock]] = PerProcess(lambda: defaultdict(threading.Lock))


def conditional_writes(connection: S3Connection, bucket: str, folder: str) -> ConditionalWrites:
    """The preconditions that an endpoint enforces on writes to a bucket. The first call in a process probes.

    Args:
        connection: The endpoint.
        bucket: The bucket.
        folder: The key prefix under which the probe writes its object: empty, or ending with ``/``.

    Raises:
        StorageError: If the store cannot be reached, or does not permit the probe's writes.
    """
    if connection.is_amazon:
        return ALL_ENFORCED
    place = (connection.endpoint_url, bucket)
    with (
        translated(ErrorDetails("s3", f"s3://{bucket}/{folder}", "probe of conditional writes")),
        _probing.get()[place],
    ):
        if place not in _found:
            _found[place] = _Probe(connection, bucket, folder).run()
        return _found[place]


class _Probe:
    """One probe.

    Args:
        connection: The endpoint.
        bucket: The bucket.
        folder: The key prefix of the probe's object.
    """

    def __init__(self, connection: S3Connection, bucket: str, folder: str) -> None:
        self._connection = connection
        self._client = connection.client
        self._where: dict[str, Any] = {"Bucket": bucket, "Key": f"{folder}.gllm-probe-{secrets.token_hex(16)}"}
        self._details = ErrorDetails("s3", f"s3://{bucket}/{self._where['Key']}", "probe of conditional writes")
        self._versions: list[str] = []
        self._may_exist = True

    def run(self) -> ConditionalWrites:
        """Test which preconditions the endpoint enforces."""
        try:
            self._put_first()
            put = _condition(lambda: self._put(b"again", IfNoneMatch="*"))
            return ConditionalWrites(put, self._complete())
        finally:
            self._delete()

    def _put_first(self) -> None:
        try:
            require_any(self._put(b"probe"), "ETag")
        except (ClientError, *_NOT_SENT) as error:
            # The store refused, or got nothing: there is no object, so the warning of a failed delete would mislead.
            self._may_exist = isinstance(error, ClientError) and (status_of(error) or _SERVER_ERROR) >= _SERVER_ERROR
            raise

    def _put(self, body: bytes, **condition: str) -> Any:
        parameters = {**self._connection.parameters("PutObject"), **self._where, **condition}
        return self._created(self._with_checksum(self._client.put_object, body, **parameters))

    def _with_checksum(self, operation: Callable[..., Any], body: bytes, **parameters: Any) -> Any:
        """Send a body with its digest, without which buckets with Object Lock refuse it."""
        checksum = {"ChecksumCRC64NVME": checksums.encode(checksums.crc64nvme(body))}
        return self._connection.checksum_headers.call(operation, checksum, self._details, **parameters, Body=body)

    def _created(self, answer: Any) -> Any:
        """Remember the version that a request has made."""
        version = (answer or {}).get("VersionId")
        if version:
            self._versions.append(version)
        return answer

    def _complete(self) -> Condition:
        uploads: list[dict[str, Any]] = []

        def create() -> None:
            parameters = self._connection.parameters("CreateMultipartUpload")
            answer = self._client.create_multipart_upload(**parameters, **self._where)
            require_any(answer, "UploadId")
            uploads.append({**self._where, "UploadId": answer["UploadId"]})

        try:
            # In a thread: Ctrl-C must not lose the answer with the upload id, without which nothing can be aborted.
            run_all([create], 1, Stop())
            return self._complete_on_existing(uploads[0])
        except ClientError as error:
            if not uploads and status_of(error) in _REFUSALS:
                return Condition.REFUSED  # the server has no multipart uploads
            raise
        finally:
            for upload in uploads:
                with contextlib.suppress(*SDK_ERRORS):  # a completed upload does not exist any more
                    parameters = self._connection.parameters("AbortMultipartUpload")
                    self._client.abort_multipart_upload(**parameters, **upload)

    def _complete_on_existing(self, upload: dict[str, Any]) -> Condition:
        parameters = {**self._connection.parameters("UploadPart"), **upload, "PartNumber": 1}
        part = self._with_checksum(self._client.upload_part, b"again", **parameters)
        require_any(part, "ETag")
        parts: Any = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        common = self._connection.parameters("CompleteMultipartUpload")
        complete = partial(self._client.complete_multipart_upload, **common, **upload)
        found = _condition(lambda: self._created(complete(MultipartUpload=parts, IfNoneMatch="*")))
        return Condition.CHECKED if found is Condition.ENFORCED else found

    def _delete(self) -> None:
        if not self._may_exist:
            return
        delete = partial(self._client.delete_object, **self._connection.parameters("DeleteObject"), **self._where)
        try:
            # A delete without the version would leave it in a bucket with versions, and a delete marker on top.
            for version in self._versions:
                delete(VersionId=version)
        except SDK_ERRORS as error:
            # Credentials that may delete objects, but no versions, are common; and so is Object Lock.
            _logger.warning("cannot delete a version of the probe object %s: %s", self._details.url, error)
        else:
            if self._versions:
                return
        try:
            delete()
        except SDK_ERRORS as error:
            # Credentials that may write but not delete are common. The result of the probe is valid in any case.
            _logger.warning("cannot delete the probe object %s: %s", self._details.url, error)


def _condition(write: Callable[[], object]) -> Condition:
    try:
        write()
    except ClientError as error:
        if status_of(error) == _PRECONDITION_FAILED:
            return Condition.ENFORCED
        # A 400 may also be about credentials, a digest or the state of the store. Those are translated to other classes.
        plain = type(translate(error, ErrorDetails())) is StorageError
        if plain and status_of(error) in _REFUSALS:
            return Condition.REFUSED
        raise
    return Condition.IGNORED


@dataclass(frozen=True)
class UploadPlan:
    """The form of an upload.

    Attributes:
        multipart: Whether it goes in parts.
        part_size: Bytes in a part but the last.
        conditional: Whether the write carries ``If-None-Match: *``.
    """

    multipart: bool
    part_size: int
    conditional: bool

    def part_ranges(self, size: int) -> list[tuple[int, int]]:
        """(offset, length) of each part; an empty object has one empty part."""
        return part_ranges(size, self.part_size)


def plan_overwrite(size: int, settings: TransferSettings) -> UploadPlan:
    """The plan of an upload that replaces an existing object."""
    multipart = size > min(settings.multipart_threshold, MAX_PUT)
    return UploadPlan(multipart, part_size_for(size, settings.part_size), conditional=False)


def plan_create(
    size: int,
    settings: S3TransferSettings,
    enforced: ConditionalWrites,
    details: ErrorDetails,
    *,
    has_one_content: bool = False,
) -> UploadPlan:
    """The plan of an exclusive create on an endpoint.

    Args:
        size: Bytes to send.
        settings: Part sizes and preconditions.
        enforced: The operations whose precondition the endpoint enforces.
        details: The operation, for errors.
        has_one_content: Whether all writers of the key write the same content. Then a check that can race, or a HEAD
            request before the completion, is enough for a multipart upload: an object that is replaced is replaced by the
            same content.

    Returns:
        The plan. It can race if the object is too large for one PutObject, or if the endpoint enforces nothing and the
        config accepts that; a `NonAtomicWriteWarning` says so. It is conditional nevertheless if the endpoint checks the
        condition.

    Raises:
        ConflictCheckUnsupportedError: If the endpoint cannot create exclusively.
    """
    put = enforced.put is Condition.ENFORCED
    usual = plan_overwrite(size, settings)
    if put and usual.multipart and has_one_content and enforced.complete in {Condition.CHECKED, Condition.IGNORED}:
        return replace(usual, conditional=enforced.complete is Condition.CHECKED)
    if enforced.complete is Condition.ENFORCED and (usual.multipart or not put):
        return UploadPlan(multipart=True, part_size=usual.part_size, conditional=True)
    if put and (not usual.multipart or size <= put_limit(settings, enforced)):
        return UploadPlan(multipart=False, part_size=usual.part_size, conditional=True)
    if not put and settings.conditional_writes != "best-effort":
        raise ConflictCheckUnsupportedError(
            f"{details.url}: the endpoint cannot create exclusively (If-None-Match on PutObject is "
            f"{enforced.put.value}, on CompleteMultipartUpload {enforced.complete.value}), so an exclusive create is "
            "refused and nothing was written",
            details,
            Remedy.ACCEPT_RACE,
        )
    warn_of_race(settings, enforced, details)
    if enforced.complete is Condition.CHECKED:
        return UploadPlan(multipart=True, part_size=usual.part_size, conditional=True)
    return usual


def put_limit(settings: S3TransferSettings, enforced: ConditionalWrites) -> int:
    """The largest object, in bytes, that an exclusive create sends in one PutObject."""
    # The default leaves room for stores that accept less than 5 GiB. Where parts could only overwrite, 5 GiB are tried.
    if settings.exclusive_put_limit == EXCLUSIVE_PUT_LIMIT and enforced.complete is not Condition.CHECKED:
        return MAX_PUT
    return settings.exclusive_put_limit


def warn_of_race(settings: S3TransferSettings, enforced: ConditionalWrites, details: ErrorDetails) -> None:
    """Warn that an exclusive create can race."""
    large = ""
    if enforced.put is Condition.ENFORCED:
        large = f"the object is larger than {_text(put_limit(settings, enforced))}, the most for one PutObject, and "
    if enforced.complete is Condition.CHECKED:
        cause = (
            "the endpoint checks If-None-Match on CompleteMultipartUpload, but perhaps not atomically: if several writers "
            "create the object at the same moment, more than one can succeed"
        )
    else:
        cause = (
            "the endpoint does not enforce If-None-Match on CompleteMultipartUpload, so the only check is a HEAD request "
            "before the upload, which can race with another writer"
        )
    warnings.warn(f"{details.url}: {large}{cause}", NonAtomicWriteWarning, stacklevel=3)


def _text(size: int) -> str:
    for unit, name in ((2**30, "GiB"), (MIB, "MiB")):
        if size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} bytes"
