"""`tls_before`: https in front of a server that speaks http."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .process import LOOPBACK, make_certificate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PIECE = 2**16


@contextlib.contextmanager
def tls_before(url: str, directory: Path) -> Iterator[tuple[str, str]]:
    """Forward https to a server.

    Args:
        url: URL of the server.
        directory: Where the certificates go.

    Yields:
        The URL with https, and the path of the CA certificate that signed the server's certificate.
    """
    parts, certificate = urlsplit(url), make_certificate(directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.both)
    listener = socket.create_server((LOOPBACK, 0))

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=_serve, args=(client, context, (parts.hostname, parts.port)), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"https://{LOOPBACK}:{listener.getsockname()[1]}{parts.path}", certificate.authority
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _serve(client: socket.socket, context: ssl.SSLContext, address: tuple[str | None, int | None]) -> None:
    with (
        contextlib.suppress(OSError),
        client,
        context.wrap_socket(client, server_side=True) as encrypted,
        socket.create_connection(address) as server,
    ):
        back = threading.Thread(target=_pump, args=(server, encrypted), daemon=True)
        back.start()
        _pump(encrypted, server)
        back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_PIECE):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
