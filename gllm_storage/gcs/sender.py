"""`Sender`: sends a request to Google's API once, with the credentials.

It uses direct connections (`gllm_storage.http`). Through a proxy, among greenlets, and while a stub answers, requests
sends the requests. A
request without an answer raises the exceptions of requests in both cases.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Protocol

import requests
import requests.utils
import urllib3
from google.auth.transport import mtls
from requests.adapters import HTTPAdapter

from gllm_storage.http.adapter import FAILURES, SUCCESS, TLS, Pools, exchanged, is_direct, is_stubbed, of_requests
from gllm_storage.http.wire import MalformedAnswerError
from gllm_storage.store.download import READ_CHUNK
from gllm_storage.store.http import StoppingAdapter

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping

    from google.auth.credentials import Credentials

    from gllm_storage.gcs.connection import GCSConnection
    from gllm_storage.http.pool import Answer, Pool
    from gllm_storage.store.http import SourceBody
    from gllm_storage.store.reader import Memory

_UNAUTHORIZED = 401
_REFRESHES = 2
"""How often a refused access token is replaced by a new one, as by google-auth's session."""
_URL = re.compile(r"[!$-~]+")
"""URLs that are sent as they are: printable ASCII without spaces, quotation marks and fragments."""
_TOKEN_RETRIES = 3


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


class _DirectReply:
    """An answer of a direct connection."""

    reason = ""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._content: bytes | None = None
        self.status_code = answer.status
        self.headers: Mapping[str, str] = answer.headers

    @property
    def content(self) -> bytes:
        if self._content is None:
            self._content = self._read()
        return self._content

    def _read(self) -> bytes:
        return self._answer.read() if self.status_code in SUCCESS else self._answer.beginning_of_error()

    def json(self) -> Any:
        return json.loads(self.content)

    def chunks(self, buffer: Memory | None) -> Iterator[memoryview]:
        return self._answer.pieces(READ_CHUNK, buffer)

    def close(self) -> None:
        self._answer.close()


class _RequestsReply:
    """An answer of requests."""

    def __init__(self, answer: requests.Response) -> None:
        self._answer = answer
        self.status_code = answer.status_code
        self.headers: Mapping[str, str] = answer.headers
        self.reason = answer.reason or ""

    @property
    def content(self) -> bytes:
        return self._answer.content

    def json(self) -> Any:
        return self._answer.json()

    def chunks(self, buffer: Memory | None) -> Iterator[bytes]:  # noqa: ARG002 - urllib3 has a buffer of its own
        chunks: Iterator[bytes] = self._answer.raw.stream(READ_CHUNK, decode_content=False)
        return chunks

    def close(self) -> None:
        self._answer.close()


BROKEN = (urllib3.exceptions.HTTPError, OSError, MalformedAnswerError)
"""Exceptions of `Reply.chunks`."""


