"""`AzureStore`: the blobs of one container."""

from __future__ import annotations

import contextlib
import itertools
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from azure.storage.blob import BlobPrefix

from gllm_storage.azure.errors import SDK_ERRORS, code_of, translated
from gllm_storage.azure.read import AzureReader
from gllm_storage.azure.requests import info_of, is_folder, url_of
from gllm_storage.azure.upload import AzureWrite
from gllm_storage.concurrency.stop import stopped_by
from gllm_storage.errors import AccessDeniedError, Remedy, StorageError
from gllm_storage.info import in_order
from gllm_storage.store.create import exists_error, write_object
from gllm_storage.store.port import ObjectStore
from gllm_storage.store.retry import BLOCK_CONFLICT, POLL, rescued

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from azure.storage.blob import BlobClient

    from gllm_storage.azure.requests import AzureRequests
    from gllm_storage.info import ObjectInfo, Stored
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

    def __init__(self, requests: AzureRequests) -> None:
        self.requests = requests

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
            return write_object(write, exclusive=request.exclusive, policy=BLOCK_CONFLICT, stop=stop)

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
        return info_of(self.requests.properties(key, self.details(key, operation)))

    def delete(self, key: str) -> None:
        """Delete a blob and its snapshots.

        Raises:
            ObjectNotFoundError: If it does not exist.
            StorageError: If it cannot be deleted.
        """
        client, details = self.requests.blob(key), self.details(key, "delete")
        lost: list[Exception] = []

        def delete() -> None:
            try:
                client.delete_blob(delete_snapshots="include")
            except Exception as error:
                if not (lost and code_of(error) == "BlobNotFound"):
                    lost.append(error)
                    raise
                rescued(details, len(lost), self.settings.max_attempts, lost[-1])  # an earlier request had deleted the blob

        with translated(details):
            self.requests.send(delete, details)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All blobs whose name begins with a prefix, in order. Folders of a hierarchical namespace are left out.

        Raises:
            StorageError: If the request for a page fails.
        """
        listing = self.requests.container.list_blobs(name_starts_with=prefix or None, include=["metadata"])
        for page in self.requests.pages(listing, self.details(prefix, "list")):
            yield from (info_of(each, listed=True) for each in page if not _is_marker(each))

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
        return self.url(found.name) if isinstance(found, BlobPrefix) else info_of(found, listed=True)

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
        """Copy a blob with its metadata; within an account on the server. The copy is complete on return.

        Raises:
            ObjectNotFoundError: If the source blob does not exist.
            StorageError: If the copy fails.
        """
        if not (isinstance(target, AzureStore) and target.requests.connection.account == self.requests.connection.account):
            super().copy(key, target, target_key, transfer, options)
            return
        client, details = target.requests.blob(target_key), transfer.details
        start = partial(client.start_copy_from_url, self.requests.blob(key).url)
        with translated(details), stopped_by(transfer.stop):
            copying = self.requests.send(start, details)
            try:
                state = self._end_of_copy(client, str(copying["copy_status"]), transfer)
            except BaseException:
                with contextlib.suppress(*SDK_ERRORS), stopped_by(None):  # fails if the copy has ended, or without a network
                    client.abort_copy(str(copying["copy_id"]))
                raise
        if state != "success":
            raise StorageError(
                f"copy of {details.url} to {target.url(target_key)} ended with the state {state!r}",
                details,
                Remedy.REPEAT_NOW,
            )

    def _end_of_copy(self, client: BlobClient, state: str, transfer: Transfer) -> str:
        for attempt in itertools.count(1):
            if state != "pending":
                break
            POLL.pause(attempt, transfer.stop)
            state = str(self.requests.send(client.get_blob_properties, transfer.details).copy.status)
        return state


def _is_marker(found: Any) -> bool:
    """Whether a listed blob is only the marker of a folder, which is listed itself."""
    return not isinstance(found, BlobPrefix) and (found.name.endswith("/") or is_folder(found.metadata))
