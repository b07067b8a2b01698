"""`AzureRequests`: requests to one container, each repeated by the retry policy; and the facts in Azure's answers."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from azure.core.exceptions import HttpResponseError, ServiceRequestError

from gllm_storage.azure.errors import SDK_ERRORS, UnreadableAnswerError, is_transient, not_found, translated
from gllm_storage.azure.listing import checked_listings
from gllm_storage.errors import OURS, ObjectNotFoundError, StorageError
from gllm_storage.http.dates import read_date
from gllm_storage.info import ObjectInfo, aware, plain_etag
from gllm_storage.store import retry
from gllm_storage.store.checksums import CHECKSUM_UNDERSCORED, MD5_UNDERSCORED, kept_checksum

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from azure.storage.blob import BlobClient, BlobProperties, ContainerClient

    from gllm_storage.azure.connection import AzureConnection
    from gllm_storage.errors import ErrorDetails
    from gllm_storage.store.pages import PageCheck

T = TypeVar("T")

GARBLED = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError)
"""Exceptions of the SDK for an answer without a header that it requires, or with one that it cannot parse."""
_METADATA = "x-ms-meta-"
_DIGITS = 19
_NO_BLOB = frozenset({"BlobNotFound", "404"})


class AzureRequests:
    """Requests to one container.

    Args:
        connection: Has the SDK's client.
        container: Name of the container.
    """

    def __init__(self, connection: AzureConnection, container: str) -> None:
        self.connection = connection
        self.name = container

    @property
    def container(self) -> ContainerClient:
        """A client of the container. Threads may share it."""
        return self.connection.service.get_container_client(self.name)

    def blob(self, key: str) -> BlobClient:
        """A client of a blob. Threads may share it."""
        return self.connection.service.get_blob_client(self.name, key)

    def send(self, request: Callable[[], T], details: ErrorDetails) -> T:
        """Send a request, and repeat it after a transient error.

        Args:
            request: Sends it, by the SDK or by the library's `Sender`.
            details: The operation.

        Raises:
            AzureError: The last failure.
            UnreadableAnswerError: If the answer is not an answer of Azure.
        """
        policy = retry.requests(self.connection.settings.max_attempts)
        return policy.call(lambda: _readable(request), is_transient, details)

    def info(self, key: str, details: ErrorDetails) -> ObjectInfo:
        """The facts about an object, by Get Blob Properties; raises as `properties`."""
        found = self._facts(key, details)
        if is_folder(found.metadata):
            raise not_found(details)
        return info_of(found)

    def _facts(self, key: str, details: ErrorDetails) -> Facts:
        connection = self.connection

        def ask() -> Facts:
            answer = connection.sender.send("HEAD", self.name, key, connection.key_headers)
            return facts_in(answer.headers, self.name, key, answer.headers.get("content-length", ""))

        with translated(details):
            return self.send(ask, details)

    def properties(self, key: str, details: ErrorDetails) -> BlobProperties:
        """Get Blob Properties of an object.

        Raises:
            ObjectNotFoundError: If the object does not exist; a folder of a hierarchical namespace is not an object.
            BucketNotFoundError: If the container does not exist.
            StorageError: If the request fails.
        """
        properties = self.head(key, details)
        if is_folder(properties.metadata):
            raise not_found(details)
        return properties

    def tags(self, key: str, properties: BlobProperties, details: ErrorDetails) -> dict[str, str]:
        """The tags of a blob, by a request if its properties say that there are some.

        Raises:
            StorageError: If the request fails; `AccessDeniedError` if the credentials do not permit it.
        """
        if not properties.tag_count:
            return {}
        with translated(details):
            return dict(self.send(self.blob(key).get_blob_tags, details) or {})

    def existing(self, key: str, details: ErrorDetails) -> ObjectInfo | None:
        """The blob of this name, be it an object or a folder of a hierarchical namespace; None if there is none.

        Raises:
            BucketNotFoundError: If the container does not exist.
            StorageError: If the request fails.
        """
        try:
            return info_of(self._facts(key, details))
        except (ObjectNotFoundError, StorageError) as error:
            if error.code in _NO_BLOB:
                return None
            raise

    def pages(self, listing: Any, details: ErrorDetails) -> Iterator[list[Any]]:
        """The pages of a listing of the SDK.

        Raises:
            StorageError: If the request for a page fails.
        """
        pages = listing.by_page()
        checks: dict[str, PageCheck] = {}
        before: frozenset[str] = frozenset()
        while True:
            with translated(details), checked_listings(checks):
                # After a failure the SDK's iterator requests the same page again.
                page = self.send(lambda: next(pages, None), details)
            if page is None:
                return
            entries = list(page)
            yield [each for each in entries if each.name not in before]  # a server may repeat the last one
            before = frozenset(each.name for each in entries)

    def head(self, key: str, details: ErrorDetails) -> BlobProperties:
        """Get Blob Properties of an object, or of a folder of a hierarchical namespace; raises as `properties`."""
        with translated(details):
            ask = partial(self.blob(key).get_blob_properties, **self.connection.key_options)
            properties = self.send(ask, details)
            if not properties.etag:
                raise UnreadableAnswerError("its answer has no ETag")
            if not isinstance(properties.size, int) or properties.size < 0:
                raise UnreadableAnswerError("its answer has no Content-Length")
        return properties


@dataclass
class ContentFacts:
    """The content settings of a blob, by the names of the SDK; `content_md5` is that of the complete content."""

    content_type: str | None
    content_encoding: str | None
    content_language: str | None
    content_disposition: str | None
    cache_control: str | None
    content_md5: bytes | None


@dataclass
class Facts:
    """The facts about a blob in the headers of an answer, by the names of the SDK's `BlobProperties`."""

    container: str
    name: str
    size: int
    etag: str
    last_modified: datetime | None
    metadata: dict[str, str]
    content_settings: ContentFacts
    blob_tier: str | None
    encryption_scope: str | None
    version_id: str | None


