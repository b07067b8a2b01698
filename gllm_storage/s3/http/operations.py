"""Translation of boto3's arguments into an HTTP request, and of an HTTP answer into boto3's result.

model.py says which parameter goes into which header or query parameter, and which header becomes which field of the result.
A request that needs more than that, such as a computed digest, goes through boto3.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote

from gllm_storage.http.dates import read_date
from gllm_storage.s3.http.model import MODELS
from gllm_storage.s3.http.signing import canonical_query

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from gllm_storage.s3.http.model import Model

_NOT_SENT = frozenset({"Bucket", "Key", "Body"})
_COMPUTED = ("ChecksumAlgorithm", "CopySource")
"""Prefixes of parameters from which boto3 computes further headers. They go through boto3."""
_PARTS = "MultipartUpload"
"""The parameter of CompleteMultipartUpload that is sent as a document."""
_KEY, _KEY_DIGEST = "SSECustomerKey", "SSECustomerKeyMD5"
"""boto3 encodes a customer key and computes its digest if the digest is not given."""
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z\-]+")
_UNRESERVED = re.compile(r"[A-Za-z0-9_.~/\-]*")
"""Keys that are not percent-encoded."""
_DATES = 256
"""Dates of answers that are remembered: the same objects are requested again, and files of a directory have one date."""
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_PART_FIELD = re.compile("ETag|PartNumber|Checksum[A-Z0-9]+")
_TEXT_BODIES = (bytes, bytearray, memoryview)


@dataclass(slots=True)
class Request:
    """One request before it is signed.

    Attributes:
        method: HTTP method.
        path: The path, percent-encoded.
        query: The query, from `canonical_query`.
        headers: Headers for the parameters, with names in lower case.
        body: Bytes, or an object with `__len__` and `read`.
        body_length: Length of the body in bytes.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: Any
    body_length: int


class Operation:
    """One operation of S3, for parameters that go into the path, the query or the headers.

    Args:
        model: The model of the operation.
    """

    def __init__(self, model: Model) -> None:
        self.name = model.name
        self.method = model.method
        self._has_key = model.has_key
        self._has_metadata = model.has_metadata
        self._query = dict(parse_qsl(model.query, keep_blank_values=True))
        self._elements = model.elements
        self._lists = model.name == "ListObjectsV2"
        self._elsewhere = (_NOT_SENT | {_PARTS}) & model.inputs.keys()
        computed = () if model.name == "CreateMultipartUpload" else _COMPUTED  # there it is only a header
        self._places = {name: place for name, place in model.inputs.items() if not name.startswith(computed)}
        if self._lists:  # as boto3 without the parameter; with it, boto3 does not decode the names
            self._query |= {"encoding-type": "url"}
            del self._places["EncodingType"]
        self._readers = {header: (field, _READERS.get(kind, str)) for header, (field, kind) in model.outputs.items()}

    def request(self, base: str, parameters: Mapping[str, Any]) -> Request | None:
        """Build the request for boto3's arguments.

        Args:
            base: The path up to the key, from `Template.path`.
            parameters: boto3's arguments.

        Returns:
            The request; None if boto3 has to build it: a parameter that is not a header or query parameter, a header that is
            not printable ASCII, or a body without a length.
        """
        key, body = parameters.get("Key"), parameters.get("Body", b"")
        if _PARTS in parameters:
            body = _document_of(parameters[_PARTS])
        length = _length_of(body)
        if length is None or (self._has_key and not (isinstance(key, str) and key)):
            return None
        if _KEY in parameters and _KEY_DIGEST not in parameters:
            return None
        headers: dict[str, Any] = {}
        query: dict[str, Any] = {**self._query}
        for name, value in parameters.items():
            if name in self._elsewhere:
                continue
            location, place = self._places.get(name, ("", ""))
            if location == "header":
                headers[place] = value if isinstance(value, str) else _text(value)
            elif location == "headers":
                headers.update(_prefixed(place, value))
            elif location == "querystring":
                query[place] = _text(value)
            else:
                return None
        encoded = _encoded(query) if query else ""
        if encoded is None or (headers and not _are_plain(headers)):
            return None
        path = path_of(base, str(key)) if self._has_key else base.removesuffix("/") or "/"
        return Request(self.method, path, encoded, headers, body, length)

    def answer(self, status: int, headers: Mapping[str, str], document: bytes = b"") -> dict[str, Any]:
        """The result of boto3 for a successful answer, without the body of an object.

        Args:
            status: HTTP status.
            headers: Names in lower case.
            document: The body, if the result has elements of it.

        Raises:
            ValueError: If a header or the document cannot be parsed, such as a length that is not a number.
        """
        found: dict[str, Any] = {"ResponseMetadata": _metadata(status, headers)}
        if self._elements and document:
            found.update(_elements_of(document, self._elements))
        elif self._lists and document:
            from gllm_storage.s3.http.listing_document import read_listing  # noqa: PLC0415 - most processes list nothing

            found.update(read_listing(document))
        metadata: dict[str, str] = {}
        for name, value in headers.items():
            known = self._readers.get(name)
            if name == "expires" and known is not None:
                found.update(_expires(value))
            elif known is not None:
                found[known[0]] = known[1](value)
            elif name.startswith("x-amz-meta-"):
                metadata[name[11:]] = value
        if self._has_metadata:
            found["Metadata"] = metadata
        return found


