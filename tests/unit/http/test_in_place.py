"""Ctrl-C at any line of a write in the thread of the caller: it takes effect before the end of the call, or never."""

from __future__ import annotations

import contextlib
import inspect
import signal
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage.concurrency.stop import Stop, TransferStopped, running_stop, stopped_by
from gllm_storage.http import pool as pools
from gllm_storage.http.pool import run_in_place, runs_in_place
from tests.unit.s3.http.scripted import EMPTY, Certificates, Peer, ScriptedServer, made_client
from tests.waiting import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import Callable
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

    def stall(peer: Peer) -> None:  # noqa: ARG001 - it does not answer
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
