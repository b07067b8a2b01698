"""Ctrl-C at any line of a write in the thread of the caller: it takes effect before the end of the call, or never.

A write runs in that thread only if nothing else can interrupt it.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import signal
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import get_storage_client
from gllm_storage.concurrency.stop import Stop, TransferStopped, running_stop, stopped_by
from gllm_storage.errors import StorageError, StorageUnavailableError
from gllm_storage.http import pool as pools
from gllm_storage.http.pool import Handshakes, may_run_in_place, run_in_place, runs_in_place
from gllm_storage.http.wire import Connection
from gllm_storage.testing import no_waits
from tests.unit.s3.http.scripted import EMPTY, KEYS, Certificates, Peer, ScriptedServer, made_client
from tests.waiting import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType

    from gllm_storage.http.pool import Pool

BODY = bytes(1024)
HEAD = b"PUT /b/k HTTP/1.1\r\nhost: h\r\ncontent-length: 1024\r\n\r\n"
SECONDS = 0.005
"""How long the server works on a write."""
SPARED = {"_count"}
"""Functions that the trace does not interrupt: a lock of the pool is held in a ``with`` statement, at whose end a trace can
interrupt, and a signal cannot."""


def _clean_up() -> range:
    """The lines of the block ``finally`` of `run_in_place`, which the trace does not interrupt.

    A trace could interrupt before its first line; a signal cannot, because Python handles signals after calls and at jumps.
    """
    lines, first = inspect.getsourcelines(run_in_place)
    return range(first + lines.index("    finally:\n"), first + len(lines))


CLEAN_UP = _clean_up()


class Store:
    """A server that carries out complete writes after a while.

    Attributes:
        done: When each write was carried out.
        busy: Writes in progress.
    """

    def __init__(self) -> None:
        self.done: list[float] = []
        self.busy = 0

    def __call__(self, peer: Peer) -> None:
        if len(peer.last_body) < len(BODY):
            return
        self.busy += 1
        time.sleep(SECONDS)
        self.done.append(time.monotonic())
        self.busy -= 1
        peer.send(EMPTY)


class Interrupt:
    """Raises KeyboardInterrupt before a line of the library.

    Args:
        line: How many lines run before.
    """

    def __init__(self, line: int) -> None:
        self.left = line

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:  # noqa: ARG002 - as sys.settrace calls it
        code = frame.f_code
        if "gllm_storage" not in code.co_filename or code.co_name in SPARED:
            return None
        if event == "line" and not (code is run_in_place.__code__ and frame.f_lineno in CLEAN_UP):
            self.left -= 1
            if self.left < 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self


def interrupted(call: Callable[[], object], line: int) -> bool:
    """Call, and interrupt before a line; whether the line was reached."""
    before = sys.gettrace()
    sys.settrace(Interrupt(line))
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def put(pool: Pool) -> None:
    run_in_place(lambda: pool.request(HEAD, BODY, changes=True).close(), Stop())


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
def test_every_line(encrypted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """No write takes effect after the interrupted call, no call waits in vain for long, and the next write succeeds."""
    monkeypatch.setattr(pools, "_STOP_SECONDS", 0.5)
    store, certificates = Store(), Certificates() if encrypted else None
    waits = []
    with ScriptedServer(store, tls=certificates.server if certificates else None) as server:
        pool = server.pool(tls=certificates.client if certificates else None)
        put(pool)
        line = 0
        while True:
            done, began = len(store.done), time.monotonic()
            was_interrupted = interrupted(partial(put, pool), line)
            ended = time.monotonic()
            waits.append(ended - began)
            assert running_stop() is None
            assert not runs_in_place()
            if not was_interrupted:
                break
            eventually(lambda: not store.busy)
            assert all(when <= ended for when in store.done[done:]), f"line {line}: a write took effect after the call"
            line += 1
        put(pool)
    assert line > 40
    # Just before the request leaves, and while bytes of the answer are in a local variable.
    assert sum(wait > 0.4 for wait in waits) < len(waits) / 8


def test_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait for a server that does not answer is limited."""
    monkeypatch.setattr(pools, "_STOP_SECONDS", 0.2)
    # A shell that runs pytest in the background makes its children ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        began, ended = stalled()
    finally:
        signal.signal(signal.SIGINT, before)
    assert 0.2 < ended - began < PATIENCE


def stalled() -> tuple[float, float]:
    """Interrupt a write to a server that does not answer; when the write began, and when it ended."""
    release = threading.Event()

    def stall(peer: Peer) -> None:
        release.wait(PATIENCE)

    with ScriptedServer(stall) as server:
        pool = server.pool()
        timer = threading.Timer(0.1, partial(signal_main, server))
        timer.start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            put(pool)
        ended = time.monotonic()
        release.set()
    return began, ended


