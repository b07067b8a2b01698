"""Coroutines that synchronous code waits for and that Ctrl-C cancels."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage.concurrency.interrupt import decided, ending_its_tasks, run_interruptible, task_of_call
from tests.waiting import PATIENCE, eventually, main_waits

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


def test_result(loop: asyncio.AbstractEventLoop) -> None:
    """The caller gets the result or the error of the coroutine."""

    async def run(value: int, *, fails: bool = False) -> int:
        await asyncio.sleep(0)
        if fails:
            raise KeyError(value)
        return value

    assert run_interruptible(loop, run, 3) == 3
    with pytest.raises(KeyError):
        run_interruptible(loop, run, 3, fails=True)


def test_ctrl_c(loop: asyncio.AbstractEventLoop) -> None:
    """Ctrl-C cancels the coroutine and waits for its end."""
    seen: list[str] = []

    async def run() -> None:
        eventually(main_waits)
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(2 * PATIENCE)
        except asyncio.CancelledError:
            await asyncio.sleep(0.2)  # like a task that cleans up
            seen.append("ended")
            raise

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_interruptible(loop, run)
    assert seen == ["ended"]
    assert time.monotonic() - begun < PATIENCE


def test_ctrl_c_without_wake_up(loop: asyncio.AbstractEventLoop) -> None:
    """Ctrl-C that does not wake the waiting thread is still noticed."""

    async def run() -> None:
        eventually(main_waits)
        # As if the signal came just before the main thread waits: Python records it, and nothing ends the wait.
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        await asyncio.sleep(PATIENCE / 2)

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_interruptible(loop, run)
    assert time.monotonic() - begun < PATIENCE / 2


def test_unusable_loop(loop: asyncio.AbstractEventLoop) -> None:
    """The loop of the calling thread, a closed loop and None are refused."""

    async def run() -> None:
        """Do nothing."""

    async def inside() -> Any:
        return run_interruptible(asyncio.get_running_loop(), run)

    with pytest.raises(NotImplementedError):
        run_interruptible(loop, inside)
    closed = asyncio.new_event_loop()
    closed.close()
    for unusable in (None, closed):
        with pytest.raises(RuntimeError, match="not running"):
            run_interruptible(unusable, run)


def test_tasks_of_a_call() -> None:
    """A cancelled call ends only after the tasks that it has started."""
    seen: list[str] = []

    async def work(name: str, begun: asyncio.Event) -> None:
        begun.set()
        try:
            with task_of_call():
                await asyncio.sleep(2 * PATIENCE)
        except asyncio.CancelledError:
            await asyncio.sleep(0.1)  # like a task that cleans up
            seen.append(name)
            raise

    async def call(begun: list[asyncio.Event], tasks: list[asyncio.Task[None]]) -> None:
        async with ending_its_tasks():
            for number, each in enumerate(begun):
                tasks.append(asyncio.ensure_future(work(str(number), each)))
            await asyncio.wait(tasks)  # fsspec waits for its tasks like this

    async def run() -> None:
        tasks: list[asyncio.Task[None]] = []
        begun = [asyncio.Event(), asyncio.Event()]
        calling = asyncio.ensure_future(call(begun, tasks))
        for each in begun:
            await each.wait()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert sorted(seen) == ["0", "1"]
        assert not [task for task in tasks if not task.done()]

    asyncio.run(run())


def test_late_task() -> None:
    """A task that reaches its work after the end of the call is cancelled."""
    seen: list[str] = []

    async def late(go: asyncio.Event) -> None:
        await go.wait()
        with task_of_call():
            seen.append("worked")

    async def call(go: asyncio.Event, tasks: list[asyncio.Task[None]]) -> None:
        async with ending_its_tasks():
            tasks.append(asyncio.ensure_future(late(go)))
            raise KeyError

    async def run() -> None:
        go, tasks = asyncio.Event(), list[asyncio.Task[None]]()
        with pytest.raises(KeyError):
            await call(go, tasks)
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]

    asyncio.run(run())
    assert seen == []


def test_sent_request() -> None:
    """A cancelled task waits for the answer to its request before it ends."""
    seen: list[str] = []

    async def send(sent: asyncio.Event) -> None:
        sent.set()
        await asyncio.sleep(0.2)
        seen.append("answered")
        raise KeyError  # the cancellation takes precedence over this error

    async def run() -> None:
        sent = asyncio.Event()
        task = asyncio.ensure_future(decided(send(sent)))
        await sent.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == ["answered"]

    asyncio.run(run())
