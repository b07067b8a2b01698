"""HTTP/1.1 on one connection, as far as stores need it: send a request, read the head of its answer, read its body."""

from __future__ import annotations

import contextlib
import ssl
import time
from typing import TYPE_CHECKING, Any

from gllm_storage.concurrency.bandwidth import pace, running_bandwidth
from gllm_storage.concurrency.stop import check_stop
from gllm_storage.http.connecting import connected
from gllm_storage.http.transport import Encrypted
from gllm_storage.store.limits import COMPLETION_PATIENCE, MAX_INTERIM, MAX_LINES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gllm_storage.http.connecting import Server
    from gllm_storage.http.transport import Buffer

_MAX_HEAD = 2**16
"""The most bytes of headers, and of one line of a chunked body."""
_SENT_WITH_HEAD = 2**16
"""A body of at most this many bytes is sent together with the headers."""
_PIECE = 2**18
_FIRST_FINAL = 200
_BEGINNING = b"HTTP/1."
_DIGITS_OF_STATUS = 3
_INTERIM = b"HTTP/1.1 1"
_BAD_REQUEST = 400
_ALERT = b"\x15\x03"
"""The beginning of a record with a TLS alert."""
_REFUSES_HTTP = (
    b"Client sent an HTTP request to an HTTPS server",
    b"plain HTTP request was sent to HTTPS port",
    b"speaking plain HTTP to an SSL-enabled server port",
)
"""What servers in Go, nginx and Apache answer to http at a port with TLS, with status 400. OpenSSL and Node only close."""
_TLS_PORT = "this port of the server speaks https, and the URL says http"


class MalformedAnswerError(Exception):
    """The answer is not HTTP/1.1 as stores speak it."""


class UnusableAnswerError(MalformedAnswerError):
    """Such an answer that no other client can use: it would take something else for the content, or never end."""


class CannotConnectError(OSError):
    """The server could not be reached. Nothing was sent."""


class CutAnswerError(ConnectionError):
    """The connection was closed in the middle of an answer."""


class ClosedEarlyError(Exception):
    """The connection was closed before the first byte of an answer.

    Args:
        unused: Whether the connection had served an earlier request. The server may then have closed it while it was idle,
            and have never read this request.
    """

    def __init__(self, *, unused: bool) -> None:
        super().__init__("the connection was closed before the answer")
        self.unused = unused


