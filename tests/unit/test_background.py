"""Background tasks: they run in threads beside the caller that starts them."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest

from gllm_storage.concurrency import workers as background
from gllm_storage.concurrency.stop import Stop, TransferStopped, running_stop
from gllm_storage.concurrency.workers import Background
from tests.waiting import PATIENCE

SECONDS = PATIENCE


def fail() -> None:
    raise ZeroDivisionError


def test_concurrency_limit() -> None:
    """Three tasks run at a time, and never more."""
    stop, running, most = Stop(), set(), []
    tasks = Background(3, stop, lambda: None)
    tasks.start(partial(time.sleep, 0.01))  # two tasks run at first, and more when the first one has waited
    tasks.finish()
    together = threading.Barrier(3)

    def work() -> None:
        running.add(threading.get_ident())
        most.append(len(running))
        together.wait(SECONDS)
        running.discard(threading.get_ident())

    for _ in range(9):
        tasks.start(work)
    tasks.finish()
    assert len(most) == 9
    assert max(most) == 3


def test_running_stop() -> None:
    """A task can read the stop of its transfer."""
    stop, seen = Stop(), []
    tasks = Background(1, stop, lambda: None)
    tasks.start(lambda: seen.append(running_stop()))
    tasks.finish()
    assert seen == [stop]


def test_failed_task() -> None:
    """A failure sets the stop, runs the callback once, and is raised by every later call."""
    stop, callers = Stop(), []
    tasks = Background(2, stop, lambda: callers.append(threading.current_thread()))
    others = threading.Event()

    def work() -> None:
        others.wait(SECONDS)
        assert callers == []

    tasks.start(work)
    tasks.start(fail)
    others.set()
    for call in (tasks.finish, tasks.check, lambda: tasks.start(fail)):
        with pytest.raises(ZeroDivisionError):
            call()
    tasks.end()
    assert stop.is_set()
    assert len(callers) == 1
    assert callers[0] is not threading.current_thread()


def test_failure_after_stopped_task() -> None:
    """A task that stopped does not hide the error of the task that failed."""
    stop, go = Stop(), threading.Event()
    tasks = Background(2, stop, lambda: None)

    def fail_late() -> None:
        go.wait(SECONDS)
        raise ZeroDivisionError

    def stopped() -> None:
        raise TransferStopped

    tasks.start(fail_late)
    tasks.start(stopped)
    with pytest.raises(TransferStopped):
        tasks.finish()
    go.set()
    tasks.end()
    with pytest.raises(ZeroDivisionError):
        tasks.check()


def test_finish_after_stop() -> None:
    """`finish` raises TransferStopped soon after the stop is set."""
    stop, go = Stop(), threading.Event()
    tasks = Background(1, stop, lambda: None)

    def work() -> None:
        go.wait(SECONDS)

    tasks.start(work)
    threading.Timer(0.1, stop.set).start()
    begun = time.monotonic()
    with pytest.raises(TransferStopped):
        tasks.finish()
    assert time.monotonic() - begun < SECONDS
    go.set()
    tasks.end()


def test_end_inside_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that calls `end` does not wait for itself."""
    monkeypatch.setattr(background, "_STOP_SECONDS", 2 * SECONDS)
    stop = Stop()
    tasks = Background(2, stop, lambda: None)
    begun = time.monotonic()
    tasks.start(tasks.end)
    tasks.end()
    assert stop.is_set()
    assert time.monotonic() - begun < SECONDS


def test_no_new_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """If no thread can start, `start` runs the task in the caller's thread."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    ran = []
    tasks = Background(1, Stop(), lambda: None)
    tasks.start(lambda: ran.append(threading.current_thread()))
    tasks.finish()
    assert ran == [threading.current_thread()]
