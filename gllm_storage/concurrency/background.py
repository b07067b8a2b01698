"""Tasks that run beside their caller, who goes on making more of them: the parts of a stream."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from gllm_storage.concurrency.pace import Pace
from gllm_storage.concurrency.workers import TransferStopped, start, stopped_by

if TYPE_CHECKING:
    from collections.abc import Callable

    from gllm_storage.concurrency.workers import Stop

_STOP_SECONDS = 10.0
"""How long one who gives up waits for the tasks to notice. Only a server that stalls takes longer."""
_LOOK_SECONDS = 0.2


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
                self._changed.wait(_LOOK_SECONDS)
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
