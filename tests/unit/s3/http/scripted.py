"""A server with scripted answers, byte by byte, and a client of that server."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import ssl
import struct
import threading
from typing import TYPE_CHECKING, Any, Self

import trustme
from fsspec.asyn import get_loop

from gllm_storage.http.connecting import Server
from gllm_storage.http.pool import Pool
from gllm_storage.s3.connection import Endpoint
from gllm_storage.s3.http import template
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from gllm_storage.s3.http.client import DirectClient

    Step = bytes | Callable[["Peer"], None]

OK = b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nETag: "e"\r\n\r\nok'
EMPTY = b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: "e"\r\n\r\n'
KEYS = {"aws_access_key_id": "AKIDEXAMPLE", "aws_secret_access_key": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}


class Peer:
    """The server's side of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.head = b""
        self.last_body = b""
        self._left = b""

    def read_head(self) -> bytes:
        """Read the head of a request; empty at the end of the connection."""
        while b"\r\n\r\n" not in self._left:
            more = self.socket.recv(2**16)
            if not more:
                return b""
            self._left += more
        head, _, self._left = self._left.partition(b"\r\n\r\n")
        return head

    def read_body(self, head: bytes) -> bytes:
        """Read the body of the request with this head."""
        length = int(header(head, "content-length") or 0)
        if header(head, "expect"):
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")  # otherwise boto3 waits for a second
        while len(self._left) < length and (more := self.socket.recv(2**16)):
            self._left += more
        body, self._left = self._left[:length], self._left[length:]
        return body

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(data)

    def close(self, *, reset: bool = False) -> None:
        """Close or reset the connection; for the step that serves it."""
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.socket.close()
            return
        if isinstance(self.socket, ssl.SSLSocket):
            with contextlib.suppress(
                OSError, ValueError
            ):  # it raises because it does not wait for the client's close_notify
                self.socket.settimeout(0)
                self.socket.unwrap()
        self.end()

    def end(self) -> None:
        """Close the connection; from any thread."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


class Certificates:
    """TLS contexts of a server on 127.0.0.1, and of a client that trusts it.

    Args:
        options: Arguments of `trustme.CA.issue_cert`.
    """

    def __init__(self, **options: Any) -> None:
        authority = trustme.CA()
        self._leaf = authority.issue_cert("127.0.0.1", **options)
        self.server = self.new_server()
        self.client = ssl.create_default_context()
        authority.configure_trust(self.client)

    def new_server(self) -> ssl.SSLContext:
        """A server with the same certificate, which does not know the sessions of another one."""
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._leaf.configure_cert(server)
        return server


class Default:
    """The certificates of servers and pools that are given none; None for HTTP."""

    tls: Certificates | None = None


def header(head: bytes, name: str) -> str | None:
    """A header of a request."""
    for line in head.split(b"\r\n")[1:]:
        found, _, value = line.decode("latin-1").partition(":")
        if found.lower() == name:
            return value.strip()
    return None


def hang_up(peer: Peer) -> None:
    """Close the connection without an answer."""
    peer.close()


def vanish(peer: Peer) -> None:
    """Close the connection without an answer, and without the close_notify of TLS."""
    peer.end()


def reset(peer: Peer) -> None:
    """Reset the connection without an answer."""
    peer.close(reset=True)


def wait(peer: Peer) -> None:
    """Send no answer, and wait until the client closes the connection."""
    while peer.socket.recv(2**16):
        pass


def then_hang_up(data: bytes) -> Step:
    """A step that sends an answer and closes the connection."""

    def step(peer: Peer) -> None:
        peer.send(data)
        peer.close()

    return step


class ScriptedServer:
    """Answers each request by the next step, and all further requests by the last step.

    Args:
        steps: Bytes to answer with, or a function that answers.
        tls: The context of an HTTPS server; `Default` if None.
        reads_bodies: Whether bodies are read before the answer.
    """

    def __init__(self, *steps: Step, tls: ssl.SSLContext | None = None, reads_bodies: bool = True) -> None:
        self._steps = list(steps)
        self._tls = tls or (Default.tls.server if Default.tls else None)
        self._reads_bodies = reads_bodies
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._closed = False
        self._peers: list[Peer] = []
        self._threads: list[threading.Thread] = []
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"
        self.connections = 0
        self.requests: list[tuple[bytes, bytes]] = []

    def __enter__(self) -> Self:
        self._run(self._accept)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._closed = True
        for peer in self._peers:
            peer.end()
        for thread in self._threads:
            thread.join(10)

    def _run(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.connections += 1
                self._run(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), sock, self._tls_of(sock) as wrapped:
            peer = Peer(wrapped)
            self._peers.append(peer)
            while not self._closed and (head := peer.read_head()):
                with self._lock:
                    step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
                peer.head = head
                peer.last_body = peer.read_body(head) if self._reads_bodies else b""
                self.requests.append((head, peer.last_body))
                if isinstance(step, bytes):
                    peer.send(step)
                else:
                    step(peer)

    def _tls_of(self, sock: socket.socket) -> socket.socket:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._tls.wrap_socket(sock, server_side=True) if self._tls else sock

    def pool(self, *, read_timeout: float = PATIENCE, keep: int = 8, tls: ssl.SSLContext | None = None) -> Pool:
        """A connection pool of the direct client for this server."""
        scheme, tls = "https" if self._tls else "http", tls or (Default.tls.client if Default.tls else None)
        return Pool(Server(scheme, "127.0.0.1", self.port, PATIENCE, read_timeout, tls), keep)

    def client(self, **options: Any) -> DirectClient:
        """A direct client of this server; the options are those of `made_client`."""
        return made_client(self.url, **options)


def made_client(
    url: str | None, *, config: dict[str, Any] | None = None, attempts: int = 3, engine: str = "auto", **options: Any
) -> DirectClient:
    """A direct client, created as the filesystem creates it.

    Args:
        url: The endpoint.
        config: Options of botocore's ``Config``.
        attempts: The limit of attempts of each request.
        engine: The name of the engine.
        options: Arguments of `Endpoint`; the others are options of boto3's client.
    """
    endpoint_options = {name: options.pop(name) for name in ("anonymous", "sign_bodies", "profile_name") if name in options}
    keys = {} if endpoint_options.get("anonymous") or endpoint_options.get("profile_name") else KEYS
    endpoint = Endpoint(
        client_options={"endpoint_url": url, "region_name": "us-east-1", **keys, **options},
        config_options={
            "s3": {"addressing_style": "path"},
            "connect_timeout": PATIENCE,
            "read_timeout": PATIENCE,
            **(config or {}),
        },
        max_attempts=attempts,
        engine=engine,
        **endpoint_options,
    )
    client: Any = endpoint.make_client()
    found: DirectClient = client
    return found


def boto_request(client: DirectClient, method: str, **parameters: Any) -> Any:
    """The request that boto3 would send."""
    template._catching.on = True
    try:
        getattr(client.boto, method)(**parameters)
    except template._CaughtError as caught:
        return caught.request
    finally:
        template._catching.on = False
    raise AssertionError("boto3 made no request")


def open_sockets() -> set[str]:
    """The open sockets of this process. Others may be closed in the meantime, so compare by ``<=``."""
    get_loop()  # the sockets of fsspec's event loop stay open
    gc.collect()
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{name}"))
    return {each for each in found if each.startswith("socket:")}
