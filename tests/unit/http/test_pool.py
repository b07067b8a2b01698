"""The connection pool: cancelled requests, reused connections, threads and forks."""

from __future__ import annotations

import os
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage.concurrency.stop import Stop, TransferStopped, stopped_by
from gllm_storage.http.pool import Exchange, Pool
from gllm_storage.http.wire import Connection
from gllm_storage.s3.body import ViewSection
from tests.unit.s3.http.scripted import OK, Certificates, Peer, ScriptedServer, open_sockets, wait
from tests.waiting import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import Callable

HEAD = b"GET /b/k HTTP/1.1\r\nhost: h\r\n\r\n"
LONG = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + bytes(1000)
MIB = 2**20

pytestmark = pytest.mark.usefixtures("transport")


def put_head(length: int) -> bytes:
    return f"PUT /b/k HTTP/1.1\r\nhost: h\r\ncontent-length: {length}\r\n\r\n".encode()


def seconds_to_stop(
    stop: Stop, run: Callable[[], object], *, when: Callable[[], object], by: Any = TransferStopped
) -> float:
    """Run a function, and end it by a stop.

    Args:
        stop: The stop.
        run: The function.
        when: The stop is set soon after this returns a true value.
        by: The exception that the function raises.

    Returns:
        Seconds from the stop to the end of the function.
    """
    stopped_at: list[float] = []

    def set_stop() -> None:
        eventually(when)
        time.sleep(0.1)  # most likely long enough for the function to wait
        stopped_at.append(time.monotonic())
        stop.set()

    with ThreadPoolExecutor(1) as thread:
        stopping = thread.submit(set_stop)
        with stopped_by(stop), pytest.raises(by):
            run()
        seconds = time.monotonic() - stopped_at[0]
        stopping.result()
    return seconds


AT_ONCE = PATIENCE / 2
"""Seconds, on a busy machine. A request that is not cancelled waits until `PATIENCE` is over."""


@pytest.mark.parametrize("step", [wait, b"HTTP/1.1 200 OK\r\nContent-"], ids=["nothing", "half a head"])
def test_stop_during_head(step: Any) -> None:
    """A request that waits for the head of its answer ends at once when it is cancelled."""
    stop = Stop()
    with ScriptedServer(step) as server:
        pool = server.pool()
        assert seconds_to_stop(stop, lambda: pool.request(HEAD), when=lambda: server.requests) < AT_ONCE
    assert stop._callbacks == []
    assert list(pool._free.get()) == []


@pytest.mark.parametrize("chunked", [False, True])
def test_stop_during_body(chunked: bool) -> None:
    """A stalled body ends at once when it is cancelled, and its content has no bytes of another origin."""
    stop, found = Stop(), bytearray()
    begun = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n" + bytes(1000) if chunked else LONG

    def run(pool: Pool) -> None:
        for piece in pool.request(HEAD).pieces(2**18):
            found.extend(piece)
            stop.check()

    with ScriptedServer(begun) as server:
        pool = server.pool()
        ended_by = (TransferStopped, OSError)
        assert seconds_to_stop(stop, lambda: run(pool), when=lambda: server.requests, by=ended_by) < AT_ONCE
    assert not any(found)  # TLS records do not consist of zeros


def test_stop_during_write() -> None:
    """A write that is partly sent ends at once when it is cancelled."""
    stop, received = Stop(), []

    def slow(peer: Peer) -> None:
        while data := peer.socket.recv(2**14):
            received.append(len(data))
            eventually(lambda: len(received) < 10 or stop.is_set())

    with ScriptedServer(slow, reads_bodies=False) as server:
        pool = server.pool()
        size = 64 * MIB
        send = partial(pool.request, put_head(size), bytes(size), changes=True)
        assert seconds_to_stop(stop, send, when=lambda: len(received) >= 10) < AT_ONCE
    assert sum(received) < size
    assert stop._callbacks == []


