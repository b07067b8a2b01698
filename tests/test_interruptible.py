"""Coroutines that ordinary code waits for, and Ctrl-C ends."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage.interruptible import run_interruptible

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    thread = threading.Thread(target=made.run_forever)
    thread.start()
    yield made
    made.call_soon_threadsafe(made.stop)
    thread.join()
    made.close()


def test_what_a_coroutine_returns_or_raises_comes_out(loop: asyncio.AbstractEventLoop) -> None:
    async def run(value: int, *, fails: bool = False) -> int:
        await asyncio.sleep(0)
        if fails:
            raise KeyError(value)
        return value

    assert run_interruptible(loop, run, 3) == 3
    with pytest.raises(KeyError):
        run_interruptible(loop, run, 3, fails=True)


def test_ctrl_c_cancels_the_coroutine_and_waits_for_its_end(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[str] = []

    async def run() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.2)  # takes something back
            seen.append("ended")
            raise

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_interruptible(loop, run)
    assert seen == ["ended"]
    assert time.monotonic() - begun < 5


def test_a_loop_that_runs_here_or_nowhere_is_refused(loop: asyncio.AbstractEventLoop) -> None:
    async def run() -> None:
        """Nothing."""

    async def inside() -> Any:
        return run_interruptible(asyncio.get_running_loop(), run)

    with pytest.raises(NotImplementedError):
        run_interruptible(loop, inside)
    closed = asyncio.new_event_loop()
    closed.close()
    for none in (None, closed):
        with pytest.raises(RuntimeError, match="not running"):
            run_interruptible(none, run)
