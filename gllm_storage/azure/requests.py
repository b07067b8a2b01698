"""The control requests on blobs and containers: properties, list, delete. All errors in our words."""

from __future__ import annotations

import base64
import contextlib
import itertools
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from azure.storage.blob import BlobPrefix

from gllm_storage.azure.errors import SDK_ERRORS, UnreadableAnswerError, code_of, not_found, status_of, translated
from gllm_storage.concurrency.stop import stopped_by
from gllm_storage.errors import AccessDeniedError, BucketNotFoundError, StorageError
from gllm_storage.info import ObjectInfo, aware, in_order
from gllm_storage.store.checksums import CHECKSUM_UNDERSCORED, MD5_UNDERSCORED, kept_checksum
from gllm_storage.store.create import backoff

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from azure.storage.blob import BlobClient, BlobProperties

    from gllm_storage.azure.connection import AzureConnections
    from gllm_storage.errors import ErrorDetails

_RECENTLY = 30.0


class AzureRequests:
    """Control requests of one filesystem.

    Args:
        connections: Where the clients come from.
    """

    def __init__(self, connections: AzureConnections) -> None:
        self.connections = connections
        self._seen: dict[str, float] = {}

    def head(self, container: str, blob: str, details: ErrorDetails) -> BlobProperties:
        """Get Blob Properties.

        Raises:
            ObjectNotFoundError: If the blob is not there; a folder of a hierarchical namespace is none.
            BucketNotFoundError: If the container is not there.
            StorageError: If it cannot be told.
        """
        with translated(details):
            properties = self.connections.call(self.connections.blob(container, blob).get_blob_properties, details)
            if not properties.etag:
                raise UnreadableAnswerError("its answer holds no ETag")
        if is_folder(properties.metadata):
            raise not_found(details)
        return properties

    def info(self, container: str, blob: str, details: ErrorDetails) -> ObjectInfo:
        """What Azure knows of a blob.

        Raises:
            ObjectNotFoundError: If the blob is not there.
            StorageError: If it cannot be told.
        """
        return info_of(self.head(container, blob, details), f"az://{container}/{blob}")

    def metadata(self, container: str, blob: str, details: ErrorDetails) -> Mapping[str, str] | None:
        """User metadata of a blob, or None if it is not there.

        Raises:
            StorageError: If it cannot be told.
        """
        with translated(details):
            try:
                properties = self.connections.call(self.connections.blob(container, blob).get_blob_properties, details)
            except Exception as error:
                if status_of(error) == 404 and code_of(error) in {"BlobNotFound", "404"}:  # noqa: PLR2004
                    return None
                raise
            if not properties.etag:
                raise UnreadableAnswerError("its answer holds no ETag")
        return _lowered(properties.metadata)

    def delete(self, container: str, blob: str, details: ErrorDetails) -> None:
        """Delete Blob, with its snapshots.

        Raises:
            ObjectNotFoundError: If it is not there.
            StorageError: If it fails.
        """
        sent = 0

        def delete() -> None:
            nonlocal sent
            sent += 1
            try:
                self.connections.blob(container, blob).delete_blob(delete_snapshots="include")
            except Exception as error:
                if sent > 1 and code_of(error) == "BlobNotFound":
                    return  # an earlier request, whose answer was lost, has deleted it
                raise

        with translated(details):
            self.connections.call(delete, details)

    def copy(self, source: tuple[str, str], target: tuple[str, str], details: ErrorDetails) -> None:
        """Copy Blob, with its metadata, and wait until the copy is complete, which adlfs does not.

        Args:
            source: Container and blob.
            target: Likewise.
            details: What it is about, for errors.

        Raises:
            ObjectNotFoundError: If there is no such blob.
            StorageError: If it fails.
        """
        client = self.connections.blob(*target)
        start = partial(client.start_copy_from_url, self.connections.blob(*source).url)
        with translated(details):
            copying = self.connections.call(start, details)
            try:
                state = self._end_of_copy(client, str(copying["copy_status"]), details)
            except BaseException:
                with contextlib.suppress(*SDK_ERRORS), stopped_by(None):  # over already, or nobody can be told
                    client.abort_copy(str(copying["copy_id"]))
                raise
        if state != "success":
            raise StorageError(f"copy of {details.url} to az://{'/'.join(target)} ended as {state!r}. Try again", details)

    def _end_of_copy(self, client: BlobClient, state: str, details: ErrorDetails) -> str:
        for attempt in itertools.count():
            if state != "pending":
                break
            backoff(attempt)
            state = str(self.connections.call(client.get_blob_properties, details).copy.status)
        return state

    def list(self, container: str, prefix: str, details: ErrorDetails) -> Iterator[ObjectInfo]:
        """All blobs whose name begins with a prefix, in order; folders are left out.

        Raises:
            StorageError: If listing fails, at any page.
        """
        listing = self.connections.container(container).list_blobs(name_starts_with=prefix or None, include=["metadata"])
        for page in self._pages(listing, details):
            yield from (found for found in (_listed(each, container) for each in page) if isinstance(found, ObjectInfo))

    def folder(self, container: str, prefix: str, details: ErrorDetails) -> Iterator[ObjectInfo | str]:
        """The blobs directly behind a prefix, and the URLs of the folders there, which end with ``/``.

        Raises:
            StorageError: If listing fails, at any page.
        """
        listing = self.connections.container(container).walk_blobs(name_starts_with=prefix or None, include=["metadata"])
        for page in self._pages(listing, details):
            found = [_listed(each, container) for each in page]  # the SDK puts the folders of a page first
            yield from in_order(each for each in found if each is not None)

    def _pages(self, listing: Any, details: ErrorDetails) -> Iterator[Any]:
        with translated(details):
            pages = listing.by_page()
            # A page that failed is asked for again by its token: the iterator goes on only after a success.
            while (page := self.connections.call(lambda: next(pages, None), details)) is not None:
                yield list(page)

    def is_prefix(self, container: str, prefix: str, details: ErrorDetails) -> bool:
        """Whether any blob's name begins with a prefix.

        Raises:
            StorageError: If it cannot be told.
        """
        client = self.connections.container(container)
        with translated(details):
            found = self.connections.call(
                lambda: next(iter(client.list_blobs(name_starts_with=prefix, results_per_page=1)), None), details
            )
        return found is not None

    def require_container(self, container: str, details: ErrorDetails, *, recently: bool) -> None:
        """Check that a container is there.

        Raises:
            BucketNotFoundError: If it is not.
            StorageError: If it cannot be told.
        """
        if recently and time.monotonic() - self._seen.get(container, -_RECENTLY) < _RECENTLY:
            return
        try:
            with translated(details):
                self.connections.call(self.connections.container(container).get_container_properties, details)
        except AccessDeniedError:
            return  # A SAS token for blobs may not look at the container. It is there, or we are told when we write.
        except BucketNotFoundError:
            self._seen.pop(container, None)
            raise
        self._seen[container] = time.monotonic()


