"""The ``response`` of boto3's `ClientError`, from the status, the headers and the error document of an answer.

botocore's parser takes 50 ms to import. The common answers are read here: none or an empty document, as to a HEAD request,
and a flat ``<Error>`` as every store sends it. All others go to botocore's parser.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_ERROR = 301
_SERVER_ERROR = 500
_DUPLICATES = ("RequestId", "HostId")
"""Elements that repeat headers; botocore leaves them out."""


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """The ``response`` of the `ClientError` that boto3 raises for an answer.

    Args:
        status: HTTP status.
        headers: Names in lower case.
        body: The error document.

    Raises:
        UnreadableAnswerError: If the body is not an error document of S3.
    """
    parsed = _without_document(status, headers, body) or _flat(status, headers, body) or _by_botocore(status, headers, body)
    parsed.setdefault("Error", {})
    parsed.setdefault("ResponseMetadata", {}).update(HTTPStatusCode=status, HTTPHeaders=headers)
    return parsed


def _without_document(status: int, headers: Mapping[str, str], body: bytes) -> dict[str, Any] | None:
    """The response for an answer without a document; None if it has one, or if the status is not an error's."""
    if status < _ERROR:
        return None
    document = body.strip()
    # A proxy or a gateway answers with HTML, without an id.
    if status >= _SERVER_ERROR and (not document or document.startswith(b"<html>")):
        return {"Error": {"Code": str(status), "Message": _phrase(status)}, "ResponseMetadata": {}}
    if body:
        return None
    ids = {"RequestId": headers.get("x-amz-request-id", ""), "HostId": headers.get("x-amz-id-2", "")}
    return {"Error": {"Code": str(status), "Message": _phrase(status)}, "ResponseMetadata": ids}


def _flat(status: int, headers: Mapping[str, str], body: bytes) -> dict[str, Any] | None:
    """The response for an ``<Error>`` whose elements have text only, each once; None for another document."""
    from xml.etree import ElementTree as ET  # it takes 3 ms to import, and most processes see no error

    if status < _ERROR or "x-amzn-requestid" in headers:
        return None
    parser = ET.XMLParser(target=ET.TreeBuilder(), encoding="utf-8")  # noqa: S314 - as botocore; expat limits entities
    try:
        parser.feed(body)
        root = parser.close()
    except ET.ParseError:
        return None
    found = {each.tag: each.text for each in root}
    if root.tag != "Error" or len(found) != len(root) or any(len(each) or "}" in each.tag for each in root):
        return None
    error = {name: text for name, text in found.items() if name not in _DUPLICATES}
    ids = {}
    if "x-amz-request-id" in headers:
        ids = {"RequestId": headers["x-amz-request-id"], "HostId": headers.get("x-amz-id-2", "")}
    return {"Error": error, "ResponseMetadata": ids}


def _by_botocore(status: int, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    parsed: dict[str, Any] = _parser().parse({"status_code": status, "headers": dict(headers), "body": body}, None)
    return parsed


@cache
def _parser() -> Any:
    from botocore.parsers import create_parser

    from gllm_storage.s3.answers import StrictParser  # it imports botocore's parsers

    return StrictParser(create_parser("rest-xml"))


def _phrase(status: int) -> str:
    from http import HTTPStatus  # it takes 1 ms to import, and most processes see no error

    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
