"""TLS in memory: servers that send records of any size, messages of TLS at any time, or close in the wrong way."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import select
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage.concurrency.stop import Stop
from gllm_storage.http.connecting import Server
from gllm_storage.http.pool import Pool
from gllm_storage.http.wire import CannotConnectError, ClosedEarlyError, CutAnswerError
from gllm_storage.s3.body import ViewSection
from gllm_storage.store.limits import SlowAnswerError
from tests.unit.s3.http.scripted import OK, Certificates, Peer, ScriptedServer, hang_up, reset, then_hang_up, vanish
from tests.waiting import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HEAD = b"GET /b/k HTTP/1.1\r\nhost: h\r\n\r\n"
MIB = 2**20
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(params=VERSIONS, ids=["1.2", "1.3"])
def certificates(request: pytest.FixtureRequest) -> Certificates:
    """The contexts for each version of TLS."""
    found = Certificates()
    found.server.maximum_version = found.server.minimum_version = request.param
    return found


def put_head(length: int) -> bytes:
    return f"PUT /b/k HTTP/1.1\r\nhost: h\r\ncontent-length: {length}\r\n\r\n".encode()


def wait_for(event: threading.Event) -> None:
    event.wait(PATIENCE)


def answer(content: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content


@contextlib.contextmanager
def cut_after(port: int, most: int, *, resets: bool) -> Iterator[int]:
    """The port of a proxy that passes so many bytes from a server to its client, and then ends the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            client, _ = listener.accept()
            with client, socket.create_connection(("127.0.0.1", port)) as server:
                left = most
                while left:
                    for each in select.select([client, server], [], [])[0]:
                        data = each.recv(left if each is server else 2**16)
                        (client if each is server else server).sendall(data)
                        left -= len(data) if each is server else 0
                Peer(client).close(reset=resets)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(PATIENCE)


@pytest.mark.parametrize("size", [1, 7, 2**14, 2**16])
def test_record_sizes(size: int, certificates: Certificates) -> None:
    """An answer is read from records of any size."""
    content = os.urandom(3000 if size < 100 else 3 * MIB)

    def drip(peer: Peer) -> None:
        data = answer(content)
        for start in range(0, len(data), size):
            peer.send(data[start : start + size])

    with ScriptedServer(drip, tls=certificates.server) as server:
        pool = server.pool(tls=certificates.client)
        buffer = memoryview(bytearray(2**18))
        for _ in range(2):
            pieces = pool.request(HEAD).pieces(2**18, buffer)
            assert b"".join(bytes(each) for each in pieces) == content
        assert server.connections == 1


def test_chunked(certificates: Certificates) -> None:
    """A chunked answer is read, and its connection is kept."""
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"fff0\r\n" + bytes(65520) + b"\r\n0\r\n\r\n"
    with ScriptedServer(chunked, tls=certificates.server) as server:
        pool = server.pool(tls=certificates.client)
        assert [pool.request(HEAD).read() for _ in range(3)] == [bytes(65520)] * 3
        assert server.connections == 1


@pytest.mark.parametrize("size", [0, 2**16, 2**16 + 1, 3 * MIB + 1])
@pytest.mark.parametrize("in_pieces", [False, True], ids=["bytes", "file"])
def test_request_bodies(size: int, in_pieces: bool, certificates: Certificates) -> None:
    """Request bodies of any size arrive."""
    content = os.urandom(size)
    with ScriptedServer(OK, tls=certificates.server) as server:
        pool = server.pool(tls=certificates.client)
        body = ViewSection(memoryview(content), Stop()) if in_pieces else content
        assert pool.request(put_head(size), body, changes=True).read() == b"ok"
        assert server.requests[0][1] == content


