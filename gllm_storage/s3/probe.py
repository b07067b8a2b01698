"""The probe: which preconditions an S3 endpoint enforces. The plan: the form of an upload that follows from them.

An exclusive create needs a server that enforces ``If-None-Match: *``. S3-compatible servers enforce it, refuse it, or ignore
it and overwrite the object, and the same server may treat PutObject and CompleteMultipartUpload differently:

=======================  =====================  =========================
server                   PutObject              CompleteMultipartUpload
=======================  =====================  =========================
Amazon S3                enforced               enforced
Ceph 16                  enforced               ignored
OpenStack Swift          refused                enforced
``rclone serve s3``      ignored                ignored
=======================  =====================  =========================

Amazon documents it: https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html. On any other endpoint the
probe finds out, once per bucket and process: it writes a small object beside the first target, sends both operations with
the precondition to that key, and deletes the object.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import warnings
from collections import defaultdict
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from gllm_storage.concurrency.fork import PerProcess
from gllm_storage.concurrency.stop import Stop
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import ConflictCheckUnsupportedError, ErrorDetails, NonAtomicWriteWarning, Remedy, StorageError
from gllm_storage.s3.errors import SDK_ERRORS, require_any, status_of, translate, translated
from gllm_storage.s3.settings import MAX_PUT, S3TransferSettings
from gllm_storage.store.transfer import part_ranges, part_size_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_s3.client import S3Client

    from gllm_storage.s3.connection import S3Connection
    from gllm_storage.settings import TransferSettings


class Condition(Enum):
    """The effect of ``If-None-Match: *`` on an operation when the object exists."""

    ENFORCED = "enforced"
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
    client = connection.client
    if connection.is_amazon:
        return ALL_ENFORCED
    place = (client.meta.endpoint_url, bucket)
    with (
        translated(ErrorDetails("s3", f"s3://{bucket}/{folder}", "probe of conditional writes")),
        _probing.get()[place],
    ):
        if place not in _found:
            _found[place] = _Probe(client, bucket, folder, connection.parameters).run()
        return _found[place]


@dataclass(frozen=True)
class _Probe:
    client: S3Client
    bucket: str
    folder: str
    parameters: Callable[[str], dict[str, Any]]

    def run(self) -> ConditionalWrites:
        where: dict[str, Any] = {"Bucket": self.bucket, "Key": f"{self.folder}.gllm-probe-{secrets.token_hex(16)}"}
        put_object = partial(self.client.put_object, **self.parameters("PutObject"), **where)
        try:
            require_any(put_object(Body=b"probe"), "ETag")
            put = _condition(lambda: put_object(Body=b"again", IfNoneMatch="*"))
            return ConditionalWrites(put, self._complete(where))
        finally:
            self._delete(where)

    def _complete(self, where: dict[str, Any]) -> Condition:
        uploads: list[dict[str, Any]] = []

        def create() -> None:
            answer = self.client.create_multipart_upload(**self.parameters("CreateMultipartUpload"), **where)
            require_any(answer, "UploadId")
            uploads.append({**where, "UploadId": answer["UploadId"]})

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
                    self.client.abort_multipart_upload(**self.parameters("AbortMultipartUpload"), **upload)

    def _complete_on_existing(self, upload: dict[str, Any]) -> Condition:
        part = self.client.upload_part(**self.parameters("UploadPart"), **upload, PartNumber=1, Body=b"again")
        require_any(part, "ETag")
        parts: Any = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        complete = partial(self.client.complete_multipart_upload, **self.parameters("CompleteMultipartUpload"), **upload)
        return _condition(lambda: complete(MultipartUpload=parts, IfNoneMatch="*"))

    def _delete(self, where: dict[str, Any]) -> None:
        try:
            self.client.delete_object(**self.parameters("DeleteObject"), **where)
        except SDK_ERRORS as error:
            # Credentials that may write but not delete are common. The result of the probe is valid in any case.
            _logger.warning("cannot delete the probe object s3://%s/%s: %s", where["Bucket"], where["Key"], error)


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


def plan_create(size: int, settings: S3TransferSettings, enforced: ConditionalWrites, details: ErrorDetails) -> UploadPlan:
    """The plan of an exclusive create on an endpoint.

    Args:
        size: Bytes to send.
        settings: Part sizes and preconditions.
        enforced: The operations whose precondition the endpoint enforces.
        details: The operation, for errors.

    Returns:
        The plan. It is not conditional if the endpoint enforces nothing and the config accepts that, or if the object is
        over 5 GiB and only PutObject is conditional; a `NonAtomicWriteWarning` says so.

    Raises:
        ConflictCheckUnsupportedError: If the endpoint enforces neither operation's condition.
    """
    put, complete = (each is Condition.ENFORCED for each in (enforced.put, enforced.complete))
    usual = plan_overwrite(size, settings)
    if complete and (usual.multipart or not put):
        return UploadPlan(multipart=True, part_size=usual.part_size, conditional=True)
    if put and size <= MAX_PUT:
        return UploadPlan(multipart=False, part_size=usual.part_size, conditional=True)
    if not put and settings.conditional_writes != "best-effort":
        raise ConflictCheckUnsupportedError(
            f"{details.url}: the endpoint cannot create exclusively (If-None-Match on PutObject is "
            f"{enforced.put.value}, on CompleteMultipartUpload {enforced.complete.value}), so an exclusive create is "
            "refused and nothing was written",
            details,
            Remedy.ACCEPT_RACE,
        )
    large = "the object is larger than 5 GiB, and " if put else ""
    warnings.warn(
        f"{details.url}: {large}the endpoint does not enforce If-None-Match on CompleteMultipartUpload, so the only check "
        "is a HEAD request before the upload, which can race with another writer",
        NonAtomicWriteWarning,
        stacklevel=2,
    )
    return usual