class Sender:
    """The connections of one process, which its threads share.

    Args:
        connection: The server and the options.

    Raises:
        CredentialsError: If there are no credentials where the options request some.
    """

    def __init__(self, connection: GCSConnection) -> None:
        self._connection = connection
        self._credentials: Credentials | None = connection.account.credentials
        options = connection.options
        self._pools = Pools(
            options.connect_timeout, options.read_timeout, options.transfer.min_throughput, _pool_size(connection)
        )
        self._tls = TLS(connection.verify, _certificate(connection))
        self._direct: dict[str, bool] = {}
        self._session: requests.Session | None = None
        self._tokens: Any = None

    def close(self) -> None:
        """Close the idle connections."""
        self._pools.close()
        if self._session is not None:
            self._session.close()

    def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | SourceBody, *, stream: bool) -> Reply:
        """Send a request; again with a new access token if the store refuses the token.

        Args:
            method: HTTP method.
            url: The complete URL.
            headers: Headers, with names in lower case.
            body: The content of the request.
            stream: Whether the content of a successful answer is read by the caller.

        Raises:
            requests.RequestException: If there is no answer.
            MalformedHTTPError: If the answer is not HTTP.
            google.auth.exceptions.GoogleAuthError: If there is no access token.
            TransferStopped: If this thread's transfer was cancelled.
        """
        if not _URL.fullmatch(url):
            url = requests.utils.requote_uri(url.partition("#")[0])
        scheme, _, rest = url.partition("://")
        server, slash, target = rest.partition("/")
        if not self._is_direct(url, f"{scheme}://{server}"):
            return self._send_by_requests(method, url, headers, body, stream=stream)
        host, pool = self._pools.get(url, self._tls)
        sent = {"host": host, "accept-encoding": "identity", **headers}
        for refreshes in range(_REFRESHES + 1):
            typed: Any = self._credentials
            if typed is not None:
                typed.before_request(self._token_request(), method, url, sent)
            reply = self._send_to(pool, method, slash + target or "/", sent, body, stream=stream)
            if typed is None or reply.status_code != _UNAUTHORIZED or refreshes == _REFRESHES:
                break
            typed.refresh(self._token_request())
        return reply

    def _send_to(
        self, pool: Pool, method: str, target: str, headers: Mapping[str, str], body: bytes | SourceBody, *, stream: bool
    ) -> Reply:
        try:
            answer = exchanged(pool, method, target, headers, body)
            reply = _DirectReply(answer)
            if not (stream and answer.status in SUCCESS):
                _ = reply.content
        except FAILURES as error:
            raise of_requests(error) from error
        return reply

    def _is_direct(self, url: str, server: str) -> bool:
        if server not in self._direct:  # to read the environment takes 0.2 ms
            self._direct[server] = is_direct(url, requests.utils.get_environ_proxies(url))
        return self._direct[server] and not is_stubbed()

    def _token_request(self) -> Any:
        """google-auth's way to send a request for a token."""
        if self._tokens is None:
            from google.auth.transport.requests import Request  # noqa: PLC0415 - imports `cryptography`, which takes 0.1 s

            session = requests.Session()
            session.mount("https://", HTTPAdapter(max_retries=_TOKEN_RETRIES))
            make: Any = Request
            self._tokens = make(session)
        return self._tokens

    def _send_by_requests(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | SourceBody, *, stream: bool
    ) -> Reply:
        connection = self._connection
        if self._session is None:
            self._session = _new_session(connection, self._credentials)
        data: Any = body
        try:
            answer = self._session.request(
                method,
                url,
                headers=dict(headers),
                data=data,
                stream=stream,
                timeout=(connection.options.connect_timeout, connection.options.read_timeout),
                allow_redirects=False,
                verify=connection.verify,  # here and not on the session, where REQUESTS_CA_BUNDLE would replace it
            )
        except requests.RequestException:
            raise
        except OSError as error:
            raise requests.ConnectionError(str(error)) from error
        return _RequestsReply(answer)


def _pool_size(connection: GCSConnection) -> int:
    return max(100, 2 * connection.options.transfer.max_concurrency)


def _certificate(connection: GCSConnection) -> ssl.SSLContext | None:
    """A context with google-auth's client certificate, if there is one."""
    typed: Any = mtls
    return typed.get_default_ssl_context() if connection.has_certificate else None


def _new_session(connection: GCSConnection, credentials: Credentials | None) -> requests.Session:
    from google.auth.transport.requests import AuthorizedSession  # noqa: PLC0415 - imports `cryptography`

    make: Any = AuthorizedSession  # google-auth publishes no types for it
    session: requests.Session = requests.Session() if credentials is None else make(credentials)
    context = _certificate(connection)
    options, pool_size = connection.options, _pool_size(connection)
    limits: dict[str, Any] = {"min_throughput": options.transfer.min_throughput, "read_timeout": options.read_timeout}
    # urllib3 closes connections above the size of the pool after use, with a warning in its log.
    adapter = _Adapter(context, pool_connections=2, pool_maxsize=pool_size, **limits)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


class _Adapter(StoppingAdapter):
    """An adapter that presents a client certificate, if there is one."""

    def __init__(self, context: ssl.SSLContext | None, **options: Any) -> None:
        self._context = context
        super().__init__(**options)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """As the base class, with the certificate."""
        if self._context is not None:
            options["ssl_context"] = self._context
        super().init_poolmanager(*args, **options)
