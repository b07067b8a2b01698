"""`MessageServer`: an https server that sends messages of TLS itself, which OpenSSL sends at times of its own choice.

It is tlslite-ng, an implementation of TLS in Python. It is slow, so bodies are small.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any, Self

import trustme
from tlslite.constants import KeyUpdateMessageType
from tlslite.errors import BaseTLSException
from tlslite.handshakesettings import HandshakeSettings
from tlslite.tlsconnection import TLSConnection
from tlslite.utils.keyfactory import parsePEMKey
from tlslite.x509certchain import X509CertChain

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from types import TracebackType

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"


class MessageServer:
    """An https server on 127.0.0.1 with TLS 1.3. It answers each request with the body of the request.

    Args:
        message: Called between the head and the body of each answer, and before each request's body is read.
    """

    def __init__(self, message: Callable[[Any, Any], Iterator[Any]]) -> None:
        self._message = message
        self._authority = trustme.CA()
        issued = self._authority.issue_cert("127.0.0.1")
        self._chain = X509CertChain()
        self._chain.parsePemList(issued.cert_chain_pems[0].bytes().decode())
        self._key = parsePEMKey(issued.private_key_pem.bytes().decode(), private=True)
        self._settings = HandshakeSettings()
        self._settings.ticketKeys = [bytearray(b"k" * 32)]
        self._settings.ticket_count = 1
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self.messages = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def trust(self, context: ssl.SSLContext) -> None:
        """Let a client trust the certificate."""
        self._authority.configure_trust(context)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.connections += 1
                with sock, contextlib.suppress(OSError, BaseTLSException):
                    connection = TLSConnection(sock)
                    connection.handshakeServer(certChain=self._chain, privateKey=self._key, settings=self._settings)
                    self._answer(connection)

    def _answer(self, connection: Any) -> None:
        left = b""
        while True:
            while b"\r\n\r\n" not in left:
                left += _some(connection)
            head, _, left = left.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
            self._send_message(connection)
            while len(left) < length:
                left += _some(connection)
            body, left = left[:length], left[length:]
            connection.sendall(HEAD % len(body) + body[:10])
            self._send_message(connection)
            connection.sendall(body[10:])

    def _send_message(self, connection: Any) -> None:
        for _ in self._message(connection, self._settings):
            pass
        self.messages += 1


def _some(connection: Any) -> bytes:
    data = bytes(connection.recv(2**16))
    if not data:
        raise ConnectionError("the client closed the connection")
    return data


def ticket(connection: Any, settings: Any) -> Iterator[Any]:
    """Send a session ticket."""
    yield from connection._serverSendTickets(settings)


def key_update(connection: Any, _: Any) -> Iterator[Any]:
    """Change the keys of the server, and demand new ones of the client."""
    yield from connection.send_keyupdate_request(KeyUpdateMessageType.update_requested)