def test_stop_after_write() -> None:
    """A cancelled write that is completely sent still waits for its answer."""
    stop = Stop()

    def late(peer: Peer) -> None:
        time.sleep(0.2)  # most likely long enough for the client to wait for the answer
        stop.set()
        time.sleep(0.2)
        peer.send(OK)

    with ScriptedServer(late, OK) as server:
        pool = server.pool()
        with stopped_by(stop):
            answer = pool.request(put_head(7), b"content", changes=True)
            assert answer.status == 200
            assert stop.is_set()
            assert answer.read() == b"ok"
        assert pool.request(HEAD).read() == b"ok"
        assert server.connections == 1


def test_stop_before_request() -> None:
    """A request that is cancelled before it begins is not sent."""
    stop = Stop()
    with ScriptedServer(OK) as server:
        stop.set()
        with stopped_by(stop), pytest.raises(TransferStopped):
            server.pool().request(put_head(1), b"x", changes=True)
        assert server.requests == []


def test_stop_before_last_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that is cancelled just before its last piece does not send that piece."""
    stop = Stop()
    before_last = Exchange.before_last

    def stopped_first(self: Exchange) -> None:
        stop.set()
        before_last(self)

    monkeypatch.setattr(Exchange, "before_last", stopped_first)
    with ScriptedServer(OK) as server:
        with stopped_by(stop), pytest.raises(TransferStopped):
            server.pool().request(put_head(1), b"x", changes=True)
        time.sleep(0.1)
        assert server.requests == []


def test_stop_of_transfer() -> None:
    """A stop of a transfer ends the requests of its attempts, and leaves no callback."""
    whole = Stop()
    attempt = Stop(whole)
    with ScriptedServer(lambda _: whole.set()) as server:
        pool = server.pool()
        with stopped_by(attempt), pytest.raises(TransferStopped):
            pool.request(HEAD)
        attempt.set()
        whole.set()
    assert (whole._callbacks, attempt._callbacks) == ([], [])


def test_late_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A late stop does not end the next request on the same connection."""
    first = Stop()
    ends: list[Callable[[], None]] = []

    def slow(peer: Peer) -> None:
        ends[0]()  # as if `Stop.set` had read the callback just before it was removed
        peer.send(OK)

    monkeypatch.setattr(Stop, "on_set", lambda _, end: ends.append(end))
    with ScriptedServer(OK, slow) as server:
        pool = server.pool()
        with stopped_by(first):
            assert pool.request(HEAD).read() == b"ok"
        assert pool.request(HEAD).read() == b"ok"
        assert server.connections == 1


def test_many_stops() -> None:
    """Half of the requests are cancelled at various moments; the others, over the same connections, succeed."""
    with ScriptedServer(OK) as server:
        pool = server.pool(keep=4)

        def patient(_: int) -> bytes:
            return pool.request(HEAD).read()

        def hasty(number: int) -> None:
            stop = Stop()
            timer = threading.Timer(number % 7 / 5000, stop.set)
            timer.start()
            try:
                with stopped_by(stop):
                    pool.request(HEAD).read()
            except (TransferStopped, OSError):
                pass
            timer.join()

        with ThreadPoolExecutor(8) as threads:
            given = [threads.submit(patient if number % 2 else hasty, number) for number in range(300)]
            results = [each.result() for each in given]
    assert [each for each in results if each is not None] == [b"ok"] * 150


def test_shared_connections() -> None:
    """Threads share connections, and each connection is closed at the end."""
    before = open_sockets()
    with ScriptedServer(OK) as server:
        pool = server.pool(keep=8)
        with ThreadPoolExecutor(32) as threads:
            assert list(threads.map(lambda _: pool.request(HEAD).read(), range(320))) == [b"ok"] * 320
        assert len(pool._free.get()) <= 8
        pool._free.get().clear()
    assert open_sockets() <= before


def test_limit_of_kept_connections() -> None:
    """A pool keeps at most `keep` connections."""
    with ScriptedServer(OK) as server:
        pool = server.pool(keep=2)
        begun = [pool.begin(HEAD) for _ in range(6)]
        assert [each.answer(bodiless=False).read() for each in begun] == [b"ok"] * 6
        assert len(pool._free.get()) == 2
        assert server.connections == 6


