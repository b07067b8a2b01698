"""TCP and TLS connections to a server. Sockets do not block meanwhile, so a cancelled transfer ends at once."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import ssl
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gllm_storage.concurrency.stop import check_stop
from gllm_storage.http.transport import Encrypted, Plain

if TYPE_CHECKING:
    from gllm_storage.http.transport import Transport

_SOME = 2**16
_POLL_SECONDS = 0.1
"""How often a connection in progress checks whether its transfer was cancelled."""


@dataclass(frozen=True)
class Server:
    """A server, and how long to wait for it.

    Attributes:
        scheme: ``"http"`` or ``"https"``.
        host: Host name or IP address.
        port: TCP port.
        connect_timeout: Seconds for the connection to each address of the host, and as many for the TLS handshake; None for
            no limit.
        read_timeout: Seconds without a byte, in either direction; None for no limit.
        tls: The TLS settings for https; None for http.
        min_throughput: The fewest bytes per second of an answer, averaged over each read timeout; 0 for no limit.
    """

    scheme: str
    host: str
    port: int
    connect_timeout: float | None
    read_timeout: float | None
    tls: ssl.SSLContext | None = field(default=None, compare=False)
    min_throughput: float = 0.0


def connected(server: Server, session: ssl.SSLSession | None = None) -> Transport:
    """Connect to a server; with the TLS handshake if it has TLS settings.

    Args:
        server: The server.
        session: The TLS session of an earlier connection, to be resumed if the server agrees.

    Raises:
        ssl.SSLError: If the handshake fails, as for a certificate that is not trusted.
        OSError: If the server cannot be reached; `TimeoutError` if it does not answer in time.
        TransferStopped: If this thread's transfer was cancelled. A DNS query cannot be interrupted, and ends first.
    """
    plain = _connected_to_any(server)
    try:
        # Linux delays its ACK by 40 ms otherwise, and each small upload would wait for it.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if server.tls is None:
            return Plain(plain, server.read_timeout, server.min_throughput)
        return _encrypted(plain, server.tls, server, session)
    except BaseException:
        plain.close()
        raise


def _connected_to_any(server: Server) -> socket.socket:
    """Try the addresses of the host in turn; the last failure is raised."""
    failure = OSError("the host name has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM):
        plain = socket.socket(family, kind, protocol)
        try:
            _connect(plain, address, server.connect_timeout)
        except OSError as error:
            plain.close()
            failure = error
        except BaseException:
            plain.close()
            raise
        else:
            return plain
    raise failure


def _connect(plain: socket.socket, address: object, seconds: float | None) -> None:
    plain.setblocking(False)
    _check(plain.connect_ex(address), allowed=errno.EINPROGRESS)  # type: ignore[arg-type]  # as getaddrinfo gives it
    _wait_for(plain, select.POLLOUT, _deadline(seconds))
    _check(plain.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))


def _encrypted(plain: socket.socket, context: ssl.SSLContext, server: Server, session: ssl.SSLSession | None) -> Encrypted:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=server.host, session=session)
    deadline = _deadline(server.connect_timeout)
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            _send(plain, outgoing.read(), deadline)
        except BaseException:
            with contextlib.suppress(OSError):
                plain.send(outgoing.read())  # the alert says why, in the log of the server
            raise
        else:
            break
        _wait_for(plain, select.POLLIN, deadline)
        if data := plain.recv(_SOME):
            incoming.write(data)
        else:
            incoming.write_eof()
    _send(plain, outgoing.read(), deadline)
    return Encrypted(plain, tls, incoming, outgoing, read_timeout=server.read_timeout, min_throughput=server.min_throughput)


def _send(plain: socket.socket, data: bytes, deadline: float | None) -> None:
    while data:
        _wait_for(plain, select.POLLOUT, deadline)
        data = data[plain.send(data) :]


def _check(code: int, allowed: int = 0) -> None:
    """Raise an `OSError` for an errno other than 0 and the allowed one."""
    if code not in {0, allowed}:
        raise OSError(code, os.strerror(code))


def _deadline(seconds: float | None) -> float | None:
    return None if seconds is None else time.monotonic() + seconds


def _wait_for(plain: socket.socket, event: int, deadline: float | None) -> None:
    poll = select.poll()
    poll.register(plain, event)
    while True:
        check_stop()
        left = _POLL_SECONDS if deadline is None else min(_POLL_SECONDS, deadline - time.monotonic())
        if left <= 0:
            raise TimeoutError("timed out")
        if poll.poll(left * 1000):
            return
