"""Requests of Google's JSON API, and its answers: https://cloud.google.com/storage/docs/json_api."""

from __future__ import annotations

import contextlib
import email.parser
import email.policy
import re
import secrets
from json import dumps
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import requests

from gllm_storage.gcs.errors import RefusedError, UnreadableAnswerError, is_transient
from gllm_storage.info import ObjectInfo, aware
from gllm_storage.store import retry
from gllm_storage.store.diagnosis import is_web_page
from gllm_storage.store.pages import RepeatedPageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gllm_storage.errors import ErrorDetails
    from gllm_storage.gcs.connection import GCSConnection
    from gllm_storage.http.sender import Reply
    from gllm_storage.store.http import SourceBody
    from gllm_storage.store.pages import PageCheck

BATCH = 100
"""The most requests of a batch: https://cloud.google.com/storage/docs/batch."""
SUCCESS = range(200, 300)
"""HTTP statuses of a request that was executed."""
NAMES = {
    "content_type": "contentType",
    "content_encoding": "contentEncoding",
    "content_disposition": "contentDisposition",
    "content_language": "contentLanguage",
    "cache_control": "cacheControl",
    "metadata": "metadata",
    "storage_class": "storageClass",
}
"""Properties of an object, and their names in its resource."""
_STATUS = re.compile(r"\s*HTTP/\S+ ([0-9]{3})")
_LISTS = ("storage#objects", "storage#buckets")
_DIGITS = re.compile(r"[0-9]{1,19}")
_NUMBER = re.compile(r"\+([0-9]{1,9})>?\s*$")


class GCSRequests:
    """Sends requests.

    Args:
        connection: The server and the session.
    """

    def __init__(self, connection: GCSConnection) -> None:
        self._connection = connection
        self.policy = retry.requests(connection.options.transfer.max_attempts)
        """How often a request is sent."""

    def ask(self, method: str, path: str, details: ErrorDetails, **request: Any) -> dict[str, Any]:
        """Send a request, again after a transient failure, and read the JSON of its answer.

        Args:
            method: HTTP method.
            path: As for `send`.
            details: The operation, for errors.
            **request: As for `send`.

        Raises:
            RefusedError: If the answer is not a success.
            UnreadableAnswerError: If it is not a JSON object.
            requests.RequestException: If no answer arrives.
            google.auth.exceptions.GoogleAuthError: If there are no credentials.
        """
        return self.policy.call(lambda: json_of(self.send(method, path, **request)), is_transient, details)

    def send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        data: bytes | SourceBody = b"",
        json: Any = None,
        accepted: frozenset[int] = frozenset(),
        stream: bool = False,
    ) -> Reply:
        """Send a request once.

        Args:
            method: HTTP method.
            path: Path from the endpoint's root, or a complete URL, which gets no further query parameters.
            params: Query parameters.
            headers: Headers.
            data: The body.
            json: The body, as a value to encode in JSON; `data` is sent if None.
            accepted: Statuses that are answers, beside success.
            stream: Whether the caller reads the content of a successful answer.

        Raises:
            RefusedError: If the answer is not a success.
            requests.RequestException: If no answer arrives.
            google.auth.exceptions.GoogleAuthError: If there are no credentials.
        """
        connection, lines = self._connection, {name.lower(): value for name, value in (headers or {}).items()}
        if not path.startswith(("http://", "https://")):
            query = urlencode({**connection.parameters, **(params or {})})
            path = f"{connection.endpoint_url}{path}?{query}" if query else f"{connection.endpoint_url}{path}"
        if json is not None:
            data, lines["content-type"] = dumps(json).encode(), "application/json"
        answer = connection.sender.send(method, path, lines, data, stream=stream)
        if answer.status_code in SUCCESS or answer.status_code in accepted:
            return answer
        with contextlib.closing(answer):
            raise refusal_of(answer)

    def send_deletion(self, path: str, params: Mapping[str, str]) -> None:
        """Send a request that deletes, once.

        Args:
            path: As for `send`.
            params: Query parameters.

        Raises:
            UnreadableAnswerError: If the answer is a web page.
            Exception: As `send`.
        """
        answer = self.send("DELETE", path, params=params)
        if is_web_page(answer.status_code, answer.headers):
            raise UnreadableAnswerError("its answer is a web page")

    def delete_batch(self, bucket: str, keys: Sequence[str], details: ErrorDetails) -> list[int | None]:
        """Delete several objects by one request, which carries a request for each.

        Args:
            bucket: The bucket.
            keys: The keys, at most `BATCH`.
            details: The operation, for errors.

        Returns:
            For each key the HTTP status of its request; None if that part of the answer is missing or cannot be read.

        Raises:
            RefusedError: If the answer is not a success.
            requests.RequestException: If no answer arrives.
            google.auth.exceptions.GoogleAuthError: If there are no credentials.
        """
        boundary = f"gllm-{secrets.token_hex(16)}"
        query = urlencode(self._connection.parameters)
        parts = [
            f"--{boundary}\r\nContent-Type: application/http\r\nContent-ID: <gllm+{number}>\r\n\r\n"
            f"DELETE {path_of(bucket, key)}{'?' * bool(query)}{query} HTTP/1.1\r\n\r\n\r\n"
            for number, key in enumerate(keys)
        ]
        answer = self.policy.call(
            lambda: self.send(
                "POST",
                "/batch/storage/v1",
                headers={"Content-Type": f"multipart/mixed; boundary={boundary}"},
                data=f"{''.join(parts)}--{boundary}--".encode(),
            ),
            is_transient,
            details,
        )
        statuses = _statuses(answer)
        return [statuses.get(number) for number in range(len(keys))]


