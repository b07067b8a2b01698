"""Values that each process makes once, also in a child that was forked while another thread made the value."""

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
    """Return the result of a check in a forked child, or False if the child hangs and is killed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of a fork with threads
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


def test_first_use() -> None:
    """The value is made on first use, and once."""
    made: list[object] = []

    def make() -> object:
        made.append(object())
        return made[-1]

    value = PerProcess(make)
    assert made == []
    assert value.get() is value.get() is made[0]
    assert len(made) == 1


def test_first_use_by_threads() -> None:
    """Sixteen threads make one value."""
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


def test_failed_first_use() -> None:
    """If `make` fails, the caller gets its error, and the next call tries again."""
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


def test_forked_child() -> None:
    """A forked child makes its own value, and the parent keeps its value."""
    value = PerProcess(os.getpid)
    assert value.get() == os.getpid()
    assert in_child(lambda: value.get() == os.getpid())
    assert value.get() == os.getpid()


def test_child_of_a_child() -> None:
    """A child of a child makes its own value."""
    value = PerProcess(os.getpid)
    value.get()
    assert in_child(lambda: value.get() == os.getpid() and in_child(lambda: value.get() == os.getpid()))


def test_fork_during_first_use() -> None:
    """A child that is forked while another thread makes the value does not hang."""
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


def test_threads_of_a_child() -> None:
    """All threads of a forked child share one value."""
    value = PerProcess(object)
    value.get()

    def check() -> bool:
        value.get()
        with ThreadPoolExecutor(8) as pool:
            return len(set(pool.map(lambda _: value.get(), range(64)))) == 1

    assert in_child(check)
