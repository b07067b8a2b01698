"""Running the parts of one transfer side by side, and stopping them all when one fails or the user gives up."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from gllm_storage.concurrency.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")

_STOP_SECONDS = 10.0
"""How long a failed transfer waits for its other parts to notice. Only a server that stalls takes longer."""
_LOOK_SECONDS = 0.5


class TransferStopped(BaseException):
    """Raised inside a transfer's threads when the transfer was given up.

    A `BaseException`, because SDKs retry any `Exception`.
    """


class Stop:
    """Tells the threads of one attempt to end.

    Args:
        whole: Tells all attempts of the transfer to end, as when an asyncio task is cancelled.
    """

    def __init__(self, whole: Stop | None = None) -> None:
        self._whole = whole
        self._set = threading.Event()
        self._endings: list[Callable[[], None]] = []

    def set(self) -> None:
        """End this attempt."""
        self._set.set()
        for end in list(self._endings):
            end()

    def on_set(self, end: Callable[[], None]) -> None:
        """Have something called when it is said to end, such as what ends a request that a server keeps waiting.

        Args:
            end: Called at once, if it was said already; may be called twice, and by any thread.
        """
        self._endings.append(end)
        if self._whole is not None:
            self._whole.on_set(end)
        if self.is_set():
            end()

    def forget(self, end: Callable[[], None]) -> None:
        """Do not call it any more."""
        with contextlib.suppress(ValueError):
            self._endings.remove(end)
        if self._whole is not None:
            self._whole.forget(end)

    def is_set(self) -> bool:
        """Whether to end."""
        return self._set.is_set() or (self._whole is not None and self._whole.is_set())

    def check(self) -> None:
        """End here, if it was said.

        Raises:
            TransferStopped: If it was.
        """
        if self.is_set():
            raise TransferStopped


_running = threading.local()


def running_stop() -> Stop | None:
    """What ends the work of this thread, if anything does; for a transfer that begins within it."""
    stop: Stop | None = getattr(_running, "stop", None)
    return stop


def check_stop(*_: Any, **__: Any) -> None:
    """End here if the transfer that this thread works for was given up; a hook for SDKs to call before each request.

    Raises:
        TransferStopped: If it was.
    """
    stop = running_stop()
    if stop is not None:
        stop.check()


@contextlib.contextmanager
def stopped_by(stop: Stop | None) -> Iterator[None]:
    """Let a stop end the requests of this thread; None lets nothing end them, as when there is something to take back."""
    before = getattr(_running, "stop", None)
    _running.stop = stop
    try:
        yield
    finally:
        _running.stop = before


def run_all(tasks: Sequence[Callable[[], T]], workers: int, stop: Stop, part_size: int = 0) -> list[T]:
    """Run tasks in threads.

    Args:
        tasks: What to run; each sees to it that it ends soon once `stop` is set.
        workers: How many at a time.
        part_size: Bytes that each moves, if it moves any: fewer than `workers` go at a time then, where these bring as much.
        stop: Set when a task fails, or when this thread is interrupted.

    Returns:
        Their results, in the tasks' order.

    Raises:
        BaseException: The first failure. No task is left to run then, but one that a stalled server holds may be.
    """
    crew = _Crew(tasks, stop, Pace(workers, part_size) if part_size else None)
    # Daemons: after Ctrl-C, the process must not wait for what a stalled server holds.
    numbers = range(min(workers, len(tasks)))
    threads = [threading.Thread(target=crew.work, args=[each], name="gllm-storage", daemon=True) for each in numbers]
    try:
        if not _start(threads):
            crew.work(0)
        # A signal that comes just before this thread waits does not wake it up: it has to look.
        while not crew.finished.wait(_LOOK_SECONDS):
            pass
        crew.raise_first_failure()
    except BaseException:
        stop.set()
        deadline = time.monotonic() + _STOP_SECONDS
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        raise
    return crew.results()


def start(thread: threading.Thread) -> bool:
    """Start a thread; whether it could be: an interpreter that is ending takes no more, and atexit may upload.

    Raises:
        BaseException: What interrupted this thread meanwhile, such as Ctrl-C.
    """
    try:
        thread.start()
    except RuntimeError as error:
        # CPython 3.11's `Condition.wait`, in which `start` waits, releases a lock that it has not got when it is interrupted
        # at its end, and hides Ctrl-C behind that failure.
        if str(error) == "release unlocked lock" and error.__context__ is not None:
            raise error.__context__ from None
        return False
    return True


def _start(threads: Sequence[threading.Thread]) -> bool:
    """Start as many of the threads as can be; whether any could."""
    for number, thread in enumerate(threads):
        if not start(thread):
            return number > 0
    return True


class _Crew(Generic[T]):
    """Threads that share a list of tasks."""

    def __init__(self, tasks: Sequence[Callable[[], T]], stop: Stop, pace: Pace | None) -> None:
        self._tasks = tasks
        self._stop = stop
        self._pace = pace
        self._turn = threading.Condition()
        self._taken = 0
        self._results: dict[int, T] = {}
        self._failures: list[BaseException] = []
        self.finished = threading.Event()

    def work(self, worker: int) -> None:
        """Run tasks until there are none left, or one has failed.

        Args:
            worker: Which of them it is: the last are the first to have nothing to do.
        """
        try:
            while (number := self._next(worker)) is not None:
                self._stop.check()
                with stopped_by(self._stop):
                    result = self._tasks[number]()
                self._done(number, result)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            self._failures.append(error)
            self._stop.set()
            self.finished.set()
            with self._turn:
                self._turn.notify_all()

    def _next(self, worker: int) -> int | None:
        with self._turn:
            while self._has_nothing_to_do(worker):
                self._turn.wait(_LOOK_SECONDS)
            if self._taken == len(self._tasks):
                return None
            self._taken += 1
            return self._taken - 1

    def _has_nothing_to_do(self, worker: int) -> bool:
        is_one_too_many = self._pace is not None and worker >= self._pace.width
        return is_one_too_many and self._taken < len(self._tasks) and not self._stop.is_set()

    def _done(self, number: int, result: T) -> None:
        with self._turn:
            self._results[number] = result
            if self._pace is not None:
                width = self._pace.width
                self._pace.moved(self._pace.part_size)
                if self._pace.width > width:
                    self._turn.notify_all()
            if len(self._results) == len(self._tasks):
                self._turn.notify_all()
                self.finished.set()

    def raise_first_failure(self) -> None:
        """Raise what went wrong, if anything did; a part that stopped because another failed says nothing of why."""
        for failure in sorted(self._failures, key=lambda each: isinstance(each, TransferStopped)):
            raise failure

    def results(self) -> list[T]:
        """What the tasks returned, in their order."""
        return [self._results[number] for number in range(len(self._tasks))]
