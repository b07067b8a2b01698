"""Requests that are given up, connections that serve one after the other, threads and forks."""

from __future__ import annotations

import os
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from gllm_storage.concurrency.stop import Stop, TransferStopped, stopped_by
from gllm_storage.s3.body import ViewSection
from gllm_storage.s3.http.pool import Exchange, Pool
from gllm_storage.s3.http.wire import ClosedEarlyError, Connection
from tests.unit.s3.http.scripted import OK, Peer, ScriptedServer, hang_up, open_sockets, wait
from tests.waiting import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import Callable

HEAD = b"GET /b/k HTTP/1.1\r\nhost: h\r\n\r\n"
LONG = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + bytes(1000)
MIB = 2**20


def put_head(length: int) -> bytes:
    return f"PUT /b/k HTTP/1.1\r\nhost: h\r\ncontent-length: {length}\r\n\r\n".encode()


class Certificates:
    """A certificate for 127.0.0.1, and who trusts it."""

    def __init__(self) -> None:
        authority = trustme.CA()
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(self.server)
        self.client = ssl.create_default_context()
        authority.configure_trust(self.client)


@pytest.fixture(scope="module")
def certificates() -> Certificates:
    return Certificates()


@pytest.fixture(params=["http", "https"])
def contexts(request: pytest.FixtureRequest, certificates: Certificates) -> tuple[Any, Any]:
    """Of the server and of the client."""
    return (certificates.server, certificates.client) if request.param == "https" else (None, None)


def given_up(stop: Stop, run: Callable[[], object], *, when: Callable[[], object], by: Any = TransferStopped) -> float:
    """Run something that a stop ends.

    Args:
        stop: The stop.
        run: What it ends.
        when: It is set soon after this holds.
        by: What comes out.

    Returns:
        Seconds from the stop to the end.
    """
    said: list[float] = []

    def give_up() -> None:
        eventually(when)
        time.sleep(0.1)  # it waits by then, most likely
        said.append(time.monotonic())
        stop.set()

    with ThreadPoolExecutor(1) as thread:
        giving_up = thread.submit(give_up)
        with stopped_by(stop), pytest.raises(by):
            run()
        seconds = time.monotonic() - said[0]
        giving_up.result()
    return seconds


AT_ONCE = PATIENCE / 2
"""Seconds, for a busy machine; what is not cut waits until `PATIENCE` is over."""


@pytest.mark.parametrize("step", [wait, b"HTTP/1.1 200 OK\r\nContent-"], ids=["nothing", "half a head"])
def test_a_read_that_waits_is_cut_at_once(step: Any, contexts: tuple[Any, Any]) -> None:
    stop = Stop()
    with ScriptedServer(step, tls=contexts[0]) as server:
        pool = server.pool(tls=contexts[1])
        assert given_up(stop, lambda: pool.request(HEAD), when=lambda: server.requests) < AT_ONCE
    assert stop._callbacks == []
    assert list(pool._free.get()) == []


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_does_not_come_is_cut_at_once_and_nothing_else_is_taken_for_it(
    chunked: bool, contexts: tuple[Any, Any]
) -> None:
    stop, found = Stop(), bytearray()
    begun = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n" + bytes(1000) if chunked else LONG

    def run(pool: Pool) -> None:
        for piece in pool.request(HEAD).pieces(2**18):
            found.extend(piece)
            stop.check()

    with ScriptedServer(begun, tls=contexts[0]) as server:
        pool = server.pool(tls=contexts[1])
        ended_by = (TransferStopped, OSError)
        assert given_up(stop, lambda: run(pool), when=lambda: server.requests, by=ended_by) < AT_ONCE
    assert not any(found)  # what TLS sends is not zeros


def test_a_write_that_is_half_sent_is_cut(contexts: tuple[Any, Any]) -> None:
    stop, received = Stop(), []

    def slow(peer: Peer) -> None:
        while data := peer.socket.recv(2**14):
            received.append(len(data))
            eventually(lambda: len(received) < 10 or stop.is_set())

    with ScriptedServer(slow, tls=contexts[0], reads_bodies=False) as server:
        pool = server.pool(tls=contexts[1])
        size = 64 * MIB
        send = partial(pool.request, put_head(size), bytes(size), changes=True)
        assert given_up(stop, send, when=lambda: len(received) >= 10) < AT_ONCE
    assert sum(received) < size
    assert stop._callbacks == []


def test_a_write_that_has_left_is_awaited(contexts: tuple[Any, Any]) -> None:
    stop = Stop()

    def late(peer: Peer) -> None:
        time.sleep(0.2)  # the answer is waited for by then, most likely
        stop.set()
        time.sleep(0.2)
        peer.send(OK)

    with ScriptedServer(late, OK, tls=contexts[0]) as server:
        pool = server.pool(tls=contexts[1])
        with stopped_by(stop):
            answer = pool.request(put_head(7), b"content", changes=True)
            assert answer.status == 200
            assert stop.is_set()
            assert answer.read() == b"ok"
        assert pool.request(HEAD).read() == b"ok"
        assert server.connections == 1


def test_what_was_given_up_before_it_began_is_not_sent() -> None:
    stop = Stop()
    with ScriptedServer(OK) as server:
        stop.set()
        with stopped_by(stop), pytest.raises(TransferStopped):
            server.pool().request(put_head(1), b"x", changes=True)
        assert server.requests == []


