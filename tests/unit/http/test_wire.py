"""A connection and the answers of all kinds of servers."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage.concurrency.stop import Stop
from gllm_storage.http.connecting import Server
from gllm_storage.http.pool import Answer, Pool
from gllm_storage.http.wire import (
    CannotConnectError,
    ClosedEarlyError,
    Connection,
    CutAnswerError,
    MalformedAnswerError,
)
from gllm_storage.s3.body import ViewSection
from tests.unit.s3.http.scripted import OK, Peer, ScriptedServer, hang_up, open_sockets, reset, then_hang_up, wait
from tests.waiting import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import Callable

HEAD = b"GET /b/k HTTP/1.1\r\nhost: h\r\n\r\n"
MIB = 2**20

pytestmark = pytest.mark.usefixtures("transport")


def put_head(length: int) -> bytes:
    return f"PUT /b/k HTTP/1.1\r\nhost: h\r\ncontent-length: {length}\r\n\r\n".encode()


def kept(pool: Pool) -> Connection:
    (connection,) = pool._free.get()
    return connection


def read(pool: Pool, **how: Any) -> tuple[int, dict[str, str], bytes]:
    answer = pool.request(HEAD, **how)
    return answer.status, answer.headers, answer.read()


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", id="length"),
        pytest.param(b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", b"hello", id="no-reason"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length:5\r\nContent-Length: 5\r\n\r\nhello", b"hello", id="length-twice"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello", b"hello", id="space-before-colon"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n",
            b"hello",
            id="chunked",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n00A\r\nhellohello\r\n0\r\nX: y\r\nZ: a\r\n\r\n",
            b"hellohello",
            id="trailers",
        ),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", id="100"),
        pytest.param(
            b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 102 P\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nh",
            b"h",
            id="1xx",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nX-Long: a\r\n b:c\r\n\td\r\nContent-Length: 5\r\n\r\nhello", b"hello", id="folded-header"
        ),
        pytest.param(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", b"", id="204"),
        pytest.param(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"", id="304"),
    ],
)
def test_complete_answer(answer: bytes, body: bytes) -> None:
    """An answer is read to its end, and the connection is kept."""
    with ScriptedServer(answer, OK) as server:
        pool = server.pool()
        _, headers, found = read(pool)
        assert found == body
        assert headers.get("x-long", "a b:c d") == "a b:c d"
        assert read(pool)[2] == b"ok"
        assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello", id="close"),
        pytest.param(b"HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 5\r\n\r\nhello", id="close-among-others"),
        pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", id="1.0"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", id="both"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", id="more"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
            id="more-after-chunks",
        ),
    ],
)
def test_connection_not_kept(answer: bytes) -> None:
    """A connection with surplus bytes, or one that the server will close, is not used again."""
    with ScriptedServer(answer, OK) as server:
        pool = server.pool()
        assert read(pool)[2] == b"hello"
        assert read(pool)[2] == b"ok"
        assert server.connections == 2


def test_late_surplus_bytes() -> None:
    """Surplus bytes that arrive later are not read as the next answer."""
    was_read = threading.Event()

    def late(peer: Peer) -> None:
        peer.send(OK)
        was_read.wait(PATIENCE)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")

    with ScriptedServer(late, OK) as server:
        pool = server.pool()
        read(pool)
        was_read.set()
        eventually(lambda: not kept(pool).is_quiet())
        assert read(pool)[2] == b"ok"


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\n\r\nhello", b"HTTP/1.0 200 OK\r\n\r\nhello"], ids=["1.1", "1.0"])
def test_body_without_length(answer: bytes) -> None:
    """A body without a length ends with the connection."""
    with ScriptedServer(then_hang_up(answer), OK) as server:
        pool = server.pool()
        assert read(pool)[2] == b"hello"
        assert read(pool)[2] == b"ok"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTT",
    ],
)
def test_truncated_answer(answer: bytes) -> None:
    """A truncated answer is a CutAnswerError."""
    with ScriptedServer(then_hang_up(answer)) as server, pytest.raises(CutAnswerError):
        read(server.pool())


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 2xx OK\r\n\r\n",
        "HTTP/1.1 ²³¹ OK\r\n\r\n".encode("latin-1"),
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: x\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: ²\r\n\r\n".encode("latin-1"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 2**17,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2**18,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 2**15,
    ],
)
def test_malformed_answer(answer: bytes) -> None:
    """An answer that is not HTTP is a MalformedAnswerError."""
    with ScriptedServer(answer) as server, pytest.raises(MalformedAnswerError):
        read(server.pool())


def test_huge_chunk() -> None:
    """A huge chunk needs only the memory of one piece."""
    huge = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffff\r\n" + b"x" * 100
    with ScriptedServer(then_hang_up(huge)) as server, pytest.raises(CutAnswerError):
        read(server.pool())


def test_repeated_header() -> None:
    """The values of a repeated header are joined."""
    with ScriptedServer(b"HTTP/1.1 200 OK\r\nA: 1\r\na: 2\r\nContent-Length: 0\r\n\r\n") as server:
        assert read(server.pool())[1]["a"] == "1, 2"


@pytest.mark.parametrize("step", [hang_up, reset])
def test_closed_kept_connection(step: Any) -> None:
    """The error of a kept connection that the server closed is marked as unused."""
    with ScriptedServer(OK, step, OK) as server:
        pool = server.pool()
        read(pool)
        with pytest.raises(ClosedEarlyError) as caught:
            read(pool)
        assert caught.value.unused
        assert read(pool)[2] == b"ok"


@pytest.mark.parametrize("step", [hang_up, reset])
def test_closed_new_connection(step: Any) -> None:
    """The error of a new connection that the server closed is not marked as unused."""
    with ScriptedServer(step) as server, pytest.raises((ClosedEarlyError, ConnectionResetError)) as caught:
        read(server.pool())
    assert not getattr(caught.value, "unused", False)


def test_connection_closed_meanwhile() -> None:
    """A kept connection that was closed in the meantime is not used again."""
    was_read = threading.Event()

    def bye(peer: Peer) -> None:
        peer.send(OK)
        was_read.wait(PATIENCE)
        peer.close()

    with ScriptedServer(bye, OK) as server:
        pool = server.pool()
        read(pool)
        was_read.set()
        eventually(lambda: not kept(pool).is_quiet())
        assert read(pool)[2] == b"ok"


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(wait, id="head"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Le", id="headers"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", id="body"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe", id="chunk"),
    ],
)
def test_read_timeout(step: Any) -> None:
    """A server that falls silent raises a timeout."""
    with ScriptedServer(step) as server:
        begun = time.monotonic()
        with pytest.raises((BlockingIOError, TimeoutError)):
            read(server.pool(read_timeout=0.3))
        assert 0.25 < time.monotonic() - begun < PATIENCE / 2


def test_slow_headers() -> None:
    """Headers that arrive byte by byte are read."""

    def drip(peer: Peer) -> None:
        for each in OK:
            peer.send(bytes([each]))
            time.sleep(0.002)

    with ScriptedServer(drip) as server:
        assert read(server.pool())[2] == b"ok"


BODIES: dict[str, Callable[[bytes], Any]] = {
    "bytes": lambda content: content,
    "view": memoryview,
    "array": lambda content: memoryview(content).cast("I"),
    "file": lambda content: ViewSection(memoryview(content), Stop()),
}


@pytest.mark.parametrize("size", [0, 4, 2**16, 2**16 + 4, 2**18, 3 * 2**18 + 4])
@pytest.mark.parametrize("kind", BODIES)
def test_request_body(kind: str, size: int) -> None:
    """A request body of any type and size arrives."""
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    left: list[bool] = []
    with ScriptedServer(OK) as server:
        pool = server.pool()
        exchange = pool.begin(put_head(size), BODIES[kind](content), changes=True)
        left.append(exchange._awaited)
        assert exchange.answer(bodiless=False).read() == b"ok"
        assert server.requests[0][1] == content
    assert left == [True]


def test_short_request_body() -> None:
    """A request body that is shorter than its length raises ValueError."""

    class Short(ViewSection):
        def __len__(self) -> int:
            return super().__len__() + 1

    with ScriptedServer(OK) as server, pytest.raises(ValueError, match="1 bytes before"):
        server.pool().request(put_head(11), Short(memoryview(b"0123456789"), Stop()))


@pytest.mark.parametrize("rude", [False, True], ids=["later", "at once"])
def test_early_refusal(rude: bool) -> None:
    """A refusal that arrives while a large body is sent is read."""
    denied = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\ndenied"

    def deny(peer: Peer) -> None:
        peer.send(denied)
        if not rude:
            time.sleep(0.3)
        peer.close()

    with ScriptedServer(deny, reads_bodies=False) as server:
        answer = server.pool().request(put_head(64 * MIB), bytes(64 * MIB), changes=True)
        assert (answer.status, answer.read()) == (403, b"denied")


def test_refusal_without_reading() -> None:
    """A refusal by a server that stops reading the body is read."""
    begun, denied, was_read = threading.Event(), threading.Event(), threading.Event()
    sent = [False]  # the head can be sent with the first piece

    def deny(peer: Peer) -> None:
        begun.wait(PATIENCE)
        peer.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\ndenied")
        denied.set()
        was_read.wait(PATIENCE)

    class Unaware(Connection):
        """A connection that checks for an answer just before the answer arrives, and after the first piece of the body."""

        def _require_silence(self) -> None:
            if sent.pop():
                begun.set()
                denied.wait(PATIENCE)
            sent.append(True)

    with ScriptedServer(deny, reads_bodies=False) as server:
        pool = server.pool(read_timeout=0.5)
        pool.put(Unaware(pool.server))
        answer = pool.request(put_head(64 * MIB), bytes(64 * MIB), changes=True)
        assert (answer.status, answer.read()) == (403, b"denied")
        was_read.set()


def test_interim_answer() -> None:
    """An interim answer does not end the sending of a body."""

    def go_on(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        peer.read_body(b"\r\ncontent-length: %d" % (8 * MIB))
        peer.send(OK)

    with ScriptedServer(go_on, reads_bodies=False) as server:
        answer = server.pool().request(put_head(8 * MIB), bytes(8 * MIB), changes=True)
        assert answer.read() == b"ok"


def test_write_timeout() -> None:
    """A server that does not read raises a timeout."""
    with (
        ScriptedServer(lambda _: time.sleep(1), reads_bodies=False) as server,
        pytest.raises((BlockingIOError, TimeoutError)),
    ):
        server.pool(read_timeout=0.3).request(put_head(64 * MIB), bytes(64 * MIB))


def test_closed_port() -> None:
    """A port without a server raises CannotConnectError."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        with pytest.raises(CannotConnectError):
            Pool(Server("http", "127.0.0.1", port, 1, 1)).request(HEAD)


