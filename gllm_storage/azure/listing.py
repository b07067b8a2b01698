"""Checks of the listings that the Azure SDK reads, for the verbs and for adlfs's own methods.

The SDK takes an empty answer, or a page of a web server, for a listing without blobs, and follows a marker that it has
followed before. `check_answer` is a hook that sees each answer before the SDK does.
"""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from gllm_storage.azure.errors import UnreadableAnswerError
from gllm_storage.store.pages import PageCheck, RepeatedPageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from xml.etree import ElementTree as ET

_OK = 200
_ENTRIES = frozenset({"Blob", "BlobPrefix", "Container"})

_checks: ContextVar[dict[str, PageCheck] | None] = ContextVar("gllm_storage_listings", default=None)
"""The listings in progress, by their URLs without a marker."""


@contextlib.contextmanager
def checked_listings(checks: dict[str, PageCheck] | None = None) -> Iterator[None]:
    """Compare the pages of each listing in this block with each other.

    Args:
        checks: The listings that have begun before the block; empty if None.
    """
    token = _checks.set({} if checks is None else checks)
    try:
        yield
    finally:
        _checks.reset(token)


def check_answer(response: Any) -> None:
    """A hook of the SDK: check an answer if it is a page of a listing.

    Args:
        response: azure-core's ``PipelineResponse``.

    Raises:
        UnreadableAnswerError: If it is not a listing of the requested prefix, or repeats an earlier page.
    """
    answer = response.http_response
    url = urlsplit(str(response.http_request.url))
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    if answer.status_code != _OK or query.get("comp") != "list":
        return
    names, marker = _read(answer.body(), query.get("prefix", ""))
    checks = _checks.get()
    place = f"{url.path}?{query.get('prefix', '')}&{query.get('delimiter', '')}"
    # A request without a marker begins a listing anew.
    check = checks.get(place) if checks is not None and "marker" in query else None
    if check is None:
        check = PageCheck()
        if checks is not None:
            checks[place] = check
    try:
        check.repeated(names, more=bool(marker))
        if marker:
            check.require_new(marker)
    except RepeatedPageError as error:
        raise UnreadableAnswerError(str(error)) from error
    if marker and marker == query.get("marker"):
        raise UnreadableAnswerError("its listing repeats the marker of a page")


def _read(body: bytes, prefix: str) -> tuple[list[str], str | None]:
    """The names on a page, and the marker of the next page.

    Raises:
        UnreadableAnswerError: If the answer is not a listing; or if a blob is outside the requested prefix or has no size:
            listed blobs may be deleted next.
    """
    from xml.etree import ElementTree as ET

    try:
        root = ET.fromstring(body)  # noqa: S314 - expat limits the expansion of entities
    except (ET.ParseError, ValueError, LookupError) as error:
        raise UnreadableAnswerError(f"its answer is not XML: {body[:80]!r}") from error
    if root.tag != "EnumerationResults":
        raise UnreadableAnswerError(f"its answer is not a listing: {body[:80]!r}")
    names = []
    for entry in (each for kind in ("Blobs", "Containers") for each in root.findall(f"{kind}/*")):
        if entry.tag not in _ENTRIES:
            continue
        name = _name_of(entry)
        if not name.startswith(prefix):
            raise UnreadableAnswerError(f"its listing of {prefix[:80]!r} has {name[:80]!r}, which does not begin with that")
        if entry.tag == "Blob":
            _require_size(entry, name)
        version = entry.findtext("VersionId") or entry.findtext("Snapshot")
        names.append(f"{name}\n{version}" if version else name)
    return names, root.findtext("NextMarker") or None


def _name_of(entry: ET.Element) -> str:
    found = entry.find("Name")
    if found is None or not found.text:
        raise UnreadableAnswerError("an entry of its listing has no name")
    return unquote(found.text) if found.get("Encoded") == "true" else found.text


def _require_size(entry: ET.Element, name: str) -> None:
    size = entry.findtext("Properties/Content-Length")
    # The folder of a hierarchical namespace may have none.
    if size is not None and not (size.isascii() and size.isdecimal() and len(size) < len(str(2**64))):
        raise UnreadableAnswerError(f"the size of {name[:80]!r} in its listing is {size[:80]!r}")
