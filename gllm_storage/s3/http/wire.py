"""HTTP/1.1 on one connection, as far as S3 needs it: send a request, read the head of its answer, read bytes of its body."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import sys
import time
from typing import TYPE_CHECKING, Any

from gllm_storage.concurrency.stop import check_stop
from gllm_storage.s3.http.connecting import connected
from gllm_storage.store.answers import MAX_INTERIM, MAX_LINES, Throughput

try:
    import fcntl
    import termios
except ImportError:  # Windows
    _SEND_QUEUE = None
else:
    _SEND_QUEUE = getattr(termios, "TIOCOUTQ", None)
    """ioctl(2) of the bytes in the send queue of a TCP socket that the peer has not acknowledged; see tcp(7)."""

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gllm_storage.s3.http.connecting import Server

Buffer = bytes | bytearray | memoryview

_MAX_HEAD = 2**16
"""The most bytes of headers, and of one line of a chunked body."""
_SENT_WITH_HEAD = 2**16
"""A body of at most this many bytes is sent together with the headers."""
_PIECE = 2**18
_FIRST_FINAL = 200
_KERNEL_TIMEOUTS = sys.platform == "linux"
_BEGINNING = b"HTTP/1."
_DIGITS_OF_STATUS = 3
_INTERIM = b"HTTP/1.1 1"
_NO_BYTES = bytes(4)
"""The number 0 as a C int."""


class MalformedAnswerError(Exception):
    """The answer is not HTTP as S3 speaks it."""


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

    def __init__(self, server: Server) -> None:
        try:
            self._socket = connected(server)
        except ssl.SSLError:
            raise
        except OSError as error:
            raise CannotConnectError(*error.args) from error
        self._plain = server.tls is None and _KERNEL_TIMEOUTS
        self._set_timeout(server.read_timeout)
        self._throughput = Throughput(server.min_throughput, server.read_timeout)
        self.used = False
        self._left = b""
        self._lines = 0

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # the constructor may have failed before there was a socket
            self._socket.close()

    def _set_timeout(self, seconds: float | None) -> None:
        if not self._plain:
            self._socket.settimeout(seconds)
            return
        # With a timeout of Python's, the socket does not block: each receive costs a poll() before, and MSG_WAITALL returns
        # as soon as any bytes are there. So the socket blocks, and the kernel keeps the time; when it is over, the send or
        # receive raises BlockingIOError.
        self._socket.settimeout(None)
        whole, part = divmod(seconds or 0.0, 1.0)
        value = struct.pack("ll", int(whole), int(part * 1e6))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)

    def is_quiet(self) -> bool:
        """Whether an idle connection may be reused.

        If there is something to read, the server has closed the connection, or has sent bytes after its last answer, which
        would be read as the beginning of the next one.
        """
        if self._left or (isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()):
            return False
        poll = select.poll()
        try:
            poll.register(self._socket, select.POLLIN)
            return not poll.poll(0)
        except (OSError, ValueError):
            return False

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def abort(self) -> None:
        """Shut the connection down from another thread: the send or receive in progress fails at once."""
        with contextlib.suppress(OSError):
            # Not SSLSocket.shutdown, which drops the TLS state: the other thread would read the remaining bytes undecrypted.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def send(self, head: bytes, body: Any, before_last: Callable[[], None]) -> None:
        """Send a request.

        A large body goes in pieces of 256 KiB. Before each piece, a cancelled transfer ends; and an answer that is there
        already ends the send: a server may refuse a request before it has read the body, and then stop reading. To go on
        sending would fill the buffers of the network and end in a timeout, and the reason would be lost.

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
        view = memoryview(body).cast("B") if isinstance(body, (bytes, bytearray, memoryview)) else None
        left = len(body) if view is None else len(view)
        if not left or (view is not None and left <= _SENT_WITH_HEAD):
            before_last()
            self._socket.sendall(b"".join((head, view)) if view else head)
            return
        self._socket.sendall(head, *self._more())
        for data in _pieces_of(body) if view is None else _slices_of(view):
            check_stop()
            self._require_silence()
            left -= len(data)
            if left <= 0:
                before_last()
            self._socket.sendall(data)
        if left > 0:
            raise ValueError(f"the body of the request ended {left} bytes before its length")

    def _more(self) -> tuple[int, ...]:
        return (socket.MSG_MORE,) if self._plain else ()

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
            begun = self._peek()
        except OSError:
            return False
        return not begun or (len(begun) >= len(_INTERIM) and not begun.startswith(_INTERIM))

    def has_unsent(self) -> bool:
        """Whether bytes of the request wait in this machine's send buffer: the server has not received them.

        A server that has read the complete request has acknowledged all of it, at the latest with its answer. Always False
        where the system does not tell.
        """
        if _SEND_QUEUE is None:
            return False
        try:
            return fcntl.ioctl(self._socket.fileno(), _SEND_QUEUE, _NO_BYTES) != _NO_BYTES
        except OSError:
            return False

    def _peek(self) -> bytes:
        """The first bytes of the answer, which stay there to be read; empty if the connection is closed.

        Raises:
            OSError: If there are none yet.
        """
        if self._plain:
            return self._socket.recv(len(_INTERIM), socket.MSG_PEEK | socket.MSG_DONTWAIT)
        timeout = self._socket.gettimeout()
        self._socket.settimeout(0)
        try:
            # TLS cannot peek. Readable bytes may belong to TLS itself, such as a session ticket; then this raises.
            more = self._socket.recv(_MAX_HEAD)
        except OSError:
            if not self._left:
                raise
            return self._left
        finally:
            self._socket.settimeout(timeout)
        self._left += more
        return self._left if more else b""

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
                return status, headers
        raise UnusableAnswerError(f"there are more than {MAX_INTERIM} interim answers (1xx)")

    def _read_one_head(self) -> tuple[int, dict[str, str]]:
        data = self._left
        self._throughput.restart()
        while (end := data.find(b"\r\n\r\n")) < 0:
            if len(data) > _MAX_HEAD:
                raise UnusableAnswerError(f"the headers have more than {_MAX_HEAD} bytes")
            more = self._receive() if data else self._socket.recv(_MAX_HEAD)
            if not more:
                if data and _BEGINNING.startswith(data[: len(_BEGINNING)]):
                    raise CutAnswerError("the connection was closed in the middle of the headers")
                if data:
                    raise MalformedAnswerError(f"the first bytes are {data[:80]!r}")
                raise ClosedEarlyError(unused=self.used)
            data = data + more if data else more
        self._left = data[end + 4 :]
        return _parse_head(data[:end])

    def _receive(self) -> bytes:
        """Some bytes of an answer that has begun."""
        began = time.monotonic()
        data = self._socket.recv(_MAX_HEAD)
        self._throughput.add(time.monotonic() - began, len(data))
        return data

    def read_exactly(self, length: int) -> memoryview:
        """Read that many bytes of a body, or fewer if the connection is closed before.

        Raises:
            OSError: If the connection breaks, or no byte arrives for the read timeout.
        """
        left = self._left
        if len(left) < length:
            return self.fill(memoryview(bytearray(length)))
        self._lines = 0
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
        while done < len(view) and (more := self.receive_into(view[done:])):  # TLS gives one record, 16 KiB, at a time
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
        if self._left:
            count = min(len(self._left), len(view))
            view[:count] = self._left[:count]
            self._left = self._left[count:]
            return count
        began = time.monotonic()
        flags = (len(view), socket.MSG_WAITALL) if self._plain else ()
        count = self._socket.recv_into(view, *flags)
        self._throughput.add(time.monotonic() - began, count)
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
            more = self._receive()
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
        name = before.lower()
        if not colon or not name or name in headers or before.strip() != before:
            headers = _unusual_headers(lines)
            break
        headers[name] = value.strip()
    if version == "HTTP/1.0":
        headers.setdefault("connection", "close")
    return int(code), headers


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
