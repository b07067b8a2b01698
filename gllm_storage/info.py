"""What a store knows about one object, in one vocabulary for all providers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


@dataclass(frozen=True)
class ObjectInfo:
    """One object.

    Attributes:
        url: Its URL, which `open`, `download_file` and fsspec take.
        size: Its size in bytes.
        etag: The store's tag of this version of its content, without quotes; None where the store has none.
        last_modified: When it was last written, with a time zone; None where the store does not say.
        checksum: The full-object checksum that the store or we keep, as ``"algorithm:value"``, such as
            ``"crc64nvme:3q2+7w…"`` (base64); None where none is kept, and in listings, which do not show it.
        metadata: The user metadata; None in listings, which do not show it.
        version: The store's name of this version of the object: the generation on GCS, the version id on Azure where
            versioning is on; None elsewhere.
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
    """An object that an upload stored. A field that the store did not tell is None.

    Attributes:
        url: Its URL.
        size: Its size in bytes.
        etag: The store's ETag of this version, without quotes.
        version: The store's name of this version: the generation on GCS, the version id on S3 and Azure with versioning.
        checksum: The checksum of the complete content, as in `ObjectInfo`.
    """

    url: str
    size: int
    etag: str | None = None
    version: str | None = None
    checksum: str | None = None

    @classmethod
    def of(cls, info: ObjectInfo) -> Stored:
        """The same facts of an object that a HEAD request described."""
        return cls(info.url, info.size, info.etag, info.version, info.checksum)


def info_from_fsspec(entry: Mapping[str, Any], url: str) -> ObjectInfo:
    """Read what any fsspec filesystem says of a file; each has its own names for the same facts."""
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
    """A time in any form that filesystems use, with a time zone; naive ones are UTC, as fsspec has them."""
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
    """Objects and URLs of folders, in the order of their URLs."""
    return sorted(entries, key=url_in_listing)


def url_in_listing(entry: ObjectInfo | str) -> str:
    """The URL of an object, or of a folder."""
    return entry if isinstance(entry, str) else entry.url


def directly_in(objects: Iterable[ObjectInfo], url: str) -> Iterator[ObjectInfo | str]:
    """What is directly behind a URL, of all objects behind it: objects, and URLs of folders.

    Args:
        objects: In the order of their URLs, so that all of a folder within come together.
        url: The beginning of theirs; up to the last ``/``, it is the folder.
    """
    last: str | None = None  # the folder "" is there if a prefix ends where a folder's name does
    for info in objects:
        within, slash, _ = info.url[len(url) :].partition("/")
        if not slash:
            yield info
        elif within != last:
            last = within
            yield f"{url}{within}/"
