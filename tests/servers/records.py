"""`RecordLayer`: the TLS of a server whose records a test controls, for `FaultProxy` and `ScriptedServer`.

OpenSSL encrypts into memory (`ssl.MemoryBIO`), and the test decides which bytes of that are sent, and how the connection
ends. The faults below (`cut_fin`, `alert`, …) are the values of `FAULTS`.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from .process import Certificate

    RecordFault = Callable[["RecordSocket", bytes], None]

RECORD = 2**14
_CUT = 20
"""Bytes of the last record that a cut leaves out."""
_TINY = 1000


class RecordSocket:
    """A server's end of a TLS connection. The handshake comes with the first read.

    Args:
        sock: The TCP connection.
        layer: The settings.
    """

    def __init__(self, sock: socket.socket, layer: RecordLayer) -> None:
        self.raw = sock
        self._layer = layer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = layer.context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._fault: RecordFault | None = None
        self._before_fault = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)

    def recv(self, size: int) -> bytes:
        """Receive bytes; empty at the end of the connection."""
        self._layer.current.socket = self
        while True:
            try:
                data: bytes = self.tls.read(size)
            except ssl.SSLWantReadError:
                self.raw.sendall(self._outgoing.read())
                if more := self.raw.recv(2**16):
                    self._incoming.write(more)
                else:
                    self._incoming.write_eof()
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                return b""
            except ssl.SSLError:
                self.raw.sendall(self._outgoing.read())  # the alert
                raise
            else:
                self.raw.sendall(self._outgoing.read())
                return data

    def sealed(self, data: bytes, record: int = RECORD) -> bytes:
        """Encrypt bytes into records of at most `record` bytes each; nothing is sent."""
        for start in range(0, len(data), record):
            self.tls.write(data[start : start + record])
        return self._outgoing.read()

    def sendall(self, data: bytes) -> None:
        """Send bytes, up to the armed fault."""
        fault, before = self._fault, self._before_fault
        if fault is None or len(data) <= before:
            self._before_fault = max(0, before - len(data))
            self.raw.sendall(self.sealed(data))
            return
        self._fault, self._before_fault = None, 0
        self._layer.fired += 1
        self.raw.sendall(self.sealed(data[:before]))
        fault(self, data[before:])

    def arm(self, fault: RecordFault, after: int) -> None:
        """Let a fault happen after so many of the next bytes that are sent."""
        self._fault, self._before_fault = fault, after

    def end(self, *, reset: bool = False) -> None:
        """End the connection by FIN or RST, without close_notify.

        Raises:
            ConnectionAbortedError: Always, so that the server does not go on.
        """
        if reset:
            self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            self.raw.shutdown(socket.SHUT_RDWR)
        self.raw.close()
        raise ConnectionAbortedError("the test ended the connection")

    def wait(self) -> None:
        """Send nothing more, and wait until the client closes the connection."""
        while self.raw.recv(2**16):
            pass
        self.end()

    def close_notify(self) -> None:
        """Send close_notify."""
        with contextlib.suppress(ssl.SSLError):  # it does not wait for the client's
            self.tls.unwrap()
        self.raw.sendall(self._outgoing.read())

    def alert(self) -> None:
        """Send a fatal alert: OpenSSL's answer to a record that cannot be decrypted."""
        self._incoming.write(b"\x17\x03\x03\x00\x30" + bytes(0x30))
        with contextlib.suppress(ssl.SSLError):
            self.tls.read(1)
        self.raw.sendall(self._outgoing.read())

    def settimeout(self, seconds: float | None) -> None:
        """Set the timeout of the TCP connection."""
        self.raw.settimeout(seconds)

    def close(self) -> None:
        """Close the connection."""
        self.raw.close()


class RecordLayer:
    """TLS settings in the place of an `ssl.SSLContext`.

    Args:
        certificate: The certificate of the server.

    Attributes:
        context: The settings of OpenSSL.
        fired: The number of faults that happened.
        current: The attribute `socket` is the connection that this thread has read from last.
    """

    def __init__(self, certificate: Certificate) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate.both)
        self.fired = 0
        self.current = threading.local()

    def wrap_socket(self, sock: socket.socket, **_: Any) -> RecordSocket:
        """Take the place of `ssl.SSLContext.wrap_socket`."""
        return RecordSocket(sock, self)

    def arming(self, fault: RecordFault, after: int) -> Callable[[], None]:
        """A function for `CallAfter` of the fault proxy: the answer breaks after so many bytes of plain text."""
        return lambda: self.current.socket.arm(fault, after)


def _cut(sock: RecordSocket, rest: bytes) -> None:
    sock.raw.sendall(sock.sealed(rest[:5000])[:-_CUT])


def cut_fin(sock: RecordSocket, rest: bytes) -> None:
    """FIN inside a record."""
    _cut(sock, rest)
    sock.end()


def cut_rst(sock: RecordSocket, rest: bytes) -> None:
    """RST inside a record."""
    _cut(sock, rest)
    sock.end(reset=True)


def cut_header(sock: RecordSocket, rest: bytes) -> None:
    """FIN inside the header of a record."""
    sock.raw.sendall(sock.sealed(rest[:5000])[:3])
    sock.end()


def stall(sock: RecordSocket, rest: bytes) -> None:
    """Nothing more from the middle of a record on."""
    _cut(sock, rest)
    sock.wait()


def fin(sock: RecordSocket, rest: bytes) -> None:
    """FIN between two records, without close_notify."""
    sock.end()


def notify(sock: RecordSocket, rest: bytes) -> None:
    """close_notify, and FIN."""
    sock.close_notify()
    sock.end()


def alert(sock: RecordSocket, rest: bytes) -> None:
    """A fatal alert."""
    sock.alert()
    sock.wait()


def plain(sock: RecordSocket, rest: bytes) -> None:
    """The rest of the answer as plain text."""
    sock.raw.sendall(rest)
    sock.wait()


def flip(sock: RecordSocket, rest: bytes) -> None:
    """A flipped bit in the ciphertext."""
    sealed = bytearray(sock.sealed(rest))
    sealed[-_CUT] ^= 1
    sock.raw.sendall(sealed)
    sock.wait()


def tiny(sock: RecordSocket, rest: bytes) -> None:
    """Records of one byte each, for the first 1000 bytes."""
    for start in range(0, min(len(rest), _TINY), 100):
        sock.raw.sendall(sock.sealed(rest[start : start + 100][: _TINY - start], record=1))
    sock.raw.sendall(sock.sealed(rest[_TINY:]))


FAULTS: dict[str, RecordFault] = {
    "fin": fin,
    "cut-fin": cut_fin,
    "cut-rst": cut_rst,
    "cut-header": cut_header,
    "stall": stall,
    "close-notify": notify,
    "alert": alert,
    "plain-text": plain,
    "flipped-bit": flip,
}
"""The faults after which the connection cannot be used any more."""
