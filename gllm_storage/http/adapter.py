"""`DirectAdapter`: the requests of an SDK that sends by the library requests, over direct connections.

Its parts also send the requests that this library makes itself to GCS and Azure (`gllm_storage.http.sender`).

On a small request, requests and urllib3 spend 0.8 ms of CPU: 0.35 ms of it in urllib3 and http.client, and 0.3 ms in the
variables of the environment that name proxies. The direct connections spend 0.1 ms.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from types import FunctionType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
import requests.utils
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import ProtocolError
from urllib3.util.ssl_ import create_urllib3_context

from gllm_storage.concurrency.exiting import is_green
from gllm_storage.concurrency.stop import check_stop
from gllm_storage.http.connecting import Server
from gllm_storage.http.pool import Pool
from gllm_storage.http.wire import CannotConnectError, ClosedEarlyError, MalformedAnswerError, UnusableAnswerError
from gllm_storage.store.http import SourceBody, StoppingAdapter
from gllm_storage.store.limits import MalformedHTTPError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gllm_storage.http.pool import Answer

FAILURES = (OSError, ClosedEarlyError, MalformedAnswerError)
"""Exceptions of the direct connections."""
SUCCESS = range(200, 300)
READS = frozenset({"GET", "HEAD"})
_AT_ONCE = 2**16
"""Bytes of a body that are sent together with the headers."""
_PORTS = {"http": 80, "https": 443}


class Pools:
    """The direct connections to the servers that the URLs of requests name. The threads of one process share them.

    Args:
        connect_timeout: Seconds to wait for a connection.
        read_timeout: Seconds to wait for an answer to begin or to continue.
        min_throughput: The fewest bytes per second of an answer; 0 for no limit.
        keep: The most idle connections that stay open to each server.
    """

    def __init__(self, connect_timeout: float, read_timeout: float, min_throughput: float, keep: int) -> None:
        self._timeouts = (connect_timeout, read_timeout)
        self._min_throughput = min_throughput
        self._keep = keep
        self._pools: dict[tuple[Any, ...], tuple[str, Pool]] = {}

    def get(self, url: str, tls: TLS) -> tuple[str, Pool]:
        """The ``Host`` header, and the connections to a server.

        Args:
            url: The URL of a request.
            tls: Makes the TLS settings.

        Raises:
            requests.RequestException: If the URL, or a file with certificates, cannot be used.
        """
        scheme, _, rest = url.partition("://")
        place = (scheme, rest.partition("/")[0], tls.verify)
        return self._pools.get(place) or self._pools.setdefault(place, self._new(url, tls))

    def _new(self, url: str, tls: TLS) -> tuple[str, Pool]:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
            named = f"[{host}]" if ":" in host else host.encode("idna").decode()
        except (ValueError, KeyError) as error:
            raise requests.exceptions.InvalidURL(f"{url[:80]!r}: {error}") from error
        if not host:
            raise requests.exceptions.InvalidURL(f"{url[:80]!r} has no host")
        try:
            context = tls.context() if parts.scheme == "https" else None
        except OSError as error:  # such as a ca_bundle that does not exist any more
            raise of_requests(error) from error
        header = named if port == _PORTS[parts.scheme] else f"{named}:{port}"
        server = Server(parts.scheme, host, port, *self._timeouts, context, self._min_throughput)
        return header, Pool(server, self._keep)

    def close(self) -> None:
        """Close the idle connections."""
        for _, pool in list(self._pools.values()):
            pool.close()


def keep_headers(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """The `auth` of requests that sends the headers of a request as they are.

    Without an `auth`, requests replaces the header ``Authorization`` by a password of ~/.netrc or of the URL:
    https://requests.readthedocs.io/en/latest/user/authentication/#netrc-authentication
    """
    return request


class TLS:
    """The TLS settings for an argument `verify` of requests.

    Args:
        verify: A file or a folder with the certificates to trust; False to trust any; True or None for the default: the file
            that ``REQUESTS_CA_BUNDLE`` or ``CURL_CA_BUNDLE`` names, or certifi's.
        base: A context with a client certificate, if there is one.
    """

    def __init__(self, verify: bool | str | None, base: ssl.SSLContext | None = None) -> None:
        self.verify = verify
        self._base = base

    def context(self) -> ssl.SSLContext:
        """A context that trusts these certificates.

        Raises:
            OSError: If they cannot be read.
        """
        context = self._base or create_urllib3_context()
        if self.verify is False:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            return context
        named = self.verify if isinstance(self.verify, str) else None
        trusted = named or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or DEFAULT_CA_BUNDLE_PATH
        if not os.path.exists(trusted):
            raise OSError(f"Could not find a suitable TLS CA certificate bundle, invalid path: {trusted}")
        context.verify_mode = ssl.CERT_REQUIRED  # urllib3 1.26 leaves both to its own connections
        context.check_hostname = True
        is_folder = os.path.isdir(trusted)
        context.load_verify_locations(None if is_folder else trusted, trusted if is_folder else None)
        return context


def is_stubbed() -> bool:
    """Whether a stub such as `responses` answers in place of servers: it would not see a direct request."""
    sends = ((requests.Session.send, "requests."), (HTTPAdapter.send, "requests."), (HTTPConnectionPool.urlopen, "urllib3."))
    return not all(
        isinstance(function, FunctionType) and str(function.__globals__.get("__name__")).startswith(package)
        for function, package in sends
    )


def is_direct(url: str, proxies: Mapping[str, str]) -> bool:
    """Whether requests to a URL go over direct connections: not through a proxy, and not among greenlets.

    Direct connections wait by the kernel's calls, which greenlets must not do, and eventlet has no `select.poll`.

    Args:
        url: The URL.
        proxies: The proxies, as requests has them.
    """
    return not (requests.utils.select_proxy(url, proxies) or is_green())


class Readable:
    """A body in the form that a direct connection reads."""

    def __init__(self, body: SourceBody) -> None:
        self._size = len(body)
        self._pieces = iter(body)

    def __len__(self) -> int:
        return self._size

    def read(self, _: int) -> bytes:
        """The next piece; empty at the end."""
        return next(self._pieces, b"")


def exchanged(pool: Pool, method: str, target: str, headers: Mapping[str, str], body: bytes | SourceBody) -> Answer:
    """Send a request over a direct connection, and read the head of its answer.

    Args:
        pool: The connections.
        method: HTTP method.
        target: Path and query.
        headers: Headers, with names in lower case.
        body: The content of the request.

    Raises:
        ClosedEarlyError: If the server closes the connection before it answers.
        MalformedAnswerError: If the answer is not HTTP.
        OSError: If no answer arrives.
        requests.exceptions.InvalidHeader: If a header has a line break.
        TransferStopped: If this thread's transfer was cancelled.
    """
    lines = [f"{method} {target} HTTP/1.1", *[f"{name}: {value}" for name, value in headers.items()]]
    if method not in READS:
        lines.append(f"content-length: {len(body)}")
    text = "\r\n".join(lines)
    if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1:
        raise requests.exceptions.InvalidHeader("a header has a line break")
    data: Any = body
    if not isinstance(body, bytes):
        data = Readable(body) if len(body) > _AT_ONCE else b"".join(body)
    head = f"{text}\r\n\r\n".encode("latin-1")
    try:
        return pool.request(head, data, changes=method not in READS, bodiless=method == "HEAD")
    except ClosedEarlyError as error:
        if error.unused:
            pool.close()  # the server has probably closed the other idle connections, too: the next attempt makes a new one
        raise


def of_requests(error: Exception) -> Exception:
    """The exception of requests for a request without a complete answer.

    Raises:
        TransferStopped: If this thread's transfer was cancelled.
    """
    check_stop()
    if isinstance(error, UnusableAnswerError):
        return MalformedHTTPError(str(error))
    if isinstance(error, ssl.SSLError):
        return requests.exceptions.SSLError(error)
    if isinstance(error, CannotConnectError):
        timed_out = isinstance(error.__cause__, TimeoutError)
        return requests.ConnectTimeout(error) if timed_out else requests.ConnectionError(error)
    if isinstance(error, (TimeoutError, BlockingIOError)):
        return requests.ReadTimeout("the server sent or took no byte within the read timeout")
    broken = ProtocolError(str(error) or type(error).__name__)
    broken.__cause__ = error
    return requests.ConnectionError(broken)


class RawBody:
    """The body of an answer, as far as requests, the Azure SDK and this library read the one of urllib3.

    Args:
        answer: The answer.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.status = answer.status
        self.headers: CaseInsensitiveDict[str] = CaseInsensitiveDict(answer.headers)
        self._error = None if answer.status in SUCCESS else answer.beginning_of_error()

    def _pieces(self, size: int) -> Iterator[bytes | memoryview]:
        """The body, as `Answer.pieces`.

        Raises:
            ProtocolError: If the connection breaks.
            TransferStopped: If this thread's transfer was cancelled.
        """
        if self._error is not None:
            yield self._error
            return
        try:
            yield from self._answer.pieces(size)
        except FAILURES as error:
            check_stop()
            raise ProtocolError(str(error) or type(error).__name__) from error

    def stream(self, amt: int = 2**16, decode_content: bool | None = None) -> Iterator[bytes]:  # noqa: ARG002 - urllib3's arguments
        """The body as bytes.

        Raises:
            ProtocolError: If the connection breaks.
            TransferStopped: If this thread's transfer was cancelled.
        """
        for piece in self._pieces(amt):
            yield bytes(piece)

    def read(self, amt: int | None = None, decode_content: bool | None = None) -> bytes:  # noqa: ARG002 - urllib3's arguments
        """The complete body; raises as `stream`."""
        return b"".join(self._pieces(2**18))

    def release_conn(self) -> None:
        """Close the answer: the rest of its body cannot be left on the connection."""
        self.close()

    def close(self) -> None:
        """Close the answer; its connection serves further requests if the body was read to its end."""
        self._answer.close()


