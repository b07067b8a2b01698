"""Many small objects: each of a few threads has several requests under way, instead of one thread for each request.

Python's price for a small object is that of its thread, its locks and its switches; the requests themselves are cheap
(`gllm_storage.s3.direct`). Here they are sent once. Whatever does not go well at once, and what is not small, is left to the
normal way, which tries again, decides and explains.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from gllm_storage.parallel import TransferStopped, run_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gllm_storage.parallel import Stop

WORKERS = 2
DEPTH = 32
"""Requests under way in each thread: a store that answers after 20 ms gives 3200 answers per second to 64 of them."""


class StartedRequest(Protocol):
    """A request that was sent, and whose answer was not read yet."""

    def finish(self) -> dict[str, Any]:
        """Wait for the answer, and read it; raises what it says, or that there is none."""


class Job(Protocol):
    """One small object to be moved."""

    def begin(self) -> StartedRequest | None:
        """Send the request; None if it cannot go this way.

        Raises:
            Exception: If it cannot be sent.
        """

    def end(self, answer: dict[str, Any]) -> bool:
        """Take the answer; whether the object was moved.

        Raises:
            Exception: If it was not.
        """


def run_jobs(jobs: Sequence[Job], stop: Stop) -> list[int]:
    """Run jobs, many at a time.

    Args:
        jobs: What to do.
        stop: Ends it when set.

    Returns:
        The numbers of those that have to go the normal way.

    Raises:
        TransferStopped: If `stop` was set.
    """
    crew = _Crew(jobs)
    run_all([partial(crew.work, stop)] * min(WORKERS, len(jobs)), WORKERS, stop)
    return sorted(crew.left)


class _Crew:
    """Threads that share the jobs."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = jobs
        self._lock = threading.Lock()
        self._numbers = iter(range(len(jobs)))
        self.left: list[int] = []

    def work(self, stop: Stop) -> None:
        under_way: deque[tuple[int, StartedRequest]] = deque()
        try:
            more = True
            while more or under_way:
                stop.check()
                if more and len(under_way) < DEPTH:
                    more = self._begin_next(under_way)
                else:
                    self._finish(*under_way.popleft())
        finally:
            # What was sent is decided before this ends: no write may take effect later.
            while under_way:
                with contextlib.suppress(Exception, TransferStopped):
                    self._finish(*under_way.popleft())

    def _begin_next(self, under_way: deque[tuple[int, StartedRequest]]) -> bool:
        with self._lock:
            number = next(self._numbers, None)
        if number is None:
            return False
        started = None
        with contextlib.suppress(Exception):  # the normal way will meet it again, and explain it
            started = self._jobs[number].begin()
        if started is None:
            self.left.append(number)
        else:
            under_way.append((number, started))
        return True

    def _finish(self, number: int, started: StartedRequest) -> None:
        moved = False
        with contextlib.suppress(Exception):  # as above
            moved = self._jobs[number].end(started.finish())
        if not moved:
            self.left.append(number)
