"""Requests and answers: one connection serves one at a time, and is kept for the next."""

from __future__ import annotations

import contextlib
import os
import re
import ssl
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from gllm_storage.concurrency.fork import PerProcess
from gllm_storage.concurrency.stop import TransferStopped, check_stop, running_stop
from gllm_storage.s3.http.wire import ClosedEarlyError, Connection, CutAnswerError, MalformedAnswerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gllm_storage.s3.http.wire import Server

_NO_BODY = {204, 304}
_PIECE = 2**16
_FREE_KEEP = 64
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")
_HUNG_UP = (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError, ssl.SSLZeroReturnError)


class Answer:
    """The answer to a request; its body is read by whoever wants it.

    Attributes:
        status: HTTP status.
        headers: Names in lower case.
        length: Length of the body in bytes; None if it is chunked, or ends with the connection.
    """

    def __init__(self, exchange: Exchange, status: int, headers: dict[str, str], *, bodiless: bool) -> None:
        self.status = status
        self.headers = headers
        self._exchange: Exchange | None = exchange
        self._chunked = "transfer-encoding" in headers and _is_chunked(headers)
        # Who says how long it is in two ways may mean another end than we.
        ambiguous = self._chunked and "content-length" in headers
        self._keeps = not (ambiguous or _closes(headers.get("connection")))
        self.length: int | None = None
        if bodiless or status in _NO_BODY:
            self.length, self._chunked = 0, False
        elif not self._chunked:
            self.length = _length(headers)
            self._keeps = self._keeps and self.length is not None
        self._left = self.length
        if self._left == 0:
            self._finish()

    def pieces(self, size: int, buffer: memoryview | None = None) -> Iterator[memoryview]:
        """The body, in pieces of up to `size` bytes.

        Args:
            size: The most bytes in one.
            buffer: Where they are put, one after the other, and again from its beginning when it is full; each in a buffer
                of its own if None, and where the body is chunked.

        Yields:
            What comes.

        Raises:
            MalformedAnswerError: If a chunk is none.
            CutAnswerError: If it ends before its length.
            OSError: If the connection breaks or nothing comes.
        """
        if self._exchange is None:
            return
        if self._chunked:
            yield from self._chunks(self._exchange.connection, size)
            return
        connection, place = self._exchange.connection, 0
        while self._left is None or self._left > 0:
            wanted = size if self._left is None else min(size, self._left)
            if buffer is None:
                piece = connection.read_exactly(wanted)
            else:
                place = 0 if place + wanted > len(buffer) else place
                piece = connection.fill(buffer[place : place + wanted])
                wanted, place = min(wanted, len(buffer)), place + len(piece)
            if self._left is not None:
                self._left -= len(piece)
                if not self._left:
                    self._finish()  # before the caller has it: the connection may serve another thread
            if piece:
                yield piece
            if len(piece) < wanted:
                self.close()
                if self._left:
                    raise CutAnswerError(f"the connection was closed {self._left} bytes before the end of the body")
                break

    def _chunks(self, connection: Connection, most: int) -> Iterator[memoryview]:
        while left := _chunk_size(connection.read_line()):
            while left:
                data = connection.read_exactly(min(left, most))
                if not data:
                    self.close()
                    raise CutAnswerError("the connection was closed in the middle of a chunked body")
                left -= len(data)
                yield data
            if connection.read_line():
                raise MalformedAnswerError("a chunk of its body is longer than it says")
        while connection.read_line():
            pass  # trailers
        self._finish()

    def read(self) -> bytes:
        """All of the body.

        Raises:
            MalformedAnswerError: If a chunk is none.
            CutAnswerError: If it ends before its length.
            OSError: If the connection breaks or nothing comes.
        """
        return b"".join(self.pieces(_PIECE))

    def _finish(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.end(keep=self._keeps)

    def close(self) -> None:
        """Have done with it; what of the body was not read is lost, with the connection."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.end(keep=False)


def _closes(options: str | None) -> bool:
    return options is not None and "close" in {option.strip() for option in options.lower().split(",")}


def _is_chunked(headers: dict[str, str]) -> bool:
    coding = headers["transfer-encoding"].lower()
    if coding not in {"chunked", "identity"}:
        raise MalformedAnswerError(f"its Transfer-Encoding is {coding[:80]!r}")
    return coding == "chunked"


def _chunk_size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    if not _CHUNK_SIZE.fullmatch(digits):
        raise MalformedAnswerError(f"a chunk of its body is {digits[:20]!r} long")
    return int(digits, 16)


def _length(headers: dict[str, str]) -> int | None:
    text = headers.get("content-length")
    if text is None:
        return None
    if not text.isdecimal():
        raise MalformedAnswerError(f"its Content-Length is {text[:80]!r}")
    return int(text)


class Exchange:
    """A connection while it serves one request.

    Whoever gives the transfer up ends it, unless the request changes something and has left: it may take effect then, and
    its answer says so.

    Args:
        pool: Where the connection belongs.
        connection: The connection.
        changes: Whether the request changes something.
    """

    def __init__(self, pool: Pool, connection: Connection, *, changes: bool) -> None:
        self._pool = pool
        self.connection = connection
        self._changes = changes
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._awaited = False
        self._given_up = False
        self._ended = False
        self._broken: OSError | None = None
        self._stop = running_stop()
        if self._stop is not None:
            self._stop.on_set(self._give_up)

    def leave(self) -> None:
        """The request is about to be complete.

        Raises:
            TransferStopped: If it was given up.
        """
        with self._lock:
            if self._given_up:
                raise TransferStopped
            self._awaited = self._changes

    def _give_up(self) -> None:
        if self._process != os.getpid():
            return  # a forked child has a copy; shutting the connection down would end the parent's request
        with self._lock:  # it may be given back at this moment, and be the next one's
            if not (self._awaited or self._ended):
                self._given_up = True
                self.connection.abort()

    def send(self, head: bytes, body: Any) -> None:
        """Send the request; as `Pool.begin`."""
        with self._closing():
            try:
                self.connection.send(head, body, self.leave)
            except _HUNG_UP as error:
                # A server that refuses what it has not read yet answers, and closes.
                self._broken = error
            except BlockingIOError as error:
                if not self.connection.has_answered():  # it has, and does not read on
                    raise
                self._broken = error

    def answer(self, *, bodiless: bool) -> Answer:
        """Read the head of the answer; as `Pool.request`."""
        with self._closing():
            status, headers = self._read_head()
            self.connection.used = True
            return Answer(self, status, headers, bodiless=bodiless)

    def _read_head(self) -> tuple[int, dict[str, str]]:
        connection, broken = self.connection, self._broken
        try:
            status, headers = connection.read_head()
        except (ClosedEarlyError, MalformedAnswerError, OSError) as error:
            cut = broken is not None or isinstance(error, _HUNG_UP)
            if cut and connection.used:
                raise ClosedEarlyError(unused=True) from error
            if broken is not None:
                raise broken from None
            raise
        return status, {**headers, "connection": "close"} if broken else headers

    @contextlib.contextmanager
    def _closing(self) -> Iterator[None]:
        """Close the connection after any failure; one that comes of giving up is told as that."""
        try:
            yield
        except BaseException as error:
            self.end(keep=False)
            if isinstance(error, (OSError, ClosedEarlyError)):
                check_stop()
            raise

    def end(self, *, keep: bool) -> None:
        """Give the connection back, or close it."""
        if self._stop is not None:
            self._stop.forget(self._give_up)
        with self._lock:
            self._ended = True
        if keep and not self._given_up and self._process == os.getpid():
            self._pool.put(self.connection)
        else:
            self.connection.close()


class Pool:
    """The connections to one server; each process has its own.

    Args:
        server: The server.
        keep: How many stay open.
    """

    def __init__(self, server: Server, keep: int = _FREE_KEEP) -> None:
        self.server = server
        self._keep = keep
        self._free: PerProcess[deque[Connection]] = PerProcess(deque)

    def request(
        self, head: bytes, body: Any = b"", *, changes: bool = False, bodiless: bool = False, fresh: bool = False
    ) -> Answer:
        """Send a request and read the head of its answer.

        Args:
            head: Request line and headers.
            body: Bytes, or what has `__len__` and `read`.
            changes: Whether the request changes something.
            bodiless: Whether the answer has no body, as to a HEAD.
            fresh: Whether to use a new connection.

        Raises:
            ClosedEarlyError: If the server closed the connection before it had answered.
            MalformedAnswerError: If the answer is not HTTP.
            OSError: If the server cannot be reached, the connection breaks, or nothing comes.
            TransferStopped: If the transfer that this thread works for was given up.
        """
        return self.begin(head, body, changes=changes, fresh=fresh).answer(bodiless=bodiless)

    def begin(self, head: bytes, body: Any = b"", *, changes: bool = False, fresh: bool = False) -> Exchange:
        """Send a request, whose answer is read later. As `request`."""
        check_stop()
        exchange = Exchange(self, Connection(self.server) if fresh else self._get(), changes=changes)
        exchange.send(head, body)
        return exchange

    def _get(self) -> Connection:
        free = self._free.get()
        with contextlib.suppress(IndexError):
            while True:
                connection = free.pop()
                if connection.is_quiet():
                    return connection
                connection.close()
        return Connection(self.server)

    def put(self, connection: Connection) -> None:
        """Keep a connection for the next request."""
        free = self._free.get()
        if len(free) >= self._keep:
            connection.close()
        else:
            free.append(connection)
