"""Event loops, their values, and pools that work at the exit of a process (`concurrency.exiting`) and among greenlets."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from gllm_storage.concurrency.exiting import is_exiting, is_green
from gllm_storage.concurrency.workers import start

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable


T = TypeVar("T")


class DaemonPool(ThreadPoolExecutor):
    """A pool of daemon threads that also takes work while the interpreter ends.

    Where no thread can be started, `submit` runs the work before it returns.

    A subclass only because an event loop accepts no other executor as its default.

    Args:
        workers: The most threads.
        name: Beginning of their names.
    """

    def __init__(self, workers: int, name: str) -> None:
        super().__init__(workers, name)
        self._most = workers
        self._name = name
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._starting = threading.Lock()
        self._started = 0

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Call a function in a thread; see `concurrent.futures.Executor.submit`."""
        future: Future[T] = Future()
        task = partial(_call, future, partial(fn, *args, **kwargs))
        if self._idle.acquire(blocking=False) or self._start():
            self._tasks.put(task)
        else:
            task()
        return future

    def _start(self) -> bool:
        """Start a thread, unless there are enough. Returns whether there is any."""
        with self._starting:
            if self._started < self._most:
                name = f"{self._name}_{self._started}"
                running = asyncio._get_running_loop()
                if start(threading.Thread(target=_work, args=(self._tasks, self._idle), name=name, daemon=True)):
                    self._started += 1
                asyncio._set_running_loop(running)  # the start of a greenlet runs others
            return self._started > 0

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads after the work that was submitted; see `concurrent.futures.Executor.shutdown`."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        for _ in range(self._started):
            self._tasks.put(None)

    def __del__(self) -> None:
        for _ in range(getattr(self, "_started", 0)):
            self._tasks.put(None)


def _work(tasks: queue.SimpleQueue[Callable[[], None] | None], idle: threading.Semaphore) -> None:
    while (task := tasks.get()) is not None:
        task()
        del task  # else it would be kept alive while the thread waits
        idle.release()


