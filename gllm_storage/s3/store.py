"""`S3Store`: uploads, downloads and reads of objects, put together from requests, plans and the engine."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

from gllm_storage.errors import AccessDeniedError, ErrorDetails
from gllm_storage.exclusive import exists_error
from gllm_storage.local_files import LocalSource, atomic_target
from gllm_storage.objects import ObjectInfo
from gllm_storage.s3.body import ChecksumHeaders
from gllm_storage.s3.boto import BotoEngine
from gllm_storage.s3.capabilities import ALL_ENFORCED, ConditionalWrites, conditional_writes
from gllm_storage.s3.connection import is_amazon
from gllm_storage.s3.errors import translated
from gllm_storage.s3.plan import TransferSettings, UploadPlan, part_size_for, plan_create, plan_overwrite
from gllm_storage.s3.transfer import (
    Download,
    MemorySink,
    Transfer,
    Upload,
    download_object,
    upload_object,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gllm_storage.s3.requests import S3Requests


class S3Store:
    """The data path of one filesystem. It knows nothing of fsspec.

    Args:
        requests: The control requests, and the boto3 client.
        settings: How objects are moved.
    """

    def __init__(self, requests: S3Requests, settings: TransferSettings) -> None:
        self.requests = requests
        self.settings = settings
        self._checksum_headers = ChecksumHeaders()

    def upload(
        self,
        source: LocalSource,
        bucket: str,
        key: str,
        transfer: Transfer,
        *,
        exclusive: bool,
        parameters: Mapping[str, Any],
    ) -> None:
        """Upload a local file.

        Args:
            source: The file.
            bucket: The bucket.
            key: The key.
            transfer: What it is about, who watches, and what stops it.
            exclusive: Whether to fail if the object exists, atomically.
            parameters: Further parameters of PutObject and CreateMultipartUpload.

        Raises:
            ObjectExistsError: If `exclusive`, and the object exists.
            StorageError: If the upload fails; nothing was changed then, and nothing is left behind.
        """
        plan = self._plan(source.size, bucket, key, transfer.details, exclusive=exclusive)
        upload = Upload(
            source=source,
            place={"Bucket": bucket, "Key": key},
            write_parameters=_given(parameters),
            metadata=parameters.get("Metadata") or {},
            plan=plan,
            transfer=transfer,
            # Amazon keeps a checksum of the whole object; of other stores we do not know, so ours goes into the metadata.
            keep_checksum=not is_amazon(self.requests.client),
        )
        head = partial(self.requests.metadata, bucket, key, "upload")
        upload_object(self._engine(), upload, head, exclusive=exclusive)

    def download(self, bucket: str, key: str, path: str, transfer: Transfer) -> None:
        """Download an object: whole, one version of it, verified, or not at all.

        Args:
            bucket: The bucket.
            key: The key.
            path: The local file that it replaces when it is complete.
            transfer: What it is about, who watches, and what stops it.

        Raises:
            ObjectNotFoundError: If the object does not exist.
            IntegrityError: If its content does not match its checksum.
            StorageError: If the download fails; what was at `path` is as it was.
        """
        head = partial(self.requests.info, bucket, key, "download")
        with atomic_target(path, transfer.details) as target:
            version = head()
            transfer.expect(version.size)
            step = part_size_for(version.size, self.settings.part_size)
            download = Download(bucket, key, version, target, transfer, part_size=step)
            download_object(self._engine(), download, target, head)

    def read_range(self, bucket: str, key: str, start: int, end: int, etag: str) -> bytes:
        """Bytes ``start`` to ``end`` (not included) of one version of an object.

        Raises:
            ObjectChangedError: If the object is another version now.
            ObjectNotFoundError: If it was deleted.
            StorageError: If it cannot be read.
        """
        transfer = Transfer(ErrorDetails("s3", f"s3://{bucket}/{key}", "read"), self.settings)
        memory = MemorySink(start, end - start)
        version = ObjectInfo(transfer.details.url, size=-1, etag=etag.strip('"'))
        with translated(transfer.details):
            self._engine().fetch_range(
                Download(bucket, key, version, memory, transfer, part_size=end - start), start, end - start
            )
        return memory.getvalue()

    def require_creates(self, bucket: str, key: str, details: ErrorDetails) -> None:
        """Check that an object can be created exclusively, before its content is there.

        Raises:
            ConflictCheckUnsupportedError: If it cannot.
            ObjectExistsError: If it exists already.
            StorageError: If it cannot be told.
        """
        self._plan(0, bucket, key, details, exclusive=True)
        with contextlib.suppress(AccessDeniedError):  # who may write but not read: the store itself decides, at the end
            if self.requests.metadata(bucket, key, "open") is not None:
                raise exists_error(details)

    def _engine(self) -> BotoEngine:
        return BotoEngine(self.requests.client, self.requests.parameters, self._checksum_headers)

    def _plan(self, size: int, bucket: str, key: str, details: ErrorDetails, *, exclusive: bool) -> UploadPlan:
        if not exclusive:
            return plan_overwrite(size, self.settings)
        return plan_create(size, self.settings, self._conditional_writes(bucket, key), details)

    def _conditional_writes(self, bucket: str, key: str) -> ConditionalWrites:
        if self.settings.conditional_writes == "enforced":
            return ALL_ENFORCED
        folder = key[: key.rfind("/") + 1]
        with translated(ErrorDetails("s3", f"s3://{bucket}/{folder}", "probe of conditional writes")):
            return conditional_writes(self.requests.client, bucket, folder, self.requests.parameters)


def _given(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters for botocore, which takes no None; s3fs's own options are left out."""
    ours = {"Metadata", "chunksize", "max_concurrency"}
    return {name: value for name, value in parameters.items() if name not in ours and value is not None}
