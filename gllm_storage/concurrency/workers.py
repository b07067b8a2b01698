"""Threads that share the tasks of one transfer: `run_all` waits for them, `Background` works beside the caller.

The first failure ends all tasks of a transfer; a failed or interrupted transfer leaves no task that takes effect later.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Generic, TypeVar

from gllm_storage.concurrency.pace import Pace
from gllm_storage.concurrency.stop import Stop, TransferStopped, stopped_by

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")

_STOP_SECONDS = 10.0
"""How long a failed transfer waits for its other tasks to end. Only a server that stalls takes longer."""
_POLL_SECONDS = 0.5
_BACKGROUND_POLL_SECONDS = 0.2


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
    team = _Team(tasks, stop, Pace(workers, part_size) if part_size else None)
    # Daemons: after Ctrl-C, the process must not wait for what a stalled server holds.
    numbers = range(min(workers, len(tasks)))
    threads = [threading.Thread(target=team.work, args=[each], name="gllm-storage", daemon=True) for each in numbers]
    try:
        if not _start(threads):
            team.work(0)
        # A signal that comes just before this thread waits does not wake it up: it has to look.
        while not team.finished.wait(_POLL_SECONDS):
            pass
        team.raise_first_failure()
    except BaseException:
        stop.set()
        deadline = time.monotonic() + _STOP_SECONDS
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        raise
    return team.results()


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


class _Team(Generic[T]):
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
                self._turn.wait(_POLL_SECONDS)
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


class Background:
    """Tasks in threads of their own, a few at a time. The first failure ends all of them.

    Args:
        workers: How many tasks run at a time.
        stop: Set when a task fails; each task sees to it that it ends soon then.
        on_failure: Called once a task has failed and the last one has ended, in its thread: the caller may not come back for
            long, and what others are still sending could not be taken back.
        part_size: Bytes that each task moves, if it moves any: fewer run at a time then, where these bring as much.
    """

    def __init__(self, workers: int, stop: Stop, on_failure: Callable[[], None], part_size: int = 0) -> None:
        self._pace = Pace(workers, part_size)
        self._part_size = part_size
        self._stop = stop
        self._on_failure = on_failure
        self._changed = threading.Condition()
        self._running = 0
        self._own = threading.local()
        self._failure: BaseException | None = None

    def start(self, task: Callable[[], None]) -> None:
        """Begin a task; waits while as many run as may. It is called even if all is to end by then.

        Raises:
            BaseException: What another task failed with. This one was not begun then.
        """
        self.wait_until(lambda: self._running < self._pace.width)
        with self._changed:
            self._running += 1
        # A daemon: after Ctrl-C, the process must not wait for what a stalled server holds.
        thread = threading.Thread(target=self._run, args=(task,), name="gllm-storage-stream", daemon=True)
        if not start(thread):
            self._run(task)

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        """Wait for something that comes about by the end of a task.

        Raises:
            BaseException: What a task failed with.
            TransferStopped: If all is to end.
        """
        with self._changed:
            self._check()
            while not is_so():
                self._changed.wait(_BACKGROUND_POLL_SECONDS)
                self._check()

    def check(self) -> None:
        """End here, if all is to end.

        Raises:
            BaseException: What a task failed with.
            TransferStopped: If none did.
        """
        with self._changed:
            self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._stop.check()

    def finish(self) -> None:
        """Wait for all tasks.

        Raises:
            BaseException: What one failed with.
        """
        self.wait_until(lambda: not self._running)

    def end(self) -> None:
        """Have all tasks end, and wait for that, but not for ever."""
        self._stop.set()
        deadline = time.monotonic() + _STOP_SECONDS
        # One of the tasks does not wait for itself: the garbage collector, which runs in any thread, may drop the stream.
        mine = int(getattr(self._own, "is_task", False))
        with self._changed:
            while self._running > mine and self._changed.wait(max(0.0, deadline - time.monotonic())):
                pass

    def _run(self, task: Callable[[], None]) -> None:
        self._own.is_task = True
        try:
            with stopped_by(self._stop):
                task()
            self._moved()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            self._keep(error)
        if not self._leave_unless_last():
            try:
                self._on_failure()
            finally:
                self._leave()
        self._own.is_task = False

    def _moved(self) -> None:
        if self._part_size:
            with self._changed:
                self._pace.moved(self._part_size)

    def _keep(self, failure: BaseException) -> None:
        with self._changed:
            # A task that stopped because another failed says nothing of why.
            if self._failure is None or isinstance(self._failure, TransferStopped):
                self._failure = failure
            self._changed.notify_all()
        self._stop.set()

    def _leave_unless_last(self) -> bool:
        """End a task, unless it is the last one and there was a failure."""
        with self._changed:
            is_last = self._running == 1 and self._failure is not None
            if not is_last:
                self._leave()
            return not is_last

    def _leave(self) -> None:
        with self._changed:
            self._running -= 1
            self._changed.notify_all()
