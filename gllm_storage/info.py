"""`ObjectInfo`, `ObjectProperties` and `Stored`: the facts about one object, under the same names for all providers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


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
        content_type: The media type, such as ``"application/json"``. This and the fields below are None in listings, and if
            the store does not report them.
        content_encoding: The coding of the content, such as ``"gzip"``. `open` and `download_file` return the stored bytes.
        content_disposition: How a browser shows the object, such as ``'attachment; filename="model.bin"'``.
        content_language: The language of the content, such as ``"en"``.
        cache_control: How long caches keep the object, such as ``"no-store"``.
        storage_class: The storage class or access tier, in the store's own words.
        kms_key: The key of the store's key management that encrypts the object; on Azure the encryption scope.
    """

    url: str
    size: int
    etag: str | None = None
    last_modified: datetime | None = None
    checksum: str | None = None
    metadata: Mapping[str, str] | None = None
    version: str | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    content_disposition: str | None = None
    content_language: str | None = None
    cache_control: str | None = None
    storage_class: str | None = None
    kms_key: str | None = None


@dataclass(frozen=True)
class ObjectProperties:
    """The properties that an upload gives to an object beside its content, in one vocabulary for all providers.

    A property that is None is left to the store; the content type is then guessed from the name of the object. A property
    that the store cannot keep is refused before anything is sent (`UnsupportedOperationError`).

    Attributes:
        content_type: The media type, such as ``"application/json"``.
        content_encoding: The coding of the content, such as ``"gzip"``.
        content_disposition: How a browser shows the object, such as ``'attachment; filename="model.bin"'``.
        content_language: The language of the content, such as ``"en"``.
        cache_control: How long caches keep the object, such as ``"max-age=3600"``.
        metadata: User metadata, names and values.
        tags: Tags of the object on S3, blob index tags on Azure.
        storage_class: The storage class on S3 and GCS, such as ``"STANDARD_IA"`` or ``"NEARLINE"``; the access tier on
            Azure, such as ``"cool"``.
        acl: A predefined ACL of S3 or GCS, such as ``"private"``, ``"public-read"`` or ``"bucket-owner-full-control"``.
        encryption: The server-side encryption on S3: ``"AES256"``, ``"aws:kms"`` or ``"aws:kms:dsse"``.
        kms_key: The key that encrypts the object: the id of a KMS key on S3 (with ``"aws:kms"`` unless `encryption` says
            otherwise), the resource name of a Cloud KMS key on GCS, an encryption scope on Azure.

    Raises:
        ValueError: If a value is not a text, is empty, or has a control character.

    Examples:
        >>> ObjectProperties(content_type="application/json", metadata={"run": "17"}).given()
        {'content_type': 'application/json', 'metadata': {'run': '17'}}
    """

    content_type: str | None = None
    content_encoding: str | None = None
    content_disposition: str | None = None
    content_language: str | None = None
    cache_control: str | None = None
    metadata: Mapping[str, str] | None = None
    tags: Mapping[str, str] | None = None
    storage_class: str | None = None
    acl: str | None = None
    encryption: str | None = None
    kms_key: str | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: If a value is not a text, is empty, or has a control character.
        """
        for each in fields(self):
            value = getattr(self, each.name)
            if value is None:
                continue
            if each.name not in {"metadata", "tags"}:
                _require_text(each.name, value, may_be_empty=False)
                continue
            if not isinstance(value, Mapping):
                raise ValueError(f"{each.name} must be a mapping of texts, not {type(value).__name__}")
            for name, text in value.items():
                _require_text(f"a name of {each.name}", name, may_be_empty=False)
                _require_text(f"{each.name} {name!r}", text, may_be_empty=True)
            object.__setattr__(self, each.name, dict(value))

    def __hash__(self) -> int:
        return hash(tuple(sorted((name, str(value)) for name, value in self.given().items())))

    def given(self) -> dict[str, Any]:
        """The properties that are not None, and not empty mappings."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if value}


def _require_text(what: str, value: object, *, may_be_empty: bool) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{what} must be a text, not {type(value).__name__}")
    if not (value or may_be_empty):
        raise ValueError(f"{what} must not be empty")
    if any(unicodedata.category(each) in {"Cc", "Cs"} for each in value):
        raise ValueError(f"{what} contains a control character")


NO_PROPERTIES = ObjectProperties()
"""The properties of an upload that gives none."""


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
        entry: The result of `AbstractFileSystem.info`. An unknown size becomes 0: callers that compare sizes must check it.
        url: URL of the object.
    """
    etag = next((entry[name] for name in ("ETag", "etag", "content_hash", "md5") if entry.get(name)), None)
    times = ("LastModified", "mtime", "modified", "modify", "Last-Modified", "created")
    modified = next((entry[name] for name in times if entry.get(name)), None)
    return ObjectInfo(
        url=url,
        size=int(entry.get("size") or 0),
        etag=None if etag is None else plain_etag(str(etag)) or None,
        last_modified=aware(modified),
        metadata=entry.get("metadata"),
    )


def strong_etag(etag: str) -> str:
    """An ETag without the mark ``W/``, which proxies that compress answers add: the store has it without."""
    return etag.removeprefix("W/")


def plain_etag(etag: str) -> str:
    """An ETag without quotes, and without the mark ``W/``; as in `strong_etag`."""
    return strong_etag(etag).strip('"')


def aware(moment: object) -> datetime | None:
    """Convert a time to a `datetime` with a time zone.

    Args:
        moment: Seconds since 1970, a text of ISO 8601, FTP (RFC 3659) or a header of HTTP, or a `datetime`. Without a
            time zone it is UTC, as in fsspec.

    Returns:
        The time, or None if it is of another form.
    """
    try:
        if isinstance(moment, (int, float)):
            return datetime.fromtimestamp(moment, tz=UTC)
        if isinstance(moment, str):
            moment = _moment_of_text(moment)
    except (ValueError, OverflowError, OSError):
        return None
    if not isinstance(moment, datetime):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _moment_of_text(text: str) -> datetime:
    if found := re.fullmatch(r"(\d{14})(\.\d{1,6})?", text):
        return datetime.strptime(f"{found[1]}{found[2] or '.0'}", "%Y%m%d%H%M%S.%f").replace(tzinfo=UTC)
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        from email.utils import parsedate_to_datetime  # few filesystems need it

        return parsedate_to_datetime(text)


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
