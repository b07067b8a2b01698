"""Threads that run the tasks of one transfer: `run_all` waits for its tasks, `Background` runs them beside the caller.

The first failure stops all tasks of the transfer. After a failure or Ctrl-C both wait until the other tasks have ended, so
that no request takes effect after the call. The wait is limited to 10 s, for a server that stalls.

All threads are daemons. Python waits at exit for threads that are not, and so Ctrl-C would not end a process whose server
stalls.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeVar

from gllm_storage.concurrency.exiting import is_exiting, is_green
from gllm_storage.concurrency.fork import PerProcess
from gllm_storage.concurrency.stop import Stop, TransferStopped, stopped_by
from gllm_storage.concurrency.width import Width

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")

_STOP_SECONDS = 10.0
"""How long a failed transfer waits for the ends of its other tasks. Only a server that stalls takes longer."""
_POLL_SECONDS = 0.5
_HAS_THREAD_CLOCKS = sys.platform == "linux"
_THREAD_CLOCK = 0b110
"""The kind of a clock of Linux: the time for which a thread has run."""
_FIRST_PAUSE = 0.01
"""How long the first workers run before the others may start."""
_START_PAUSE = 0.001
"""How long the end of a task waits before it looks again whether a thread has begun."""
_BACKGROUND_POLL_SECONDS = 0.2
_IDLE_SECONDS = 5.0
"""How long a thread waits for another task of `run_all`."""
_own = threading.local()
"""``is_worker``: whether this thread runs the tasks of a `run_all`."""


def run_all(tasks: Sequence[Callable[[], T]], workers: int, stop: Stop, *, paced: bool = False) -> list[T]:
    """Run tasks in threads.

    Args:
        tasks: The tasks. Each must end soon after `stop` was set.
        workers: The most tasks at a time.
        stop: Set if a task fails or this thread is interrupted.
        paced: Whether `Width` chooses how many tasks run at a time, up to `workers`. For tasks that move so much content
            that two of them may use the machine or the network fully.

    Returns:
        The results, in the order of the tasks.

    Raises:
        BaseException: The exception of the first task that failed, or the one that interrupted this thread. No task runs
            any more, except one that a stalled server holds for more than 10 s.
    """
    if len(tasks) == 1:
        # No signal interrupts a worker thread, so its task needs no other one.
        return [(_run_here if getattr(_own, "is_worker", False) else _run_one)(tasks[0], stop)]
    most = min(workers, len(tasks))
    queue = _TaskQueue(tasks, stop, Width(most) if paced else None)
    threads = [threading.Thread(target=queue.work, args=[each], name="gllm-storage", daemon=True) for each in range(most)]
    try:
        width = queue.width
        if not _start(threads[:width]):
            queue.work(0)
        # A signal that arrives just before the wait does not interrupt it, so the wait is short and repeated.
        pause = _FIRST_PAUSE if width < most else _POLL_SECONDS
        while not queue.finished.wait(pause):
            pause = min(2 * pause, _POLL_SECONDS)
            if width < queue.observe():
                _start(threads[width : queue.width])
                width, pause = queue.width, _FIRST_PAUSE
        queue.raise_first_failure()
    except BaseException:
        stop.set()
        deadline = time.monotonic() + _STOP_SECONDS
        for thread in threads:
            _join(thread, deadline)
        raise
    return queue.results()


def _run_one(task: Callable[[], T], stop: Stop) -> T:
    """Run one task in a thread; as `run_all`.

    Programs send many small requests, one after another. The thread of one serves the next: a new thread takes as long as
    the request itself.
    """
    found: list[T] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            stop.check()
            with stopped_by(stop):
                found.append(task())
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            failures.append(error)
            stop.set()

    handed = _Handed(work)
    try:
        # At the very end of the interpreter the waiting threads exist, and do not run any more.
        if is_green() or is_exiting() or not _hand_over(handed):
            _run_in_new_thread(handed)
        # A signal that arrives just before the wait does not interrupt it, so the wait is short and repeated.
        while not handed.wait(_POLL_SECONDS):
            pass
    except BaseException:
        stop.set()
        if not handed.take():
            handed.wait(_STOP_SECONDS)
        raise
    if failures:
        raise failures.pop()  # the list would keep the traceback alive, and the traceback the list
    return found[0]


class _Handed:
    """A task that one thread hands to another one, and waits for its end.

    Ctrl-C may interrupt the caller at any point of the hand-over. Then it takes the task back if no thread has yet.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._taken = threading.Lock()
        # A lock, and not an `Event`, which costs four times as much. The flag is for a second call of `wait`: the signal may
        # arrive when the first one has locked it.
        self._has_ended = False
        self._ended = threading.Lock()
        self._ended.acquire()

    def take(self) -> bool:
        """Take the task, once; whether nothing had taken it before."""
        return self._taken.acquire(blocking=False)

    def run(self) -> None:
        """Run the task, unless the caller has taken it back. The thread calls `end` then."""
        if self.take():
            self._work()

    def end(self) -> None:
        """The thread is done with the task."""
        self._has_ended = True
        self._ended.release()

    def wait(self, seconds: float) -> bool:
        """Wait for `end`; whether it came."""
        return self._has_ended or self._ended.acquire(timeout=seconds)


