"""`AzureStore`: uploads, downloads and looks at blobs, put together from requests and transfers."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from gllm_storage.azure.errors import translated
from gllm_storage.azure.upload import AzureReader, AzureUpload, AzureWrite, tier_of
from gllm_storage.errors import AccessDeniedError, ErrorDetails
from gllm_storage.store.create import exists_error, write_object

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gllm_storage.azure.requests import AzureRequests
    from gllm_storage.files.source import Source
    from gllm_storage.info import ObjectInfo
    from gllm_storage.settings import TransferSettings
    from gllm_storage.store.transfer import Transfer

ATTEMPTS = 20
"""How often a write is tried while others change the same blob: each commit throws away the blocks that others have sent for
that name, so that the last of N writers sends all of it N times. With 6 attempts, one of 16 gave up on a busy machine."""


class AzureStore:
    """The data path of one filesystem. It knows nothing of fsspec.

    Args:
        requests: The control requests, and the SDK's clients.
        settings: How objects are moved.
        access_tier: Where blobs are kept: ``"hot"``, ``"cool"``, ``"cold"``, ``"archive"``; None for the account's default.
    """

    def __init__(self, requests: AzureRequests, settings: TransferSettings, access_tier: str | None = None) -> None:
        self.requests = requests
        self.settings = settings
        self._tier = tier_of(access_tier)

    def upload(
        self, source: Source, bucket: str, key: str, transfer: Transfer, *, exclusive: bool, options: Mapping[str, Any]
    ) -> None:
        """Upload a local file.

        Args:
            source: The file.
            bucket: The container.
            key: The blob's name.
            transfer: What it is about, who watches, and what stops it.
            exclusive: Whether to fail if the blob exists, atomically.
            options: ``metadata``, and ``content`` for content type and the like.

        Raises:
            ObjectExistsError: If `exclusive`, and the blob exists.
            StorageError: If the upload fails; nothing was changed then, and nothing visible is left behind.
        """
        upload = AzureUpload(
            source=source,
            client=self.requests.connections.blob(bucket, key),
            requests=self.requests,
            container=bucket,
            blob=key,
            transfer=transfer,
            exclusive=exclusive,
            metadata=options.get("metadata") or {},
            content=options.get("content") or {},
            options=self._tier,
        )
        with translated(transfer.details):
            write_object(AzureWrite(upload), exclusive=exclusive, attempts=ATTEMPTS)

    def reader(self, bucket: str, key: str, details: ErrorDetails) -> AzureReader:
        """Read a blob."""
        return AzureReader(self.requests, bucket, key, details)

    def require_creates(self, bucket: str, key: str, details: ErrorDetails) -> None:
        """Check that a blob can be created exclusively, before its content is there.

        Raises:
            ObjectExistsError: If it exists already.
            StorageError: If it cannot be told.
        """
        with contextlib.suppress(AccessDeniedError):  # who may write but not read: the store itself decides, at the end
            if self.requests.metadata(bucket, key, details) is not None:
                raise exists_error(details)

    def info(self, bucket: str, key: str, operation: str) -> ObjectInfo:
        """What there is to know of a blob.

        Raises:
            ObjectNotFoundError: If it does not exist.
            StorageError: If it cannot be told.
        """
        return self.requests.info(bucket, key, _details(bucket, key, operation))

    def entry(self, bucket: str, key: str) -> dict[str, Any]:
        """The same as adlfs has it.

        Raises:
            ObjectNotFoundError: If it does not exist.
            StorageError: If it cannot be told.
        """
        found = self.requests.head(bucket, key, _details(bucket, key, "info"))
        return {
            "name": f"{bucket}/{key}",
            "type": "file",
            "size": int(found.size),
            "etag": f'"{str(found.etag).strip(chr(34))}"',
            "last_modified": found.last_modified,
            "creation_time": found.creation_time,
            "content_settings": found.content_settings,
            "metadata": dict(found.metadata or {}),
            "version_id": getattr(found, "version_id", None),
        }

    def delete(self, bucket: str, key: str) -> None:
        """Delete a blob.

        Raises:
            ObjectNotFoundError: If it does not exist.
            StorageError: If it cannot be deleted.
        """
        self.requests.delete(bucket, key, _details(bucket, key, "delete"))

    def list(self, bucket: str, prefix: str) -> Iterator[ObjectInfo]:
        """All blobs whose name begins with a prefix, in order.

        Raises:
            StorageError: If listing fails.
        """
        return self.requests.list(bucket, prefix, _details(bucket, prefix, "list"))

    def list_folder(self, bucket: str, prefix: str) -> Iterator[ObjectInfo | str]:
        """What is directly behind a prefix: blobs, and URLs of folders.

        Raises:
            StorageError: If listing fails.
        """
        return self.requests.folder(bucket, prefix, _details(bucket, prefix, "list"))

    def is_prefix(self, bucket: str, prefix: str) -> bool:
        """Whether any blob's name begins with a prefix.

        Raises:
            StorageError: If it cannot be told.
        """
        return self.requests.is_prefix(bucket, prefix, _details(bucket, prefix, "info"))

    def require_bucket(self, bucket: str, details: ErrorDetails, *, recently: bool = True) -> None:
        """Check that a container is there, or was within the last seconds.

        Raises:
            BucketNotFoundError: If it is not.
            StorageError: If it cannot be told.
        """
        self.requests.require_container(bucket, details, recently=recently)


def _details(bucket: str, key: str, operation: str) -> ErrorDetails:
    return ErrorDetails("azure", f"az://{bucket}/{key}", operation)
