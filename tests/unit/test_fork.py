"""Values that are made once in each process, also in a child that was forked at a bad moment."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from gllm_storage.concurrency.fork import PerProcess
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

CHILD_SECONDS = 60


def in_child(check: Callable[[], bool]) -> bool:
    """What a check says in a forked child; a child that hangs is killed, and said no."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: forking with threads is just what is tested
        pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(CHILD_SECONDS)
        code = 1
        try:
            code = 0 if check() else 1
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) == 0


def test_a_value_is_made_on_first_use_and_once() -> None:
    made: list[object] = []

    def make() -> object:
        made.append(object())
        return made[-1]

    value = PerProcess(make)
    assert made == []
    assert value.get() is value.get() is made[0]
    assert len(made) == 1


def test_sixteen_threads_make_one_value() -> None:
    barrier = threading.Barrier(16)
    made: list[object] = []

    def make() -> object:
        made.append(object())
        return made[-1]

    value = PerProcess(make)

    def get(_: int) -> object:
        barrier.wait(PATIENCE)
        return value.get()

    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(get, range(16)))
    assert len(made) == 1
    assert found == {made[0]}


def test_a_failure_to_make_it_is_the_callers_and_the_next_one_tries_again() -> None:
    outcomes: list[Exception | str] = [RuntimeError("not yet"), "made"]

    def make() -> str:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    value = PerProcess(make)
    with pytest.raises(RuntimeError, match="not yet"):
        value.get()
    assert value.get() == "made"


def test_a_forked_child_makes_its_own_and_the_parent_keeps_its() -> None:
    value = PerProcess(os.getpid)
    assert value.get() == os.getpid()
    assert in_child(lambda: value.get() == os.getpid())
    assert value.get() == os.getpid()


def test_a_child_of_a_child_makes_its_own() -> None:
    value = PerProcess(os.getpid)
    value.get()
    assert in_child(lambda: value.get() == os.getpid() and in_child(lambda: value.get() == os.getpid()))


def test_a_fork_while_another_thread_is_making_it_does_not_hang_the_child() -> None:
    making, go_on = threading.Event(), threading.Event()
    parent = os.getpid()

    def make() -> int:
        if os.getpid() == parent:
            making.set()
            assert go_on.wait(CHILD_SECONDS * 2)
        return os.getpid()

    value = PerProcess(make)
    thread = threading.Thread(target=value.get)
    thread.start()
    try:
        assert making.wait(PATIENCE)
        assert in_child(lambda: value.get() == os.getpid())
    finally:
        go_on.set()
        thread.join()
    assert value.get() == parent


def test_threads_of_a_child_share_a_value() -> None:
    value = PerProcess(object)
    value.get()

    def check() -> bool:
        value.get()
        with ThreadPoolExecutor(8) as pool:
            return len(set(pool.map(lambda _: value.get(), range(64)))) == 1

    assert in_child(check)
