"""TLS below HTTP: records that break or come in pieces, messages of TLS between the data, closed connections, forks."""

from __future__ import annotations

import fcntl
import ssl
import struct
import subprocess
import termios
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage.http.connecting import Server
from gllm_storage.http.pool import Pool
from gllm_storage.http.wire import ClosedEarlyError
from tests.servers.process import LOOPBACK, find_program, listens, make_certificate, reserved_ports
from tests.servers.records import FAULTS, RecordLayer, plain, tiny
from tests.servers.tlslite import MessageServer, key_update, ticket
from tests.unit.s3.http.scripted import OK, Peer, ScriptedServer
from tests.waiting import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.servers.process import Certificate
    from tests.servers.records import RecordFault

MIB = 2**20
GET = b"GET /b/k HTTP/1.1\r\nhost: h\r\n\r\n"
CONTENT = bytes(range(256)) * 1000
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(CONTENT), CONTENT)
UNTIL_CLOSED = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + CONTENT
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(CONTENT), CONTENT)

pytestmark = pytest.mark.hostile


def put(length: int) -> bytes:
    return b"PUT /b/k HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n" % length


def _https(port: int, context: ssl.SSLContext) -> Pool:
    return Pool(Server("https", LOOPBACK, port, PATIENCE, PATIENCE, context), 8)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def client(certificate: Certificate) -> ssl.SSLContext:
    """The TLS settings of a client."""
    return ssl.create_default_context(cafile=certificate.authority)


@pytest.fixture
def layer(certificate: Certificate) -> Any:
    """The TLS settings of a server, in the place of an `ssl.SSLContext`."""
    return RecordLayer(certificate)


def breaking(answer: bytes, fault: RecordFault, after: int) -> Callable[[Peer], None]:
    """A step that sends an answer up to a fault."""

    def step(peer: Peer) -> None:
        sock: Any = peer.socket
        sock.arm(fault, after)
        peer.send(answer)

    return step


# ---- records


@pytest.mark.parametrize("answer", [ANSWER, CHUNKED], ids=["length", "chunked"])
def test_tiny_records(answer: bytes, layer: Any, client: ssl.SSLContext) -> None:
    """Records of one byte are put together, and the connection serves the next request."""
    with ScriptedServer(breaking(answer, tiny, 0), OK, tls=layer) as server:
        pool = server.pool(tls=client)
        assert pool.request(GET).read() == CONTENT
        assert pool.request(GET).read() == b"ok"
        assert server.connections == 1


@pytest.mark.parametrize("after", [10, 5000], ids=["head", "body"])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("answer", [ANSWER, CHUNKED, UNTIL_CLOSED], ids=["length", "chunked", "closed"])
def test_broken_answer(answer: bytes, fault: RecordFault, after: int, layer: Any, client: ssl.SSLContext) -> None:
    """A broken answer is an error of the connection, whatever its framing, and the bytes before it are right."""
    found = bytearray()
    with ScriptedServer(breaking(answer, fault, after), tls=layer) as server:
        pool = server.pool(tls=client, read_timeout=0.3)
        if answer is UNTIL_CLOSED and after == 5000 and fault is FAULTS["close-notify"]:
            assert len(pool.request(GET).read()) < len(CONTENT)  # TLS says that this is the end
            return

        def read() -> None:
            for piece in pool.request(GET).pieces(2**14):
                found.extend(piece)

        with pytest.raises((OSError, ClosedEarlyError)):
            read()
        assert CONTENT.startswith(bytes(found))
        assert list(pool._free.get()) == []


@pytest.mark.parametrize("closes", ["close-notify", "fin"])
def test_complete_answer(closes: str, layer: Any, client: ssl.SSLContext) -> None:
    """An answer with a length is complete, with or without close_notify behind it."""

    def step(peer: Peer) -> None:
        peer.send(ANSWER)
        FAULTS[closes](peer.socket, b"")  # type: ignore[arg-type]  # a RecordSocket

    with ScriptedServer(step, tls=layer) as server:
        assert server.pool(tls=client).request(GET).read() == CONTENT


def test_plain_text(layer: Any, client: ssl.SSLContext) -> None:
    """Plain text behind the handshake is not taken for an answer."""
    with ScriptedServer(breaking(OK, plain, 0), tls=layer) as server, pytest.raises(OSError, match=r"SSL|TLS"):
        server.pool(tls=client).request(GET)


# ---- messages of TLS


@pytest.mark.parametrize("message", [ticket, key_update])
def test_message(message: Any) -> None:
    """A message of TLS during the request, or between head and body, changes nothing; a key update is answered."""
    context = ssl.create_default_context()
    with MessageServer(message) as server:
        server.trust(context)
        pool = _https(server.port, context)
        for size in (100, 2000, 150_000):
            body = CONTENT[:size]
            assert pool.request(put(size), body, changes=True).read() == body
        assert server.messages == 6


@pytest.mark.parametrize("command", ["r", "k", "K"], ids=["renegotiation", "key-update", "both-keys"])
def test_message_of_openssl(command: str, certificate: Certificate, client: ssl.SSLContext) -> None:
    """OpenSSL's server renegotiates (TLS 1.2), or changes the keys (TLS 1.3), in the middle of a body."""
    with reserved_ports() as (port,), _openssl(certificate, port, "-tls1_2" if command == "r" else "-tls1_3") as server:
        assert server.stdin is not None
        pool = _https(port, client)
        exchange = pool.begin(GET)
        _type(server, b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n0123456789")
        answer = exchange.answer(bodiless=False)
        pieces = answer.pieces(10)
        assert bytes(next(pieces)) == b"0123456789"
        _type(server, command.encode() + b"\n")
        _type(server, b"abcdefghij")
        assert bytes(next(pieces)) == b"abcdefghij"
        second = pool.begin(GET)
        _type(server, OK)
        assert second.answer(bodiless=False).read() == b"ok"


class _openssl:  # noqa: N801 - a context manager, used as a function
    """OpenSSL's server, whose answers are typed."""

    def __init__(self, certificate: Certificate, port: int, version: str) -> None:
        command = [find_program("openssl", "apt-get install openssl"), "s_server", version, "-accept", f"{LOOPBACK}:{port}"]
        command += ["-cert", certificate.chain, "-key", certificate.key]
        self._port = port
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def __enter__(self) -> subprocess.Popen[bytes]:
        eventually(lambda: listens(self._port))
        return self._process

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def _type(server: subprocess.Popen[bytes], text: bytes) -> None:
    """Type at the server; returns when the server has read it, so that the next text is a read of its own."""
    assert server.stdin is not None
    server.stdin.write(text)
    server.stdin.flush()
    unread = struct.pack("i", 0)
    pipe = server.stdin.fileno()
    eventually(lambda: not any(fcntl.ioctl(pipe, termios.FIONREAD, unread)))
