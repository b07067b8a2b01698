"""`S3Store`: uploads, downloads and reads of objects, put together from requests, plans and the engine."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from functools import partial
from typing import TYPE_CHECKING, Any

from gllm_storage.errors import AccessDeniedError, ErrorDetails
from gllm_storage.files.source import MemorySource
from gllm_storage.files.spool import SpooledObject
from gllm_storage.s3.body import ChecksumHeaders
from gllm_storage.s3.connection import is_amazon
from gllm_storage.s3.errors import translated
from gllm_storage.s3.multipart import BotoEngine
from gllm_storage.s3.plan import (
    MAX_PUT,
    MIN_PART,
    S3TransferSettings,
    UploadPlan,
    plan_create,
    plan_overwrite,
    settings_of_call,
)
from gllm_storage.s3.probe import ALL_ENFORCED, Condition, ConditionalWrites, conditional_writes
from gllm_storage.s3.read import S3Reader
from gllm_storage.s3.stream import StreamedObject, StreamPlan
from gllm_storage.s3.upload import Upload, upload_object
from gllm_storage.store.create import exists_error, new_write_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

    from gllm_storage.files.source import Source
    from gllm_storage.filesystem.writing import WritableFile
    from gllm_storage.info import ObjectInfo
    from gllm_storage.s3.multipart import Receipt
    from gllm_storage.s3.requests import S3Requests
    from gllm_storage.store.port import Destination
    from gllm_storage.store.transfer import Transfer


class S3Store:
    """The data path of one filesystem. It knows nothing of fsspec.

    Args:
        requests: The control requests, and the boto3 client.
        settings: How objects are moved.
    """

    _receipt: Receipt | None = None

    def __init__(self, requests: S3Requests, settings: S3TransferSettings) -> None:
        self.requests = requests
        self.settings = settings
        self._checksum_headers = ChecksumHeaders()

    def noting(self, receipt: Receipt) -> S3Store:
        """The same store, which tells what became of an upload.

        Args:
            receipt: Told, each time.
        """
        store = copy.copy(self)  # what was learnt of the endpoint is shared
        store._receipt = receipt  # noqa: SLF001 - its own
        return store

    def upload(
        self,
        source: Source,
        bucket: str,
        key: str,
        transfer: Transfer,
        *,
        exclusive: bool,
        options: Mapping[str, Any],
    ) -> None:
        """Upload a local file.

        Args:
            source: The file.
            bucket: The bucket.
            key: The key.
            transfer: What it is about, who watches, and what stops it.
            exclusive: Whether to fail if the object exists, atomically.
            options: Further parameters of PutObject and CreateMultipartUpload; and s3fs's ``chunksize`` and
                ``max_concurrency``, which are of this upload alone.

        Raises:
            ValueError: If parts cannot be as `options` say.
            ObjectExistsError: If `exclusive`, and the object exists.
            StorageError: If the upload fails; nothing was changed then, and nothing is left behind.
        """
        settings = settings_of_call(self.settings, options)
        transfer = dataclasses.replace(transfer, settings=settings)
        plan = self._plan(source.size, settings, bucket, key, transfer.details, exclusive=exclusive)
        upload = Upload(
            source=source,
            place={"Bucket": bucket, "Key": key},
            write_parameters=_given(options),
            metadata=options.get("Metadata") or {},
            plan=plan,
            transfer=transfer,
            # Amazon keeps a checksum of the whole object; of other stores we do not know, so ours goes into the metadata.
            keep_checksum=not is_amazon(self.requests.client),
        )
        head = partial(self.requests.metadata, bucket, key, "upload")
        upload_object(self._engine(), upload, head, exclusive=exclusive)

    def open_stream(self, destination: Destination, part_size: int | None) -> AbstractContextManager[WritableFile]:
        """A file that becomes an object when the block ends well; its parts are sent while it is written, if possible.

        Args:
            destination: Where it goes.
            part_size: Bytes in a part; None for the setting, or for ``chunksize`` among the destination's options.

        Raises:
            ValueError: If parts cannot be as `part_size` and the options say, or these differ.
            StorageError: If it cannot be told how the endpoint creates exclusively.
        """
        options, details = destination.options, destination.transfer.details
        wanted = options.get("chunksize")
        if wanted is not None and part_size is not None and wanted != part_size:
            raise ValueError(f"block_size={part_size!r} and chunksize={wanted!r} are two sizes of one part; leave one out")
        settings = settings_of_call(self.settings, options)
        transfer = dataclasses.replace(destination.transfer, settings=settings)
        destination = dataclasses.replace(destination, transfer=transfer)
        part_size = wanted if part_size is None else part_size
        if part_size is not None and not MIN_PART <= part_size <= MAX_PUT:
            raise ValueError(f"Block size must be >=5MB, and at most 5 GiB, not {part_size} bytes")
        conditional = destination.exclusive
        if conditional and not self._completes_exclusively(destination):
            # What was sent in parts could only overwrite. As a whole it goes in one PutObject, if it can.
            return SpooledObject(partial(destination.take, self), settings, details)
        size = part_size or settings.part_size
        threshold = settings.multipart_threshold if part_size is None else min(settings.multipart_threshold, part_size)
        plan = StreamPlan(
            upload=Upload(
                source=MemorySource(b"", details),
                place={"Bucket": destination.bucket, "Key": destination.key},
                write_parameters=_given(options),
                metadata=options.get("Metadata") or {},
                plan=UploadPlan(multipart=True, part_size=size, conditional=conditional),
                transfer=transfer,
            ),
            engine=self._engine(),
            head=partial(self.requests.metadata, destination.bucket, destination.key, details.operation),
            upload_whole=partial(destination.take, self),
            write_id=new_write_id(),
            exclusive=destination.exclusive,
            part_size=size,
            small=max(threshold, size),
        )
        return StreamedObject(plan)

    def reader(self, bucket: str, key: str, details: ErrorDetails) -> S3Reader:
        """Read an object."""
        return S3Reader(self.requests, bucket, key, details)

    def info(self, bucket: str, key: str, operation: str) -> ObjectInfo:
        """What there is to know of an object.

        Raises:
            ObjectNotFoundError: If it does not exist.
            StorageError: If it cannot be told.
        """
        return self.requests.info(bucket, key, operation)

    def entry(self, bucket: str, key: str) -> dict[str, Any]:
        """The same as s3fs has it.

        Raises:
            ObjectNotFoundError: If it does not exist.
            StorageError: If it cannot be told.
        """
        answer = self.requests.head(bucket, key, "info", checksums=True)
        return {
            "name": f"{bucket}/{key}",
            "type": "file",
            "size": answer["ContentLength"],
            "ETag": answer["ETag"],
            "LastModified": answer.get("LastModified", ""),
            "StorageClass": answer.get("StorageClass", "STANDARD"),
            "VersionId": answer.get("VersionId"),
            "ContentType": answer.get("ContentType"),
            "metadata": dict(answer.get("Metadata", {})),
        }

    def delete(self, bucket: str, key: str) -> None:
        """Delete an object.

        Raises:
            ObjectNotFoundError: If it does not exist; who may not look is not told.
            StorageError: If it cannot be deleted.
        """
        with contextlib.suppress(AccessDeniedError):  # who may write and delete need not be able to read
            self.requests.head(bucket, key, "delete")  # DeleteObject answers 204 for what never was
        self.requests.delete(bucket, key)

    def list(self, bucket: str, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key begins with a prefix, in key order.

        Raises:
            StorageError: If listing fails.
        """
        return self.requests.list(bucket, prefix)

    def list_folder(self, bucket: str, prefix: str) -> Iterator[ObjectInfo | str]:
        """What is directly behind a prefix: objects, and URLs of folders.

        Raises:
            StorageError: If listing fails.
        """
        return self.requests.list_folder(bucket, prefix)

    def is_prefix(self, bucket: str, prefix: str) -> bool:
        """Whether any key begins with a prefix.

        Raises:
            StorageError: If it cannot be told.
        """
        return self.requests.is_prefix(bucket, prefix)

    def require_bucket(self, bucket: str, details: ErrorDetails, *, recently: bool = True) -> None:
        """Check that a bucket is there, or was within the last seconds.

        Raises:
            BucketNotFoundError: If it is not.
            StorageError: If it cannot be told.
        """
        self.requests.require_bucket(bucket, details, recently=recently)

    def require_creates(self, bucket: str, key: str, details: ErrorDetails) -> None:
        """Check that an object can be created exclusively, before its content is there.

        Raises:
            ConflictCheckUnsupportedError: If it cannot.
            ObjectExistsError: If it exists already.
            StorageError: If it cannot be told.
        """
        self._plan(0, self.settings, bucket, key, details, exclusive=True)
        with contextlib.suppress(AccessDeniedError):  # who may write but not read: the store itself decides, at the end
            if self.requests.metadata(bucket, key, "open") is not None:
                raise exists_error(details)

    def takes_checksums(self, method: str) -> bool:
        """Whether the endpoint takes checksums in the headers of a request, as far as we know.

        Args:
            method: boto3's name of the operation.
        """
        return self._checksum_headers.accepted.get(method) is not False

    def _engine(self) -> BotoEngine:
        return BotoEngine(self.requests.client, self.requests.parameters, self._checksum_headers, self._receipt)

    def _plan(
        self, size: int, settings: S3TransferSettings, bucket: str, key: str, details: ErrorDetails, *, exclusive: bool
    ) -> UploadPlan:
        if not exclusive:
            return plan_overwrite(size, settings)
        return plan_create(size, settings, self._conditional_writes(bucket, key), details)

    def _completes_exclusively(self, destination: Destination) -> bool:
        return self._conditional_writes(destination.bucket, destination.key).complete is Condition.ENFORCED

    def _conditional_writes(self, bucket: str, key: str) -> ConditionalWrites:
        if self.settings.conditional_writes == "enforced":
            return ALL_ENFORCED
        folder = key[: key.rfind("/") + 1]
        with translated(ErrorDetails("s3", f"s3://{bucket}/{folder}", "probe of conditional writes")):
            return conditional_writes(self.requests.client, bucket, folder, self.requests.parameters)


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters for botocore, which takes no None; s3fs's own options are left out."""
    ours = {"Metadata", "acl", "chunksize", "max_concurrency"}
    given = {name: value for name, value in options.items() if name not in ours and value is not None}
    return {**given, "ACL": options["acl"]} if options.get("acl") else given
