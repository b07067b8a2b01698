"""Running the parts of one transfer side by side, and stopping them all when one fails or the user gives up."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mypy_boto3_s3.client import S3Client

T = TypeVar("T")

_STOP_SECONDS = 10.0
"""How long a failed transfer waits for its other parts to notice. Only a server that stalls takes longer."""


class TransferStopped(BaseException):
    """Raised inside a transfer's threads when the transfer was given up.

    A `BaseException`, because botocore retries any `Exception`.
    """


class Stop:
    """Tells the threads of one attempt to end.

    Args:
        whole: Tells all attempts of the transfer to end, as when an asyncio task is cancelled.
    """

    def __init__(self, whole: Stop | None = None) -> None:
        self._whole = whole
        self._set = threading.Event()

    def set(self) -> None:
        """End this attempt."""
        self._set.set()

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


def stop_retries(client: S3Client) -> None:
    """Make a client's requests end at the next attempt once the transfer that they belong to was given up."""
    client.meta.events.register("before-send.s3", _check_stop)


def _check_stop(**_: Any) -> None:
    stop: Stop | None = getattr(_running, "stop", None)
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


def run_all(tasks: Sequence[Callable[[], T]], workers: int, stop: Stop) -> list[T]:
    """Run tasks in threads.

    Args:
        tasks: What to run; each sees to it that it ends soon once `stop` is set.
        workers: How many at a time.
        stop: Set when a task fails, or when this thread is interrupted.

    Returns:
        Their results, in the tasks' order.

    Raises:
        BaseException: The first failure. No task is left to run then, but one that a stalled server holds may be.
    """

    def run(task: Callable[[], T]) -> T:
        stop.check()
        with stopped_by(stop):
            return task()

    pool = ThreadPoolExecutor(min(workers, len(tasks)), thread_name_prefix="gllm-storage")
    futures: list[Future[T]] = []
    try:
        futures.extend(pool.submit(run, task) for task in tasks)
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        _raise_first_failure(done)
        return [future.result() for future in futures]
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        # A future that was cancelled before it began never counts as done.
        wait([future for future in futures if not future.cancelled()], timeout=_STOP_SECONDS)


def _raise_first_failure(done: set[Future[Any]]) -> None:
    failures = [failure for future in done if (failure := future.exception())]
    # A part that stopped because another failed says nothing of why.
    for failure in sorted(failures, key=lambda each: isinstance(each, TransferStopped)):
        raise failure
