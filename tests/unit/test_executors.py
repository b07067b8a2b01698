"""`EngineExecutor`: an engine that starts calls looks like an executor."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import CancelledError, Executor, Future
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import executors
from gllm_storage.executors import EngineExecutor

if TYPE_CHECKING:
    from collections.abc import Callable


class Engine(EngineExecutor):
    """Runs each call when `run` is called, and notes what it cancels."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[tuple[Callable[[], Any], Future[Any]]] = []
        self.cancelled = 0

    def start(self, call: Callable[[], Any]) -> tuple[Future[Any], Callable[[], object]]:
        if call.func is print:  # type: ignore[attr-defined]  # a partial
            raise OSError("the engine is down")
        future: Future[Any] = Future()
        self.waiting.append((call, future))
        return future, self.cancel

    def cancel(self) -> None:
        self.cancelled += 1

    def run(self) -> None:
        for call, future in self.waiting:
            try:
                future.set_result(call())
            except ZeroDivisionError as error:
                future.set_exception(error)


def test_outcomes() -> None:
    """A future has the result of its call, or its exception."""
    engine = Engine()
    assert isinstance(engine, Executor)
    result, failure = engine.submit(pow, 2, exp=5), engine.submit(divmod, 1, 0)
    assert not result.done()
    engine.run()
    assert result.result() == 32
    with pytest.raises(ZeroDivisionError):
        failure.result()


def test_cancel() -> None:
    """A cancelled future cancels its call, and takes no result any more."""
    engine = Engine()
    future = engine.submit(pow, 2, 5)
    assert future.cancel()
    assert engine.cancelled == 1
    engine.run()
    with pytest.raises(CancelledError):
        future.result()


def test_cancelled_by_engine() -> None:
    """A call that the engine cancels is a cancelled future."""
    engine = Engine()
    future = engine.submit(pow, 2, 5)
    engine.waiting[0][1].cancel()
    with pytest.raises(CancelledError):
        future.result(timeout=5)


def test_shutdown() -> None:
    """`shutdown` waits for the calls, and then no call is accepted."""
    engine = Engine()
    future = engine.submit(pow, 2, 5)
    threading.Timer(0.05, engine.run).start()
    engine.shutdown()
    assert future.done()
    with pytest.raises(RuntimeError, match="after shutdown"):
        engine.submit(pow, 2, 5)


def test_cancel_all() -> None:
    """`shutdown` can cancel the calls that wait."""
    engine = Engine()
    futures = [engine.submit(pow, 2, 5), engine.submit(pow, 2, 6)]
    engine.shutdown(cancel_futures=True)
    assert all(each.cancelled() for each in futures)
    assert engine.cancelled == 2


def test_engine_down() -> None:
    """An exception of the engine reaches the caller, and `shutdown` does not wait for that call."""
    engine = Engine()
    with pytest.raises(OSError, match="the engine is down"):
        engine.submit(print)
    engine.shutdown()


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Ray, `RayExecutor` is an `ImportError`."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError):
        executors.RayExecutor()
