"""From boto3's arguments to a request, and from an answer to what boto3 returns; by botocore's own model of S3."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from botocore.parsers import create_parser
from botocore.utils import parse_timestamp

from gllm_storage.s3.http.signing import canonical_query

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from botocore.model import OperationModel
    from mypy_boto3_s3.client import S3Client

_NOT_SENT = {"Bucket", "Key", "Body"}
_COMPUTED = ("ChecksumAlgorithm", "CopySource", "SSECustomer")
"""What boto3 computes something from, as the beginnings of names."""
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z\-]+")
_DATE = re.compile(r"[A-Z][a-z]{2}, ([0-9]{2}) ([A-Z][a-z]{2}) ([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_ERRORS = create_parser("rest-xml")
_TEXT_BODIES = (bytes, bytearray, memoryview)


@dataclass(frozen=True)
class Request:
    """One request, but for its signature.

    Attributes:
        method: HTTP method.
        path: Percent-encoded.
        query: Percent-encoded, parameters in order.
        headers: Names in lower case.
        body: Bytes, or what has `__len__` and `read`.
        body_length: In bytes.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: Any
    body_length: int


class Operation:
    """One operation of S3, as far as its parameters go into the path, the query or headers.

    Args:
        model: botocore's model of it.
    """

    def __init__(self, model: OperationModel) -> None:
        self.name = model.name
        self.method = str(model.http["method"])
        self._output = cast("Any", model.output_shape)
        inputs = cast("Any", model.input_shape)
        self._places = {
            name: _place_of(name, shape) for name, shape in inputs.members.items() if not name.startswith(_COMPUTED)
        }
        self._readers = {
            str(shape.serialization["name"]).lower(): (name, _READERS.get(shape.type_name, str))
            for name, shape in self._output.members.items()
            if shape.serialization.get("location") == "header"
        }

    def request(self, base: str, parameters: Mapping[str, Any]) -> Request | None:
        """The request for some arguments.

        Args:
            base: The path, up to the key.
            parameters: boto3's arguments.

        Returns:
            None if there is an argument whose place we do not know; boto3 does.
        """
        key, body = parameters.get("Key"), parameters.get("Body", b"")
        length = _length_of(body)
        if not isinstance(key, str) or not key or length is None:
            return None
        headers: dict[str, Any] = {}
        query: dict[str, Any] = {}
        for name, value in parameters.items():
            if name in _NOT_SENT:
                continue
            location, place = self._places.get(name, ("", ""))
            if location == "header":
                headers[place] = _text(value)
            elif location == "headers":
                headers.update(_prefixed(place, value))
            elif location == "querystring":
                query[place] = _text(value)
            else:
                return None
        if not (_are_plain(headers) and _are_plain(query)):
            return None
        path = f"{base}{quote(key, safe='/~')}"
        return Request(self.method, path, canonical_query(query) if query else "", headers, body, length)

    def answer(self, status: int, headers: Mapping[str, str]) -> dict[str, Any]:
        """What boto3 returns for an answer, but for its body.

        Raises:
            ValueError: If a header does not hold what it should.
        """
        found: dict[str, Any] = {"ResponseMetadata": _metadata(status, headers)}
        metadata: dict[str, str] = {}
        for name, value in headers.items():
            known = self._readers.get(name)
            if name == "expires" and known is not None:
                found.update(_expires(value))
            elif known is not None:
                found[known[0]] = known[1](value)
            elif name.startswith("x-amz-meta-"):
                metadata[name[11:]] = value
        if "Metadata" in self._output.members:
            found["Metadata"] = metadata
        return found

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
        """What boto3 puts into a `ClientError`.

        Raises:
            botocore.parsers.ResponseParserError: If it is no error of S3.
        """
        parsed: dict[str, Any] = _ERRORS.parse({"status_code": status, "headers": dict(headers), "body": body}, self._output)
        parsed.setdefault("Error", {})
        parsed.setdefault("ResponseMetadata", {})["HTTPStatusCode"] = status
        return parsed


def _place_of(name: str, shape: Any) -> tuple[str, str]:
    """Where a parameter goes, and what it is called there."""
    location = str(shape.serialization.get("location", ""))
    place = str(shape.serialization.get("name", name))
    return location, place.lower() if location == "header" else place


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
    """Headers for a mapping such as ``Metadata``; one that is not plain, if there is none or two have one name."""
    if not isinstance(values, dict):
        return {"": None}
    texts = {f"{prefix}{name}".lower(): text for name, text in values.items()}
    return texts if len(texts) == len(values) else {"": None}


def _are_plain(texts: Mapping[str, str | None]) -> bool:
    """Whether all go out as they are; boto3 encodes or refuses the others."""
    return all(
        isinstance(text, str) and text.isascii() and text.isprintable() and _HEADER_NAME.fullmatch(name)
        for name, text in texts.items()
    )


def _metadata(status: int, headers: Mapping[str, str]) -> dict[str, Any]:
    return {
        "RequestId": headers.get("x-amz-request-id", ""),
        "HostId": headers.get("x-amz-id-2", ""),
        "HTTPStatusCode": status,
        "HTTPHeaders": headers,
        "RetryAttempts": 0,
    }


def _time(text: str) -> datetime:
    match = _DATE.fullmatch(text)
    if match is None:
        return parse_timestamp(text)
    day, month, year, hour, minute, second = match.groups()
    return datetime(int(year), _MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second), tzinfo=UTC)


def _expires(text: str) -> dict[str, Any]:
    """Anybody may have written anything there."""
    try:
        return {"ExpiresString": text, "Expires": _time(text)}
    except (ValueError, OverflowError):
        return {"ExpiresString": text}


_READERS: dict[str, Callable[[str], Any]] = {
    "integer": int,
    "long": int,
    "boolean": lambda text: text == "true",
    "timestamp": _time,
}


_METHODS = {
    "head_object": "HeadObject",
    "get_object": "GetObject",
    "put_object": "PutObject",
    "upload_part": "UploadPart",
    "delete_object": "DeleteObject",
}


def operations_of(client: S3Client) -> dict[str, Operation]:
    """The operations that go directly, by boto3's name of the method."""
    model = client.meta.service_model
    return {method: Operation(model.operation_model(name)) for method, name in _METHODS.items()}