def test_order_of_answers() -> None:
    """Answers can be read in any order."""
    with ScriptedServer(OK) as server:
        pool = server.pool()
        begun = [pool.begin(HEAD) for _ in range(4)]
        for each in reversed(begun):
            assert each.answer(bodiless=False).read() == b"ok"


def test_large_bodies() -> None:
    """A connection carries large bodies in both directions."""
    content = os.urandom(5 * MIB)

    def echo(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + server.requests[-1][1])

    with ScriptedServer(echo) as server:
        pool = server.pool()
        for body in (content, ViewSection(memoryview(content), Stop())):
            assert pool.request(put_head(len(content)), body, changes=True).read() == content
        assert server.connections == 1


def test_surplus_bytes() -> None:
    """Surplus bytes behind an answer are not read as the next answer."""
    much = OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    with ScriptedServer(much, OK) as server:
        pool = server.pool()
        assert [pool.request(HEAD).read() for _ in range(2)] == [b"ok", b"ok"]


def test_untrusted_server(certificates: Certificates) -> None:
    """A server with an untrusted certificate is an SSL error, and no socket stays open."""
    before = open_sockets()
    with ScriptedServer(OK, tls=certificates.server) as server, pytest.raises(ssl.SSLCertVerificationError):
        server.pool(tls=ssl.create_default_context()).request(HEAD)
    assert open_sockets() <= before


# ---- forks


def in_child(run: Callable[[], bool]) -> bool:
    """Whether a function returns true in a forked child, which ends by `os._exit`."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if run() else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


def test_connections_after_fork() -> None:
    """A forked child has its own connections."""
    with ScriptedServer(OK) as server:
        pool = server.pool()
        pool.request(HEAD).read()
        (kept,) = pool._free.get()
        assert in_child(lambda: pool.request(HEAD).read() == b"ok" and kept not in pool._free.get())
        assert server.connections == 2
        assert pool.request(HEAD).read() == b"ok"
        assert server.connections == 2


def test_stop_in_child() -> None:
    """A stop in a forked child does not end a request of its parent."""
    stop, forked = Stop(), threading.Event()

    def late(peer: Peer) -> None:
        forked.wait(PATIENCE)
        peer.send(OK)

    with ScriptedServer(late) as server, stopped_by(stop):
        exchange = server.pool().begin(HEAD)

        def set_stop() -> bool:
            stop.set()
            return True

        assert in_child(set_stop)
        forked.set()
        assert exchange.answer(bodiless=False).read() == b"ok"


def test_exchange_before_fork() -> None:
    """The connection of an exchange that began before a fork is not reused in the child."""
    with ScriptedServer(OK) as server:
        pool = server.pool()
        exchange = pool.begin(HEAD)

        def end() -> bool:
            exchange.end(keep=True)
            return not pool._free.get()

        assert in_child(end)
        assert exchange.answer(bodiless=False).read() == b"ok"


def test_fork_under_load() -> None:
    """A child that is forked while other threads send requests can send its own."""
    with ScriptedServer(OK) as server:
        pool, done = server.pool(), threading.Event()

        def busy() -> int:
            count = 0
            while not (count and done.is_set()):
                assert pool.request(HEAD).read() == b"ok"
                count += 1
            return count

        with ThreadPoolExecutor(4) as threads:
            working = [threads.submit(busy) for _ in range(4)]
            try:
                worked = [in_child(lambda: pool.request(HEAD).read() == b"ok") for _ in range(5)]
            finally:
                done.set()
            assert worked == [True] * 5
            assert all(each.result() for each in working)


def test_dropped_connection() -> None:
    """A dropped connection is closed without a warning."""
    with ScriptedServer(OK) as server:
        before = open_sockets()
        pool = server.pool()
        connection = Connection(pool.server)
        del connection
        exchange = pool.begin(HEAD)
        del exchange
        eventually(lambda: open_sockets() <= before)  # the server's sockets as well
