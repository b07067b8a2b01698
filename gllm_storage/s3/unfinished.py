"""Multipart uploads that were not finished: their parts go into the next upload of the same content, or are removed."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from gllm_storage.s3.errors import SDK_ERRORS, code_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from gllm_storage.s3.connection import S3Connection

_NO_UPLOADS = {"NoSuchUpload", "NotImplemented"}
"""rclone's answer until a bucket has had an upload, and that of stores that do not list uploads."""
_MOST_UPLOADS = 4
"""How many unfinished uploads of one key are examined, the newest first."""


@dataclass(frozen=True)
class UnfinishedUpload:
    """A multipart upload of a process that ended.

    Attributes:
        upload_id: Its id.
        parts: The parts that the store has, by their numbers: the facts of ListParts.
        full_object: Whether the store computes a checksum of the complete object.
    """

    upload_id: str
    parts: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    full_object: bool = False

    def fitting(self, lengths: Sequence[int]) -> int:
        """How many parts have the sizes in which an object will be sent."""
        return sum(
            1 for number, each in self.parts.items() if number <= len(lengths) and each.get("Size") == lengths[number - 1]
        )


def find_unfinished(connection: S3Connection, place: Mapping[str, Any], lengths: Sequence[int]) -> UnfinishedUpload | None:
    """The unfinished upload of a key that has the most parts of certain sizes.

    Only for speed, so a failure of a request, such as one without the permission to list, finds none.

    Args:
        connection: The connection.
        place: The parameters that name the object.
        lengths: The sizes of the parts in which the object will be sent, in bytes.

    Returns:
        None if there is none with such a part.
    """
    found: list[UnfinishedUpload] = []
    with contextlib.suppress(*SDK_ERRORS):
        ids = [
            each["UploadId"] for each in _uploads(connection, place["Bucket"], place["Key"]) if each["Key"] == place["Key"]
        ]
        found.extend(_inspected(connection, place, each) for each in ids[-_MOST_UPLOADS:])
    best = max(found, key=lambda each: each.fitting(lengths), default=None)
    return best if best is not None and best.fitting(lengths) else None


def unfinished_uploads(connection: S3Connection, bucket: str, prefix: str) -> Iterator[tuple[str, datetime | None]]:
    """The keys of the unfinished uploads of all keys with a prefix, and the time at which each began.

    Raises:
        botocore.exceptions.ClientError: If the store refuses a request.
        botocore.exceptions.BotoCoreError: If no answer arrives.
    """
    for each in _uploads(connection, bucket, prefix):
        yield each["Key"], each.get("Initiated")


def abort_uploads(connection: S3Connection, bucket: str, prefix: str) -> None:
    """Abort the unfinished uploads of all keys with a prefix.

    An upload that another process completes or aborts meanwhile is not an error.

    Raises:
        botocore.exceptions.ClientError: If the store refuses a request.
        botocore.exceptions.BotoCoreError: If no answer arrives.
    """
    aborted: set[tuple[str, str]] = set()
    # Some stores still list an upload for a while after it was aborted.
    while found := {(each["Key"], each["UploadId"]) for each in _uploads(connection, bucket, prefix)} - aborted:
        for key, upload_id in sorted(found):
            _abort(connection, bucket, key, upload_id)
        aborted |= found


def _abort(connection: S3Connection, bucket: str, key: str, upload_id: str) -> None:
    parameters = connection.parameters("AbortMultipartUpload")
    try:
        connection.client.abort_multipart_upload(**parameters, Bucket=bucket, Key=key, UploadId=upload_id)
    except ClientError as error:
        if code_of(error) != "NoSuchUpload":
            raise


def _uploads(connection: S3Connection, bucket: str, prefix: str) -> Iterator[Mapping[str, Any]]:
    """The first thousand uploads in the order of the listing: that of the keys, and then of their times."""
    parameters = connection.parameters("ListMultipartUploads")
    try:
        answer = connection.client.list_multipart_uploads(**parameters, Bucket=bucket, Prefix=prefix)
    except ClientError as error:
        if code_of(error) in _NO_UPLOADS:
            return
        raise
    yield from answer.get("Uploads", ())


def _inspected(connection: S3Connection, place: Mapping[str, Any], upload_id: str) -> UnfinishedUpload:
    parts: dict[int, Mapping[str, Any]] = {}
    marker = 0
    kind: str | None = None
    while True:
        answer = connection.client.list_parts(
            **connection.parameters("ListParts"),
            Bucket=place["Bucket"],
            Key=place["Key"],
            UploadId=upload_id,
            PartNumberMarker=marker,
        )
        kind = answer.get("ChecksumType", kind)
        parts.update((each["PartNumber"], each) for each in answer.get("Parts", ()))
        further = answer.get("NextPartNumberMarker", marker)
        if not answer.get("IsTruncated") or further <= marker:
            return UnfinishedUpload(upload_id, parts, kind == "FULL_OBJECT")
        marker = further
