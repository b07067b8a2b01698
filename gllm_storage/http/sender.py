"""`DirectSender`: sends requests of a provider's API over direct connections, and by requests where these cannot serve."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

import requests
import requests.utils
import urllib3

from gllm_storage.http.adapter import FAILURES, SUCCESS, TLS, Pools, exchanged, is_direct, is_stubbed, of_requests
from gllm_storage.http.wire import MalformedAnswerError
from gllm_storage.store.download import READ_CHUNK

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gllm_storage.http.pool import Answer, Pool
    from gllm_storage.store.http import SourceBody
    from gllm_storage.store.reader import Memory


class Reply(Protocol):
    """The answer to a request. The content was read already, except that of a successful download."""

    @property
    def status_code(self) -> int:
        """HTTP status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, by their names in lower case."""

    @property
    def reason(self) -> str:
        """The text of the status; empty if it is not known."""

    @property
    def content(self) -> bytes:
        """The content; the beginning of it if the status is not a success.

        Raises:
            requests.RequestException: If the connection breaks.
        """

    def json(self) -> Any:
        """The content as JSON; `ValueError` if it is not."""

    def chunks(self, buffer: Memory | None) -> Iterator[bytes | memoryview]:
        """The content of a download, as it arrives; see `ObjectReader.read`.

        Raises:
            OSError: If the connection breaks. Other exceptions: `urllib3.exceptions.HTTPError`, `MalformedAnswerError`.
        """

    def close(self) -> None:
        """Close the answer."""


class DirectReply:
    """An answer of a direct connection."""

    reason = ""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._content: bytes | None = None
        self.status_code = answer.status
        self.headers: Mapping[str, str] = answer.headers

    @property
    def content(self) -> bytes:
        """As `Reply.content`."""
        if self._content is None:
            self._content = self._read()
        return self._content

    def _read(self) -> bytes:
        return self._answer.read() if self.status_code in SUCCESS else self._answer.beginning_of_error()

    def json(self) -> Any:
        """As `Reply.json`."""
        return json.loads(self.content)

    def chunks(self, buffer: Memory | None) -> Iterator[memoryview]:
        """As `Reply.chunks`."""
        return self._answer.pieces(READ_CHUNK, buffer)

    def close(self) -> None:
        """As `Reply.close`."""
        self._answer.close()


class RequestsReply:
    """An answer of requests."""

    def __init__(self, answer: requests.Response) -> None:
        self._answer = answer
        self.status_code = answer.status_code
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in answer.headers.items()}  # of any case
        self.reason = answer.reason or ""

    @property
    def content(self) -> bytes:
        """As `Reply.content`."""
        return self._answer.content

    def json(self) -> Any:
        """As `Reply.json`."""
        return self._answer.json()

    def chunks(self, buffer: Memory | None) -> Iterator[bytes]:  # noqa: ARG002 - urllib3 has a buffer of its own
        """As `Reply.chunks`."""
        chunks: Iterator[bytes] = self._answer.raw.stream(READ_CHUNK, decode_content=False)
        return chunks

    def close(self) -> None:
        """As `Reply.close`."""
        self._answer.close()


BROKEN = (urllib3.exceptions.HTTPError, OSError, MalformedAnswerError)
"""Exceptions of `Reply.chunks`."""


class DirectSender:
    """The connections of one process, which its threads share.

    A request without an answer raises the exceptions of requests, whether requests has sent it or not.

    Args:
        pools: The direct connections.
        tls: Makes the TLS settings.
    """

    def __init__(self, pools: Pools, tls: TLS) -> None:
        self._pools = pools
        self._tls = tls
        self._direct: dict[str, bool] = {}

    def close(self) -> None:
        """Close the idle connections."""
        self._pools.close()

    def pool(self, url: str) -> tuple[str, Pool] | None:
        """The ``Host`` header and the direct connections for a URL; None if requests has to send the request.

        That is through a proxy, among greenlets, and while a stub answers.

        Args:
            url: The scheme and the server of the request, without a path.
        """
        if url not in self._direct:  # to read the environment takes 0.2 ms
            self._direct[url] = is_direct(url, requests.utils.get_environ_proxies(url))
        return self._pools.get(url, self._tls) if self._direct[url] and not is_stubbed() else None


def send_directly(
    pool: Pool, method: str, target: str, headers: Mapping[str, str], body: bytes | SourceBody, *, stream: bool
) -> Reply:
    """Send a request over a direct connection.

    Args:
        pool: The connections.
        method: HTTP method.
        target: Path and query.
        headers: Headers, with names in lower case.
        body: The content of the request.
        stream: Whether the content of a successful answer is read by the caller.

    Raises:
        requests.RequestException: If no answer arrives.
        MalformedHTTPError: If the answer is not HTTP.
        TransferStopped: If this thread's transfer was cancelled.
    """
    try:
        answer = exchanged(pool, method, target, headers, body)
        reply = DirectReply(answer)
        if not (stream and answer.status in SUCCESS):
            _ = reply.content
    except FAILURES as error:
        raise of_requests(error) from error
    return reply


def send_by_requests(
    session: requests.Session, method: str, url: str, headers: Mapping[str, str], body: bytes | SourceBody, **options: Any
) -> Reply:
    """Send a request by requests, which follows no redirect.

    Args:
        session: The session.
        method: HTTP method.
        url: The complete URL.
        headers: Headers.
        body: The content of the request.
        **options: Further arguments of the session's method.

    Raises:
        requests.RequestException: If no answer arrives.
    """
    data: Any = body
    try:
        answer = session.request(method, url, headers=dict(headers), data=data, allow_redirects=False, **options)
    except requests.RequestException:
        raise
    except OSError as error:
        raise requests.ConnectionError(str(error)) from error
    return RequestsReply(answer)
