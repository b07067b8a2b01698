"""Tasks in threads: their results, their failures, and what becomes of them where there are no threads to be had."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest

from gllm_storage.concurrency.stop import Stop, TransferStopped, check_stop
from gllm_storage.concurrency.workers import run_all
from tests.waiting import PATIENCE, eventually, main_waits


def test_results_are_in_the_order_of_the_tasks() -> None:
    second = threading.Event()

    def slow() -> int:
        assert second.wait(PATIENCE)
        return 1

    def quick() -> int:
        second.set()
        return 2

    assert run_all([slow, quick], 2, Stop()) == [1, 2]


def test_the_first_failure_ends_the_others_and_is_raised() -> None:
    begun, stopped = threading.Event(), threading.Event()

    def fail() -> None:
        assert begun.wait(PATIENCE)
        raise ZeroDivisionError

    def wait() -> None:
        begun.set()
        try:
            while True:
                check_stop()
        except TransferStopped:
            stopped.set()
            raise

    with pytest.raises(ZeroDivisionError):
        run_all([fail, wait], 2, Stop())
    assert stopped.is_set()


def test_where_no_thread_can_be_started_the_work_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert run_all([threading.current_thread] * 3, 2, Stop()) == [threading.current_thread()] * 3


def test_where_not_all_threads_can_be_started_the_others_do_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def start_one(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_one)
    assert run_all([lambda: 1, lambda: 2, lambda: 3], 3, Stop()) == [1, 2, 3]
    assert len(started) == 1


def test_ctrl_c_while_a_thread_is_started_is_not_taken_for_a_lack_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    restore = threading.Condition._acquire_restore  # type: ignore[attr-defined]  # CPython's own

    def interrupted(condition: threading.Condition, state: Any) -> None:
        monkeypatch.undo()
        signal.raise_signal(signal.SIGINT)  # Python's handler runs before the lock is taken again
        restore(condition, state)

    monkeypatch.setattr(threading.Condition, "_acquire_restore", interrupted)
    stop, ended = Stop(), threading.Event()

    def work() -> None:
        while not stop.is_set():
            ended.wait(0.01)

    with pytest.raises(KeyboardInterrupt):
        run_all([work, work], 2, stop)
    assert stop.is_set()


def test_ctrl_c_that_does_not_wake_the_waiting_thread_is_heard_all_the_same() -> None:
    stop, heard = Stop(), threading.Event()
    in_time: list[bool] = []

    def work() -> None:
        eventually(main_waits)
        # As it is when the signal comes just before the main thread waits: Python notes it, and nothing ends the wait.
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        stop.on_set(heard.set)
        in_time.append(heard.wait(PATIENCE / 2))

    with pytest.raises(KeyboardInterrupt):
        run_all([work], 1, stop)
    assert in_time == [True]
