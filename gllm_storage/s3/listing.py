"""The pages of a listing of S3: all keys, each once, or an error.

botocore's paginator ends silently at a page that says ``IsTruncated`` and has no token of the next page, as older
S3-compatible servers answer. Such a listing goes on here behind its last key: by ``start-after``, or by the older
ListObjects if the server ignores that parameter, too.
"""

from __future__ import annotations

import operator
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

from gllm_storage.s3.errors import UnreadableAnswerError, require_any
from gllm_storage.store.pages import PageCheck, RepeatedPageError

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping, Sequence

    from mypy_boto3_s3.client import S3Client

VERSIONS = "list_object_versions"
_OF_LISTINGS = ("Name", "IsTruncated", "KeyCount", "MaxKeys")
_LISTS = ("Contents", "Versions", "DeleteMarkers")
_TRUTH = {"true": True, "1": True, "false": False, "0": False}
"""The values of XML's ``boolean``."""
_ISO_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?Z")


def pages_of(client: S3Client, parameters: Mapping[str, Any], method: str = "list_objects_v2") -> Iterator[dict[str, Any]]:
    """The pages of a listing.

    Args:
        client: The client.
        parameters: The parameters of the first request.
        method: ``"list_objects_v2"`` or ``"list_object_versions"``.

    Yields:
        The answers, without the entries that the page before had.

    Raises:
        UnreadableAnswerError: If an answer is not a listing of this prefix, if it repeats an earlier one, or if it does not
            say how to go on.
        botocore.exceptions.ClientError: If the server refuses.
        botocore.exceptions.BotoCoreError: If no answer arrives.
    """
    listing = _Versions(client, parameters) if method == VERSIONS else _Objects(client, parameters)
    try:
        yield from listing.pages()
    except RepeatedPageError as error:
        raise UnreadableAnswerError(str(error)) from error


def buckets_of(client: S3Client) -> list[dict[str, Any]]:
    """The buckets of the account.

    Args:
        client: The client.

    Returns:
        The entries of ListBuckets.

    Raises:
        UnreadableAnswerError: If an answer is not a listing of buckets, or repeats an earlier one.
        botocore.exceptions.ClientError: If the server refuses.
        botocore.exceptions.BotoCoreError: If no answer arrives.
    """
    found: list[dict[str, Any]] = []
    check = PageCheck()
    position: dict[str, Any] = {}
    while True:
        page: Mapping[str, Any] = client.list_buckets(**position)
        # The answer for an account without buckets has an empty list of them; that of a web server has none.
        if "Buckets" not in page:
            raise UnreadableAnswerError("its answer is not a listing of buckets")
        if not all(each.get("Name") for each in page["Buckets"]):
            raise UnreadableAnswerError("an entry of its listing has no name")
        token = page.get("ContinuationToken")
        try:
            repeated = check.repeated([each["Name"] for each in page["Buckets"]], more=bool(token))
            if token:
                check.require_new(token)
        except RepeatedPageError as error:
            raise UnreadableAnswerError(str(error)) from error
        found += [each for each in page["Buckets"] if each["Name"] not in repeated]
        if not token:
            return found
        position = {"ContinuationToken": token}


def time_of(value: Any) -> datetime:
    """The time in an answer of S3: as botocore's parser, which takes 0.1 ms for each object of a listing."""
    if isinstance(value, str) and _ISO_TIME.fullmatch(value):
        try:
            return datetime.fromisoformat(value)
        except ValueError:  # botocore's parser says what is wrong
            pass
    from botocore.utils import parse_timestamp  # it takes 70 ms to import, for stores with another format

    found: datetime = parse_timestamp(value)
    return found


def truth_of(text: str | None) -> bool:
    """The value of the element ``IsTruncated``. botocore takes all but ``true`` for false, and so ends a listing early.

    Raises:
        ValueError: If it is neither true nor false.
    """
    given = (text or "").strip()
    try:
        return _TRUTH[given.lower()]
    except KeyError:
        raise ValueError(f"IsTruncated is {given[:80]!r}") from None


