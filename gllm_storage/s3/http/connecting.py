"""Connecting to a server, which whoever gives the transfer up ends at once."""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import time
from typing import TYPE_CHECKING

from gllm_storage.concurrency.stop import check_stop

if TYPE_CHECKING:
    from gllm_storage.s3.http.wire import Server

_LOOK_SECONDS = 0.1


def connected(server: Server) -> socket.socket:
    """A connection to a server; encrypted, if it is to be.

    Raises:
        ssl.SSLError: If the server cannot be trusted.
        OSError: If it cannot be reached, or not in time.
        TransferStopped: If the transfer that this thread works for was given up. The look-up of a name is waited for.
    """
    plain = _connected_to_any(server)
    try:
        # Linux delays its ACK by 40 ms otherwise, and each small upload would wait for it.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return plain if server.tls is None else _encrypted(plain, server.tls, server)
    except BaseException:
        plain.close()
        raise


def _connected_to_any(server: Server) -> socket.socket:
    failure = OSError("its name has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM):
        one = socket.socket(family, kind, protocol)
        try:
            _connect(one, address, server.connect_timeout)
        except OSError as error:
            one.close()
            failure = error
        except BaseException:
            one.close()
            raise
        else:
            return one
    raise failure


def _connect(one: socket.socket, address: object, seconds: float | None) -> None:
    one.setblocking(False)
    _raise_if(one.connect_ex(address), but=errno.EINPROGRESS)  # type: ignore[arg-type]  # as getaddrinfo gives it
    _wait_for(one, select.POLLOUT, _deadline(seconds))
    _raise_if(one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))


def _encrypted(plain: socket.socket, tls: ssl.SSLContext, server: Server) -> ssl.SSLSocket:
    encrypted = tls.wrap_socket(plain, server_hostname=server.host, do_handshake_on_connect=False)
    deadline = _deadline(server.connect_timeout)
    try:
        while True:
            try:
                encrypted.do_handshake()
            except ssl.SSLWantReadError:
                _wait_for(encrypted, select.POLLIN, deadline)
            except ssl.SSLWantWriteError:
                _wait_for(encrypted, select.POLLOUT, deadline)
            else:
                return encrypted
    except BaseException:
        encrypted.close()
        raise


def _raise_if(code: int, but: int = 0) -> None:
    if code not in {0, but}:
        raise OSError(code, os.strerror(code))


def _deadline(seconds: float | None) -> float | None:
    return None if seconds is None else time.monotonic() + seconds


def _wait_for(one: socket.socket, event: int, deadline: float | None) -> None:
    poll = select.poll()
    poll.register(one, event)
    while True:
        check_stop()
        left = _LOOK_SECONDS if deadline is None else min(_LOOK_SECONDS, deadline - time.monotonic())
        if left <= 0:
            raise TimeoutError("timed out")
        if poll.poll(left * 1000):
            return