class DirectAdapter(StoppingAdapter):
    """An adapter of requests that sends over direct connections where `is_direct` permits it. Elsewhere urllib3 sends.

    Args:
        connect_timeout: As for `Pools`.
        read_timeout: As for `Pools`.
        min_throughput: As for `Pools`.
        pool_size: The most idle connections that stay open to each server.
    """

    def __init__(self, *, connect_timeout: float, read_timeout: float, min_throughput: int, pool_size: int) -> None:
        super().__init__(
            min_throughput=min_throughput, read_timeout=read_timeout, pool_connections=2, pool_maxsize=pool_size
        )
        self._pools = Pools(connect_timeout, read_timeout, min_throughput, pool_size)

    def close(self) -> None:
        """Close the idle connections."""
        super().close()
        self._pools.close()

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request; as the base class.

        Raises:
            requests.RequestException: If no answer arrives.
            MalformedHTTPError: If the answer is not HTTP.
            TransferStopped: If the transfer of this thread was cancelled.
        """
        given: Any = request.body
        body = given.encode() if isinstance(given, str) else given or b""
        url = str(request.url)
        is_known = not args and isinstance(body, (bytes, SourceBody)) and not kwargs.get("cert")
        if not (is_known and is_direct(url, kwargs.get("proxies") or {})) or is_stubbed():
            return super().send(request, *args, **kwargs)
        host, pool = self._pools.get(url, TLS(kwargs.get("verify", True)))
        headers = {"host": host, **{name.lower(): _text(value) for name, value in request.headers.items()}}
        headers["accept-encoding"] = "identity"
        for name in ("content-length", "connection"):
            headers.pop(name, None)
        try:
            answer = exchanged(pool, str(request.method), request.path_url, headers, body)
            raw = RawBody(answer)
        except FAILURES as error:
            failure: Any = of_requests(error)
            with contextlib.suppress(AttributeError):
                failure.request = request
            raise failure from error
        return self._response(request, raw)

    def _response(self, request: requests.PreparedRequest, raw: RawBody) -> requests.Response:
        response = requests.Response()
        response.status_code, response.headers = raw.status, raw.headers
        response.encoding = requests.utils.get_encoding_from_headers(raw.headers)
        response.raw, response.url, response.request = raw, str(request.url), request
        response.reason = ""
        return response


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