def path_of(base: str, key: str) -> str:
    """The path of a key, percent-encoded.

    Args:
        base: The path up to the key, from `Template.path`.
        key: The key.
    """
    return f"{base}{key if _UNRESERVED.fullmatch(key) else quote(key, safe='/~')}"


def _encoded(query: Mapping[str, Any]) -> str | None:
    """The query string; None if a value is not a text that UTF-8 can represent, which boto3 refuses."""
    try:
        return canonical_query(query)
    except (TypeError, UnicodeEncodeError):
        return None


def _document_of(upload: Any) -> bytes | None:
    """The document of CompleteMultipartUpload, as boto3 makes it; None if boto3 has to make or refuse it."""
    parts = upload.get("Parts") if isinstance(upload, dict) and upload.keys() == {"Parts"} else None
    if not isinstance(parts, list):
        return None
    pieces = [f'<CompleteMultipartUpload xmlns="{_NAMESPACE}">']
    for part in parts:
        fields = {name: _text(value) for name, value in part.items()} if isinstance(part, dict) else {}
        if (
            not fields.keys() >= {"ETag", "PartNumber"}
            or not all(map(_PART_FIELD.fullmatch, fields))
            or not _are_plain(fields)
        ):
            return None
        pieces += ["<Part>", *(f"<{name}>{_escaped(str(text))}</{name}>" for name, text in fields.items()), "</Part>"]
    return "".join([*pieces, "</CompleteMultipartUpload>"]).encode("ascii")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _elements_of(document: bytes, names: frozenset[str]) -> dict[str, str]:
    """The texts of some elements directly below the root of a document.

    Raises:
        ValueError: If it is not such a document, or an element occurs twice.
    """
    from xml.etree import ElementTree as ET  # it takes 3 ms to import, and most processes need none

    try:
        # A store may send spaces before the document, while it completes an upload.
        root = ET.fromstring(document.lstrip())  # noqa: S314 - as botocore; expat limits entities
    except ET.ParseError as error:
        raise ValueError(f"the document is not XML: {error}") from error
    found: dict[str, str] = {}
    for each in root:
        name = each.tag.rpartition("}")[2]
        if name in names:
            if name in found or len(each):
                raise ValueError(f"the element {name} occurs twice, or has elements")
            found[name] = each.text or ""
    return found


def _length_of(body: Any) -> int | None:
    if isinstance(body, memoryview):
        return body.nbytes
    if isinstance(body, _TEXT_BODIES) or (hasattr(body, "__len__") and hasattr(body, "read")):
        return len(body)
    return None


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else None


def _prefixed(prefix: str, values: Any) -> dict[str, Any]:
    """The headers of a mapping such as ``Metadata``.

    If the value is not a mapping, or if two of its names differ by case only, the result has a header that `_are_plain`
    rejects, so that boto3 handles the request.
    """
    if not isinstance(values, dict):
        return {"": None}
    texts = {f"{prefix}{name}".lower(): text for name, text in values.items()}
    return texts if len(texts) == len(values) else {"": None}


_plain_names: set[str] = set()
"""Names that are plain. Those of most requests are the same."""
_PLAIN_NAMES = 512
"""The most of them: callers choose the names of metadata."""


def _are_plain(texts: Mapping[str, str | None]) -> bool:
    """Whether all names and values can be sent as they are. boto3 encodes or refuses others."""
    if not _plain_names.issuperset(texts):
        if not all(map(_HEADER_NAME.fullmatch, texts)):
            return False
        if len(_plain_names) < _PLAIN_NAMES:
            _plain_names.update(texts)
    try:
        values = "".join(texts.values())  # type: ignore[arg-type]  # raises if one is None
    except TypeError:
        return False
    return values.isascii() and values.isprintable()


def _metadata(status: int, headers: Mapping[str, str]) -> dict[str, Any]:
    return {
        "RequestId": headers.get("x-amz-request-id", ""),
        "HostId": headers.get("x-amz-id-2", ""),
        "HTTPStatusCode": status,
        "HTTPHeaders": headers,
        "RetryAttempts": 0,
    }


@functools.lru_cache(_DATES)
def _time(text: str) -> datetime:
    try:
        return read_date(text)
    except ValueError:
        from botocore.utils import parse_timestamp  # it takes 50 ms to import, and S3 sends no such dates

        return parse_timestamp(text)


def _expires(text: str) -> dict[str, Any]:
    try:
        return {"ExpiresString": text, "Expires": _time(text)}
    except (ValueError, OverflowError):
        return {"ExpiresString": text}  # the header is the uploader's own text, and need not be a date


_READERS: dict[str, Callable[[str], Any]] = {
    "integer": int,
    "long": int,
    "boolean": lambda text: text == "true",
    "timestamp": _time,
}


def operations() -> dict[str, Operation]:
    """The operations of the direct client, by the name of boto3's method."""
    return {method: Operation(model) for method, model in MODELS.items()}
