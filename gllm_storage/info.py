"""`ObjectInfo` and `Stored`: the facts about one object, under the same names for all providers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


@dataclass(frozen=True)
class ObjectInfo:
    """The facts about one object.

    Attributes:
        url: URL of the object; `open`, `download_file` and fsspec accept it.
        size: Size in bytes.
        etag: The store's ETag of this version of the content, without quotes; None if the store has none.
        last_modified: Time of the last write, with a time zone; None if the store does not report it.
        checksum: Checksum of the complete content, as ``"algorithm:value"`` with a base64 value, such as
            ``"crc64nvme:3q2+7w…"``; None if neither the store nor the metadata has one, and in listings.
        metadata: The user metadata; None in listings.
        version: The store's id of this version: the generation on GCS, the version id on S3 and Azure with versioning;
            None on other stores.
    """

    url: str
    size: int
    etag: str | None = None
    last_modified: datetime | None = None
    checksum: str | None = None
    metadata: Mapping[str, str] | None = None
    version: str | None = None


@dataclass(frozen=True)
class Stored:
    """The result of an upload. A field that the store did not report is None.

    Attributes:
        url: URL of the object.
        size: Size in bytes.
        etag: The store's ETag of this version, without quotes.
        version: The store's id of this version: the generation on GCS, the version id on S3 and Azure with versioning.
        checksum: Checksum of the complete content, as in `ObjectInfo`.
    """

    url: str
    size: int
    etag: str | None = None
    version: str | None = None
    checksum: str | None = None

    @classmethod
    def of(cls, info: ObjectInfo) -> Stored:
        """The result for an object that a HEAD request found."""
        return cls(info.url, info.size, info.etag, info.version, info.checksum)


def info_from_fsspec(entry: Mapping[str, Any], url: str) -> ObjectInfo:
    """Convert the entry of any fsspec filesystem. The filesystems have different names for the same facts.

    Args:
        entry: The result of `AbstractFileSystem.info`.
        url: URL of the object.
    """
    etag = next((entry[name] for name in ("ETag", "etag", "content_hash", "md5") if entry.get(name)), None)
    modified = next((entry[name] for name in ("LastModified", "mtime", "modified", "created") if entry.get(name)), None)
    return ObjectInfo(
        url=url,
        size=int(entry.get("size") or 0),
        etag=None if etag is None else str(etag).strip('"'),
        last_modified=aware(modified),
        metadata=entry.get("metadata"),
    )


def aware(moment: object) -> datetime | None:
    """Convert a time to a `datetime` with a time zone.

    Args:
        moment: Seconds since 1970, an ISO 8601 text, or a `datetime`. Without a time zone it is UTC, as in fsspec.

    Returns:
        The time, or None if it is of another form.
    """
    if isinstance(moment, (int, float)):
        return datetime.fromtimestamp(moment, tz=UTC)
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            return None
    if not isinstance(moment, datetime):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def in_order(entries: Iterable[ObjectInfo | str]) -> list[ObjectInfo | str]:
    """Sort objects and the URLs of folders by their URLs."""
    return sorted(entries, key=url_in_listing)


def url_in_listing(entry: ObjectInfo | str) -> str:
    """The URL of an entry of a listing: an object, or a folder."""
    return entry if isinstance(entry, str) else entry.url


def directly_in(objects: Iterable[ObjectInfo], url: str) -> Iterator[ObjectInfo | str]:
    """Reduce a listing at any depth to one level: objects, and the URLs of the folders, which end with ``/``.

    Args:
        objects: All objects whose URLs begin with `url`, in the order of their URLs, so that the objects of one folder
            follow each other.
        url: The common beginning of the URLs.
    """
    last: str | None = None  # the folder "" is there if a prefix ends where a folder's name does
    for info in objects:
        within, slash, _ = info.url[len(url) :].partition("/")
        if not slash:
            yield info
        elif within != last:
            last = within
            yield f"{url}{within}/"
