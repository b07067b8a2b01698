"""The control requests on objects and buckets: head, list, delete. All through boto3, all errors in our words."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from gllm_storage.errors import BucketNotFoundError, ErrorDetails, ObjectNotFoundError
from gllm_storage.info import ObjectInfo, in_order
from gllm_storage.s3.errors import (
    RAISED,
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
from gllm_storage.store.checksums import ALGORITHMS, CHECKSUM, is_well_formed, kept_checksum

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mypy_boto3_s3.client import S3Client

    from gllm_storage.s3.connection import Connections

_NEEDS_DIAGNOSIS = {400, 403}
_NOT_FOUND = 404
_RECENTLY = 30.0
_IS_THERE = {301, 403}
_OF_LISTINGS = ("Name", "IsTruncated", "KeyCount", "MaxKeys")


class S3Requests:
    """Control requests of one filesystem.

    Args:
        connections: Where the boto3 client comes from.
        parameters: Parameters for every request that takes them, such as ``RequestPayer`` or ``StorageClass``.
    """

    def __init__(self, connections: Connections, parameters: Mapping[str, Any]) -> None:
        self.connections = connections
        self._parameters = dict(parameters)
        self._seen: dict[str, float] = {}

    @property
    def client(self) -> S3Client:
        """The boto3 client of this process.

        Raises:
            StorageError: If none can be made, as from a broken profile.
        """
        with translated(ErrorDetails("s3", "s3://", "connection")):
            try:
                return self.connections.client
            except ValueError as error:  # botocore's answer to an endpoint that the environment or a profile sets
                raise UnreadableAnswerError(str(error)) from error

    def parameters(self, operation: str) -> dict[str, Any]:
        """Those of the parameters that an operation takes.

        Args:
            operation: Such as ``"PutObject"``.
        """
        shape = self.client.meta.service_model.operation_model(operation).input_shape
        members = shape.members if shape else {}
        return {name: value for name, value in self._parameters.items() if name in members}

    def head(self, bucket: str, key: str, operation: str, *, checksums: bool = False) -> Mapping[str, Any]:
        """HeadObject.

        Args:
            bucket: The bucket.
            key: The key.
            operation: What it is for, for errors.
            checksums: Whether to ask for the stored checksum.

        Raises:
            ObjectNotFoundError: If the object is not there.
            BucketNotFoundError: If the bucket is not there.
            StorageError: If it cannot be told.
        """
        details = ErrorDetails("s3", f"s3://{bucket}/{key}", operation)
        place: dict[str, Any] = {"Bucket": bucket, "Key": key, **self.parameters("HeadObject")}
        mode: dict[str, Any] = {"ChecksumMode": "ENABLED"} if checksums else {}
        try:
            with self._diagnosed(bucket, key, details):
                answer = self.client.head_object(**place, **mode)
                require_any(answer, "ETag")
        except ObjectNotFoundError:
            self.require_bucket(bucket, details)
            raise
        self._seen[bucket] = time.monotonic()
        return answer

    def metadata(self, bucket: str, key: str, operation: str) -> Mapping[str, str] | None:
        """User metadata of an object, or None if it is not there.

        Raises:
            StorageError: If it cannot be told.
        """
        try:
            return _metadata(self.head(bucket, key, operation))
        except ObjectNotFoundError:
            return None

    def info(self, bucket: str, key: str, operation: str = "info") -> ObjectInfo:
        """What the store knows of an object.

        Raises:
            ObjectNotFoundError: If the object is not there.
            StorageError: If it cannot be told.
        """
        return info_from_head(self.head(bucket, key, operation, checksums=True), f"s3://{bucket}/{key}")

    def delete(self, bucket: str, key: str) -> None:
        """DeleteObject.

        Raises:
            StorageError: If it fails. S3 does not say whether there was anything.
        """
        with translated(ErrorDetails("s3", f"s3://{bucket}/{key}", "delete")):
            self.client.delete_object(Bucket=bucket, Key=key, **self.parameters("DeleteObject"))

    def list(self, bucket: str, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key begins with a prefix, in key order; folder markers (keys that end with ``/``) are left out.

        Raises:
            StorageError: If listing fails, at any page.
        """
        for page in self._pages(bucket, prefix):
            yield from _objects_in(page, bucket)

    def list_folder(self, bucket: str, prefix: str) -> Iterator[ObjectInfo | str]:
        """The objects directly behind a prefix, and the URLs of the folders there, which end with ``/``.

        Raises:
            StorageError: If listing fails, at any page.
        """
        for page in self._pages(bucket, prefix, "/"):
            folders = [f"s3://{bucket}/{each['Prefix']}" for each in page.get("CommonPrefixes", [])]
            yield from in_order([*_objects_in(page, bucket), *folders])

    def _pages(self, bucket: str, prefix: str, delimiter: str = "") -> Iterator[Any]:
        only: dict[str, Any] = {"Delimiter": delimiter} if delimiter else {}
        with translated(ErrorDetails("s3", f"s3://{bucket}/{prefix}", "list")):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=bucket, Prefix=prefix, **only, **self.parameters("ListObjectsV2")
            )
            for page in pages:
                require_any(page, *_OF_LISTINGS)
                yield page

    def is_prefix(self, bucket: str, prefix: str) -> bool:
        """Whether any key begins with a prefix.

        Raises:
            StorageError: If it cannot be told.
        """
        with translated(ErrorDetails("s3", f"s3://{bucket}/{prefix}", "list")):
            page = self.client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1, **self.parameters("ListObjectsV2"))
            require_any(page, *_OF_LISTINGS)
        return bool(page.get("Contents"))

    def require_bucket(self, bucket: str, details: ErrorDetails, *, recently: bool = True) -> None:
        """Check that a bucket is there: a HeadObject answers a bare 404 for a missing key and a missing bucket alike.

        Args:
            bucket: The bucket.
            details: What it is for, for errors.
            recently: Whether it is enough that it was there within the last seconds, which saves a request for each miss.

        Raises:
            BucketNotFoundError: If it is not.
        """
        if recently and time.monotonic() - self._seen.get(bucket, -_RECENTLY) < _RECENTLY:
            return
        try:
            self.client.head_bucket(Bucket=bucket, **self.parameters("HeadBucket"))
        except ClientError as error:
            if status_of(error) == _NOT_FOUND:
                known = dataclasses.replace(details, status=_NOT_FOUND, code="NoSuchBucket")
                raise BucketNotFoundError(
                    f"s3 {details.operation} of {details.url} failed: there is no bucket {bucket!r} at "
                    f"{self.client.meta.endpoint_url}. Create it, or check its name and the endpoint_url",
                    known,
                ) from error
            # 403: others may not look at it; 301: it is in another region. It is there, and that is all we ask.
            if status_of(error) not in _IS_THERE:
                raise translate(error, details) from error
        except RAISED as error:
            raise translate(error, details) from error
        self._seen[bucket] = time.monotonic()

    @contextlib.contextmanager
    def _diagnosed(self, bucket: str, key: str, details: ErrorDetails) -> Iterator[None]:
        """Translate errors of a HEAD, whose answer has no body to say more than "400" or "403"."""
        try:
            yield
        except ClientError as error:
            if is_not_found(error):
                raise not_found(dataclasses.replace(details, status=status_of(error), code=code_of(error))) from error
            if status_of(error) not in _NEEDS_DIAGNOSIS:
                raise translate(error, details) from error
            raise translate(self._explained(bucket, key, error), details) from error
        except RAISED as error:
            raise translate(error, details) from error

    def _explained(self, bucket: str, key: str, error: ClientError) -> ClientError:
        """The same refusal with its reason, such as ExpiredToken, from a GET of one byte."""
        try:
            answer = self.client.get_object(Bucket=bucket, Key=key, Range="bytes=0-0", **self.parameters("GetObject"))
        except ClientError as explained:
            return explained if status_of(explained) in _NEEDS_DIAGNOSIS else error
        except SDK_ERRORS:
            return error
        answer["Body"].close()
        return error


