"""`FaultProxy`: a proxy between an HTTP client and a storage server that breaks chosen requests and answers.

Headers pass unchanged, Host too: the client signed the proxy's address, so the server must receive that. The one exception
is `Expect: 100-continue`, which no S3 client signs: the proxy answers "100 Continue" itself.

With TLS settings the proxy is an https endpoint: it ends the TLS of the client, and speaks http to the server behind it.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from itertools import chain
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from .actions import (
    Answer,
    AnswerAfter,
    Armed,
    Call,
    CallAfter,
    Delay,
    DropResponse,
    Fault,
    FlipBit,
    FlipRequestBit,
    Refuse,
    RequestLog,
    ResetRequest,
    StallBody,
    Throttle,
    TruncateBody,
)
from .http1 import PIECE, Body, Head, Wire, made_answer, operation_of, response_framing, status_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from .actions import Action, Terminal

_PREFETCH = 1024 * 1024  # of the answer's body, held before a CallAfter is called
_JOIN_SECONDS = 60.0  # on a busy machine


class FaultProxy:
    """A proxy on 127.0.0.1. Enter it as a context manager, and give `url` to the client as its endpoint.

    Args:
        upstream: The server: ``"http://host:port"``. Paths pass unchanged, so append the path of an endpoint to `url`.
        tls: TLS settings of a server, with a certificate for 127.0.0.1: clients then connect by https. Default: None, http.

    Raises:
        ValueError: If `upstream` is not such a URL.

    Attributes:
        url: ``"http://127.0.0.1:PORT"``, or the same with ``https``; empty before the proxy is entered.

    Examples:
        >>> from gllm_storage.testing.faults import DropResponse, Fault, FaultProxy, Match
        >>> with FaultProxy("http://127.0.0.1:9000") as proxy:
        ...     proxy.inject(Fault(Match(method="PUT"), DropResponse()))
    """

    def __init__(self, upstream: str, tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(upstream)
        if parts.scheme != "http" or parts.hostname is None:
            raise ValueError(f"the upstream must be a http:// URL with a host, not {upstream!r}")
        self.upstream = (parts.hostname, parts.port or 80)
        self.tls = tls
        self.url = ""
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._armed: list[Armed] = []
        self._log: list[RequestLog] = []
        self._errors: list[Exception] = []
        self._sockets: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._listener.settimeout(0.2)  # where shutdown() does not wake accept()
        self.url = f"{'https' if self.tls else 'http'}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._acceptor = threading.Thread(target=self._accept, name="fault-proxy", daemon=True)
        self._acceptor.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.closing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(_JOIN_SECONDS)
        self._listener.close()
        with self._lock:  # under it no thread closes a socket, so no number here can belong to another file already
            for sock in self._sockets:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads from or writes to it
            threads = list(self._threads)
        for thread in threads:
            thread.join(_JOIN_SECONDS)

    def inject(self, fault: Fault) -> None:
        """Break requests that come from now on."""
        with self._lock:
            self._armed.append(Armed(fault))

    def clear(self) -> None:
        """Forget the faults and the log; errors stay."""
        with self._lock:
            self._armed.clear()
            self._log.clear()

    @property
    def requests(self) -> list[RequestLog]:
        """The requests so far, in the order in which their heads arrived. The log is never behind the client."""
        with self._lock:
            return [replace(entry) for entry in self._log]

    @property
    def unfired(self) -> list[Fault]:
        """The faults that have met no request yet. A test asserts at its end that there are none."""
        with self._lock:
            return [armed.fault for armed in self._armed if not armed.fired]

    @property
    def errors(self) -> list[Exception]:
        """Errors in the threads of the proxy and in the functions of `Call`, apart from connections that broke."""
        with self._lock:
            return list(self._errors)

    def fail(self, error: Exception) -> None:
        """Keep an error for `errors`."""
        with self._lock:
            self._errors.append(error)

    def record(self, entry: RequestLog) -> list[Action]:
        """Log a request, and choose its faults."""
        actions: list[Action] = []
        with self._lock:
            self._log.append(entry)
            taken = False
            for armed in self._armed:
                combines = isinstance(armed.fault.action, (Call, CallAfter, Delay, Throttle))
                if (combines or not taken) and armed.fires(entry):
                    taken = taken or not combines
                    actions.append(armed.fault.action)
            entry.fault = "+".join(type(action).__name__ for action in actions) or None
        return actions

    def adopt(self, sock: socket.socket) -> Wire:
        """Make a socket the proxy's: it is shut down with the proxy."""
        with self._lock:
            if self.closing.is_set():
                sock.close()
                raise ConnectionAbortedError("the proxy closes")
            self._sockets.add(sock)
        return Wire(sock)

    def release(self, wire: Wire, *, reset: bool) -> None:
        """Close a socket."""
        with self._lock:
            self._sockets.discard(wire.sock)
            wire.close(reset=reset)

    def _accept(self) -> None:
        while not self.closing.is_set():
            try:
                sock, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,), name="fault-proxy-connection", daemon=True)
            thread.start()
            with self._lock:
                self._threads = {thread, *(known for known in self._threads if known.is_alive())}

    def _serve(self, sock: socket.socket) -> None:
        connection: _Connection | None = None
        try:
            if self.tls is not None:  # the handshake comes with the first read, when the proxy can end it
                sock = self.tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            connection = _Connection(self, self.adopt(sock))
            while connection.exchange():
                pass
        except OSError:
            pass  # a peer closed its connection, which is not an error
        except Exception as error:  # noqa: BLE001 - the test reads it in `errors`
            self.fail(error)
        finally:
            if connection is not None:
                connection.close()