def _statuses(answer: Reply) -> dict[int, int]:
    """The HTTP status of each request of a batch, by its number; a part that cannot be read is left out."""
    head = f"Content-Type: {answer.headers.get('content-type', '')}\r\n\r\n".encode()
    found = {}
    for part in email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + answer.content).walk():
        number, status = _NUMBER.search(part.get("Content-ID", "")), _STATUS.match(str(part.get_payload()))
        if number and status:
            found[int(number[1])] = int(status[1])
    return found


def refusal_of(answer: Reply) -> RefusedError:
    """Read an answer that is not a success."""
    headers = answer.headers
    known = (headers.get("x-guploader-uploadid"), headers.get("location"), headers.get("date"))
    content: Any = None
    with contextlib.suppress(
        ValueError, RecursionError, requests.RequestException
    ):  # RequestException: the body of the answer broke
        content = answer.json()
    error = content.get("error") if isinstance(content, dict) else None
    if not isinstance(error, dict):
        return RefusedError(answer.status_code, str(answer.status_code), answer.reason or "no explanation", *known)
    errors = error.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else None
    reason = first.get("reason") if isinstance(first, dict) else None
    return RefusedError(
        answer.status_code, str(reason or answer.status_code), str(error.get("message") or "no explanation"), *known
    )


def json_of(answer: Reply) -> dict[str, Any]:
    """The JSON object of an answer; an empty one if the answer has no content.

    Raises:
        UnreadableAnswerError: If the answer is not a JSON object.
    """
    if not answer.content:
        return {}
    try:
        found = answer.json()
    except (ValueError, RecursionError) as error:
        raise UnreadableAnswerError(f"its answer is not JSON: {answer.content[:80]!r}") from error
    if found is None:  # the answer of some emulators to a delete
        return {}
    if not isinstance(found, dict):
        raise UnreadableAnswerError("its answer is not a JSON object")
    return found


def path_of(bucket: str, key: str, start: str = "/storage/v1") -> str:
    """Path of an object in the API."""
    return f"{start}/b/{quote(bucket, safe='')}/o/{quote(key, safe='')}"


