"""A connection that speaks HTTP/1.1, as far as S3 needs it."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gllm_storage.concurrency.stop import check_stop
from gllm_storage.s3.http.connecting import connected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Buffer = bytes | bytearray | memoryview

_MOST_HEAD = 2**16
_SMALL = 2**16
_PIECE = 2**18
_FIRST_FINAL = 200
_KERNEL_TIMEOUTS = sys.platform == "linux"
_BEGINNING = b"HTTP/1."
_DIGITS_OF_STATUS = 3
_INTERIM = b"HTTP/1.1 1"


class MalformedAnswerError(Exception):
    """The server's answer is not HTTP as S3 speaks it."""


class CannotConnectError(OSError):
    """There is no connection, so that nothing was sent."""


class CutAnswerError(ConnectionError):
    """The connection ended in the middle of an answer."""


class ClosedEarlyError(Exception):
    """The server closed the connection before it had answered.

    Args:
        unused: Whether the connection was kept open from an earlier request, so that this one may never have been seen.
    """

    def __init__(self, *, unused: bool) -> None:
        super().__init__("the connection was closed before the answer")
        self.unused = unused


@dataclass(frozen=True)
class Server:
    """Where requests go.

    Attributes:
        scheme: ``"http"`` or ``"https"``.
        host: Host name or address.
        port: TCP port.
        connect_timeout: Seconds.
        read_timeout: Seconds without a byte.
        tls: For https.
    """

    scheme: str
    host: str
    port: int
    connect_timeout: float | None
    read_timeout: float | None
    tls: ssl.SSLContext | None = field(default=None, compare=False)


