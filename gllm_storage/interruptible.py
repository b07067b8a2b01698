"""Running a coroutine of a filesystem from ordinary code, so that Ctrl-C ends it.

fsspec's `sync` leaves it to itself then: the call is over, and its uploads go on in the background until they are complete.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

_STOP_SECONDS = 10.0
"""How long an interrupted call waits for what it began. Only a server that stalls takes longer."""


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
        return future.result()
    except BaseException:
        if not future.done():  # it is this thread that was interrupted
            future.cancel()
            ended.wait(_STOP_SECONDS)
        raise
