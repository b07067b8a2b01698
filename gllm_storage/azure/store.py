"""`AzureStore`: the blobs of one container."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from gllm_storage.azure.copy import BlobCopy
from gllm_storage.azure.errors import is_missing_blob, translated
from gllm_storage.azure.read import AzureReader
from gllm_storage.azure.requests import answer_behind, info_of, is_folder, url_of
from gllm_storage.azure.settings import FORBIDDEN
from gllm_storage.azure.upload import AzureWrite, options_of, options_to_copy
from gllm_storage.concurrency.stop import stopped_by
from gllm_storage.errors import AccessDeniedError, Remedy, UnsupportedOperationError
from gllm_storage.info import in_order
from gllm_storage.store.create import exists_error, require_size, write_object
from gllm_storage.store.port import ObjectStore, guess_content_type
from gllm_storage.store.retry import BLOCK_CONFLICT, deleting

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gllm_storage.azure.requests import AzureRequests
    from gllm_storage.errors import ErrorDetails
    from gllm_storage.files.source import Source
    from gllm_storage.info import ObjectInfo, ObjectProperties, Stored
    from gllm_storage.settings import TransferSettings
    from gllm_storage.store.port import UploadRequest
    from gllm_storage.store.transfer import Transfer


class AzureStore(ObjectStore):
    """The blobs of one container.

    The options of an `UploadRequest` are ``metadata`` (names and values of user metadata) and ``content`` (arguments of the
    SDK's ``ContentSettings``, such as ``content_type``).

    Args:
        requests: Requests to the container.
    """

    provider: ClassVar[str] = "azure"
    creates_exclusively: ClassVar[bool] = True
    forbidden: ClassVar[str] = FORBIDDEN
    replaces_at_once: ClassVar[bool] = False
    """The blob is empty while a copy is pending, and after one that failed."""

    def __init__(self, requests: AzureRequests) -> None:
        self.requests = requests

    @property
    def place(self) -> str:
        """The provider and the endpoint."""
        return f"azure {self.requests.container.primary_hostname}"

    def is_one_with(self, other: ObjectStore) -> bool:
        """As `ObjectStore.is_one_with`; a copy within the store has the key of the store."""
        if not (isinstance(other, AzureStore) and super().is_one_with(other)):
            return False
        return self.requests.connection.sse_customer_key == other.requests.connection.sse_customer_key

    @property
    def settings(self) -> TransferSettings:
        """Part sizes, concurrency and attempts."""
        return self.requests.connection.settings

    def url(self, key: str) -> str:
        """The URL of a key."""
        return url_of(self.requests.name, key)

    def upload(self, request: UploadRequest) -> Stored:
        """Store a blob: by Put Blob up to ``multipart_threshold``, above that by blocks, several at a time.

        Raises:
            ObjectExistsError: If the request is exclusive, and a blob of this name exists.
            StorageError: If the upload fails; nothing was changed then, and nothing visible is left behind.
        """
        write, stop = AzureWrite(self.requests, request), request.transfer.stop
        with translated(request.details), stopped_by(stop):
            write_id = request.content_id or None
            stored = write_object(write, exclusive=request.exclusive, policy=BLOCK_CONFLICT, write_id=write_id, stop=stop)
        return require_size(stored, request.source.size, request.details)

    def options_of(self, properties: ObjectProperties, details: ErrorDetails) -> Mapping[str, Any]:
        """Translate properties into options of `upload`.

        Raises:
            ValueError: If Azure does not accept a value, or `kms_key` contradicts the customer key of the connection.
            UnsupportedOperationError: If there is an ACL, which blobs do not have, or `encryption`, which `kms_key` implies.
        """
        known = ("content_encoding", "content_disposition", "content_language", "cache_control", "metadata", "tags")
        self.require_properties(properties, details, "content_type", *known, "storage_class", "kms_key")
        if properties.kms_key and self.requests.connection.sse_customer_key:
            raise ValueError("kms_key contradicts sse_customer_key of the client; leave one out")
        return options_of(properties)

    def with_content_type(self, key: str, source: Source, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Add the guessed content type to options without one."""
        content = options.get("content", {})
        guessed = None if content.get("content_type") else guess_content_type(key, source)
        return {**options, "content": {**content, "content_type": guessed}} if guessed else options

    def presign(self, key: str, seconds: int, method: str) -> str:
        """A URL with a shared access signature, by the account key.

        Raises:
            UnsupportedOperationError: If there is no account key; or if the blob needs a customer key.
        """
        details, connection = self.details(key, "presign"), self.requests.connection
        account_key, name = connection.account.signing_key, connection.account.name
        if connection.sse_customer_key:
            raise UnsupportedOperationError(
                f"{details.url}: the blob is encrypted with a customer key, which a presigned URL cannot carry", details
            )
        if not (account_key and name):
            raise UnsupportedOperationError(
                f"{details.url}: a presigned URL needs the account key, and the credentials have none",
                details,
                Remedy.NEEDS_SIGNING_KEY,
            )
        from azure.storage.blob import BlobSasPermissions, generate_blob_sas  # takes 0.2 s to import

        token = generate_blob_sas(
            name,
            self.requests.name,
            key,
            account_key=account_key,
            permission=BlobSasPermissions(read=method == "GET", create=method == "PUT", write=method == "PUT"),
            expiry=datetime.now(UTC) + timedelta(seconds=seconds),
        )
        return f"{self.requests.blob(key).url.partition('?')[0]}?{token}"

    def close(self) -> None:
        """Close the idle connections of this process."""
        self.requests.connection.close()

    def open_reader(self, key: str, operation: str = "read") -> AzureReader:
        """A reader of a blob. Sends no request."""
        return AzureReader(self.requests, key, self.details(key, operation))

    def require_create(self, key: str, operation: str = "open") -> None:
        """Check, before there is any content, that a blob can be created exclusively.

        Raises:
            ObjectExistsError: If a blob of this name exists; a folder of a hierarchical namespace is one.
            StorageError: If the request fails.
        """
        details = self.details(key, operation)
        with contextlib.suppress(AccessDeniedError):  # without read permission, the write itself decides
            if self.requests.existing(key, details) is not None:
                raise exists_error(details)

    def info(self, key: str, operation: str = "info") -> ObjectInfo:
        """The facts about a blob.

        Raises:
            ObjectNotFoundError: If it does not exist; a folder of a hierarchical namespace is not an object.
            StorageError: If the request fails.
        """
        return self.open_reader(key, operation).head()

    def delete_version(self, key: str, version: ObjectInfo, transfer: Transfer) -> None:
        """Delete a blob if it is still a certain version, in one step; see `ObjectStore.delete_version`.

        Raises:
            StorageUnavailableError: If the blob is another version; it was not deleted.
            StorageError: If it cannot be deleted.
        """
        self._delete_conditionally(partial(self._delete, key, {"if-match": f'"{version.etag}"'}), key, transfer)

    def delete(self, key: str) -> None:
        """Delete a blob and its snapshots.

        Raises:
            ObjectNotFoundError: If it does not exist.
            StorageError: If it cannot be deleted.
        """
        self._delete(key, {})

    def _delete(self, key: str, condition: Mapping[str, str]) -> None:
        requests, details = self.requests, self.details(key, "delete")
        headers = {"x-ms-delete-snapshots": "include", **condition}

        def send() -> None:
            requests.connection.sender.send("DELETE", requests.name, key, headers)

        with translated(details):
            requests.send(deleting(send, _is_missing, details, self.settings.max_attempts), details)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All blobs whose name begins with a prefix, in order. Folders of a hierarchical namespace are left out.

        Raises:
            StorageError: If the request for a page fails.
        """
        listing = self.requests.container.list_blobs(name_starts_with=prefix or None, include=["metadata"])
        for page in self.requests.pages(listing, self.details(prefix, "list")):
            yield from (info_of(each, listed=True) for each in page if not _is_marker(each))

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        """All names that begin with a prefix, folder markers included, but no folders of a hierarchical namespace.

        Raises:
            StorageError: If the request for a page fails.
        """
        listing = self.requests.container.list_blobs(name_starts_with=prefix or None, include=["metadata"])
        for page in self.requests.pages(listing, self.details(prefix, "list")):
            yield from (each.name for each in page if each.name.endswith("/") or not is_folder(each.metadata))

    def list_folder(self, prefix: str = "") -> Iterator[ObjectInfo | str]:
        """The blobs directly behind a prefix, and the URLs of the folders there, which end with ``/``; in URL order.

        Raises:
            StorageError: If the request for a page fails.
        """
        listing = self.requests.container.walk_blobs(name_starts_with=prefix or None, include=["metadata"])
        for page in self.requests.pages(listing, self.details(prefix, "list")):
            # The SDK puts the folders of a page first.
            yield from in_order(self._in_folder(each) for each in page if not _is_marker(each))

    def _in_folder(self, found: Any) -> ObjectInfo | str:
        return self.url(found.name) if _is_folder(found) else info_of(found, listed=True)

    @property
    def finds_first(self) -> bool:
        """Always: listings are in key order, and a page may have one key."""
        return True

    def first(self, prefix: str = "") -> ObjectInfo | None:
        """The first blob whose name begins with a prefix, by pages of one name.

        Raises:
            StorageError: If the request for a page fails.
        """
        listing = self.requests.container.list_blobs(
            name_starts_with=prefix or None, include=["metadata"], results_per_page=1
        )
        pages = self.requests.pages(listing, self.details(prefix, "list"))
        return next((info_of(each, listed=True) for page in pages for each in page if not _is_marker(each)), None)

    def is_prefix(self, prefix: str) -> bool:
        """Whether the name of any blob begins with a prefix.

        Raises:
            StorageError: If the request fails.
        """
        container, details = self.requests.container, self.details(prefix, "info")

        def first() -> Any:
            return next(iter(container.list_blobs(name_starts_with=prefix, results_per_page=1)), None)

        with translated(details):
            return self.requests.send(first, details) is not None

    def require_bucket(self, operation: str = "info", *, recently: bool = True) -> None:  # noqa: ARG002 - always requested anew
        """Check that the container exists.

        Args:
            operation: The operation that asks, for errors.
            recently: Not used: each call sends a request.

        Raises:
            BucketNotFoundError: If it does not exist.
            StorageError: If the request fails.
        """
        details = self.details("", operation)
        # A SAS token for blobs does not permit this request. The write itself reports a container that does not exist.
        with contextlib.suppress(AccessDeniedError), translated(details):
            self.requests.send(self.requests.container.get_container_properties, details)

    def copy(
        self, key: str, target: ObjectStore, target_key: str, transfer: Transfer, options: Mapping[str, Any] | None = None
    ) -> None:
        """Copy a blob with its properties; within an account on the server. The copy is complete on return.

        Raises:
            ObjectNotFoundError: If the source blob does not exist.
            StorageError: If the copy fails.
        """
        if isinstance(target, AzureStore) and target.requests.connection.account == self.requests.connection.account:
            self._copy_to(target, key, target_key, transfer)
        else:
            super().copy(key, target, target_key, transfer, options)

    def copy_version(
        self, key: str, target_key: str, transfer: Transfer, *, exclusive: bool = False, version: ObjectInfo | None = None
    ) -> None:
        """Copy a blob on the server, with its properties; see `ObjectStore.copy_version`.

        Raises:
            ObjectNotFoundError: If the source blob does not exist.
            ObjectExistsError: If `exclusive` is set, and the target exists.
            StorageError: If the copy fails, or the source blob is another version.
        """
        self._copy_to(self, key, target_key, transfer, exclusive=exclusive, version=version)

    def _copy_to(
        self,
        target: AzureStore,
        key: str,
        target_key: str,
        transfer: Transfer,
        *,
        exclusive: bool = False,
        version: ObjectInfo | None = None,
    ) -> None:
        source, details = self.requests, transfer.details
        with stopped_by(transfer.stop):
            properties = source.properties(key, details)
            if version is not None and info_of(properties).etag != version.etag:
                raise self.replaced(details)
            tags = source.tags(key, properties, details)
        # The server does not copy blobs with such a key.
        if source.connection.sse_customer_key or target.requests.connection.sse_customer_key:
            kept, version = options_to_copy(properties, tags), info_of(properties)
            self.copy_through(key, target, target_key, transfer, kept, exclusive=exclusive, version=version)
            return
        copy = BlobCopy(source, key, properties, tags, target.requests, target_key, transfer, conditional=exclusive)
        with translated(details), stopped_by(transfer.stop):
            write_object(copy, exclusive=exclusive, stop=transfer.stop)


def _is_missing(error: Exception) -> bool:
    return is_missing_blob(answer_behind(error) or error)


def _is_folder(found: Any) -> bool:
    """Whether an entry of a listing is a ``BlobPrefix`` of the SDK, which has a prefix in place of properties."""
    return hasattr(found, "prefix")


def _is_marker(found: Any) -> bool:
    """Whether a listed blob is only the marker of a folder, which is listed itself."""
    if _is_folder(found):
        return False
    return is_folder(found.metadata) or (found.name.endswith("/") and not found.size)
