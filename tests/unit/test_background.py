"""Tasks that run beside a caller who makes more of them."""

from __future__ import annotations

import threading
import time

import pytest

from gllm_storage.concurrency import workers as background
from gllm_storage.concurrency.stop import Stop, TransferStopped, running_stop
from gllm_storage.concurrency.workers import Background
from tests.waiting import PATIENCE

SECONDS = PATIENCE


def fail() -> None:
    raise ZeroDivisionError


def test_tasks_run_side_by_side_up_to_a_number() -> None:
    stop, running, most = Stop(), set(), []
    crew = Background(3, stop, lambda: None)
    together = threading.Barrier(3)

    def work() -> None:
        running.add(threading.get_ident())
        most.append(len(running))
        together.wait(SECONDS)
        running.discard(threading.get_ident())

    for _ in range(9):
        crew.start(work)
    crew.finish()
    assert len(most) == 9
    assert max(most) == 3


def test_a_task_can_be_ended_by_the_stop() -> None:
    stop, seen = Stop(), []
    crew = Background(1, stop, lambda: None)
    crew.start(lambda: seen.append(running_stop()))
    crew.finish()
    assert seen == [stop]


def test_a_failure_ends_all_and_is_raised_from_then_on() -> None:
    stop, told = Stop(), []
    crew = Background(2, stop, lambda: told.append(threading.current_thread()))
    others = threading.Event()

    def work() -> None:
        others.wait(SECONDS)
        assert told == []

    crew.start(work)
    crew.start(fail)
    others.set()
    for call in (crew.finish, crew.check, lambda: crew.start(fail)):
        with pytest.raises(ZeroDivisionError):
            call()
    crew.end()
    assert stop.is_set()
    assert len(told) == 1
    assert told[0] is not threading.current_thread()


def test_a_task_that_stopped_because_another_failed_hides_nothing() -> None:
    stop, go = Stop(), threading.Event()
    crew = Background(2, stop, lambda: None)

    def fail_late() -> None:
        go.wait(SECONDS)
        raise ZeroDivisionError

    def stopped() -> None:
        raise TransferStopped

    crew.start(fail_late)
    crew.start(stopped)
    with pytest.raises(TransferStopped):
        crew.finish()
    go.set()
    crew.end()
    with pytest.raises(ZeroDivisionError):
        crew.check()


def test_who_waits_hears_of_the_end() -> None:
    stop, go = Stop(), threading.Event()
    crew = Background(1, stop, lambda: None)

    def work() -> None:
        go.wait(SECONDS)

    crew.start(work)
    threading.Timer(0.1, stop.set).start()
    begun = time.monotonic()
    with pytest.raises(TransferStopped):
        crew.finish()
    assert time.monotonic() - begun < SECONDS
    go.set()
    crew.end()


def test_a_task_that_ends_all_does_not_wait_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_STOP_SECONDS", 2 * SECONDS)
    stop = Stop()
    crew = Background(2, stop, lambda: None)
    begun = time.monotonic()
    crew.start(crew.end)
    crew.end()
    assert stop.is_set()
    assert time.monotonic() - begun < SECONDS


def test_an_interpreter_that_takes_no_more_threads_runs_tasks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    ran = []
    crew = Background(1, Stop(), lambda: None)
    crew.start(lambda: ran.append(threading.current_thread()))
    crew.finish()
    assert ran == [threading.current_thread()]