def _run_in_new_thread(handed: _Handed) -> None:
    def run() -> None:
        try:
            handed.run()
        finally:
            handed.end()

    if not start(threading.Thread(target=run, name="gllm-storage", daemon=True)):
        run()


class _Waiting:
    """A thread that has ended its task, and waits for the next one for some seconds."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[_Handed] = SimpleQueue()
        self._changing = threading.Lock()
        self._has_ended = False

    def give(self, handed: _Handed) -> bool:
        """Give it a task. Returns False if the thread has ended in the meantime."""
        with self._changing:
            if not self._has_ended:
                self._tasks.put(handed)
            return not self._has_ended

    def run(self) -> None:
        """Run tasks until none comes for some seconds."""
        idle = _idle.get()
        while not self._has_ended:
            try:
                handed = self._tasks.get(timeout=_IDLE_SECONDS)
            except Empty:
                self._end_if_idle()
                continue
            try:
                handed.run()
            finally:
                idle.append(self)  # before the caller goes on, so that its next task finds this thread
                handed.end()
                del handed  # it holds the task, and so the content that it moved
        with contextlib.suppress(ValueError):  # a caller has taken it from the list
            idle.remove(self)

    def _end_if_idle(self) -> None:
        with self._changing:  # a caller that was interrupted has taken this thread from the list, and gives it nothing
            self._has_ended = self._tasks.empty()


_idle: PerProcess[list[_Waiting]] = PerProcess(list)


def _hand_over(handed: _Handed) -> bool:
    """Let a waiting thread, or a new one, run a task. Returns False if the interpreter refuses new threads."""
    idle = _idle.get()
    try:
        while not idle.pop().give(handed):
            pass
    except IndexError:
        waiting = _Waiting()
    else:
        return True
    waiting.give(handed)
    return start(threading.Thread(target=waiting.run, name="gllm-storage-waiting", daemon=True))


def _run_here(task: Callable[[], T], stop: Stop) -> T:
    """Run a task in this thread."""
    try:
        stop.check()
        with stopped_by(stop):
            return task()
    except BaseException:
        stop.set()
        raise


def start(thread: threading.Thread) -> bool:
    """Start a thread.

    Returns:
        False if the interpreter is shutting down, when it refuses new threads. Uploads may still begin then, in atexit
        functions: the caller runs the task in its own thread.

    Raises:
        BaseException: The exception that interrupted this thread meanwhile, such as `KeyboardInterrupt`.
    """
    if sys.is_finalizing():  # it would start, and never run
        return False
    try:
        thread.start()
    except RuntimeError as error:
        # `start` waits in `Condition.wait`. If a signal interrupts that at its very end, CPython 3.11 releases a lock that
        # it does not hold, and this RuntimeError hides the KeyboardInterrupt.
        if str(error) == "release unlocked lock" and error.__context__ is not None:
            raise error.__context__ from None
        return False
    return True


def _start(threads: Sequence[threading.Thread]) -> bool:
    """Start the threads until the interpreter refuses one. Returns whether any was started."""
    for number, thread in enumerate(threads):
        if not start(thread):
            return number > 0
    return True


def _join(thread: threading.Thread, deadline: float) -> None:
    """Wait for the end of a thread, if it was started.

    The start may have been interrupted by a signal. Then the thread runs, and `join` refuses it ("before it is started")
    until it has marked itself as started.
    """
    while thread.ident is not None:
        with contextlib.suppress(RuntimeError):
            thread.join(max(0.0, deadline - time.monotonic()))
            return
        if time.monotonic() > deadline:
            return
        time.sleep(_START_PAUSE)


class _TaskQueue(Generic[T]):
    """The tasks of one `run_all`, and their results; each worker thread takes the next task."""

    def __init__(self, tasks: Sequence[Callable[[], T]], stop: Stop, pace: Width | None) -> None:
        self._tasks = tasks
        self._stop = stop
        self._pace = pace
        self._changed = threading.Condition()
        self._started = 0
        self._results: dict[int, T] = {}
        self._failures: list[BaseException] = []
        self._clocks: dict[int, int] = {}
        self._cpu_of_ended = 0.0
        self._process_time = time.process_time()
        self._observed = time.perf_counter(), 0.0
        self.finished = threading.Event()

    @property
    def width(self) -> int:
        """How many workers may run."""
        return len(self._tasks) if self._pace is None else self._pace.width

    def work(self, worker: int) -> None:
        """Run tasks until none is left, or one has failed.

        Args:
            worker: Number of this worker, from 0. When `Width` allows fewer workers, those with the highest numbers pause.
        """
        before = getattr(_own, "is_worker", False)
        _own.is_worker = threading.current_thread() is not threading.main_thread()
        try:
            self._begin(worker)
            while (number := self._next(worker)) is not None:
                self._stop.check()
                with stopped_by(self._stop):
                    result = self._tasks[number]()
                self._done(number, result)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            self._failures.append(error)
            self._stop.set()
            self.finished.set()
            with self._changed:
                self._changed.notify_all()
        finally:
            _own.is_worker = before
            self._end(worker)

    def _begin(self, worker: int) -> None:
        if self._pace is not None and _HAS_THREAD_CLOCKS:
            # As pthread_getcpuclockid(3) makes it, which would crash for an identity of gevent's.
            clock = (~threading.get_native_id() << 3) | _THREAD_CLOCK
            with self._changed:
                self._clocks[worker] = clock

    def _end(self, worker: int) -> None:
        with self._changed:  # the clock of a thread that has ended must not be read
            clock = self._clocks.pop(worker, None)
            if clock is not None:
                self._cpu_of_ended += time.clock_gettime(clock)

    def observe(self) -> int:
        """Let `Width` judge the time since the last call; returns how many workers may run now."""
        if self._pace is None:
            return self.width
        with self._changed:
            width, (before, cpu_before) = self._pace.width, self._observed
            cpu, now = self._cpu(), time.perf_counter()
            self._observed = now, cpu
            self._pace.observe(now - before, cpu - cpu_before, min(width, len(self._clocks) or width))
            if self._pace.width > width:
                self._changed.notify_all()
            return self._pace.width

    def _cpu(self) -> float:
        """The time of the processor that the workers have used, in seconds."""
        if not _HAS_THREAD_CLOCKS:
            return time.process_time() - self._process_time
        return self._cpu_of_ended + sum(map(time.clock_gettime, self._clocks.values()))

    def _next(self, worker: int) -> int | None:
        with self._changed:
            while self._must_pause(worker):
                self._changed.wait(_POLL_SECONDS)
            if self._started == len(self._tasks):
                return None
            self._started += 1
            return self._started - 1

    def _must_pause(self, worker: int) -> bool:
        is_beyond_pace = self._pace is not None and worker >= self._pace.width
        return is_beyond_pace and self._started < len(self._tasks) and not self._stop.is_set()

    def _done(self, number: int, result: T) -> None:
        with self._changed:
            self._results[number] = result
            if self._pace is not None:
                width = self._pace.width
                self._pace.ended(self._cpu())
                if self._pace.width > width:
                    self._changed.notify_all()
            if len(self._results) == len(self._tasks):
                self._changed.notify_all()
                self.finished.set()

    def raise_first_failure(self) -> None:
        """Raise the first failure, if there is one. `TransferStopped` comes last: it follows from another failure."""
        for failure in sorted(self._failures, key=lambda each: isinstance(each, TransferStopped)):
            raise failure

    def results(self) -> list[T]:
        """The results, in the order of the tasks."""
        return [self._results[number] for number in range(len(self._tasks))]


class Background:
    """Runs tasks in threads beside the caller. The first failure stops all of them.

    Args:
        workers: The most tasks at a time.
        stop: Set if a task fails. Each task must end soon afterwards.
        on_failure: Cleans up, such as by aborting the multipart upload. Called after a task has failed, in the thread of
            the task that ends last: earlier, parts that are still being sent could arrive after the abort; and the
            caller's thread may not come back for a long time.
    """

    def __init__(self, workers: int, stop: Stop, on_failure: Callable[[], None]) -> None:
        self._pace = Width(workers)
        self._cpu = 0.0
        self._observed = 0.0, 0.0
        self._stop = stop
        self._on_failure = on_failure
        self._changed = threading.Condition()
        self._running = 0
        self._own = threading.local()
        self._failure: BaseException | None = None

    def start(self, task: Callable[[], None]) -> None:
        """Start a task; wait before while as many tasks run as `Width` allows.

        Once started, the task is called even if the transfer was stopped in the meantime, so that it can release its memory.

        Raises:
            BaseException: The failure of another task; this one was not started.
            TransferStopped: If the transfer was stopped; likewise.
        """
        self._observed = time.perf_counter(), time.process_time()
        self.wait_until(self._has_room)
        with self._changed:
            self._running += 1
        thread = threading.Thread(target=self._run, args=(task,), name="gllm-storage-stream", daemon=True)
        if not start(thread):
            self._run(task)

    def _has_room(self) -> bool:
        """Whether another task may run. While the caller waits for that, the process does little but the tasks."""
        now, cpu = time.perf_counter(), time.process_time()
        seconds = now - self._observed[0]
        if self._running >= self._pace.width and seconds >= _BACKGROUND_POLL_SECONDS:
            self._pace.observe(seconds, cpu - self._observed[1], self._running)
            self._observed = now, cpu
        return self._running < self._pace.width

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition, which the end of a task makes true.

        Raises:
            BaseException: The failure of a task.
            TransferStopped: If the transfer was stopped.
        """
        with self._changed:
            self._check()
            while not condition():
                self._changed.wait(_BACKGROUND_POLL_SECONDS)
                self._check()

    def check(self) -> None:
        """Raise if the transfer cannot go on.

        Raises:
            BaseException: The failure of a task.
            TransferStopped: If the transfer was stopped, and no task failed.
        """
        with self._changed:
            self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._stop.check()

    def finish(self) -> None:
        """Wait for the ends of all tasks.

        Raises:
            BaseException: The failure of a task.
            TransferStopped: If the transfer was stopped.
        """
        self.wait_until(lambda: not self._running)

    def end(self) -> None:
        """Stop all tasks and wait for their ends, at most 10 s."""
        self._stop.set()
        deadline = time.monotonic() + _STOP_SECONDS
        # A task that calls this does not wait for itself: the garbage collector may run in its thread, and end the stream.
        mine = int(getattr(self._own, "is_task", False))
        with self._changed:
            while self._running > mine and self._changed.wait(max(0.0, deadline - time.monotonic())):
                pass

    def _run(self, task: Callable[[], None]) -> None:
        self._own.is_task = True
        try:
            began, cpu = time.perf_counter(), time.thread_time()
            with stopped_by(self._stop):
                task()
            self._observe(time.perf_counter() - began, time.thread_time() - cpu)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            self._record_failure(error)
        if not self._task_ended_unless_last():
            try:
                self._on_failure()
            finally:
                self._task_ended()
        self._own.is_task = False

    def _observe(self, seconds: float, cpu: float) -> None:
        with self._changed:
            self._cpu += cpu
            self._pace.observe(seconds, cpu, 1)
            self._pace.ended(self._cpu)

    def _record_failure(self, failure: BaseException) -> None:
        with self._changed:
            # A task that was stopped because another one failed does not know the cause.
            if self._failure is None or isinstance(self._failure, TransferStopped):
                self._failure = failure
            self._changed.notify_all()
        self._stop.set()

    def _task_ended_unless_last(self) -> bool:
        """Count the end of this task, unless it is the last one and must clean up after a failure first."""
        with self._changed:
            is_last = self._running == 1 and self._failure is not None
            if not is_last:
                self._task_ended()
            return not is_last

    def _task_ended(self) -> None:
        with self._changed:
            self._running -= 1
            self._changed.notify_all()
