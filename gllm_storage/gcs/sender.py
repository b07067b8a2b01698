"""`Sender`: sends a request to Google's API once, with the credentials.

It uses the connections of the direct client of S3: requests and urllib3 spend 0.8 ms of CPU on a small request, of which the
variables of the environment take 0.3 ms, and the direct connections 0.1 ms. Through a proxy, requests sends the requests.

A request without an answer raises the exceptions of requests in both cases.
"""

from __future__ import annotations

import json
import os
import re
import ssl
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import requests
import requests.utils
import urllib3
from google.auth.transport import mtls
from google.auth.transport.requests import AuthorizedSession, Request
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.util.ssl_ import create_urllib3_context

from gllm_storage.concurrency.stop import check_stop
from gllm_storage.http.connecting import Server
from gllm_storage.http.pool import Answer, Pool
from gllm_storage.http.wire import CannotConnectError, ClosedEarlyError, MalformedAnswerError, UnusableAnswerError
from gllm_storage.store.answers import MAX_ERROR, MalformedHTTPError
from gllm_storage.store.download import READ_CHUNK
from gllm_storage.store.http import SourceBody, StoppingAdapter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from google.auth.credentials import Credentials

    from gllm_storage.gcs.connection import GCSConnection

_FAILURES = (OSError, ClosedEarlyError, MalformedAnswerError)
"""Exceptions of the direct connections."""
_SUCCESS = range(200, 300)
_READS = frozenset({"GET", "HEAD"})
_UNAUTHORIZED = 401
_REFRESHES = 2
"""How often a refused access token is replaced by a new one, as by google-auth's session."""
_AT_ONCE = 2**16
"""Bytes of a body that are sent together with the headers."""
_URL = re.compile(r"[!$-~]+")
"""URLs that are sent as they are: printable ASCII without spaces, quotation marks and fragments."""
_PORTS = {"http": 80, "https": 443}
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

    def chunks(self, buffer: memoryview | None) -> Iterator[bytes | memoryview]:
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
        if self.status_code in _SUCCESS:
            return self._answer.read()
        try:
            return self._answer.beginning(MAX_ERROR)
        except (OSError, MalformedAnswerError):
            return b""  # the status says enough

    def json(self) -> Any:
        return json.loads(self.content)

    def chunks(self, buffer: memoryview | None) -> Iterator[memoryview]:
        return self._answer.pieces(READ_CHUNK, buffer)

    def close(self) -> None:
        self._answer.close()