class Connection:
    """One connection to a server.

    Args:
        server: The server.

    Raises:
        CannotConnectError: If it cannot be reached.
        ssl.SSLError: If it cannot be trusted.
        TransferStopped: If the transfer that this thread works for was given up.
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
        self.used = False
        self._left = b""

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # there may never have been a connection
            self._socket.close()

    def _set_timeout(self, seconds: float | None) -> None:
        if not self._plain:
            self._socket.settimeout(seconds)
            return
        # Python would poll before each call, and MSG_WAITALL would not wait: the kernel keeps the time instead.
        self._socket.settimeout(None)
        whole, part = divmod(seconds or 0.0, 1.0)
        value = struct.pack("ll", int(whole), int(part * 1e6))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)

    def is_quiet(self) -> bool:
        """Whether a kept connection may be used again: the server has neither closed it nor said more than its answer."""
        if self._left or (isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()):
            return False
        poll = select.poll()
        try:
            poll.register(self._socket, select.POLLIN)
            return not poll.poll(0)
        except (OSError, ValueError):
            return False

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def abort(self) -> None:
        """End what another thread is sending or receiving."""
        with contextlib.suppress(OSError):
            # Not SSLSocket's own: after that, it takes what is still to come for plain text.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def send(self, head: bytes, body: Any, before_last: Callable[[], None]) -> None:
        """Send a request.

        Args:
            head: Request line and headers.
            body: Bytes, or what has `__len__` and `read`.
            before_last: Called before the piece leaves with which the request is complete.

        Raises:
            OSError: If the connection breaks or nothing moves.
            TransferStopped: If the transfer that this thread works for was given up.
        """
        view = memoryview(body).cast("B") if isinstance(body, (bytes, bytearray, memoryview)) else None
        left = len(body) if view is None else len(view)
        if not left or (view is not None and left <= _SMALL):
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
            raise ValueError(f"the body of a request ended {left} bytes before its length")

    def _more(self) -> tuple[int, ...]:
        return (socket.MSG_MORE,) if self._plain else ()

    def _require_silence(self) -> None:
        """Do not go on sending to a server that has answered: it may not read any more, and we would wait for it.

        Raises:
            BrokenPipeError: If it has answered, or closed the connection.
        """
        if self.has_answered():
            raise BrokenPipeError("the server answered before it had the whole request")

    def has_answered(self) -> bool:
        """Whether there is an answer, or the end of the connection, to be read; an interim answer is none."""
        if not self._plain:
            return False  # what can be read may be TLS's own, such as a session ticket
        try:
            begun = self._socket.recv(len(_INTERIM), socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:
            return False
        return not begun or (len(begun) == len(_INTERIM) and not begun.startswith(_INTERIM))

    def read_head(self) -> tuple[int, dict[str, str]]:
        """Status and headers (names in lower case) of the answer.

        Raises:
            ClosedEarlyError: If there is none.
            MalformedAnswerError: If it is not HTTP.
            CutAnswerError: If the connection ends in the middle of it.
            OSError: If the connection breaks or nothing comes.
        """
        while True:
            status, headers = self._read_one_head()
            if status >= _FIRST_FINAL:  # 100 Continue comes before the answer
                return status, headers

    def _read_one_head(self) -> tuple[int, dict[str, str]]:
        data = self._left
        while (end := data.find(b"\r\n\r\n")) < 0:
            if len(data) > _MOST_HEAD:
                raise MalformedAnswerError("its headers do not end")
            more = self._socket.recv(_MOST_HEAD)
            if not more:
                if data and _BEGINNING.startswith(data[: len(_BEGINNING)]):
                    raise CutAnswerError("the connection was closed in the middle of the headers")
                if data:
                    raise MalformedAnswerError(f"it begins with {data[:80]!r}")
                raise ClosedEarlyError(unused=self.used)
            data = data + more if data else more
        self._left = data[end + 4 :]
        return _parse_head(data[:end])

    def read_exactly(self, length: int) -> memoryview:
        """So many bytes of a body, or fewer if the connection ends.

        Raises:
            OSError: If the connection breaks or nothing comes.
        """
        return self.fill(memoryview(bytearray(length)))

    def fill(self, view: memoryview) -> memoryview:
        """As many bytes of a body as a buffer holds, or fewer if the connection ends: what of the buffer was filled.

        Raises:
            OSError: If the connection breaks or nothing comes.
        """
        done = 0
        while done < len(view) and (more := self.receive_into(view[done:])):  # a record of TLS holds 16 KiB
            done += more
        return view[:done]

    def receive_into(self, view: memoryview) -> int:
        """Fill a buffer with what comes next; fewer bytes only at the end, or where TLS gives a record at a time.

        Returns:
            How many bytes came; 0 at the end of the connection.

        Raises:
            OSError: If the connection breaks or nothing comes.
        """
        if self._left:
            count = min(len(self._left), len(view))
            view[:count] = self._left[:count]
            self._left = self._left[count:]
            return count
        if self._plain:
            return self._socket.recv_into(view, len(view), socket.MSG_WAITALL)
        return self._socket.recv_into(view)

    def read_line(self) -> bytes:
        """A line of a chunked body.

        Raises:
            MalformedAnswerError: If it does not end.
            CutAnswerError: If the connection ends in the middle of it.
            OSError: If the connection breaks or nothing comes.
        """
        while (end := self._left.find(b"\r\n")) < 0:
            if len(self._left) > _MOST_HEAD:
                raise MalformedAnswerError("a line of its chunked body does not end")
            more = self._socket.recv(_MOST_HEAD)
            if not more:
                raise CutAnswerError("the connection was closed in the middle of a chunked body")
            self._left += more
        line, self._left = self._left[:end], self._left[end + 2 :]
        return line


def _pieces_of(body: Any) -> Iterator[Buffer]:
    while data := body.read(_PIECE):
        yield data


def _slices_of(view: memoryview) -> Iterator[Buffer]:
    # In pieces: a transfer that is given up must not send all the rest on a slow line, and take effect long after.
    for start in range(0, len(view), _PIECE):
        yield view[start : start + _PIECE]


def _parse_head(data: bytes) -> tuple[int, dict[str, str]]:
    lines = data.decode("latin-1").split("\r\n")
    version, _, rest = lines[0].partition(" ")
    code = rest.partition(" ")[0]
    if not version.startswith("HTTP/1.") or len(code) != _DIGITS_OF_STATUS or not code.isdecimal():
        raise MalformedAnswerError(f"it begins with {lines[0][:80]!r}")
    if data.count(b"\n") != len(lines) - 1:
        raise MalformedAnswerError("there is a bare line feed in its headers")
    headers: dict[str, str] = {}
    name = ""
    for line in lines[1:]:
        if line.startswith((" ", "\t")) and name:  # obsolete, and allowed: the line before goes on
            headers[name] = f"{headers[name]} {line.strip()}"
            continue
        before, colon, value = line.partition(":")
        name = before.strip().lower()
        if not colon or not name:
            raise MalformedAnswerError(f"its header is {line[:80]!r}")
        _add(headers, name, value.strip())
    if version == "HTTP/1.0":
        headers.setdefault("connection", "close")
    return int(code), headers


def _add(headers: dict[str, str], name: str, value: str) -> None:
    before = headers.get(name)
    if before is None:
        headers[name] = value
    elif name != "content-length" or before != value:  # said twice, it is as good as said once
        headers[name] = f"{before}, {value}"
