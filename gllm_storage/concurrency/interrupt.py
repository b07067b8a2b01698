"""Runs the coroutines of a filesystem so that Ctrl-C and cancellation end everything that they started.

fsspec (2026.9) leaves work behind in two places. `fsspec.asyn.sync` waits for a coroutine on an event loop in another
thread; after Ctrl-C it stops waiting and does not cancel the coroutine, so that uploads continue in the background and
complete later. `_run_coros_in_chunks` starts tasks and waits for them with `asyncio.wait`, which does not cancel them when
the waiting coroutine is cancelled. Three functions close these gaps:

- `run_interruptible` replaces `sync`: after Ctrl-C it cancels the coroutine and waits for its end.
- `ending_its_tasks` cancels the tasks of a call that failed. Each of them registers itself by `task_of_call`; it finds its
  call in a context variable, which a task inherits from its creator, also from one inside fsspec.
- `decided` waits for the answer to one request that changes the store, because a request that was sent and then cancelled
  may still take effect, after the call has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from concurrent import futures
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

T = TypeVar("T")

_STOP_SECONDS = 10.0
"""How long an interrupted call waits for the work that it started. Only a server that stalls takes longer."""
_POLL_SECONDS = 0.5
"""How often a waiting call wakes up to notice a signal."""
_call: contextvars.ContextVar[_Tasks | None] = contextvars.ContextVar("call", default=None)


def run_interruptible(
    loop: asyncio.AbstractEventLoop | None, begin: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any
) -> T:
    """Run a coroutine on an event loop of another thread, and wait for it.

    Args:
        loop: The event loop.
        begin: Makes the coroutine; called on the event loop.
        *args: For `begin`.
        **kwargs: For `begin`.

    Returns:
        The result of the coroutine.

    Raises:
        BaseException: The exception of the coroutine; or the one that interrupted this thread, such as `KeyboardInterrupt`,
            after the coroutine was cancelled and has ended, or after 10 s.
        RuntimeError: If the loop is None or closed, as with ``asynchronous=True``.
        NotImplementedError: If the loop runs in this thread, which would wait for itself; the same class as fsspec raises.
    """
    if loop is None or loop.is_closed():
        raise RuntimeError("Loop is not running")
    if asyncio._get_running_loop() is loop:  # the public function raises if no loop runs
        raise NotImplementedError("Calling sync() from within a running loop")
    ended = threading.Event()

    async def run() -> T:
        try:
            return await begin(*args, **kwargs)
        finally:
            ended.set()

    future = asyncio.run_coroutine_threadsafe(run(), loop)
    try:
        # A signal that arrives just before the wait does not interrupt it, so the wait is short and repeated.
        while not future.done():
            futures.wait([future], _POLL_SECONDS)
        return future.result()
    except BaseException:
        if not future.done():  # then the exception came from this thread, not from the coroutine
            future.cancel()
            ended.wait(_STOP_SECONDS)
        raise


@contextlib.asynccontextmanager
async def ending_its_tasks() -> AsyncIterator[None]:
    """If the block raises, cancel the tasks of this call that are inside `task_of_call`, and wait for their ends.

    Those tasks count that were created within the block, also by other libraries.
    """
    tasks = _Tasks()
    token = _call.set(tasks)
    try:
        yield
    except BaseException:
        await tasks.end()
        raise
    finally:
        _call.reset(token)


@contextlib.contextmanager
def task_of_call() -> Iterator[None]:
    """Let the end of the surrounding `ending_its_tasks` cancel this task while the block runs.

    Raises:
        asyncio.CancelledError: If that call has ended already.
    """
    tasks, task = _call.get(), asyncio.current_task()
    if tasks is None or task is None:
        yield
        return
    with tasks.working(task):
        yield


async def decided(request: Coroutine[Any, Any, T]) -> T:
    """Await a request that changes the store. A cancellation waits for the answer, at most 10 s, before it goes on.

    Args:
        request: Sends the request.

    Returns:
        The result of the request.

    Raises:
        BaseException: The exception of the request.
        asyncio.CancelledError: If this task was cancelled.
    """
    sent = asyncio.ensure_future(request)
    try:
        return await asyncio.shield(sent)
    except asyncio.CancelledError:
        answered, _ = await asyncio.wait([sent], timeout=_STOP_SECONDS)
        sent.cancel()
        for each in answered:
            each.exception()  # asyncio logs an exception that was never retrieved
        raise


class _Tasks:
    """The tasks of one call."""

    def __init__(self) -> None:
        self._working: set[asyncio.Task[Any]] = set()
        self._over = False

    @contextlib.contextmanager
    def working(self, task: asyncio.Task[Any]) -> Iterator[None]:
        """Register a task while the block runs.

        Raises:
            asyncio.CancelledError: If the call has ended.
        """
        if self._over:
            raise asyncio.CancelledError
        self._working.add(task)
        try:
            yield
        finally:
            self._working.discard(task)

    async def end(self) -> None:
        """Cancel all other registered tasks and wait for their ends; tasks that register later are cancelled at once."""
        self._over = True
        others = self._working - {asyncio.current_task()}
        for each in others:
            each.cancel()
        if others:
            await asyncio.wait(others)