def _listed(found: Any, container: str) -> ObjectInfo | str | None:
    """An object, the URL of a folder, or None for what stands for a folder that is listed itself."""
    url = f"az://{container}/{found.name}"
    if isinstance(found, BlobPrefix):
        return url
    if found.name.endswith("/") or is_folder(found.metadata):
        return None
    return info_of(found, url, listed=True)


def is_folder(metadata: Mapping[str, str] | None) -> bool:
    """Whether a blob stands for a folder of a hierarchical namespace."""
    return _lowered(metadata).get("hdi_isfolder") == "true"


def info_of(properties: BlobProperties, url: str, *, listed: bool = False) -> ObjectInfo:
    """Read what Azure says of a blob."""
    return ObjectInfo(
        url=url,
        size=int(properties.size),
        etag=str(properties.etag).strip('"'),
        last_modified=aware(properties.last_modified),
        checksum=None if listed else _checksum(properties),
        metadata=None if listed else _lowered(properties.metadata),
        version=getattr(properties, "version_id", None),
    )


def _checksum(properties: BlobProperties) -> str | None:
    """The full-object checksum: ours, where it is of this content, or else the MD5 in the blob's properties.

    Azure computes that MD5 of what came in one request; of what came in blocks it is what the client said.
    """
    metadata, content_md5 = _lowered(properties.metadata), properties.content_settings.content_md5
    md5 = base64.b64encode(bytes(content_md5)).decode() if content_md5 else None
    ours = kept_checksum(metadata.get(CHECKSUM_UNDERSCORED, ""), int(properties.size))
    is_ours = metadata.get(MD5_UNDERSCORED, md5) == md5
    if ours and is_ours:
        return ours
    if MD5_UNDERSCORED in metadata and is_ours:
        return None  # somebody has appended to our blob, and has carried along what we said of it
    return f"md5:{md5}" if md5 else None


def _lowered(metadata: Mapping[str, str] | None) -> dict[str, str]:
    return {name.lower(): value for name, value in (metadata or {}).items()}
