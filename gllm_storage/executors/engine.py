"""`EngineExecutor`: the base class of engines that look like a `concurrent.futures.Executor`."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from concurrent.futures import Executor, Future, wait
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


class EngineExecutor(Executor, ABC):
    """An `Executor` on an engine that runs functions elsewhere: a subclass says how a call starts there.

    This class does the rest: `submit` refuses work after `shutdown`, `shutdown` waits for the calls, and the cancellation of
    a future cancels its call.

    Examples:
        >>> import threading
        >>> from concurrent.futures import Future
        >>> from gllm_storage.executors import EngineExecutor
        >>> class ThreadsExecutor(EngineExecutor):
        ...     def start(self, call):
        ...         future = Future()
        ...         threading.Thread(target=lambda: future.set_result(call())).start()
        ...         return future, lambda: None
        >>> with ThreadsExecutor() as executor:
        ...     executor.submit(pow, 2, 3).result()
        8
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._futures: set[Future[Any]] = set()
        self._is_shut_down = False

    @abstractmethod
    def start(self, call: Callable[[], T]) -> tuple[Future[T], Callable[[], object]]:
        """Start a call on the engine.

        Args:
            call: The call, without arguments. It can be pickled if its function and arguments can.

        Returns:
            A future that the engine completes, and a function that cancels the call on the engine.
        """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start a call; as `Executor.submit`.

        Raises:
            RuntimeError: If the executor is shut down.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._is_shut_down:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._futures.add(future)
        future.add_done_callback(self._forget)
        try:
            started, cancel = self.start(partial(fn, *args, **kwargs))
        except BaseException:
            future.cancel()
            raise
        future.add_done_callback(partial(_cancel_call, cancel))
        started.add_done_callback(partial(_hand_over, future))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further calls; as `Executor.shutdown`."""
        with self._lock:
            self._is_shut_down = True
            futures = set(self._futures)
        if cancel_futures:
            for future in futures:
                future.cancel()
        if wait:
            _wait_for(futures)

    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            self._futures.discard(future)


def _wait_for(futures: set[Future[Any]]) -> None:
    wait([each for each in futures if not each.cancelled()])


def _cancel_call(cancel: Callable[[], object], future: Future[Any]) -> None:
    if future.cancelled():
        cancel()


def _hand_over(future: Future[T], started: Future[T]) -> None:
    """Give the outcome of the engine's future to the caller's."""
    if started.cancelled():
        future.cancel()
    if not future.set_running_or_notify_cancel():
        return
    if (error := started.exception()) is not None:
        future.set_exception(error)
    else:
        future.set_result(started.result())
