"""The connections to one server, and the exchange of one request and one answer over a connection.

A connection serves one exchange at a time. It goes back to the pool only after the body of the answer was read to its end:
the rest of a body would be read as the beginning of the next answer. After a failure, or if the caller closes an answer
early, the connection is closed.

**Fork.** A child inherits the parent's sockets. Bytes that both processes send over one socket are mixed up, so each process
has its own pool (`PerProcess`). An exchange that was in progress during the fork belongs to the parent alone: the child
neither returns its connection to a pool nor shuts it down, which would end the parent's request.

**Cancellation.** A cancelled transfer shuts down the connection, which ends a blocked send or receive at once. There is one
exception: if the request changes the store and was sent completely, the server may carry it out in any case. Then the answer
is awaited, because only the answer says whether the change happened.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # not in typeshed; `signal` takes 0.7 ms to import
import contextlib
import functools
import math
import os
import re
import ssl
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from gllm_storage.concurrency.fork import PerProcess
from gllm_storage.concurrency.stop import Stop, TransferStopped, check_stop, running_stop, stopped_by
from gllm_storage.http.wire import (
    CannotConnectError,
    ClosedEarlyError,
    Connection,
    CutAnswerError,
    MalformedAnswerError,
    UnusableAnswerError,
)
from gllm_storage.store.diagnosis import suspect_tls
from gllm_storage.store.limits import MAX_ERROR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gllm_storage.http.connecting import Server
    from gllm_storage.http.transport import Buffer
    from gllm_storage.store.reader import Memory

T = TypeVar("T")

_STOP_SECONDS = 10.0
"""How long an interrupted write waits for its answer. Only a server that stalls takes longer."""
_NO_BODY = {204, 304}
_SUCCESS = range(200, 300)
_PIECE = 2**18
_AT_ONCE = 2**20
"""A body of at most this many bytes is read into one buffer. A server may state any length."""
_KEPT = 64
_DIGITS = 19
_SESSIONS = 8
"""How many connections of a pool are asked for a TLS session: some servers never send a ticket, or never accept it."""
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")
_SIGNALS = sorted(_signal.valid_signals())
_own = threading.local()
"""``runs_in_place``: whether this thread is in a `run_in_place`; ``write``: its last exchange that changes the store."""
_CLOSED_BY_SERVER = (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError, ssl.SSLZeroReturnError)


class Answer:
    """The answer to a request. Its head was read; the caller reads the body or closes the answer.

    Attributes:
        status: HTTP status.
        headers: Names in lower case.
        length: Length of the body in bytes; None if the body is chunked, or ends with the connection.
    """

    def __init__(self, exchange: Exchange, status: int, headers: dict[str, str], *, bodiless: bool) -> None:
        self.status = status
        self.headers = headers
        self._exchange: Exchange | None = exchange
        self._chunked = "transfer-encoding" in headers and _is_chunked(headers)
        # With both headers, the server may end the body elsewhere than we do: no second answer over this connection.
        ambiguous = self._chunked and "content-length" in headers
        self._keeps = not (ambiguous or ("connection" in headers and _closes(headers["connection"])))
        self.length: int | None = None
        if bodiless or status in _NO_BODY:
            self.length, self._chunked = 0, False
        elif not self._chunked:
            self.length = _length(headers)
            self._keeps = self._keeps and self.length is not None
        self._left = self.length
        if self._left == 0:
            self._finish()

    def be_patient(self) -> None:
        """As `Connection.be_patient`, for the body."""
        if self._exchange is not None:
            self._exchange.connection.be_patient()

    def pieces(self, size: int, buffer: Memory | None = None) -> Iterator[memoryview]:
        """Read the body piece by piece.

        Args:
            size: The most bytes in a piece.
            buffer: Memory for the pieces, filled one after the other, and again from its beginning when it is full; or a
                function that returns the place of the next piece, given its size. None: each piece has memory of its own,
                as have the pieces of a chunked body in any case.

        Yields:
            The pieces, in order.

        Raises:
            MalformedAnswerError: If the body is chunked, and a chunk is malformed.
            CutAnswerError: If the connection is closed before the end of the body.
            OSError: If the connection breaks, or no byte arrives for the read timeout.
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
            elif isinstance(buffer, memoryview):
                place = 0 if place + wanted > len(buffer) else place
                piece = connection.fill(buffer[place : place + wanted])
                wanted, place = min(wanted, len(buffer)), place + len(piece)
            else:
                given = buffer(wanted)
                piece, wanted = connection.fill(given), len(given)
            count = len(piece)  # the caller may release a piece
            if self._left is not None:
                self._left -= count
                if not self._left:
                    self._finish()  # before the yield, so that another thread can use the connection already
            if count:
                yield piece
            if count < wanted:
                self.close()
                self._require_end(connection)
                break

    def _require_end(self, connection: Connection) -> None:
        """Check that a body is complete although the connection was closed."""
        if self._left:
            raise CutAnswerError(f"the connection was closed {self._left} bytes before the end of the body")
        if connection.is_cut:
            raise CutAnswerError("the connection was cut in a body without a length: TLS did not announce its end")

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
                raise MalformedAnswerError("a chunk of the body is longer than its stated size")
        while connection.read_line():
            pass  # trailers
        self._finish()

    def read(self) -> bytes:
        """Read the complete body; as `pieces`."""
        return bytes(self.content())

    def content(self, buffer: memoryview | None = None) -> Buffer:
        """Read the complete body; as `pieces`.

        Args:
            buffer: Memory that the body may be read into, if it is large enough.
        """
        exchange, left = self._exchange, self._left
        if exchange is None:
            return b""
        if left is None or self._chunked or left > _AT_ONCE:
            return b"".join(self.pieces(_PIECE))
        if buffer is None or len(buffer) < left:
            found = exchange.connection.read_exactly(left)
        else:
            found = exchange.connection.fill(buffer[:left])
        self._left = left - len(found)
        if self._left:
            self.close()
            raise CutAnswerError(f"the connection was closed {self._left} bytes before the end of the body")
        self._finish()
        return found

    def beginning(self, most: int) -> bytes:
        """Read the body up to a number of bytes, and close the connection if there is a rest; as `pieces`."""
        if self._exchange is None:
            return b""
        found = bytearray()
        with contextlib.closing(self):
            for piece in self.pieces(min(most, _PIECE)):
                found += piece
                if len(found) >= most:
                    break
        return bytes(found[:most])

    def beginning_of_error(self) -> bytes:
        """The beginning of the body of an error; empty if it broke: the status says enough."""
        try:
            return self.beginning(MAX_ERROR)
        except (OSError, MalformedAnswerError):
            return b""

    def _finish(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.end(keep=self._keeps)

    def close(self) -> None:
        """Discard the rest of the body, and close the connection if there is a rest."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.end(keep=False)


def _closes(options: str) -> bool:
    return "close" in {option.strip() for option in options.lower().split(",")}


def _is_chunked(headers: dict[str, str]) -> bool:
    coding = headers["transfer-encoding"].lower()
    if coding not in {"chunked", "identity"}:
        raise UnusableAnswerError(f"the Transfer-Encoding is {coding[:80]!r}")
    return coding == "chunked"


def _chunk_size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    if not _CHUNK_SIZE.fullmatch(digits):
        raise MalformedAnswerError(f"the size of a chunk is {digits[:20]!r}")
    return int(digits, 16)


def _length(headers: dict[str, str]) -> int | None:
    text = headers.get("content-length")
    if text is None:
        return None
    if not (text.isdecimal() and len(text) <= _DIGITS):
        raise UnusableAnswerError(f"the Content-Length is {text[:80]!r}")
    return int(text)


def run_in_place(task: Callable[[], T], stop: Stop) -> T:
    """Run a task that changes the store in this thread, which Ctrl-C may interrupt.

    As with `run_all`, no request takes effect after the call: one that is not complete is cancelled, and a complete one is
    awaited, for at most 10 s. To hand the task to another thread takes 75 microseconds, as long as the request itself.

    Args:
        task: Sends its requests one after another, by direct connections; a write through boto3 asks `runs_in_place`.
        stop: Set if the task fails or this thread is interrupted.

    Raises:
        BaseException: The exception of the task, or the one that interrupted this thread.
    """
    outer, *marks = running_stop(), runs_in_place(), getattr(_own, "write", None)
    try:
        _own.runs_in_place, _own.write = True, None
        stop.check()
        with stopped_by(stop):
            return task()
    except BaseException as error:
        stop.set()
        write: Exchange | None = getattr(_own, "write", None)
        if write is not None and _is_interrupt(error):
            write.abandon()
        raise
    finally:
        _own.runs_in_place, _own.write = marks
        if running_stop() is not outer:  # Ctrl-C came within `stopped_by`
            stopped_by(outer).__enter__()


def may_run_in_place() -> bool:
    """Whether only Ctrl-C, as Python handles it, can interrupt this thread: then it may call `run_in_place`.

    Another handler of a signal may raise an ordinary exception, which looks like a failure of the request, and one that
    returns starts the kernel's read timeout anew. Python runs handlers in the main thread only. Takes 1.5 microseconds.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return True
    for handler in map(_signal.getsignal, _SIGNALS):
        if handler is not _signal.SIG_DFL and callable(handler) and handler is not _signal.default_int_handler:
            return False
    return True


def runs_in_place() -> bool:
    """Whether this thread is in a `run_in_place`."""
    return getattr(_own, "runs_in_place", False)


def _is_interrupt(error: BaseException) -> bool:
    """Whether an exception came from outside, such as Ctrl-C, and not from the code that it interrupted."""
    return not isinstance(error, (Exception, TransferStopped))


class Exchange:
    """One request and its answer over a connection.

    The stop of this thread's transfer, if it is set, shuts the connection down: until the request is complete, and after
    that as well if the request only reads.

    Args:
        pool: The pool of the connection.
        connection: The connection.
        changes: Whether the request changes the store.
        answers: How many answers are expected: more than one if further requests follow the first one at once. Each answer
            is read after the body of the one before.
    """

    def __init__(self, pool: Pool, connection: Connection, *, changes: bool, answers: int = 1) -> None:
        self._pool = pool
        self.connection = connection
        self._changes = changes
        self._expected = answers
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._awaited = False
        self._cancelled = False
        self._ended = False
        self._broken: OSError | None = None
        self._stop = running_stop()
        if self._stop is not None:
            self._stop.on_set(self._cancel)

    def before_last(self) -> None:
        """Called before the piece that completes the request. From here on, a change of the store is awaited.

        Raises:
            TransferStopped: If the transfer was cancelled. The server never gets the complete request.
        """
        with self._lock:
            if self._cancelled:
                raise TransferStopped
            if self._changes:
                self._awaited = True
                if runs_in_place():
                    _own.write = self

    def _cancel(self) -> None:
        if self._process != os.getpid():
            return  # in a forked child: the socket is the parent's
        with self._lock:  # else the connection could return to the pool meanwhile, and serve another exchange
            if not (self._awaited or self._ended):
                self._cancelled = True
                self.connection.abort()

    def send(self, head: bytes, body: Any) -> None:
        """Send the request; as `Pool.begin`.

        If the server closes or stops reading before the request is complete, its answer may be there nevertheless, and says
        why. So the failure of the send is kept, and raised by `answer` only if there is nothing to read.
        """
        try:
            self.connection.send(head, body, self.before_last)
        except _CLOSED_BY_SERVER as error:
            self._broken = error
        except BaseException as error:
            if not isinstance(error, (BlockingIOError, TimeoutError)) or not self.connection.has_answered():
                self._fail(error)
                raise
            self._broken = error

    def answer(self, *, bodiless: bool, within: float | None = None) -> Answer:
        """Read the head of the answer; as `Pool.request`.

        Args:
            bodiless: As in `Pool.request`.
            within: Seconds in which the answer has to begin; None for the read timeout.
        """
        if self._ended:  # with the answer before this one
            raise ClosedEarlyError(unused=False)
        try:
            if within is not None:
                self.connection.require_answer(within)
            status, headers = self._read_head()
            if not self.connection.used:
                self._pool.handshakes.learn(self.connection)
                self._pool.has_answered = True
            self.connection.used = True
            return Answer(self, status, headers, bodiless=bodiless)
        except BaseException as error:
            self._fail(error)
            raise

    def _read_head(self) -> tuple[int, dict[str, str]]:
        connection, broken = self.connection, self._broken
        try:
            status, headers = connection.read_head()
        except (ClosedEarlyError, MalformedAnswerError, OSError) as error:
            closed = broken is not None or isinstance(error, _CLOSED_BY_SERVER)
            if closed and connection.used:
                raise ClosedEarlyError(unused=True) from error  # probably closed while it was idle
            never = self._pool.server.tls is None and not self._pool.has_answered
            if never and (closed or isinstance(error, ClosedEarlyError)):
                suspect_tls(broken or error)
            if broken is not None:
                raise broken from None
            raise
        if self._changes and status in _SUCCESS and (broken is not None or connection.has_unsent()):
            # The store did not receive the complete body, whatever it says: 4 of 8 MB were once stored so.
            raise broken or BrokenPipeError("the server reported success before it had received the complete request")
        return status, {**headers, "connection": "close"} if broken else headers

    def _fail(self, error: BaseException) -> None:
        """Close the connection after a failure; after Ctrl-C in this thread, when the outcome of a write is known.

        Raises:
            TransferStopped: If a cancellation caused the failure.
        """
        if _is_interrupt(error):
            self.abandon()
        self.end(keep=False)
        if isinstance(error, (OSError, ClosedEarlyError)):
            check_stop()

    def abandon(self) -> None:
        """End after Ctrl-C in this thread: the answer to a change of the store that may be complete is awaited.

        A second Ctrl-C ends the wait. In a forked child nothing happens: the answer is the parent's.
        """
        if self._ended or self._process != os.getpid():
            return
        try:
            if self._awaited:
                self.connection.await_answer(_STOP_SECONDS)
        finally:
            self.end(keep=False)

    def end(self, *, keep: bool) -> None:
        """Return the connection to the pool, unless another answer follows, or close it."""
        if keep and self._expected > 1:
            self._expected -= 1
            return
        if self._stop is not None:
            self._stop.forget(self._cancel)
        with self._lock:
            if self._ended:  # the connection may serve another exchange already
                return
            self._ended = True
        if keep and not self._cancelled and self._process == os.getpid():
            self._pool.put(self.connection)
        else:
            self.connection.close()


class Handshakes:
    """The TLS handshakes of a pool: how many there were, and the session that the next one resumes.

    A resumed session saves the certificates and their verification: 0.26 instead of 0.70 ms of this machine's time, and a
    round trip with TLS 1.2. The server decides: if it refuses, the handshake is a full one. A resumed session is not used
    beyond the end of the certificate, which TLS does not check again.

    One session serves all connections, since to copy one out of its connection takes as long as a handshake saves (0.4 ms).

    Attributes:
        full: Full handshakes.
        resumed: Handshakes that resumed a session.
    """

    def __init__(self) -> None:
        self.full = 0
        self.resumed = 0
        self._session: ssl.SSLSession | None = None
        self._valid_until = ""
        self._attempts = _SESSIONS
        # Reentrant: a finalizer or the handler of a signal may send a request while this thread holds the lock.
        self._lock = threading.RLock()

    def connect(self, server: Server) -> Connection:
        """A new connection; as `Connection`."""
        session = self._session
        if session is not None and time.time() >= _seconds(self._valid_until):
            session = None
        try:
            connection = Connection(server, session)
        except (ssl.SSLError, CannotConnectError) as error:
            if session is None or not _may_be_due_to_session(error):
                raise
            self._session, session = None, None
            connection = Connection(server)
        if connection.tls is not None:
            self._count(connection.tls, session)
        return connection

    def _count(self, tls: ssl.SSLObject, offered: ssl.SSLSession | None) -> None:
        with self._lock:
            if tls.session_reused:
                self.resumed += 1
            else:
                self.full += 1
                if self._session is offered:  # the server has refused it
                    self._session = None

    def learn(self, connection: Connection) -> None:
        """Take the session of a connection on which the first answer has begun, unless there is one already.

        With TLS 1.3 it can be resumed only if a ticket came before that answer.
        """
        tls = connection.tls
        if tls is None or self._session is not None or not self._attempts:
            return
        self._attempts -= 1
        session = tls.session
        if session is not None and (session.has_ticket or tls.version() != "TLSv1.3"):
            with contextlib.suppress(ValueError):  # the server has begun another handshake, which TLS 1.2 allows
                self._valid_until = str((tls.getpeercert() or {}).get("notAfter", ""))
                self._session = session


def _may_be_due_to_session(error: Exception) -> bool:
    """Whether a handshake may have failed because the server cannot cope with the session of an earlier connection."""
    if isinstance(error, CannotConnectError):
        return isinstance(error.__cause__, ConnectionResetError)
    return not isinstance(error, ssl.SSLCertVerificationError)


@functools.cache
def _seconds(end: str) -> float:
    """When a certificate expires, in seconds since 1970; never, if it was not verified, and its end is unknown.

    The first call in a process imports calendar and locale, which takes 5 ms: a second connection can wait for it.
    """
    return ssl.cert_time_to_seconds(end) if end else math.inf


class Pool:
    """The connections to one server. Each process has its own; threads share them.

    Args:
        server: The server.
        keep: The most idle connections that stay open.

    Attributes:
        handshakes: The TLS handshakes, and their numbers.
        has_answered: Whether the server has ever answered.
        takes_pairs: Whether the server answers a second request that follows the first one at once; None if that is
            unknown. HTTP/1.1 demands it, but a proxy may lose the second request.
    """

    def __init__(self, server: Server, keep: int = _KEPT) -> None:
        self.server = server
        self.handshakes = Handshakes()
        self.has_answered = False
        self.takes_pairs: bool | None = None
        self._keep = keep
        self._free: PerProcess[deque[Connection]] = PerProcess(deque)

    def close(self) -> None:
        """Close the idle connections of this process."""
        free = self._free.get()
        while free:
            with contextlib.suppress(IndexError):  # another thread took it
                free.pop().close()

    def request(
        self, head: bytes, body: Any = b"", *, changes: bool = False, bodiless: bool = False, fresh: bool = False
    ) -> Answer:
        """Send a request and read the head of its answer.

        Args:
            head: Request line and headers.
            body: Bytes, or an object with `__len__` and `read`.
            changes: Whether the request changes the store.
            bodiless: Whether the answer has no body, as to a HEAD request.
            fresh: Whether to make a new connection, even if there is an idle one.

        Raises:
            ClosedEarlyError: If the server closes the connection before it answers.
            MalformedAnswerError: If the answer is not HTTP.
            ssl.SSLError: If the TLS handshake fails.
            OSError: If the server cannot be reached, the connection breaks, or no byte moves for the read timeout.
            TransferStopped: If this thread's transfer was cancelled.
        """
        return self.begin(head, body, changes=changes, fresh=fresh).answer(bodiless=bodiless)

    def begin(
        self, head: bytes, body: Any = b"", *, changes: bool = False, fresh: bool = False, answers: int = 1
    ) -> Exchange:
        """Send a request as `request`, and read its answer later, with `Exchange.answer`.

        `head` may hold several requests without bodies; `answers` is their number.
        """
        check_stop()
        connection = self.handshakes.connect(self.server) if fresh else self._get()
        exchange = Exchange(self, connection, changes=changes, answers=answers)
        exchange.send(head, body)
        return exchange

    def _get(self) -> Connection:
        free = self._free.get()
        while free:
            try:
                connection = free.pop()
            except IndexError:  # another thread took it
                break
            if connection.is_quiet():
                return connection
            connection.close()
        return self.handshakes.connect(self.server)

    def put(self, connection: Connection) -> None:
        """Keep an idle connection for the next request, or close it if enough are kept."""
        free = self._free.get()
        if len(free) >= self._keep:
            connection.close()
        else:
            free.append(connection)