class _Versions:
    """The pages of ListObjectVersions."""

    method = VERSIONS

    def __init__(self, client: S3Client, parameters: Mapping[str, Any]) -> None:
        self._client = client
        self._parameters = dict(parameters)
        self._check = PageCheck()

    def pages(self) -> Iterator[dict[str, Any]]:
        """The pages."""
        position: Mapping[str, str] | None = {}
        while position is not None:
            page, names = self._page(self.method, position)
            position = self._position_after(page, names) if _is_truncated(page) else None
            repeated = self._check.repeated(names, more=position is not None)
            yield _without(page, repeated)

    def _page(self, method: str, position: Mapping[str, str]) -> tuple[dict[str, Any], Sequence[str]]:
        """Request a page; returns it with its keys and prefixes."""
        page: dict[str, Any] = getattr(self._client, method)(**self._parameters, **position)
        require_any(page, *_OF_LISTINGS)
        return page, _names_in(page, str(self._parameters.get("Prefix") or ""))

    def _position_after(self, page: Mapping[str, Any], names: Sequence[str]) -> Mapping[str, str]:  # noqa: ARG002 - for `_Objects`
        marker, version = page.get("NextKeyMarker"), page.get("NextVersionIdMarker")
        if not marker:
            raise UnreadableAnswerError("its listing of versions is cut, without the marker of the next page")
        self._check.require_new(f"{marker}\n{version or ''}")
        return {"KeyMarker": marker, **({"VersionIdMarker": version} if version else {})}


class _Objects(_Versions):
    """The pages of ListObjectsV2, or of ListObjects for a server that cannot go on otherwise."""

    method = "list_objects_v2"

    def pages(self) -> Iterator[dict[str, Any]]:
        """The pages."""
        for page in super().pages():
            last = _last_of(page) if _is_truncated(page) and not page.get("NextContinuationToken") else None
            yield page  # the consumer may change its entries
            if last is not None:
                yield from self._pages_behind(last)
                return

    def _position_after(self, page: Mapping[str, Any], names: Sequence[str]) -> Mapping[str, str]:  # noqa: ARG002 - as above
        token = page.get("NextContinuationToken")
        if not token:
            return {}  # `pages` goes on otherwise
        self._check.require_new(token)
        return {"ContinuationToken": token}

    def _pages_behind(self, last: str) -> Iterator[dict[str, Any]]:
        """The pages behind a name, for a server that gives no token."""
        method, parameter = "list_objects_v2", "StartAfter"
        while True:
            page, names = self._page(method, {parameter: last})
            # A prefix may come again: the keys below it are greater than the prefix itself.
            ends = not _is_truncated(page)
            if any(name < last for name in names) or not (ends or set(names) - {last}):
                if method == "list_objects":
                    raise UnreadableAnswerError(f"its listing is cut, and does not go on behind {last[:80]!r}")
                method, parameter = "list_objects", "Marker"
                continue
            found, last = _without(page, {last}), "" if ends else _last_of(page)
            yield found
            if ends:
                return


def _is_truncated(page: Mapping[str, Any]) -> bool:
    """Whether another page follows."""
    if "IsTruncated" in page:
        return bool(page["IsTruncated"])
    return bool(page.get("NextContinuationToken") or page.get("NextKeyMarker"))


def _names_in(page: Mapping[str, Any], prefix: str) -> list[str]:
    """All keys and prefixes of a page; of a listing of versions, the keys with the ids of their versions.

    Raises:
        UnreadableAnswerError: If an entry has no name or no size, or its name is outside the requested prefix: what is
            listed may be deleted next.
    """
    entries = [entry for each in _LISTS for entry in page.get(each) or []]
    names = [entry.get("Key") for entry in entries] + [each.get("Prefix") for each in page.get("CommonPrefixes") or []]
    for name in names:
        if not name or not isinstance(name, str):
            raise UnreadableAnswerError("an entry of its listing has no name")
        if not name.startswith(prefix):
            raise UnreadableAnswerError(f"its listing of {prefix[:80]!r} has {name[:80]!r}, which does not begin with that")
    for entry in (*(page.get("Contents") or []), *(page.get("Versions") or [])):
        if not isinstance(entry.get("Size"), int) or entry["Size"] < 0:
            raise UnreadableAnswerError(f"the entry {entry['Key'][:80]!r} of its listing has no size")
    versions = [f"\n{entry.get('VersionId') or ''}" if "VersionId" in entry else "" for entry in entries]
    return [*map(operator.add, names, versions), *names[len(entries) :]]


def _last_of(page: Mapping[str, Any]) -> str:
    """The last name of a page that has no token of the next one.

    Raises:
        UnreadableAnswerError: If the page is empty, or its keys are not in order: the next page is unknown then.
    """
    keys = [entry["Key"] for entry in page.get("Contents", [])]
    names = [*keys, *(each["Prefix"] for each in page.get("CommonPrefixes", []))]
    if not names or keys != sorted(keys):
        raise UnreadableAnswerError("its listing is cut, without the token of the next page")
    return str(max(names))


def _without(page: dict[str, Any], names: Container[str]) -> dict[str, Any]:
    """A page without some keys and prefixes; versions of one key may stand on two pages."""
    found = dict(page)
    for entries, field in (("Contents", "Key"), ("CommonPrefixes", "Prefix")):
        if entries in page:
            found[entries] = [each for each in page[entries] if each[field] not in names]
    return found