class _ProxiedReply:
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

    def chunks(self, buffer: memoryview | None) -> Iterator[bytes]:  # noqa: ARG002 - urllib3 has a buffer of its own
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
        self._pools: dict[tuple[str, str], Pool | None] = {}
        self._hosts: dict[tuple[str, str], str] = {}
        self._tls: ssl.SSLContext | None = None
        self._session: requests.Session | None = None
        self._tokens: Any = None

    def close(self) -> None:
        """Close the idle connections."""
        for pool in list(self._pools.values()):
            if pool is not None:
                pool.close()
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
        netloc, slash, target = rest.partition("/")
        server = (scheme, netloc)
        pool = self._pools[server] if server in self._pools else self._new_pool(server, url)
        if pool is None:
            return self._through_proxy(method, url, headers, body, stream=stream)
        sent = {"host": self._hosts[server], **headers}
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
            answer = pool.request(
                _head(method, target, headers, len(body)),
                body if isinstance(body, bytes) else _Readable(body) if len(body) > _AT_ONCE else b"".join(body),
                changes=method not in _READS,
                bodiless=method == "HEAD",
            )
            reply = _DirectReply(answer)
            if not (stream and answer.status in _SUCCESS):
                _ = reply.content
        except _FAILURES as error:
            check_stop()
            raise _of_requests(error) from error
        return reply

    def _new_pool(self, server: tuple[str, str], url: str) -> Pool | None:
        """The connections to a server; None if a proxy is between."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port or _PORTS[parts.scheme]
        except (ValueError, KeyError) as error:
            raise requests.exceptions.InvalidURL(f"{url[:80]!r}: {error}") from error
        if not host:
            raise requests.exceptions.InvalidURL(f"{url[:80]!r} has no host")
        if requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url)):
            self._pools[server] = None
            return None
        options = self._connection.options
        if parts.scheme == "https" and self._tls is None:
            try:
                self._tls = _tls_context(self._connection)
            except OSError as error:  # such as a ca_bundle that does not exist any more
                raise _of_requests(error) from error
        named = host.encode("idna").decode() if not host.isascii() else f"[{host}]" if ":" in host else host
        self._hosts[server] = named if port == _PORTS[parts.scheme] else f"{named}:{port}"
        pool = self._pools[server] = Pool(
            Server(
                parts.scheme,
                host,
                port,
                options.connect_timeout,
                options.read_timeout,
                self._tls if parts.scheme == "https" else None,
                options.transfer.min_throughput,
            ),
            keep=_pool_size(self._connection),
        )
        return pool

    def _token_request(self) -> Any:
        """google-auth's way to send a request for a token."""
        if self._tokens is None:
            session = requests.Session()
            session.mount("https://", HTTPAdapter(max_retries=_TOKEN_RETRIES))
            make: Any = Request
            self._tokens = make(session)
        return self._tokens

    def _through_proxy(
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
        return _ProxiedReply(answer)


class _Readable:
    """A body in the form that a direct connection reads."""

    def __init__(self, body: SourceBody) -> None:
        self._size = len(body)
        self._pieces = iter(body)

    def __len__(self) -> int:
        return self._size

    def read(self, _: int) -> bytes:
        """The next piece; empty at the end."""
        return next(self._pieces, b"")


def _head(method: str, target: str, headers: Mapping[str, str], length: int) -> bytes:
    """Request line and headers."""
    lines = [f"{method} {target} HTTP/1.1", *[f"{name}: {value}" for name, value in headers.items()]]
    if "accept-encoding" not in headers:
        lines.append("accept-encoding: identity")
    if method not in _READS:
        lines.append(f"content-length: {length}")
    text = "\r\n".join(lines)
    if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1:
        raise requests.exceptions.InvalidHeader("a header has a line break")
    return f"{text}\r\n\r\n".encode("latin-1")


def _of_requests(error: Exception) -> Exception:
    """The exception of requests for a request without a complete answer."""
    if isinstance(error, UnusableAnswerError):
        return MalformedHTTPError(str(error))
    if isinstance(error, ssl.SSLError):
        return requests.exceptions.SSLError(error)
    if isinstance(error, CannotConnectError):
        timed_out = isinstance(error.__cause__, TimeoutError)
        return requests.ConnectTimeout(error) if timed_out else requests.ConnectionError(error)
    if isinstance(error, (TimeoutError, BlockingIOError)):
        return requests.ReadTimeout(error)
    return requests.ConnectionError(error)


def _pool_size(connection: GCSConnection) -> int:
    return max(100, 2 * connection.options.transfer.max_concurrency)


def _tls_context(connection: GCSConnection) -> ssl.SSLContext:
    """A context that trusts the certificates that requests would trust, with the client certificate if there is one.

    Raises:
        OSError: If the certificates cannot be read.
    """
    typed: Any = mtls
    context: ssl.SSLContext = typed.get_default_ssl_context() if connection.has_certificate else create_urllib3_context()
    if connection.verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    named = connection.verify or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    trusted = str(named or DEFAULT_CA_BUNDLE_PATH)
    if not os.path.exists(trusted):
        raise OSError(f"Could not find a suitable TLS CA certificate bundle, invalid path: {trusted}")
    is_folder = os.path.isdir(trusted)
    context.load_verify_locations(None if is_folder else trusted, trusted if is_folder else None)
    return context


def _new_session(connection: GCSConnection, credentials: Credentials | None) -> requests.Session:
    make: Any = AuthorizedSession  # google-auth publishes no types for it
    session: requests.Session = requests.Session() if credentials is None else make(credentials)
    typed: Any = mtls
    context = typed.get_default_ssl_context() if connection.has_certificate else None
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