def facts_in(headers: Mapping[str, str], container: str, key: str, size: str) -> Facts:
    """Read the headers of Get Blob or of Get Blob Properties.

    Args:
        headers: By their names in lower case.
        container: Name of the container.
        key: Name of the blob.
        size: Size of the blob in bytes, from the headers.

    Raises:
        UnreadableAnswerError: If they are not headers of Azure.
    """
    if not headers.get("etag"):
        raise UnreadableAnswerError("its answer has no ETag")
    if not (size.isascii() and size.isdecimal() and len(size) <= _DIGITS):
        raise UnreadableAnswerError("its answer has no Content-Length")
    md5 = headers.get("x-ms-blob-content-md5" if "content-range" in headers else "content-md5")
    content = ContentFacts(
        content_type=headers.get("content-type"),
        content_encoding=headers.get("content-encoding"),
        content_language=headers.get("content-language"),
        content_disposition=headers.get("content-disposition"),
        cache_control=headers.get("cache-control"),
        content_md5=base64.b64decode(md5) if md5 else None,
    )
    metadata = {name[len(_METADATA) :]: value for name, value in headers.items() if name.startswith(_METADATA)}
    modified = read_date(headers["last-modified"]) if "last-modified" in headers else None
    tier, scope = headers.get("x-ms-access-tier"), headers.get("x-ms-encryption-scope")
    version = headers.get("x-ms-version-id")
    return Facts(container, key, int(size), headers["etag"], modified, metadata, content, tier, scope, version)


def _readable(request: Callable[[], T]) -> T:
    try:
        return request()
    except (*SDK_ERRORS, *OURS):
        raise
    except OSError as error:  # such as a ca_bundle that was deleted
        raise ServiceRequestError(str(error)) from error
    except GARBLED as error:
        # The SDK fails to read an error document that is not Azure's, such as the page of a gateway. The status is known.
        answer = answer_behind(error)
        if answer is not None:
            raise answer from None
        raise UnreadableAnswerError(f"{type(error).__name__}: {error}") from error


def answer_behind(error: BaseException | None) -> HttpResponseError | None:
    """The error of the SDK during whose handling an exception was raised."""
    while error is not None and not isinstance(error, HttpResponseError):
        error = error.__context__
    return error


def is_folder(metadata: Mapping[str, str] | None) -> bool:
    """Whether a blob with this metadata is a folder of a hierarchical namespace."""
    return lowered(metadata).get("hdi_isfolder") == "true"


def url_of(container: str, key: str) -> str:
    """The URL of a blob."""
    return f"az://{container}/{key}"


def info_of(properties: BlobProperties | Facts, *, listed: bool = False) -> ObjectInfo:
    """The facts in the properties of a blob.

    Args:
        properties: Those of the SDK.
        listed: Whether they come from a listing.
    """
    return ObjectInfo(
        url=url_of(properties.container, properties.name),
        size=int(properties.size),
        etag=plain_etag(str(properties.etag)),
        last_modified=aware(properties.last_modified),
        checksum=None if listed else _checksum(properties),
        metadata=None if listed else lowered(properties.metadata),
        version=getattr(properties, "version_id", None),
        **({} if listed else _properties(properties)),
    )


def _properties(properties: BlobProperties | Facts) -> dict[str, Any]:
    content = properties.content_settings
    tier = properties.blob_tier
    return {
        "content_type": content.content_type,
        "content_encoding": content.content_encoding,
        "content_disposition": content.content_disposition,
        "content_language": content.content_language,
        "cache_control": content.cache_control,
        "storage_class": str(getattr(tier, "value", tier)).lower() if tier else None,
        "kms_key": properties.encryption_scope,
    }


def _checksum(properties: BlobProperties | Facts) -> str | None:
    """The full-object checksum: this library's, if it is of this content; otherwise the MD5 in the blob's properties.

    Azure computes that MD5 for an upload in one request. For an upload in blocks it stores the MD5 that the client sent.
    """
    metadata, content_md5 = lowered(properties.metadata), properties.content_settings.content_md5
    md5 = base64.b64encode(bytes(content_md5)).decode() if content_md5 else None
    ours = kept_checksum(metadata.get(CHECKSUM_UNDERSCORED, ""), int(properties.size))
    is_ours = metadata.get(MD5_UNDERSCORED, md5) == md5
    if ours and is_ours:
        return ours
    if MD5_UNDERSCORED in metadata and is_ours:
        return None  # another client appended to the blob, and kept the metadata and the MD5 of the shorter content
    return f"md5:{md5}" if md5 else None


def lowered(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """Metadata with names in lower case: Azure's names have no case, and some servers change it."""
    return {name.lower(): value for name, value in (metadata or {}).items()}