def _call(future: Future[T], work: Callable[[], T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
        future.set_exception(error)


class OfLoop:
    """An attribute of a filesystem that has a value of its own in each event loop.

    Connections, locks and tasks belong to the loop that made them. A filesystem that was made with ``asynchronous=True``
    may outlive its loop: `asyncio.run` makes a new one each time, and fsspec's cache returns the same filesystem.

    Args:
        make: Makes the value in a loop that has none yet, from the filesystem.
        close: Closes a value. Called at the end of a loop that ends, as that of `asyncio.run`.
    """

    def __init__(
        self, make: Callable[[Any], Any] = lambda _: None, close: Callable[[Any], Awaitable[object]] | None = None
    ) -> None:
        self._make = make
        self._close = close

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_of_loops_{name}"

    def __get__(self, filesystem: Any, owner: type | None = None) -> Any:
        if filesystem is None:
            return self
        values, loop = self._values(filesystem), _loop_of(filesystem)
        if loop not in values:
            for each in list(values):  # a value refers to its loop, so a weak dictionary would keep it as well
                if each is not None and each.is_closed():
                    values.pop(each, None)
            self._keep(filesystem, loop, self._make(filesystem))
        return values[loop][0]

    def __set__(self, filesystem: Any, value: Any) -> None:
        self._keep(filesystem, _loop_of(filesystem), value)

    def _keep(self, filesystem: Any, loop: asyncio.AbstractEventLoop | None, value: Any) -> None:
        end = None
        # The filesystem's own loop works until the process ends, and the filesystem's finalizer closes its value.
        ends = loop is not None and loop is not getattr(filesystem, "_loop", None)
        if ends and value is not None and self._close is not None and loop is asyncio._get_running_loop():
            # `asyncio.run` closes the asynchronous generators that were begun in its loop: the one public hook of its end.
            end = _closing(self._close, value)
            with contextlib.suppress(StopIteration):
                end.__anext__().send(None)
        self._values(filesystem)[loop] = value, end

    def _values(self, filesystem: Any) -> dict[asyncio.AbstractEventLoop | None, tuple[Any, object]]:
        found: dict[asyncio.AbstractEventLoop | None, tuple[Any, object]] = vars(filesystem).setdefault(self._name, {})
        return found


async def _closing(close: Callable[[Any], Awaitable[object]], value: Any) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        with contextlib.suppress(Exception):  # the loop ends, and there is no remedy
            await close(value)


def _loop_of(filesystem: Any) -> asyncio.AbstractEventLoop | None:
    """The running loop; otherwise the one that works for the filesystem, or None if the caller runs it."""
    with contextlib.suppress(RuntimeError):
        return asyncio.get_running_loop()
    found: asyncio.AbstractEventLoop | None = getattr(filesystem, "_loop", None)
    return found


_usable: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


def keep_usable(loop: asyncio.AbstractEventLoop | None) -> None:
    """Let an event loop resolve host names while the interpreter ends, when its own executor refuses work."""
    if loop is not None and is_exiting() and loop not in _usable:
        loop.set_default_executor(DaemonPool(5, "gllm-storage-exit"))
        _usable.add(loop)


class CallersLoop(asyncio.SelectorEventLoop):
    """An event loop for coroutines that other code hands to it, where no thread can run it.

    `call_soon_threadsafe`, and so `asyncio.run_coroutine_threadsafe` and fsspec's `sync`, run it in the caller's thread or
    greenlet until all of its tasks have ended. Greenlets that hand over a coroutine while it runs only wait.
    """

    def __init__(self) -> None:
        super().__init__()
        self._runner = 0
        # Threads take turns. Greenlets must not: those of a pool would wait for the end of the tasks that wait for them.
        self._turn: contextlib.AbstractContextManager[Any] = contextlib.nullcontext() if is_green() else threading.RLock()

    def runs_here(self) -> bool:
        """Whether this thread or greenlet runs the loop now."""
        return self._runner == threading.get_ident()

    def call_soon_threadsafe(  # type: ignore[override]  # the types of the arguments do not matter here
        self, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        """Schedule a callback, and run the loop unless it runs already."""
        handle = super().call_soon_threadsafe(callback, *args, context=context)
        if not self.is_running() or not is_green():
            with self._turn:
                self._run_tasks()
        return handle

    def _run_tasks(self) -> None:
        if self.is_running():
            return
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        self._runner = threading.get_ident()
        try:
            while True:
                self.call_soon(self.stop)
                self.run_forever()  # the callbacks that were scheduled, which make the tasks
                tasks = asyncio.all_tasks(self)
                if not tasks:
                    return
                self.run_until_complete(asyncio.wait(tasks))
        finally:
            self._runner = 0
            asyncio._set_running_loop(before)


class _Handed:
    """A `CallersLoop` in the hands of another greenlet than the one that runs it.

    Greenlets share a thread, and so its running loop. fsspec's `sync` would find this loop running, and refuse.
    """

    def __init__(self, loop: CallersLoop) -> None:
        self.loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loop, name)


_green: list[CallersLoop] = []
"""The one loop of all greenlets, once it was needed."""


def takes_work(loop: Any) -> bool:
    """Whether `asyncio.run_coroutine_threadsafe` gives a coroutine to a loop that runs it."""
    return loop is not None and not loop.is_closed() and (loop.is_running() or isinstance(loop, (CallersLoop, _Handed)))


def loop_to_hand_to(loop: asyncio.AbstractEventLoop | None) -> Any:
    """A filesystem's loop as another thread uses it.

    Args:
        loop: The loop that the filesystem was made with; None if the caller runs one.
    """
    if isinstance(loop, CallersLoop):
        return loop if loop.runs_here() else _Handed(loop)
    keep_usable(loop)
    return loop


def loop_of_caller(of_fsspec: asyncio.AbstractEventLoop | None) -> asyncio.AbstractEventLoop | None:
    """An event loop in place of fsspec's, if no thread can run that: at the exit, and among greenlets; None otherwise.

    Args:
        of_fsspec: fsspec's loop, if it was made already.
    """
    if is_green():
        if not _green:
            _green.append(CallersLoop())
        return _green[0]
    if not is_exiting() or (of_fsspec is not None and of_fsspec.is_running()):
        return None
    if start(threading.Thread(target=lambda: None, name="gllm-storage-probe", daemon=True)):
        return None
    loop = CallersLoop()
    keep_usable(loop)
    return loop