class Connection:
    """One connection to a server.

    Args:
        server: The server.

    Raises:
        CannotConnectError: If the server cannot be reached.
        ssl.SSLError: If the TLS handshake fails.
        TransferStopped: If this thread's transfer was cancelled.
    """

    def __init__(self, server: Server, session: ssl.SSLSession | None = None) -> None:
        try:
            self._transport = connected(server, session)
        except ssl.SSLError:
            raise
        except OSError as error:
            raise CannotConnectError(*error.args) from error
        self.used = False
        self._has_begun = False
        self._left = b""
        self._lines = 0

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # the constructor may have failed before there was a socket
            self._transport.close()

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The state of TLS; None without TLS."""
        return self._transport.tls if isinstance(self._transport, Encrypted) else None

    @property
    def is_cut(self) -> bool:
        """Whether TLS tells that the answer may be incomplete, although the connection was closed, not broken."""
        return self._transport.is_cut

    def is_quiet(self) -> bool:
        """Whether an idle connection may be reused.

        If there is something to read, the server has closed the connection, or has sent bytes after its last answer, which
        would be read as the beginning of the next one.
        """
        return not self._left and self._transport.is_quiet()

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def abort(self) -> None:
        """Shut the connection down from another thread: the send or receive in progress fails at once."""
        self._transport.abort()

    def send(self, head: bytes, body: Any, before_last: Callable[[], None]) -> None:
        """Send a request.

        A large body goes in pieces of 256 KiB, or smaller ones if the bandwidth is limited. Before each piece, a cancelled
        transfer ends; and an answer that is there already ends the send: a server may refuse a request before it has read
        the body, and then stop reading. To go on sending would fill the buffers of the network and end in a timeout, and
        the reason would be lost.

        Args:
            head: Request line and headers.
            body: Bytes, or an object with `__len__` and `read`.
            before_last: Called just before the last piece, which completes the request.

        Raises:
            BrokenPipeError: If the server has answered before the body was complete.
            OSError: If the connection breaks, or the server takes no bytes for the read timeout.
            ValueError: If the body ends before its length.
            TransferStopped: If this thread's transfer was cancelled.
        """
        self._has_begun = self._transport.leaves = False
        view = memoryview(body).cast("B") if isinstance(body, (bytes, bytearray, memoryview)) else None
        left = len(body) if view is None else len(view)
        bandwidth = running_bandwidth()
        if not left or (view is not None and left <= (_SENT_WITH_HEAD if bandwidth is None else bandwidth.piece)):
            if bandwidth is not None:
                bandwidth.take(left)
            self._transport.send(b"".join((head, view)) if view else head, before=before_last)
            return
        self._transport.send(head, more=True)
        pieces = _pieces_of(body) if view is None else _slices_of(view)
        for data in pieces if bandwidth is None else bandwidth.paced(pieces):
            check_stop()
            self._require_silence()
            left -= len(data)
            if left <= 0:
                before_last()
            self._transport.send(data)
        if left > 0:
            raise ValueError(f"the body of the request ended {left} bytes before its length")

    def _require_silence(self) -> None:
        """Check that the server has not answered yet.

        Raises:
            BrokenPipeError: If it has answered or closed the connection.
        """
        if self.has_answered():
            raise BrokenPipeError("the server answered before the request was complete")

    def has_answered(self) -> bool:
        """Whether the server has sent its answer or closed the connection. 100 Continue does not count."""
        try:
            return self._ends_wait(self._transport.receive_now())
        except OSError:
            return False

    def await_answer(self, seconds: float) -> None:
        """Wait until the server has answered the request, or the connection is closed; after an interruption at any point.

        Args:
            seconds: The longest time.
        """
        if self._has_begun or not self._transport.leaves:
            return
        deadline = time.monotonic() + seconds
        with contextlib.suppress(OSError):
            while not self._ends_wait(self._transport.receive_now()) and (left := deadline - time.monotonic()) > 0:
                self._transport.wait(left)

    def _ends_wait(self, more: bytes | None) -> bool:
        """Whether the final answer has begun, with the bytes that have just arrived, or the connection is closed."""
        self._left += more or b""
        begun = self._left
        return more == b"" or (len(begun) >= len(_INTERIM) and not begun.startswith(_INTERIM))

    def require_answer(self, seconds: float) -> None:
        """Wait some time for the beginning of an answer, or for the end of the connection.

        Raises:
            TimeoutError: If neither comes.
            MalformedAnswerError: If something else begins. `read_head` would wait for the end of its headers.
        """
        deadline = time.monotonic() + seconds
        while not (self._ends_wait(None) or self.has_answered()):
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no answer began within {seconds:g} s")
            self._transport.wait(left)
        if self._left and not self._left.startswith(_BEGINNING):
            raise MalformedAnswerError(f"the first bytes are {self._left[:80]!r}")

    def has_unsent(self) -> bool:
        """Whether bytes of the request wait in this machine's send buffer: the server has not received them.

        A server that has read the complete request has acknowledged all of it, at the latest with its answer. Always False
        where the system does not tell.
        """
        return self._transport.has_unsent()

    def read_head(self) -> tuple[int, dict[str, str]]:
        """Read status and headers of the answer.

        Returns:
            The status, and the headers with names in lower case.

        Raises:
            ClosedEarlyError: If the connection is closed before the answer begins.
            CutAnswerError: If the connection is closed in the middle of the headers.
            MalformedAnswerError: If the answer is not HTTP.
            OSError: If the connection breaks, or no byte arrives for the read timeout.
        """
        self._lines = 0
        for _ in range(MAX_INTERIM + 1):
            status, headers = self._read_one_head()
            if status >= _FIRST_FINAL:  # skips 100 Continue
                if status == _BAD_REQUEST and self.tls is None and any(each in self._left for each in _REFUSES_HTTP):
                    raise UnusableAnswerError(_TLS_PORT)
                return status, headers
        raise UnusableAnswerError(f"there are more than {MAX_INTERIM} interim answers (1xx)")

    def _read_one_head(self) -> tuple[int, dict[str, str]]:
        data = self._left
        self._transport.throughput.restart()
        while (end := data.find(b"\r\n\r\n")) < 0:
            if len(data) > _MAX_HEAD:
                raise UnusableAnswerError(f"the headers have more than {_MAX_HEAD} bytes")
            more = self._transport.receive_more() if data else self._transport.receive()
            self._has_begun = not (data or more).startswith(_INTERIM)
            if not more:
                if data and _BEGINNING.startswith(data[: len(_BEGINNING)]):
                    raise CutAnswerError("the connection was closed in the middle of the headers")
                if data:
                    if data.startswith(_ALERT) and self.tls is None:
                        raise UnusableAnswerError(_TLS_PORT)
                    raise MalformedAnswerError(f"the first bytes are {data[:80]!r}")
                raise ClosedEarlyError(unused=self.used)
            data = data + more if data else more
        self._left = data[end + 4 :]
        return _parse_head(data[:end])

    def be_patient(self) -> None:
        """Let the rest of this answer take longer: the server may send spaces until it has its result."""
        self._transport.throughput.restart(COMPLETION_PATIENCE)

    def read_exactly(self, length: int) -> memoryview:
        """Read that many bytes of a body, or fewer if the connection is closed before.

        Raises:
            OSError: If the connection breaks, or no byte arrives for the read timeout.
        """
        left = self._left
        if len(left) < length:
            return self.fill(memoryview(bytearray(length)))
        self._lines = 0
        pace(length)
        self._left = left[length:]
        return memoryview(left)[:length]

    def fill(self, view: memoryview) -> memoryview:
        """Fill a buffer with bytes of a body.

        Returns:
            The filled part; less than the buffer if the connection is closed before.

        Raises:
            OSError: If the connection breaks, or no byte arrives for the read timeout.
        """
        done = 0
        while done < len(view) and (more := self.receive_into(view[done:])):
            done += more
        return view[:done]

    def receive_into(self, view: memoryview) -> int:
        """Receive the next bytes of a body into a buffer.

        Returns:
            The number of bytes, at most as many as the buffer holds; 0 if the connection is closed.

        Raises:
            OSError: If the connection breaks, or no byte arrives for the read timeout.
        """
        self._lines = 0
        bandwidth = running_bandwidth()
        if bandwidth is not None:
            view = view[: bandwidth.piece]
        if self._left:
            count = min(len(self._left), len(view))
            view[:count] = self._left[:count]
            self._left = self._left[count:]
        else:
            count = self._transport.receive_into(view)
        if bandwidth is not None:
            bandwidth.take(count)
        return count

    def read_line(self) -> bytes:
        """Read a line of a chunked body: the size of a chunk, or a trailer.

        Raises:
            MalformedAnswerError: If the line has more than 64 KiB.
            CutAnswerError: If the connection is closed in the middle of the line.
            OSError: If the connection breaks, or no byte arrives for the read timeout.
        """
        while (end := self._left.find(b"\r\n")) < 0:
            if len(self._left) > _MAX_HEAD:
                raise MalformedAnswerError(f"a line of the chunked body has more than {_MAX_HEAD} bytes")
            more = self._transport.receive_more()
            if not more:
                raise CutAnswerError("the connection was closed in the middle of a chunked body")
            self._left += more
        line, self._left = self._left[:end], self._left[end + 2 :]
        self._lines += len(line) + 2
        if self._lines > MAX_LINES:
            raise UnusableAnswerError(f"there are more than {MAX_LINES} bytes of trailers")
        return line


def _pieces_of(body: Any) -> Iterator[Buffer]:
    while data := body.read(_PIECE):
        yield data


def _slices_of(view: memoryview) -> Iterator[Buffer]:
    # In pieces: on a slow line, a cancelled upload must not go on until it is complete and takes effect.
    for start in range(0, len(view), _PIECE):
        yield view[start : start + _PIECE]


def _parse_head(data: bytes) -> tuple[int, dict[str, str]]:
    lines = data.decode("latin-1").split("\r\n")
    version, _, rest = lines[0].partition(" ")
    code = rest.partition(" ")[0]
    if not version.startswith("HTTP/1.") or len(code) != _DIGITS_OF_STATUS or not code.isdecimal():
        raise MalformedAnswerError(f"the status line is {lines[0][:80]!r}")
    if data.count(b"\n") != len(lines) - 1:
        raise MalformedAnswerError("a line of the headers ends without a carriage return")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        before, colon, value = line.partition(":")
        name = _names.get(before) or _name_of(before)
        if not (colon and name) or name in headers:
            headers = _unusual_headers(lines)
            break
        headers[name] = value.strip()
    if version == "HTTP/1.0":
        headers.setdefault("connection", "close")
    return int(code), headers


_names: dict[str, str] = {}
"""Names of headers as servers write them, and in lower case: those of a server are the same in each answer."""
_NAMES = 512
"""The most of them."""


def _name_of(text: str) -> str:
    """The name of a header in lower case; empty if it is not a usual name."""
    if text.strip() != text:
        return ""
    name = text.lower()
    if len(_names) < _NAMES:
        _names[text] = name
    return name


def _unusual_headers(lines: list[str]) -> dict[str, str]:
    """Headers with lines that continue others, with names that occur twice, or with malformed lines.

    Raises:
        MalformedAnswerError: If a line is malformed.
    """
    headers: dict[str, str] = {}
    name = ""
    for line in lines[1:]:
        if line.startswith((" ", "\t")) and name:  # obsolete but allowed: the line continues the one before
            headers[name] = f"{headers[name]} {line.strip()}"
            continue
        before, colon, value = line.partition(":")
        name = before.strip().lower()
        if not colon or not name:
            raise MalformedAnswerError(f"a header line is {line[:80]!r}")
        _add(headers, name, value.strip())
    return headers


def _add(headers: dict[str, str], name: str, value: str) -> None:
    before = headers.get(name)
    if before is None:
        headers[name] = value
    elif name != "content-length" or before != value:  # the same length twice is harmless
        headers[name] = f"{before}, {value}"
