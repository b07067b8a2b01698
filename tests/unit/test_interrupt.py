"""Coroutines that ordinary code waits for, and Ctrl-C ends."""

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
        eventually(main_waits)
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(2 * PATIENCE)
        except asyncio.CancelledError:
            await asyncio.sleep(0.2)  # takes something back
            seen.append("ended")
            raise

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_interruptible(loop, run)
    assert seen == ["ended"]
    assert time.monotonic() - begun < PATIENCE


def test_ctrl_c_that_does_not_wake_the_waiting_thread_is_heard_all_the_same(loop: asyncio.AbstractEventLoop) -> None:
    async def run() -> None:
        eventually(main_waits)
        # As it is when the signal comes just before the main thread waits: Python notes it, and nothing ends the wait.
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        await asyncio.sleep(PATIENCE / 2)

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_interruptible(loop, run)
    assert time.monotonic() - begun < PATIENCE / 2


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


def test_tasks_that_others_have_begun_end_with_the_call() -> None:
    seen: list[str] = []

    async def work(name: str, begun: asyncio.Event) -> None:
        begun.set()
        try:
            with task_of_call():
                await asyncio.sleep(2 * PATIENCE)
        except asyncio.CancelledError:
            await asyncio.sleep(0.1)  # takes something back
            seen.append(name)
            raise

    async def call(begun: list[asyncio.Event], tasks: list[asyncio.Task[None]]) -> None:
        async with ending_its_tasks():
            for number, each in enumerate(begun):
                tasks.append(asyncio.ensure_future(work(str(number), each)))
            await asyncio.wait(tasks)  # as fsspec waits

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


def test_a_task_that_comes_to_its_work_when_the_call_has_ended_does_not_begin_it() -> None:
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


def test_a_request_that_was_sent_is_decided_before_its_cancelled_task_ends() -> None:
    seen: list[str] = []

    async def send(sent: asyncio.Event) -> None:
        sent.set()
        await asyncio.sleep(0.2)
        seen.append("answered")
        raise KeyError  # nobody is told of it

    async def run() -> None:
        sent = asyncio.Event()
        task = asyncio.ensure_future(decided(send(sent)))
        await sent.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == ["answered"]

    asyncio.run(run())