@pytest.mark.parametrize("resets", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("most", [6000, 150_001, 2 * MIB + 5])
def test_cut_within_record(most: int, resets: bool, certificates: Certificates) -> None:
    """An answer that ends within a record is an error."""
    with (
        ScriptedServer(answer(bytes(4 * MIB)), tls=certificates.server) as server,
        cut_after(server.port, most, resets=resets) as port,
    ):
        pool = Pool(Server("https", "127.0.0.1", port, PATIENCE, PATIENCE, certificates.client))
        with pytest.raises((CutAnswerError, ClosedEarlyError, ConnectionResetError)):
            pool.request(HEAD).read()
        assert not pool._free.get()


@pytest.mark.parametrize(("closes", "complete"), [(hang_up, True), (vanish, False)], ids=["close_notify", "no close_notify"])
def test_end_without_length(closes: Callable[[Peer], None], complete: bool, certificates: Certificates) -> None:
    """A body without a length is complete only if TLS announces the end of the connection."""

    def step(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        closes(peer)

    with ScriptedServer(step, tls=certificates.server) as server:
        found = server.pool(tls=certificates.client).request(HEAD)
        if complete:
            assert found.read() == b"hello"
        else:
            with pytest.raises(CutAnswerError, match="TLS"):
                found.read()


@pytest.mark.parametrize("closes", [hang_up, vanish, reset])
def test_end_after_answer(closes: Callable[[Peer], None], certificates: Certificates) -> None:
    """With a length, a body is complete however the server closes; the connection is not used again."""

    def step(peer: Peer) -> None:
        peer.send(OK)
        was_read.wait(PATIENCE)
        closes(peer)

    was_read = threading.Event()
    with ScriptedServer(step, OK, tls=certificates.server) as server:
        pool = server.pool(tls=certificates.client)
        assert pool.request(HEAD).read() == b"ok"
        was_read.set()
        (connection,) = pool._free.get()
        eventually(lambda: not connection.is_quiet())
        assert pool.request(HEAD).read() == b"ok"
        assert server.connections == 2


def test_message_of_tls() -> None:
    """A message of TLS between two answers does not end the connection."""
    certificates = Certificates()
    certificates.client.post_handshake_auth = True
    certificates.server.verify_mode = ssl.CERT_OPTIONAL
    was_read, sent = threading.Event(), threading.Event()

    def ask(peer: Peer) -> None:
        encrypted: Any = peer.socket
        peer.send(OK)
        was_read.wait(PATIENCE)
        encrypted.verify_client_post_handshake()  # sent with the next write, or read
        encrypted.settimeout(0.05)
        with contextlib.suppress(TimeoutError):
            encrypted.recv(1)
        encrypted.settimeout(None)
        sent.set()

    with ScriptedServer(ask, OK, tls=certificates.server) as server:
        pool = server.pool(tls=certificates.client)
        assert pool.request(HEAD).read() == b"ok"
        was_read.set()
        assert sent.wait(PATIENCE)
        assert pool.request(HEAD).read() == b"ok"
        assert server.connections == 1


@pytest.mark.parametrize("most", [3, 5, 12, 40])
def test_half_of_surplus_record(most: int, certificates: Certificates) -> None:
    """A connection is not used again when the first bytes of a surplus record have arrived."""
    was_read = threading.Event()

    def surplus(peer: Peer) -> None:
        peer.send(OK)
        was_read.wait(PATIENCE)
        # Sent in the clear, so it is no record that TLS accepts; but the client must not wait to find that out.
        raw = socket.socket(fileno=os.dup(peer.socket.fileno()))
        with raw:
            raw.sendall((b"\x17\x03\x03\x40\x00" + bytes(100))[:most])

    with ScriptedServer(surplus, OK, tls=certificates.server) as server:
        pool = server.pool(tls=certificates.client)
        assert pool.request(HEAD).read() == b"ok"
        (connection,) = pool._free.get()
        assert connection.is_quiet()
        was_read.set()
        eventually(lambda: not connection.is_quiet())
        assert pool.request(HEAD).read() == b"ok"
        assert server.connections == 2


def test_early_answer(certificates: Certificates) -> None:
    """An answer ends the sending of a body that the server does not read."""
    denied = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\ndenied"
    was_read = threading.Event()

    def deny(peer: Peer) -> None:
        peer.send(denied)
        was_read.wait(PATIENCE)

    with ScriptedServer(deny, tls=certificates.server, reads_bodies=False) as server:
        pool = server.pool(read_timeout=1, tls=certificates.client)
        found = pool.request(put_head(64 * MIB), bytes(64 * MIB), changes=True)
        assert (found.status, found.read()) == (403, b"denied")
        was_read.set()


def test_interim_answer(certificates: Certificates) -> None:
    """An interim answer does not end the sending of a body."""

    def go_on(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        peer.read_body(b"\r\ncontent-length: %d" % (2 * MIB))
        peer.send(OK)

    with ScriptedServer(go_on, tls=certificates.server, reads_bodies=False) as server:
        pool = server.pool(tls=certificates.client)
        assert pool.request(put_head(2 * MIB), bytes(2 * MIB), changes=True).read() == b"ok"


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"], ids=["head", "body"])
def test_read_timeout(begun: bytes, certificates: Certificates) -> None:
    """A server that falls silent raises a timeout."""

    def step(peer: Peer) -> None:
        if begun:
            peer.send(begun)
        silent.wait(PATIENCE)

    silent = threading.Event()
    with ScriptedServer(step, tls=certificates.server) as server:
        start = time.monotonic()
        with pytest.raises((BlockingIOError, TimeoutError)):
            server.pool(read_timeout=0.3, tls=certificates.client).request(HEAD).read()
        assert 0.25 < time.monotonic() - start < PATIENCE / 2
        silent.set()


def test_write_timeout(certificates: Certificates) -> None:
    """A server that does not read raises a timeout."""
    silent = threading.Event()
    with ScriptedServer(lambda _: wait_for(silent), tls=certificates.server, reads_bodies=False) as server:
        with pytest.raises(BlockingIOError):
            server.pool(read_timeout=0.3, tls=certificates.client).request(put_head(64 * MIB), bytes(64 * MIB))
        silent.set()


def test_slow_records(certificates: Certificates) -> None:
    """Content counts for `min_throughput`, not the bytes that TLS adds: with records of 1 byte they are 22 times as many."""

    def drip(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        with contextlib.suppress(OSError):
            for _ in range(100_000):
                peer.send(b"x")
                time.sleep(0.001)

    with ScriptedServer(drip, tls=certificates.server) as server:
        pool = Pool(Server("https", "127.0.0.1", server.port, PATIENCE, 0.3, certificates.client, min_throughput=5000))
        with pytest.raises(SlowAnswerError):
            pool.request(HEAD).read()


def test_other_protocol(certificates: Certificates) -> None:
    """An http server behind an https URL is an error of TLS."""

    def answers_at_once(sock: socket.socket) -> socket.socket:
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        return sock

    with ScriptedServer(OK) as server:
        server._tls_of = answers_at_once  # type: ignore[method-assign]  # replaced for the test
        pool = Pool(Server("https", "127.0.0.1", server.port, PATIENCE, PATIENCE, certificates.client))
        with pytest.raises(ssl.SSLError):
            pool.request(HEAD)


def test_wrong_host_name(certificates: Certificates) -> None:
    """A certificate for another host is refused."""
    with ScriptedServer(OK, tls=certificates.server) as server, pytest.raises(ssl.SSLCertVerificationError):
        Pool(Server("https", "localhost", server.port, PATIENCE, PATIENCE, certificates.client)).request(HEAD)


CLOSING = then_hang_up(OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n", 1))


def handshakes(pool: Pool) -> tuple[int, int]:
    return pool.handshakes.full, pool.handshakes.resumed


def test_resumed_session(certificates: Certificates) -> None:
    """Further connections resume the session of the first one."""
    with ScriptedServer(CLOSING, tls=certificates.server) as server:
        pool = server.pool(tls=certificates.client)
        assert pool.request(HEAD).read() == b"ok"
        begun = [pool.begin(HEAD) for _ in range(3)]
        assert [each.answer(bodiless=False).read() for each in begun] == [b"ok"] * 3
        assert handshakes(pool) == (1, 3)
        assert server.connections == 4


def test_refused_session(certificates: Certificates) -> None:
    """If the server does not know a session any more, the handshake is a full one, and the next session is used."""
    with ScriptedServer(CLOSING, tls=certificates.server) as server:
        pool = server.pool(tls=certificates.client)
        for _ in range(2):
            pool.request(HEAD).read()
        assert handshakes(pool) == (1, 1)
        other = certificates.new_server()
        other.maximum_version = certificates.server.maximum_version
        server._tls = other
        for _ in range(2):
            assert pool.request(HEAD).read() == b"ok"
        assert handshakes(pool) == (2, 2)


def test_server_without_sessions(certificates: Certificates) -> None:
    """A server that never resumes a session gets full handshakes."""
    certificates.server.options |= ssl.OP_NO_TICKET
    with ScriptedServer(CLOSING, tls=certificates.server) as server:

        def renew(_: Any) -> None:
            server._tls = certificates.new_server()

        pool = server.pool(tls=certificates.client)
        for number in range(12):
            renew(number)
            assert pool.request(HEAD).read() == b"ok"
        assert handshakes(pool) == (12, 0)


def test_broken_by_session(certificates: Certificates) -> None:
    """If the handshake fails with a session, it is done again without one."""
    with ScriptedServer(CLOSING, tls=certificates.server) as server:
        pool = server.pool(tls=certificates.client)
        pool.request(HEAD).read()
        tls_of, broken = server._tls_of, [True]

        def hang_up_once(sock: socket.socket) -> socket.socket:
            if broken:
                broken.pop()
                sock.recv(2**16)  # a reset instead of a close would follow unread bytes
                raise OSError
            return tls_of(sock)

        server._tls_of = hang_up_once  # type: ignore[method-assign]  # replaced for the test
        assert pool.request(HEAD).read() == b"ok"
        assert handshakes(pool) == (2, 0)


def test_expired_certificate(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session is not resumed when the certificate has expired meanwhile: only a full handshake notices that."""
    version = certificates.server.maximum_version
    tomorrow = dt.datetime.now(dt.UTC).replace(microsecond=0) + dt.timedelta(days=1)
    certificates = Certificates(not_after=tomorrow)
    certificates.server.maximum_version = version
    with ScriptedServer(CLOSING, tls=certificates.server) as server:
        pool = server.pool(tls=certificates.client)
        for _ in range(2):
            pool.request(HEAD).read()
        assert handshakes(pool) == (1, 1)
        now = tomorrow.timestamp() - 1
        monkeypatch.setattr(time, "time", lambda: now)
        pool.request(HEAD).read()
        assert handshakes(pool) == (1, 2)
        now += 2
        pool.request(HEAD).read()
        assert handshakes(pool) == (2, 2)


def test_unverified_server() -> None:
    """Sessions are resumed without verification as well."""
    certificates = Certificates()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with ScriptedServer(CLOSING, tls=certificates.server) as server:
        pool = server.pool(tls=context)
        for _ in range(2):
            assert pool.request(HEAD).read() == b"ok"
        assert handshakes(pool) == (1, 1)


def test_failed_handshake_without_session(certificates: Certificates) -> None:
    """A server that breaks handshakes off gets one attempt per call."""
    with ScriptedServer(OK) as server:
        server._tls_of = lambda sock: sock.close() or sock  # type: ignore[method-assign, func-returns-value]  # replaced for the test
        with pytest.raises((CannotConnectError, ssl.SSLError, ClosedEarlyError)):
            Pool(Server("https", "127.0.0.1", server.port, PATIENCE, PATIENCE, certificates.client)).request(HEAD)
        assert server.connections == 1