def test_a_write_that_is_given_up_before_its_last_piece_does_not_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stop comes when the last piece is about to be sent: either it does not leave, or it is awaited."""
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


def test_a_stop_of_a_whole_transfer_ends_the_requests_of_its_attempts_once() -> None:
    whole = Stop()
    attempt = Stop(whole)
    with ScriptedServer(lambda _: whole.set()) as server:
        pool = server.pool()
        with stopped_by(attempt), pytest.raises(TransferStopped):
            pool.request(HEAD)
        attempt.set()
        whole.set()
    assert (whole._callbacks, attempt._callbacks) == ([], [])


def test_a_late_stop_does_not_end_the_request_of_the_next_user_of_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Stop()
    ends: list[Callable[[], None]] = []

    def slow(peer: Peer) -> None:
        ends[0]()  # `Stop.set` had taken it from the list before it was forgotten
        peer.send(OK)

    monkeypatch.setattr(Stop, "on_set", lambda _, end: ends.append(end))
    with ScriptedServer(OK, slow) as server:
        pool = server.pool()
        with stopped_by(first):
            assert pool.request(HEAD).read() == b"ok"
        assert pool.request(HEAD).read() == b"ok"
        assert server.connections == 1


def test_many_stops_at_any_moment_leave_the_others_alone() -> None:
    """Half of the requests are given up, at moments that differ; the others, over the same connections, all succeed."""
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


def test_threads_share_connections_and_none_is_lost() -> None:
    before = open_sockets()
    with ScriptedServer(OK) as server:
        pool = server.pool(keep=8)
        with ThreadPoolExecutor(32) as threads:
            assert list(threads.map(lambda _: pool.request(HEAD).read(), range(320))) == [b"ok"] * 320
        assert len(pool._free.get()) <= 8
        pool._free.get().clear()
    assert open_sockets() <= before


def test_a_pool_keeps_no_more_connections_than_it_may() -> None:
    with ScriptedServer(OK) as server:
        pool = server.pool(keep=2)
        begun = [pool.begin(HEAD) for _ in range(6)]
        assert [each.answer(bodiless=False).read() for each in begun] == [b"ok"] * 6
        assert len(pool._free.get()) == 2
        assert server.connections == 6


def test_answers_may_be_read_in_any_order() -> None:
    with ScriptedServer(OK) as server:
        pool = server.pool()
        begun = [pool.begin(HEAD) for _ in range(4)]
        for each in reversed(begun):
            assert each.answer(bodiless=False).read() == b"ok"


def test_tls_moves_large_bodies_both_ways(certificates: Certificates) -> None:
    content = os.urandom(5 * MIB)

    def echo(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + server.requests[-1][1])

    with ScriptedServer(echo, tls=certificates.server) as server:
        pool = server.pool(tls=certificates.client)
        for body in (content, ViewSection(memoryview(content), Stop())):
            assert pool.request(put_head(len(content)), body, changes=True).read() == content
        assert server.connections == 1


def test_a_kept_tls_connection_that_the_server_closed_is_replaced(certificates: Certificates) -> None:
    with ScriptedServer(OK, hang_up, OK, tls=certificates.server) as server:
        pool = server.pool(tls=certificates.client)
        pool.request(HEAD).read()
        with pytest.raises(ClosedEarlyError) as caught:
            pool.request(HEAD)
        assert caught.value.unused
        assert pool.request(HEAD, fresh=True).read() == b"ok"


def test_what_a_tls_server_says_too_much_is_not_taken_for_the_next_answer(certificates: Certificates) -> None:
    much = OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    with ScriptedServer(much, OK, tls=certificates.server) as server:
        pool = server.pool(tls=certificates.client)
        assert [pool.request(HEAD).read() for _ in range(2)] == [b"ok", b"ok"]


def test_a_server_that_is_not_trusted_is_an_ssl_error(certificates: Certificates) -> None:
    before = open_sockets()
    with ScriptedServer(OK, tls=certificates.server) as server, pytest.raises(ssl.SSLCertVerificationError):
        server.pool(tls=ssl.create_default_context()).request(HEAD)
    assert open_sockets() <= before


# ---- forks


def in_child(run: Callable[[], bool]) -> bool:
    """Whether something is true in a forked child; it ends without Python's own end."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if run() else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


def test_a_forked_child_has_connections_of_its_own() -> None:
    with ScriptedServer(OK) as server:
        pool = server.pool()
        pool.request(HEAD).read()
        (kept,) = pool._free.get()
        assert in_child(lambda: pool.request(HEAD).read() == b"ok" and kept not in pool._free.get())
        assert server.connections == 2
        assert pool.request(HEAD).read() == b"ok"
        assert server.connections == 2


def test_a_child_that_gives_up_what_its_parent_does_ends_nothing_of_the_parents() -> None:
    stop, forked = Stop(), threading.Event()

    def late(peer: Peer) -> None:
        forked.wait(PATIENCE)
        peer.send(OK)

    with ScriptedServer(late) as server, stopped_by(stop):
        exchange = server.pool().begin(HEAD)

        def give_up() -> bool:
            stop.set()
            return True

        assert in_child(give_up)
        forked.set()
        assert exchange.answer(bodiless=False).read() == b"ok"


def test_an_exchange_that_began_before_a_fork_gives_its_connection_to_nobody_in_the_child() -> None:
    with ScriptedServer(OK) as server:
        pool = server.pool()
        exchange = pool.begin(HEAD)

        def end() -> bool:
            exchange.end(keep=True)
            return not pool._free.get()

        assert in_child(end)
        assert exchange.answer(bodiless=False).read() == b"ok"


def test_a_fork_while_other_threads_send_leaves_a_child_that_works() -> None:
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


def test_a_connection_that_is_dropped_is_closed_without_a_warning() -> None:
    with ScriptedServer(OK) as server:
        before = open_sockets()
        pool = server.pool()
        connection = Connection(pool.server)
        del connection
        exchange = pool.begin(HEAD)
        del exchange
        eventually(lambda: open_sockets() <= before)  # the server's ends, too
