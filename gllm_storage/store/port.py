"""`BucketStore`: what a provider gives, so that `BucketFileSystem` can put fsspec's face on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from gllm_storage.files.local_files import open_source

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gllm_storage.errors import ErrorDetails
    from gllm_storage.files.source import Source
    from gllm_storage.info import ObjectInfo
    from gllm_storage.store.object_reader import ObjectReader
    from gllm_storage.store.transfer import Transfer, TransferSettings


@dataclass(frozen=True)
class Destination:
    """An object that is to be written.

    Attributes:
        bucket: The bucket.
        key: The key.
        transfer: What it is about, who watches, and what stops it.
        exclusive: Whether to fail if the object exists, atomically.
        options: What the object gets beside its content, in the provider's own words.
    """

    bucket: str
    key: str
    transfer: Transfer
    exclusive: bool
    options: Mapping[str, Any]

    def take(self, store: BucketStore, source: Source) -> None:
        """Upload a file to here; as `BucketStore.upload`."""
        store.upload(source, self.bucket, self.key, self.transfer, exclusive=self.exclusive, options=self.options)

    def take_file(self, store: BucketStore, path: str) -> None:
        """Upload the local file of that path to here; as `BucketStore.upload`."""
        progress = self.transfer.progress
        with open_source(path, self.transfer.details) as source:
            progress.expect(source.size)
            self.take(store, source)
        progress.finish()


class BucketStore(Protocol):
    """The objects of a provider. It knows nothing of fsspec, and raises our errors only."""

    @property
    def settings(self) -> TransferSettings:
        """How objects are moved."""

    def upload(
        self, source: Source, bucket: str, key: str, transfer: Transfer, *, exclusive: bool, options: Mapping[str, Any]
    ) -> None:
        """Upload a local file, or what stands for one.

        Args:
            source: The file.
            bucket: The bucket.
            key: The key.
            transfer: What it is about, who watches, and what stops it.
            exclusive: Whether to fail if the object exists, atomically.
            options: What the object gets beside its content, in the provider's own words.

        Raises:
            ObjectExistsError: If `exclusive`, and the object exists.
            StorageError: If the upload fails; nothing was changed then, and nothing is left behind.
        """

    def reader(self, bucket: str, key: str, details: ErrorDetails) -> ObjectReader:
        """Read an object."""

    def require_creates(self, bucket: str, key: str, details: ErrorDetails) -> None:
        """Check that an object can be created exclusively, before its content is there.

        Raises:
            ConflictCheckUnsupportedError: If it cannot.
            ObjectExistsError: If it exists already.
            StorageError: If it cannot be told.
        """

    def info(self, bucket: str, key: str, operation: str) -> ObjectInfo:
        """What there is to know of an object; `ObjectNotFoundError` if it does not exist."""

    def entry(self, bucket: str, key: str) -> dict[str, Any]:
        """The same as fsspec's filesystem of this provider has it, for `info`."""

    def delete(self, bucket: str, key: str) -> None:
        """Delete an object; `ObjectNotFoundError` if it does not exist."""

    def list(self, bucket: str, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key begins with a prefix, in key order."""

    def list_folder(self, bucket: str, prefix: str) -> Iterator[ObjectInfo | str]:
        """What is directly behind a prefix: objects, and URLs of folders, which end with ``/``."""

    def is_prefix(self, bucket: str, prefix: str) -> bool:
        """Whether any key begins with a prefix."""

    def require_bucket(self, bucket: str, details: ErrorDetails, *, recently: bool = True) -> None:
        """Check that a bucket is there, or was within the last seconds; `BucketNotFoundError` if it is not."""
