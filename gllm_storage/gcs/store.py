"""`GCSStore`: uploads, downloads and looks at objects, put together from requests and transfers."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from gllm_storage.errors import AccessDeniedError, ConflictCheckUnsupportedError, ErrorDetails
from gllm_storage.gcs.errors import translated
from gllm_storage.gcs.requests import info_of
from gllm_storage.gcs.upload import GCSReader, GCSUpload, GCSWrite
from gllm_storage.info import aware
from gllm_storage.store.create import exists_error, write_object

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gllm_storage.files.source import Source
    from gllm_storage.gcs.requests import GCSRequests
    from gllm_storage.info import ObjectInfo
    from gllm_storage.settings import TransferSettings
    from gllm_storage.store.transfer import Transfer


class GCSStore:
    """The data path of one filesystem. It knows nothing of fsspec.

    Args:
        requests: Sends the requests.
        settings: How objects are moved.
        resource: What every object gets, such as ``storageClass``.
        parameters: Query parameters of every upload, such as ``kmsKeyName``.
    """

    def __init__(
        self,
        requests: GCSRequests,
        settings: TransferSettings,
        resource: Mapping[str, Any],
        parameters: Mapping[str, str],
    ) -> None:
        self.requests = requests
        self.settings = settings
        self._resource = resource
        self._parameters = parameters

    def upload(
        self, source: Source, bucket: str, key: str, transfer: Transfer, *, exclusive: bool, options: Mapping[str, Any]
    ) -> None:
        """Upload a local file.

        Args:
            source: The file.
            bucket: The bucket.
            key: The object's name.
            transfer: What it is about, who watches, and what stops it.
            exclusive: Whether to fail if the object exists, atomically.
            options: ``resource``, what the object gets beside its content, and ``parameters`` of the query.

        Raises:
            ObjectExistsError: If `exclusive`, and the object exists.
            ConflictCheckUnsupportedError: If `exclusive`, and the bucket is a zonal one.
            StorageError: If the upload fails; nothing was changed then, and nothing is left behind.
        """
        if exclusive:
            self._require_conditions(bucket, transfer.details)
        upload = GCSUpload(
            source=source,
            requests=self.requests,
            bucket=bucket,
            key=key,
            transfer=transfer,
            exclusive=exclusive,
            resource={**self._resource, **options.get("resource", {})},
            parameters={**self._parameters, **options.get("parameters", {})},
        )
        with translated(transfer.details):
            write_object(GCSWrite(upload), exclusive=exclusive)

    def reader(self, bucket: str, key: str, details: ErrorDetails) -> GCSReader:
        """Read an object."""
        return GCSReader(self.requests, bucket, key, details)

    def require_creates(self, bucket: str, key: str, details: ErrorDetails) -> None:
        """Check that an object can be created exclusively, before its content is there.

        Raises:
            ConflictCheckUnsupportedError: If it cannot.
            ObjectExistsError: If it exists already.
            StorageError: If it cannot be told.
        """
        self._require_conditions(bucket, details)
        with contextlib.suppress(AccessDeniedError):  # who may write but not read: the store itself decides, at the end
            if self.requests.look(bucket, key, details) is not None:
                raise exists_error(details)

    def info(self, bucket: str, key: str, operation: str) -> ObjectInfo:
        """What there is to know of an object.

        Raises:
            ObjectNotFoundError: If it does not exist.
            StorageError: If it cannot be told.
        """
        return info_of(self.requests.resource(bucket, key, _details(bucket, key, operation)), f"gs://{bucket}/{key}")

    def entry(self, bucket: str, key: str) -> dict[str, Any]:
        """The same as gcsfs has it.

        Raises:
            ObjectNotFoundError: If it does not exist.
            StorageError: If it cannot be told.
        """
        found = self.requests.resource(bucket, key, _details(bucket, key, "info"))
        of_fsspec = {"name": f"{bucket}/{key}", "type": "file", "size": int(found.get("size", 0))}
        times = {"mtime": aware(found.get("updated")), "ctime": aware(found.get("timeCreated"))}
        return {**found, **of_fsspec, **times}

    def delete(self, bucket: str, key: str) -> None:
        """Delete an object.

        Raises:
            ObjectNotFoundError: If it does not exist.
            StorageError: If it cannot be deleted.
        """
        self.requests.delete(bucket, key, _details(bucket, key, "delete"))

    def list(self, bucket: str, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose name begins with a prefix, in order.

        Raises:
            StorageError: If listing fails.
        """
        return self.requests.objects(bucket, prefix, _details(bucket, prefix, "list"))

    def list_folder(self, bucket: str, prefix: str) -> Iterator[ObjectInfo | str]:
        """What is directly behind a prefix: objects, and URLs of folders.

        Raises:
            StorageError: If listing fails.
        """
        return self.requests.folder(bucket, prefix, _details(bucket, prefix, "list"))

    def is_prefix(self, bucket: str, prefix: str) -> bool:
        """Whether any object's name begins with a prefix.

        Raises:
            StorageError: If it cannot be told.
        """
        return self.requests.is_prefix(bucket, prefix, _details(bucket, prefix, "list"))

    def require_bucket(self, bucket: str, details: ErrorDetails, *, recently: bool = True) -> None:
        """Check that a bucket is there, or was within the last seconds.

        Raises:
            BucketNotFoundError: If it is not.
            StorageError: If it cannot be told.
        """
        self.requests.require_bucket(bucket, details, recently=recently)

    def _require_conditions(self, bucket: str, details: ErrorDetails) -> None:
        if self.requests.is_zonal(bucket, details):
            raise ConflictCheckUnsupportedError(
                f"{details.url}: the bucket is a zonal one (Rapid Storage), which cannot create exclusively, so "
                "check_conflict=True was refused and nothing was written. Use check_conflict=False, or "
                "another bucket",
                details,
            )


def _details(bucket: str, key: str, operation: str) -> ErrorDetails:
    return ErrorDetails("gcs", f"gs://{bucket}/{key}", operation)