def test_unknown_host() -> None:
    """An unknown host raises CannotConnectError."""
    with pytest.raises(CannotConnectError):
        Pool(Server("http", "no-such-host.invalid", 80, 1, 1)).request(HEAD)


def test_connect_timeout() -> None:
    """A server that does not accept connections raises CannotConnectError after the timeout."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        filling = [socket.socket() for _ in range(4)]
        for each in filling:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        try:
            with pytest.raises(CannotConnectError) as caught:
                Pool(Server("http", "127.0.0.1", port, 0.3, 5)).request(HEAD)
        finally:
            for each in filling:
                each.close()
    assert isinstance(caught.value.__cause__, TimeoutError)


def test_sockets_after_errors() -> None:
    """After each error, the socket is closed."""
    before = open_sockets()
    broken: list[Any] = [hang_up, reset, b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", wait]
    for step in broken:
        with ScriptedServer(step) as server:
            pool = server.pool(read_timeout=0.1)
            with pytest.raises((OSError, ClosedEarlyError, MalformedAnswerError)):
                read(pool)
    assert open_sockets() <= before


def test_unread_body() -> None:
    """A body that is not read to its end closes its connection."""
    long = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + bytes(100000)
    with ScriptedServer(long) as server:
        pool = server.pool()
        before = open_sockets()
        answer = pool.request(HEAD)
        pieces: Any = answer.pieces(10)
        next(pieces)
        pieces.close()
        answer.close()
        eventually(lambda: open_sockets() <= before)
        assert pool._free.get() == type(pool._free.get())()


@pytest.mark.parametrize("size", [3, 4, 10, 100])
def test_pieces_in_buffer(size: int) -> None:
    """Pieces can be read into one buffer."""
    content = bytes(range(95))
    with ScriptedServer(b"HTTP/1.1 200 OK\r\nContent-Length: 95\r\n\r\n" + content) as server:
        buffer = memoryview(bytearray(10))
        assert b"".join(bytes(piece) for piece in server.pool().request(HEAD).pieces(size, buffer)) == content


def test_content_of_pieces() -> None:
    """Pieces keep their content when the connection is used again."""
    with ScriptedServer(OK, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno") as server:
        pool = server.pool()
        first = list(pool.request(HEAD).pieces(10))
        list(pool.request(HEAD).pieces(10))
        assert b"".join(first) == b"ok"


def test_answer_to_head_request() -> None:
    """The answer to a HEAD request has no body."""
    with ScriptedServer(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", OK) as server:
        pool = server.pool()
        answer: Answer = pool.request(HEAD, bodiless=True)
        assert (answer.read(), answer.headers["content-length"]) == (b"", "5")
        assert read(pool)[2] == b"ok"
        assert server.connections == 1
