"""Running coroutines of a filesystem so that Ctrl-C and a cancellation end them, with all that they have begun.

fsspec's `sync` leaves a coroutine to itself after Ctrl-C: the call is over, and its uploads go on in the background until
they are complete. So do, after a cancellation, the tasks that fsspec's `_run_coros_in_chunks` has begun (fsspec 2026.9): it
waits for them by `asyncio.wait`, which cancels nothing.
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
"""How long an interrupted call waits for what it began. Only a server that stalls takes longer."""
_LOOK_SECONDS = 0.5
"""How often a waiting call looks whether it was interrupted, where the signal has not woken it up."""
_call: contextvars.ContextVar[_Tasks | None] = contextvars.ContextVar("call", default=None)


def run_interruptible(
    loop: asyncio.AbstractEventLoop | None, begin: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any
) -> T:
    """Run a coroutine on a loop of another thread, and wait for it.

    Args:
        loop: Where it runs.
        begin: Makes the coroutine.
        *args: For `begin`.
        **kwargs: For `begin`.

    Returns:
        What it returns.

    Raises:
        BaseException: What it raises; or what interrupts this thread, when the coroutine was cancelled and has ended.
        RuntimeError: If there is no loop, as with ``asynchronous=True``.
        NotImplementedError: If `loop` is the one that runs in this thread, as fsspec says it.
    """
    if loop is None or loop.is_closed():
        raise RuntimeError("Loop is not running")
    if asyncio._get_running_loop() is loop:  # noqa: SLF001 - the public function raises where none runs
        raise NotImplementedError("Calling sync() from within a running loop")
    ended = threading.Event()

    async def run() -> T:
        try:
            return await begin(*args, **kwargs)
        finally:
            ended.set()

    future = asyncio.run_coroutine_threadsafe(run(), loop)
    try:
        # A signal that comes just before this thread waits does not wake it up; fsspec's `sync` looks each second.
        while not future.done():
            futures.wait([future], _LOOK_SECONDS)
        return future.result()
    except BaseException:
        if not future.done():  # it is this thread that was interrupted
            future.cancel()
            ended.wait(_STOP_SECONDS)
        raise


@contextlib.asynccontextmanager
async def ending_its_tasks() -> AsyncIterator[None]:
    """When the block is left by an exception, cancel the tasks that were begun in it, and wait for their ends.

    They are those that do something in a `task_of_call`, whoever made them: a task inherits the context of its maker.
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
    """Do something, in a coroutine, that ends with the call that it is done for.

    Raises:
        asyncio.CancelledError: If the call has ended already.
    """
    tasks, task = _call.get(), asyncio.current_task()
    if tasks is None or task is None:
        yield
        return
    with tasks.working(task):
        yield


async def decided(request: Coroutine[Any, Any, T]) -> T:
    """Send a request that changes something. When cancelled, wait for its answer: nothing may happen later.

    Args:
        request: Sends it.

    Returns:
        What it returns.

    Raises:
        BaseException: What it raises.
    """
    sent = asyncio.ensure_future(request)
    try:
        return await asyncio.shield(sent)
    except asyncio.CancelledError:
        answered, _ = await asyncio.wait([sent], timeout=_STOP_SECONDS)
        sent.cancel()
        for each in answered:
            each.exception()  # asyncio complains of failures that nobody looked at
        raise


class _Tasks:
    """What works for one call."""

    def __init__(self) -> None:
        self._working: set[asyncio.Task[Any]] = set()
        self._over = False

    @contextlib.contextmanager
    def working(self, task: asyncio.Task[Any]) -> Iterator[None]:
        """Note that a task works, as long as it does."""
        if self._over:
            raise asyncio.CancelledError
        self._working.add(task)
        try:
            yield
        finally:
            self._working.discard(task)

    async def end(self) -> None:
        """End them all, and whatever begins later."""
        self._over = True
        others = self._working - {asyncio.current_task()}
        for each in others:
            each.cancel()
        if others:
            await asyncio.wait(others)