def checked_page(page: Any, check: PageCheck, prefix: str = "") -> str | None:
    """Check a page of a listing, and leave out of it the names that the page before had.

    Args:
        page: The JSON of the answer.
        check: Knows the pages before.
        prefix: The requested beginning of the names: listed objects may be deleted next.

    Returns:
        The token of the next page; None if there is none.

    Raises:
        UnreadableAnswerError: If the answer is not a listing of this prefix, or repeats an earlier one.
    """
    items, prefixes = _entries_in(page)
    for name in (*(each.get("name") for each in items), *prefixes):
        if not isinstance(name, str) or not name:
            raise UnreadableAnswerError("an entry of its listing has no name")
        if not name.startswith(prefix):
            raise UnreadableAnswerError(f"its listing of {prefix[:80]!r} has {name[:80]!r}, which does not begin with that")
    for each in items:
        size_of(each)
    token = page.get("nextPageToken") or None
    try:
        repeated = check.repeated([*map(_identity, items), *prefixes], more=token is not None)
        if token is not None:
            check.require_new(token)
    except RepeatedPageError as error:
        raise UnreadableAnswerError(str(error)) from error
    page["items"] = [each for each in items if _identity(each) not in repeated]
    page["prefixes"] = [each for each in prefixes if each not in repeated]
    return None if token is None else str(token)


def _entries_in(page: Any) -> tuple[list[dict[str, Any]], list[Any]]:
    """The objects and the prefixes of a page.

    Raises:
        UnreadableAnswerError: If the answer is not a listing.
    """
    if isinstance(page, dict) and (page.get("kind") in _LISTS or page.keys() & {"items", "prefixes", "nextPageToken"}):
        items, prefixes = page.get("items", []), page.get("prefixes", [])
        if isinstance(items, list) and isinstance(prefixes, list) and all(isinstance(each, dict) for each in items):
            return items, prefixes
    raise UnreadableAnswerError("its answer is not a listing")


def _identity(item: Mapping[str, Any]) -> str:
    """Name and generation: a listing of versions may have one name on two pages."""
    return f"{item['name']}#{item['generation']}" if "generation" in item else str(item["name"])


def size_of(resource: Mapping[str, Any]) -> int:
    """The size of an object in bytes; 0 if the resource has none, as the API leaves it out for some objects.

    Raises:
        UnreadableAnswerError: If it is not a number.
    """
    text = str(resource.get("size", 0))
    if not _DIGITS.fullmatch(text):
        raise UnreadableAnswerError(f"the size of an object in its answer is {text[:80]!r}")
    return int(text)


def require_resource(answer: dict[str, Any], generation: str | None = None) -> dict[str, Any]:
    """Check that an answer describes an object.

    Args:
        answer: The answer.
        generation: The version that was requested; any if None.

    Raises:
        UnreadableAnswerError: If it does not, or if it describes another version.
    """
    if "name" not in answer or not _DIGITS.fullmatch(str(answer.get("generation"))):
        raise UnreadableAnswerError("its answer does not describe an object")
    if generation is not None and int(answer["generation"]) != int(generation):
        raise UnreadableAnswerError(f"its answer describes generation {answer['generation']}, not {generation}")
    size_of(answer)
    if not isinstance(answer.get("metadata") or {}, dict):
        raise UnreadableAnswerError("the metadata of an object in its answer are not a JSON object")
    return answer


def info_of(resource: Mapping[str, Any], url: str, *, listed: bool = False) -> ObjectInfo:
    """Read an object resource: https://cloud.google.com/storage/docs/json_api/v1/objects#resource."""
    return ObjectInfo(
        url=url,
        size=size_of(resource),
        etag=str(resource.get("etag", "")).strip('"') or None,
        last_modified=aware(resource.get("updated")),
        checksum=None if listed else _checksum(resource),
        metadata=None if listed else dict(resource.get("metadata") or {}),
        version=str(resource["generation"]) if "generation" in resource else None,
        **({} if listed else _properties(resource)),
    )


def _properties(resource: Mapping[str, Any]) -> dict[str, Any]:
    # A key of Google's key management is named with its version; uploads take the name without it.
    kms_key = str(resource.get("kmsKeyName", "")).partition("/cryptoKeyVersions/")[0] or None
    names = ("content_type", "content_encoding", "content_disposition", "content_language", "cache_control", "storage_class")
    return {**{name: resource.get(NAMES[name]) for name in names}, "kms_key": kms_key}


def _checksum(resource: Mapping[str, Any]) -> str | None:
    if resource.get("crc32c"):
        return f"crc32c:{resource['crc32c']}"
    return f"md5:{resource['md5Hash']}" if resource.get("md5Hash") else None
