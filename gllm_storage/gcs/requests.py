"""The control requests on objects and buckets: get, list, delete. All errors in our words."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from gllm_storage.errors import ObjectNotFoundError
from gllm_storage.gcs.errors import (
    RefusedError,
    UnreadableAnswerError,
    bucket_not_found,
    is_missing_bucket,
    is_transient,
    not_found,
    translated,
)
from gllm_storage.info import ObjectInfo, aware, in_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gllm_storage.errors import ErrorDetails
    from gllm_storage.gcs.connection import GCSConnections

_RECENTLY = 30.0
_DENIED = 403
_NOT_FOUND = 404


class GCSRequests:
    """Control requests of one filesystem.

    Args:
        connections: Where requests are sent.
    """

    def __init__(self, connections: GCSConnections) -> None:
        self.connections = connections
        self._seen: dict[str, float] = {}
        self._zonal: dict[str, bool] = {}

    def resource(self, bucket: str, key: str, details: ErrorDetails) -> dict[str, Any]:
        """Objects: get.

        Raises:
            ObjectNotFoundError: If the object is not there.
            BucketNotFoundError: If the bucket is not there.
            StorageError: If it cannot be told.
        """
        found = self.look(bucket, key, details)
        if found is None:
            raise not_found(dataclasses.replace(details, status=_NOT_FOUND, code="notFound"))
        return found

    def look(self, bucket: str, key: str, details: ErrorDetails) -> dict[str, Any] | None:
        """Objects: get; None if the object is not there.

        Raises:
            BucketNotFoundError: If the bucket is not there.
            StorageError: If it cannot be told.
        """
        with translated(details):
            try:
                return require_resource(self.connections.ask("GET", path_of(bucket, key), details))
            except RefusedError as error:
                if error.status != _NOT_FOUND or is_missing_bucket(error):
                    raise
                self._require_bucket_of(error, bucket, details)
        return None

    def delete(self, bucket: str, key: str, details: ErrorDetails) -> None:
        """Objects: delete.

        Raises:
            ObjectNotFoundError: If the object is not there.
            StorageError: If it fails.
        """
        sent = 0

        def delete() -> dict[str, Any]:
            nonlocal sent
            sent += 1
            try:
                return self.connections.ask("DELETE", path_of(bucket, key), details, most=1)
            except RefusedError as error:
                if sent > 1 and error.status == _NOT_FOUND and not is_missing_bucket(error):
                    return {}  # an earlier request, whose answer was lost, has deleted it
                raise

        try:
            with translated(details):
                self.connections.retry(delete, details)
        except ObjectNotFoundError as error:
            self._require_bucket_of(error.__cause__, bucket, details)
            raise

    def objects(self, bucket: str, prefix: str, details: ErrorDetails) -> Iterator[ObjectInfo]:
        """All objects whose name begins with a prefix, in order; folder markers (``…/``) are left out.

        Raises:
            StorageError: If listing fails, at any page.
        """
        for page in self._pages(bucket, {"prefix": prefix}, details):
            yield from _objects_in(page, bucket)

    def folder(self, bucket: str, prefix: str, details: ErrorDetails) -> Iterator[ObjectInfo | str]:
        """The objects directly behind a prefix, and the URLs of the folders there, which end with ``/``.

        Raises:
            StorageError: If listing fails, at any page.
        """
        for page in self._pages(bucket, {"prefix": prefix, "delimiter": "/"}, details):
            folders = [f"gs://{bucket}/{each}" for each in page.get("prefixes", [])]
            yield from in_order([*_objects_in(page, bucket), *folders])

    def is_prefix(self, bucket: str, prefix: str, details: ErrorDetails) -> bool:
        """Whether any object's name begins with a prefix.

        Raises:
            StorageError: If it cannot be told.
        """
        return any(page.get("items") for page in self._pages(bucket, {"prefix": prefix, "maxResults": "1"}, details))

    def require_bucket(self, bucket: str, details: ErrorDetails, *, recently: bool = True) -> None:
        """Check that a bucket is there.

        Raises:
            BucketNotFoundError: If it is not.
            StorageError: If it cannot be told.
        """
        if recently and time.monotonic() - self._seen.get(bucket, -_RECENTLY) < _RECENTLY:
            return
        with translated(details):
            try:
                self.connections.ask("GET", f"/storage/v1/b/{quote(bucket, safe='')}", details, params={"fields": "name"})
            except RefusedError as error:
                if error.status == _NOT_FOUND:
                    raise bucket_not_found(details, bucket, self.connections.endpoint_url) from error
                if error.status != _DENIED:  # who may use objects need not be able to look at buckets
                    raise
        self._seen[bucket] = time.monotonic()

    def is_zonal(self, bucket: str, details: ErrorDetails) -> bool:
        """Whether a bucket is a zonal one ("Rapid Storage"); asked once for each filesystem.

        What cannot be told, because we may not ask or an emulator does not know, is taken for no.

        Raises:
            StorageError: If the store cannot be reached, or is too busy to say.
        """
        if bucket not in self._zonal:
            path = f"/storage/v1/b/{quote(bucket, safe='')}/storageLayout"
            with translated(details):
                try:
                    layout = self.connections.ask("GET", path, details)
                except (RefusedError, UnreadableAnswerError) as error:
                    if is_transient(error):
                        raise
                    layout = {}
            self._zonal[bucket] = str(layout.get("locationType", "")).lower() == "zone"
        return self._zonal[bucket]

    def _pages(self, bucket: str, params: Mapping[str, str], details: ErrorDetails) -> Iterator[dict[str, Any]]:
        token: str | None = None
        while True:
            query = {**params, "pageToken": token} if token else dict(params)
            with translated(details):
                page = self.connections.ask("GET", f"/storage/v1/b/{quote(bucket, safe='')}/o", details, params=query)
                if not page.keys() & {"kind", "items", "prefixes", "nextPageToken"}:
                    raise UnreadableAnswerError("its answer is no listing")
            yield page
            token = page.get("nextPageToken")
            if not token:
                return

    def _require_bucket_of(self, error: BaseException | None, bucket: str, details: ErrorDetails) -> None:
        """Check that it is the object that is missing, where the answer does not say so itself."""
        if isinstance(error, RefusedError) and error.message.startswith("No such object"):
            return
        self.require_bucket(bucket, details)


def _objects_in(page: Mapping[str, Any], bucket: str) -> Iterator[ObjectInfo]:
    for each in page.get("items", []):
        if not each["name"].endswith("/"):
            yield info_of(each, f"gs://{bucket}/{each['name']}", listed=True)


def path_of(bucket: str, key: str, start: str = "/storage/v1") -> str:
    """Path of an object in the API."""
    return f"{start}/b/{quote(bucket, safe='')}/o/{quote(key, safe='')}"


def require_resource(answer: dict[str, Any]) -> dict[str, Any]:
    """Check that an answer describes an object.

    Raises:
        UnreadableAnswerError: If it does not.
    """
    if "name" not in answer or "generation" not in answer:
        raise UnreadableAnswerError("its answer describes no object")
    return answer


def info_of(resource: Mapping[str, Any], url: str, *, listed: bool = False) -> ObjectInfo:
    """Read an object resource: https://cloud.google.com/storage/docs/json_api/v1/objects#resource."""
    return ObjectInfo(
        url=url,
        size=int(resource.get("size", 0)),
        etag=str(resource.get("etag", "")).strip('"') or None,
        last_modified=aware(resource.get("updated")),
        checksum=None if listed else _checksum(resource),
        metadata=None if listed else dict(resource.get("metadata", {})),
        version=str(resource["generation"]) if "generation" in resource else None,
    )


def _checksum(resource: Mapping[str, Any]) -> str | None:
    if resource.get("crc32c"):
        return f"crc32c:{resource['crc32c']}"
    return f"md5:{resource['md5Hash']}" if resource.get("md5Hash") else None