class _Connection:
    """One client connection and the server connection behind it."""

    def __init__(self, proxy: FaultProxy, client: Wire) -> None:
        self.proxy = proxy
        self.client = client
        self.server: Wire | None = None
        self.reset = False  # how the client's connection is to end

    def close(self) -> None:
        self.drop_server()
        self.proxy.release(self.client, reset=self.reset)

    def exchange(self) -> bool:
        """Serve one request; False when the connection is to be closed."""
        if not (raw := self.client.read_until(b"\r\n\r\n")):
            return False
        return _Exchange(self, Head(raw)).run()

    def connect(self) -> Wire:
        if self.server is not None and self.server.stale():
            self.drop_server()
        if self.server is None:
            self.server = self.proxy.adopt(socket.create_connection(self.proxy.upstream))
        return self.server

    def drop_server(self) -> None:
        if self.server is not None:
            self.proxy.release(self.server, reset=False)
            self.server = None


class _Exchange:
    """One request and its answer."""

    def __init__(self, connection: _Connection, head: Head) -> None:
        self.connection = connection
        self.proxy = connection.proxy
        self.client = connection.client
        self.head = head
        method, target, _ = head.first.split(" ")
        path, _, query = target.partition("?")
        self.log = RequestLog(method, path, query, head.headers, operation_of(method, path, query, head.headers))
        self.terminal: Terminal | None = None
        self.before: list[Callable[[], object]] = []
        self.after: list[Callable[[], object]] = []
        self.delay = 0.0
        self.rate: int | None = None
        for action in self.proxy.record(self.log):
            match action:
                case Call(function):
                    self.before.append(function)
                case CallAfter(function):
                    self.after.append(function)
                case Delay(seconds):
                    self.delay += seconds
                case Throttle(rate):
                    self.rate = rate
                case _:
                    self.terminal = action

    def run(self) -> bool:
        if isinstance(self.terminal, Refuse):
            return self._hang_up(reset=True)
        if "100-continue" in self.head.headers.get("expect", "").lower():
            self.client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._call(self.before)
        body = Body(self.client, self.head.framing(0))
        received = self._received(body)
        match self.terminal:
            case ResetRequest(after):
                while self.log.body_bytes < after and next(received, b""):
                    pass
                return self._hang_up(reset=True)
            case Answer(status, code, content, headers):
                _drain(received)
                return self._answer(status, made_answer(status, code, content, headers))
            case FlipRequestBit(at):
                received = _flipped(received, at)
        server = self.connection.connect()
        answer = self._forward(server, body, received)
        return self._relay(answer, Body(server, response_framing(answer, self.log.method)))

    def _forward(self, server: Wire, body: Body, received: Iterator[bytes]) -> Head:
        """Send the request to the server and read the head of its answer."""
        server.send(self.head.without("expect"))
        listens = True
        for piece in received:
            listens = listens and _sent(server, body.framed(piece))
        if listens:
            _sent(server, body.end())
        while raw := server.read_until(b"\r\n\r\n"):
            head = Head(raw)
            if status_of(head) >= HTTPStatus.OK:  # not another "100 Continue"
                self.log.upstream_status = status_of(head)
                return head
        raise ConnectionError("the server closed without an answer")

    def _relay(self, head: Head, body: Body) -> bool:
        """Send the server's answer to the client, changed as the fault says."""
        pieces = body.pieces(self.limit)
        match self.terminal:
            case DropResponse(reset):
                _drain(pieces)
                self._call(self.after)
                return self._hang_up(reset=reset)
            case AnswerAfter(status, code, content, headers):
                _drain(pieces)
                self._call(self.after)
                if not head.keep_alive:
                    self.connection.drop_server()
                return self._answer(status, made_answer(status, code, content, headers))
            case TruncateBody(after) | StallBody(after):
                pieces = _first(pieces, after)
            case FlipBit(at):
                pieces = _flipped(pieces, at)
        if self.after:
            pieces = _prefetched(pieces)
            self._call(self.after)
        self._wait(self.delay)
        self.log.status, self.log.ended = status_of(head), time.monotonic()
        self.client.send(head.raw)
        for piece in pieces:
            self.log.response_bytes += len(piece)  # before it is sent: the log never lags behind the client
            self.log.ended = time.monotonic()
            self.client.send(body.framed(piece))
            self._pace(piece)
        match self.terminal:
            case TruncateBody(_, reset):
                self.connection.reset = reset
                return False
            case StallBody(_, seconds):
                self._wait(seconds)
                return False
        self.client.send(body.end())
        return self.head.keep_alive and head.keep_alive and body.framing != "eof"

    def _answer(self, status: int, answer: tuple[bytes, bytes]) -> bool:
        """Send an answer of the proxy's own."""
        head, body = answer
        if self.log.method == "HEAD":
            body = b""
        self._wait(self.delay)
        self.log.status, self.log.response_bytes, self.log.ended = status, len(body), time.monotonic()
        self.client.send(head + body)
        return self.head.keep_alive

    def _hang_up(self, *, reset: bool) -> bool:
        self._wait(self.delay)
        self.connection.reset = reset
        return False

    def _received(self, body: Body) -> Iterator[bytes]:
        for piece in body.pieces(self.limit):
            self.log.body_bytes += len(piece)
            yield piece
            self._pace(piece)

    def _pace(self, piece: bytes) -> None:
        if self.rate is not None:
            self._wait(len(piece) / self.rate)

    @property
    def limit(self) -> int:
        """The largest piece: small enough, when throttled, that bytes flow about every 50 ms."""
        return PIECE if self.rate is None else max(1, min(PIECE, self.rate // 20))

    def _wait(self, seconds: float) -> None:
        if seconds and self.proxy.closing.wait(seconds):
            raise ConnectionAbortedError("the proxy closes")

    def _call(self, functions: list[Callable[[], object]]) -> None:
        for function in functions:
            try:
                function()
            except Exception as error:  # noqa: BLE001 - an OSError of the test's own must not pass for a broken connection
                self.proxy.fail(error)


def _sent(wire: Wire, data: bytes) -> bool:
    """Send to a server that may have answered early and hung up; its answer can still be there to read."""
    try:
        wire.send(data)
    except OSError:
        return False
    return True


def _drain(pieces: Iterator[bytes]) -> None:
    for _ in pieces:
        pass


def _first(pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    while size and (piece := next(pieces, b"")[:size]):
        size -= len(piece)
        yield piece


def _flipped(pieces: Iterator[bytes], at: int) -> Iterator[bytes]:
    start = 0
    for piece in pieces:
        inside = at - start
        start += len(piece)
        if 0 <= inside < len(piece):
            yield piece[:inside] + bytes([piece[inside] ^ 1]) + piece[inside + 1 :]
        else:
            yield piece
    if at >= start:  # a fault that did not happen must not look like one that did no harm
        raise ValueError(f"no bit to flip at {at}: the body has only {start} bytes")


def _prefetched(pieces: Iterator[bytes]) -> Iterator[bytes]:
    held: list[bytes] = []
    while sum(map(len, held)) < _PREFETCH and (piece := next(pieces, b"")):
        held.append(piece)
    return chain(held, pieces)
