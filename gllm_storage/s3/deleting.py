"""Deleting many objects of a bucket by DeleteObjects, which reports failures one by one in a successful answer."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from gllm_storage.s3.errors import translate, translated
from gllm_storage.store.create import backoff

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gllm_storage.s3.requests import S3Requests
    from gllm_storage.store.transfer import Transfer

BATCH = 1000
"""The most keys that DeleteObjects takes."""
_BUSY = {"InternalError", "ServiceUnavailable", "SlowDown"}
_STATUS = {"AccessDenied": 403}
_GONE = {"NoSuchKey", "NoSuchVersion"}


def delete_objects(requests: S3Requests, bucket: str, keys: Sequence[str], transfer: Transfer) -> None:
    """Delete objects; one that is not there is no error.

    Args:
        requests: How to ask S3.
        bucket: The bucket.
        keys: The keys, any number of them.
        transfer: What it is about, and what stops it.

    Raises:
        StorageError: If any could not be deleted; those before it were.
    """
    for start in range(0, len(keys), BATCH):
        left = list(keys[start : start + BATCH])
        for attempt in range(transfer.settings.max_attempts):
            transfer.stop.check()
            failures = _delete(requests, bucket, left, transfer)
            last = attempt + 1 == transfer.settings.max_attempts
            for failure in failures:
                if last or failure.get("Code") not in _BUSY:
                    raise _error(bucket, failure, transfer)
            left = [failure["Key"] for failure in failures]
            if not left:
                break
            backoff(attempt)


def _delete(requests: S3Requests, bucket: str, keys: Sequence[str], transfer: Transfer) -> list[dict[str, Any]]:
    """The failures among the answers."""
    wanted: Any = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
    with translated(transfer.details):
        answer: Any = requests.client.delete_objects(Bucket=bucket, Delete=wanted, **requests.parameters("DeleteObjects"))
    return [failure for failure in answer.get("Errors", []) if failure.get("Code") not in _GONE]


def _error(bucket: str, failure: dict[str, Any], transfer: Transfer) -> Exception:
    code = failure.get("Code", "")
    status = 503 if code in _BUSY else _STATUS.get(code, 400)
    answer: Any = {"Error": failure, "ResponseMetadata": {"HTTPStatusCode": status}}
    details = dataclasses.replace(transfer.details, url=f"s3://{bucket}/{failure.get('Key', '')}")
    return translate(ClientError(answer, "DeleteObjects"), details)