def signal_main(server: ScriptedServer) -> None:
    """Send Ctrl-C to the main thread, once the server has a request."""
    eventually(lambda: bool(server.requests))
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def test_cancelled() -> None:
    """A stop that is set before the request ends the task, and the stop of the thread is restored."""
    outer, stop = Stop(), Stop()
    stop.set()
    with ScriptedServer(EMPTY) as server, stopped_by(outer):
        pool = server.pool()
        with pytest.raises(TransferStopped):
            run_in_place(lambda: pool.request(HEAD, BODY, changes=True), stop)
        assert running_stop() is outer
        assert not server.requests


def test_failure_stops() -> None:
    """A failed task sets its stop, and leaves no mark on the thread."""
    stop = Stop()
    with pytest.raises(ZeroDivisionError):
        run_in_place(lambda: 1 // 0, stop)
    assert stop.is_set()
    assert not runs_in_place()


def test_boto_in_a_thread() -> None:
    """A write that has to go through boto3 runs in another thread, for which Ctrl-C waits."""
    threads = []
    with ScriptedServer(EMPTY) as server:
        client = made_client(server.url)

        def note(**_: Any) -> None:
            threads.append(threading.current_thread())

        client.boto.meta.events.register("before-send.s3", note)
        parameters: dict[str, Any] = {"Bucket": "b", "Key": "k", "Body": b"x"}
        with contextlib.closing(client):
            run_in_place(lambda: client.put_object(**parameters), Stop())
            client.put_object(**parameters)
    assert [each is threading.current_thread() for each in threads] == [False, True]


class SoftLimitError(Exception):
    """As Celery's SoftTimeLimitExceeded, an exception that a handler raises."""


@pytest.fixture
def only_ctrl_c() -> Iterator[None]:
    """Only Ctrl-C has a handler, and SIGUSR1 is free for the test; pytest-timeout has a handler of SIGALRM."""
    before = {each: signal.getsignal(each) for each in signal.valid_signals() if callable(signal.getsignal(each))}
    before |= {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGUSR1)}
    for each in before:
        signal.signal(each, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


def signal_now(number: int) -> None:
    """Send a signal to the main thread."""
    signal.pthread_kill(threading.main_thread().ident or 0, number)


@pytest.mark.usefixtures("only_ctrl_c")
def test_handlers() -> None:
    """A handler counts from the next call on, in the main thread; Python's handler of Ctrl-C does not."""
    assert may_run_in_place()
    for number in (signal.SIGUSR1, max(signal.valid_signals()), signal.SIGINT):
        before = signal.signal(number, lambda *_: None)
        assert not may_run_in_place()
        elsewhere: list[bool] = []
        thread = threading.Thread(target=lambda found=elsewhere: found.append(may_run_in_place()))
        thread.start()
        thread.join()
        assert elsewhere == [True]
        signal.signal(number, before)
        assert may_run_in_place()
    signal.signal(signal.SIGUSR1, signal.default_int_handler)
    assert may_run_in_place()


class Objects:
    """A server of S3 that knows each key that is not "new", and lets a function delay its writes.

    Attributes:
        writes: How many writes came.
        done: When each write was carried out.
    """

    def __init__(self, delay: Callable[[], object]) -> None:
        self._delay = delay
        self.writes = 0
        self.done: list[float] = []

    def __call__(self, peer: Peer) -> None:
        if peer.head.startswith(b"HEAD /models/new "):
            peer.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return
        if peer.head.startswith((b"PUT", b"DELETE")):
            self.writes += 1
            self._delay()
            self.done.append(time.monotonic())
        peer.send(EMPTY)


def made(url: str, **config: str) -> Any:
    return get_storage_client(
        "s3",
        {
            **KEYS,
            "endpoint_url": url,
            "bucket_name": "models",
            "region_name": "us-east-1",
            "conditional_writes": "enforced",
            **config,
        },
    )


@pytest.mark.usefixtures("only_ctrl_c")
@pytest.mark.parametrize("verb", ["delete", "upload"])
@pytest.mark.parametrize("kind", [SoftLimitError, TimeoutError, ConnectionError, KeyboardInterrupt])
def test_raising_handler(tmp_path: Path, kind: type[BaseException], verb: str) -> None:
    """The exception of a handler ends the call, and no request takes effect later, or is sent again."""

    def handle(*_: object) -> None:
        raise kind("from the handler")

    def delay() -> None:
        signal_now(signal.SIGUSR1)
        time.sleep(0.2)

    signal.signal(signal.SIGUSR1, handle)
    (tmp_path / "x").write_bytes(b"x")
    store = Objects(delay)
    with ScriptedServer(store) as server, made(server.url) as client:
        with pytest.raises((kind, StorageError), match="from the handler"):  # an OSError becomes a StorageError
            client.delete_file("x") if verb == "delete" else client.upload_file(tmp_path / "x", "new")
        ended = time.monotonic()
        eventually(lambda: len(store.done) == store.writes)
        assert store.writes == 1
        assert store.done[0] < ended


@pytest.mark.usefixtures("only_ctrl_c")
def test_periodic_signals(tmp_path: Path) -> None:
    """The read timeout ends a write although a signal comes again and again, as that of an interval timer."""
    signal.signal(signal.SIGUSR1, lambda *_: None)
    (tmp_path / "x").write_bytes(b"x")
    ended = threading.Event()

    def tick() -> None:
        for _ in range(60):
            if not ended.wait(0.1):
                signal_now(signal.SIGUSR1)

    ticks = threading.Thread(target=tick)
    with ScriptedServer(Objects(partial(ended.wait, PATIENCE))) as server, no_waits():
        client = made(server.url, read_timeout="300ms", max_attempts="1")
        ticks.start()
        began = time.monotonic()
        with pytest.raises(StorageUnavailableError):
            client.upload_file(tmp_path / "x", "new")
        took = time.monotonic() - began
        ended.set()
        ticks.join()
    assert took < 5


def test_fork_within() -> None:
    """A child that ends within a write of its parent leaves the answer to the parent."""
    release = threading.Event()

    def serve(peer: Peer) -> None:
        release.wait(PATIENCE)
        peer.send(EMPTY)

    children: list[int] = []

    def task(pool: Pool) -> int:
        exchange = pool.begin(HEAD, BODY, changes=True)
        children.append(os.fork())
        if not children[0]:
            raise SystemExit
        _, status = os.waitpid(children[0], 0)
        release.set()
        exchange.answer(bodiless=False)
        return os.waitstatus_to_exitcode(status)

    with ScriptedServer(serve) as server:
        pool = server.pool()
        began = time.monotonic()
        try:
            code = run_in_place(partial(task, pool), Stop())
        except SystemExit:
            os._exit(int(time.monotonic() - began > 1))
    assert code == 0


@pytest.mark.usefixtures("only_ctrl_c")
def test_second_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second Ctrl-C ends the wait for a stalled server."""
    monkeypatch.setattr(pools, "_STOP_SECONDS", 5.0)
    awaits, release = threading.Event(), threading.Event()
    await_answer = Connection.await_answer

    def note(self: Connection, seconds: float) -> None:
        awaits.set()
        await_answer(self, seconds)

    monkeypatch.setattr(Connection, "await_answer", note)

    def stall(peer: Peer) -> None:
        signal_now(signal.SIGINT)
        awaits.wait(PATIENCE)
        time.sleep(0.2)
        signal_now(signal.SIGINT)
        release.wait(PATIENCE)

    with ScriptedServer(stall) as server:
        pool = server.pool()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            put(pool)
        took = time.monotonic() - began
        release.set()
    assert awaits.is_set()
    assert took < 3


def test_nested() -> None:
    """A `run_in_place` within another one, as in the finalizer of an object, leaves the outer one's marks."""
    with ScriptedServer(EMPTY) as server:
        pool = server.pool()
        marks: list[bool] = []

        def task() -> None:
            exchange = pool.begin(HEAD, BODY, changes=True)
            put(pool)
            marks.append(runs_in_place())
            assert pools._own.write is exchange
            exchange.answer(bodiless=False)

        run_in_place(task, Stop())
        assert marks == [True]
        pool.request(HEAD, BODY, changes=True)
        assert not runs_in_place()
        assert getattr(pools._own, "write", None) is None


def test_returned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C just after a connection returned to its pool does not close it: it may serve another request."""
    with ScriptedServer(EMPTY) as server:
        pool = server.pool()
        keep = pool.put

        def interrupted_put(connection: Connection) -> None:
            keep(connection)
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(pool, "put", interrupted_put)
            with pytest.raises(KeyboardInterrupt):
                put(pool)
        put(pool)
        assert server.connections == 1


def test_count_again() -> None:
    """A request of a finalizer or a handler, while this thread counts a handshake, does not wait for ever."""
    handshakes = Handshakes()

    class Handshake:
        def __init__(self, *, within: bool) -> None:
            self._within = within

        @property
        def session_reused(self) -> bool:
            if not self._within:
                count(Handshake(within=True))
            return False

    def count(tls: Any) -> None:
        handshakes._count(tls, None)

    thread = threading.Thread(target=count, args=[Handshake(within=False)], daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    assert handshakes.full == 2
