"""Tasks in threads: their results, their failures, and tasks in a process that cannot start threads."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import threading
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage.concurrency import workers
from gllm_storage.concurrency.fork import PerProcess
from gllm_storage.concurrency.stop import Stop, TransferStopped, check_stop
from gllm_storage.concurrency.workers import run_all
from tests.waiting import PATIENCE, eventually, main_waits

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType


def test_order_of_results() -> None:
    """The results are in the order of the tasks."""
    second = threading.Event()

    def slow() -> int:
        assert second.wait(PATIENCE)
        return 1

    def quick() -> int:
        second.set()
        return 2

    assert run_all([slow, quick], 2, Stop()) == [1, 2]


def test_single_task_of_a_task() -> None:
    """A task that has one task done starts no further thread; the main thread does, because a signal may interrupt it."""

    def outer() -> tuple[int, int]:
        return threading.get_ident(), run_all([threading.get_ident], 1, Stop())[0]

    for thread, inner in run_all([outer, outer], 2, Stop()):
        assert inner == thread
    assert run_all([threading.get_ident], 1, Stop()) != [threading.get_ident()]


def test_failed_task_of_a_task() -> None:
    """The failure of a task within a task sets its stop, and is raised."""

    def outer() -> bool:
        stop = Stop()
        with pytest.raises(ZeroDivisionError):
            run_all([lambda: 1 // 0], 1, stop)
        return stop.is_set()

    assert run_all([outer, outer], 2, Stop()) == [True, True]


def test_first_failure() -> None:
    """The first failure stops the other tasks and is raised."""
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


def test_no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """If no thread can start, the caller's thread runs the tasks."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert run_all([threading.current_thread] * 3, 2, Stop()) == [threading.current_thread()] * 3


def test_too_few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """If only some threads can start, they run all tasks."""
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


def test_ctrl_c_during_thread_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C during the start of a thread is not mistaken for a lack of threads."""
    restore = threading.Condition._acquire_restore  # type: ignore[attr-defined]  # a private method of CPython

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


@pytest.mark.parametrize("marks_itself", [True, False])
def test_ctrl_c_before_thread_marks(marks_itself: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a thread begins, before it marks itself as started: the call ends by Ctrl-C, and waits for the thread."""
    begun, ended = threading.Event(), threading.Event()

    def interrupted(thread: Any) -> bool:
        thread.start()
        assert begun.wait(PATIENCE)
        thread._started.clear()  # as it is until then; a private attribute of CPython
        if marks_itself:
            threading.Timer(0.02, thread._started.set).start()
        raise KeyboardInterrupt

    def task() -> None:
        begun.set()
        time.sleep(0.05)
        ended.set()

    monkeypatch.setattr(workers, "start", interrupted)
    monkeypatch.setattr(workers, "_STOP_SECONDS", PATIENCE if marks_itself else 0.2)
    with pytest.raises(KeyboardInterrupt):
        run_all([task, task], 2, Stop())
    assert ended.is_set()


def test_ctrl_c_without_wake_up() -> None:
    """Ctrl-C that does not wake the waiting thread is still noticed."""
    stop, heard = Stop(), threading.Event()
    in_time: list[bool] = []

    def work() -> None:
        eventually(main_waits)
        # As if the signal came just before the main thread waits: Python records it, and nothing ends the wait.
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        stop.on_set(heard.set)
        in_time.append(heard.wait(PATIENCE / 2))

    with pytest.raises(KeyboardInterrupt):
        run_all([work], 1, stop)
    assert in_time == [True]


def interrupted_at(event: int, call: Callable[[], object]) -> bool:
    """Raise KeyboardInterrupt in a call, at an event of workers.py where CPython runs the handlers of signals.

    That is when a function has begun or ended; not before C functions, because ``with lock`` is not interrupted there.

    Returns:
        Whether the call has that many events.
    """
    left = event

    def profile(frame: FrameType, kind: str, _: object) -> None:
        nonlocal left
        if kind in {"call", "return", "c_return"} and frame.f_code.co_filename == workers.__file__:
            left -= 1
            if left < 0:
                raise KeyboardInterrupt  # which also ends the profile

    sys.setprofile(profile)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.setprofile(None)
    return False


@pytest.mark.parametrize("has_idle", [True, False])
def test_ctrl_c_at_each_point(has_idle: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C at any point of the hand-over of a task ends the call at once; no task and no thread is left."""
    monkeypatch.setattr(workers, "_idle", PerProcess(list))
    monkeypatch.setattr(workers, "_IDLE_SECONDS", 0.05)
    running: list[int] = []

    def work() -> None:
        running.append(1)
        ended.wait(0.01)
        running.pop()

    ended = threading.Event()
    before = set(threading.enumerate())
    for event in itertools.count():
        if has_idle:
            run_all([int], 1, Stop())
        else:
            monkeypatch.setattr(workers, "_idle", PerProcess(list))
        begun = time.monotonic()
        is_interrupted = interrupted_at(event, lambda: run_all([work], 1, Stop()))
        assert time.monotonic() - begun < workers._STOP_SECONDS / 2, event
        assert not running
        if not is_interrupted:
            break
    assert event > 10
    eventually(lambda: set(threading.enumerate()) <= before)


def test_thread_of_next_task() -> None:
    """The thread of a task runs the next one, also after a failure; tasks of two threads at a time do not wait."""

    def fail() -> int:
        raise ValueError(threading.get_ident())

    (first,) = run_all([threading.get_ident], 1, Stop())
    with pytest.raises(ValueError, match=str(first)):
        run_all([fail], 1, Stop())
    assert run_all([threading.get_ident], 1, Stop()) == [first]
    (nested,) = run_all([lambda: run_all([threading.get_ident], 1, Stop())[0]], 1, Stop())
    assert nested != first


def test_end_of_idle_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that gets no further task ends; the next task gets a new one."""
    monkeypatch.setattr(workers, "_idle", PerProcess(list))
    monkeypatch.setattr(workers, "_IDLE_SECONDS", 0.01)
    (used,) = run_all([threading.current_thread], 1, Stop())
    eventually(lambda: not used.is_alive())
    assert run_all([lambda: 1], 1, Stop()) == [1]


def test_content_is_released() -> None:
    """A waiting thread does not hold the task that it has run."""

    class Content:
        pass

    content = Content()
    gone = weakref.ref(content)
    run_all([partial(str, content)], 1, Stop())
    del content
    eventually(lambda: gone() is None)


LATE = """
import threading
from gllm_storage.concurrency.stop import Stop
from gllm_storage.concurrency.workers import run_all

class Late:
    def __del__(self, run=run_all, stop=Stop, print=print):
        print(run([lambda: "late"], 1, stop()), flush=True)

kept = Late()
kept.itself = kept
run_all([int], 1, Stop())
"""


def test_task_of_finalizer() -> None:
    """A task that begins when the interpreter is torn down does not wait for a thread that will not run again."""
    found = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert found.stdout == "['late']\n"
