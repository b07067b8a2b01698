"""What an S3 endpoint does with conditional writes: found out, not assumed.

S3-compatible servers enforce ``If-None-Match: *``, refuse it, or ignore it and overwrite; and PutObject and
CompleteMultipartUpload differ on one server. Ceph 16 enforces the first and silently overwrites on the second, OpenStack
Swift refuses the first and enforces the second, ``rclone serve s3`` ignores both. Amazon enforces both
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html); any other endpoint is asked once.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
from collections import defaultdict
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from gllm_storage.concurrency.fork import PerProcess
from gllm_storage.concurrency.stop import Stop
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import ErrorDetails, StorageError
from gllm_storage.s3.connection import is_amazon
from gllm_storage.s3.errors import SDK_ERRORS, require_any, status_of, translate

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_s3.client import S3Client


class Condition(Enum):
    """What an operation does with ``If-None-Match: *`` when the object exists."""

    ENFORCED = "enforced"
    IGNORED = "ignored: the object is overwritten"
    REFUSED = "refused"


@dataclass(frozen=True)
class ConditionalWrites:
    """What an endpoint does with conditional writes, for the two operations apart.

    Attributes:
        put: On PutObject.
        complete: On CompleteMultipartUpload.
    """

    put: Condition
    complete: Condition


ALL_ENFORCED = ConditionalWrites(Condition.ENFORCED, Condition.ENFORCED)

_logger = logging.getLogger(__name__)

_PRECONDITION_FAILED = 412
_REFUSALS = {400, 405, 501}
_found: dict[tuple[str, str], ConditionalWrites] = {}
# The findings are plain values and may cross a fork; the lock may not.
_probing: PerProcess[defaultdict[tuple[str, str], threading.Lock]] = PerProcess(lambda: defaultdict(threading.Lock))


def conditional_writes(
    client: S3Client, bucket: str, folder: str, parameters: Callable[[str], dict[str, Any]]
) -> ConditionalWrites:
    """What this endpoint does with conditional writes to this bucket; asked once in a process.

    Args:
        client: The client that the writes will use.
        bucket: The bucket.
        folder: Where a probe object may be written for a moment: empty, or a key prefix that ends with ``/``.
        parameters: Gives the parameters that an operation takes in addition, such as ``RequestPayer``.

    Raises:
        botocore.exceptions.BotoCoreError: If the store cannot be reached.
        botocore.exceptions.ClientError: If it does not let us write the probe.
    """
    if is_amazon(client):
        return ALL_ENFORCED
    place = (client.meta.endpoint_url, bucket)
    with _probing.get()[place]:
        if place not in _found:
            _found[place] = _Probe(client, bucket, folder, parameters).run()
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
            run_all([create], 1, Stop())  # in a thread: Ctrl-C must not lose the answer that says what there is to abort
            return self._complete_on_existing(uploads[0])
        except ClientError as error:
            if not uploads and status_of(error) in _REFUSALS:
                return Condition.REFUSED  # no multipart uploads at all
            raise
        finally:
            for upload in uploads:
                with contextlib.suppress(*SDK_ERRORS):  # completed uploads are gone
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
            # Keys that may write but not delete are common; what was found out is good all the same.
            _logger.warning("cannot delete the probe object s3://%s/%s: %s", where["Bucket"], where["Key"], error)


def _condition(write: Callable[[], object]) -> Condition:
    try:
        write()
    except ClientError as error:
        if status_of(error) == _PRECONDITION_FAILED:
            return Condition.ENFORCED
        # A 400 may also be about credentials, a digest or the store's health, which says nothing of conditions.
        plain = type(translate(error, ErrorDetails())) is StorageError
        if plain and status_of(error) in _REFUSALS:
            return Condition.REFUSED
        raise
    return Condition.IGNORED