def info_from_head(answer: Mapping[str, Any], url: str) -> ObjectInfo:
    """Read the answer to a HeadObject."""
    return ObjectInfo(
        url=url,
        size=answer["ContentLength"],
        etag=answer["ETag"].strip('"'),
        last_modified=answer.get("LastModified"),
        checksum=_checksum(answer),
        metadata=_metadata(answer),
    )


def _objects_in(page: Mapping[str, Any], bucket: str) -> Iterator[ObjectInfo]:
    for entry in page.get("Contents", []):
        if not entry["Key"].endswith("/"):
            yield info_from_listing(entry, f"s3://{bucket}/{entry['Key']}")


def info_from_listing(entry: Mapping[str, Any], url: str) -> ObjectInfo:
    """Read an entry of a listing."""
    return ObjectInfo(
        url=url,
        size=entry["Size"],
        etag=str(entry.get("ETag", "")).strip('"') or None,
        last_modified=entry.get("LastModified"),
    )


def _metadata(answer: Mapping[str, Any]) -> Mapping[str, str]:
    # Some servers keep the case that HTTP libraries give to header names.
    return {name.lower(): value for name, value in answer.get("Metadata", {}).items()}


def _checksum(answer: Mapping[str, Any]) -> str | None:
    """The full-object checksum: ours from the metadata, which was computed from the file, or else the store's own.

    A composite checksum (``…-5``, or so marked) is one of the parts' checksums, which says nothing of bytes read in ranges.
    Servers that do not know an algorithm have been seen to answer with another one's value under its name.
    """
    ours = kept_checksum(_metadata(answer).get(CHECKSUM, ""), answer["ContentLength"])
    if ours:
        return ours
    if answer.get("ChecksumType") == "COMPOSITE":
        return None
    for algorithm in ALGORITHMS:
        value = answer.get(f"Checksum{algorithm.upper()}")
        if value and is_well_formed(value, algorithm):
            return f"{algorithm}:{value}"
    return None
