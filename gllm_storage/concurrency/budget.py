"""One memory budget for all transfers of a process, so that many transfers at a time need no more memory than one.

The budget counts two kinds of bytes:

- Bytes *in flight* belong to a request that is in progress, such as a part of a multipart upload. The thread that moves them
  releases them in every case, soon, and without help from the caller. So other threads may wait for them: `acquire`.
- *Held* bytes stay until the caller does something: they were read ahead of the caller, or belong to a part that the caller
  has not filled yet. The caller may never do it, or may be the very thread that would wait. So held bytes are never waited
  for: `try_hold` returns False when the budget is full, and the caller spills to disk or reads less ahead.

For the same reason `acquire` never waits while nothing is in flight, although the bytes may then exceed the limit: only held
bytes fill the budget at that moment. `try_hold` makes this rare, because it leaves the memory of one part in flight.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from gllm_storage.concurrency.fork import PerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gllm_storage.concurrency.stop import Stop

_POLL_SECONDS = 0.2
"""How often a waiting thread checks whether its transfer was cancelled."""


class MemoryBudget:
    """Counts bytes of content in memory.

    Each call names its own limit, because clients with different settings share one budget.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._in_flight = 0
        self._held = 0

    @property
    def taken(self) -> int:
        """Bytes in use: in flight and held."""
        return self._in_flight + self._held

    def acquire(self, size: int, limit: int, stop: Stop) -> None:
        """Count bytes as in flight; wait until they fit. They always fit if nothing else is in flight.

        Args:
            size: Number of bytes.
            limit: The most bytes in use, held ones included.
            stop: Ends the wait.

        Raises:
            TransferStopped: If the transfer was cancelled while it waited; nothing was acquired then.
        """
        with self._changed:
            while self._in_flight and self.taken + size > limit:
                stop.check()
                self._changed.wait(_POLL_SECONDS)
            self._in_flight += size

    def release(self, size: int) -> None:
        """Return bytes that were in flight."""
        with self._changed:
            self._in_flight -= size
            self._changed.notify_all()

    def try_hold(self, size: int, limit: int, reserve: int) -> bool:
        """Count bytes as held, if they fit now. Never waits.

        Args:
            size: Number of bytes.
            limit: The most bytes in use.
            reserve: Bytes that held ones leave to those in flight: the size of one part.

        Returns:
            Whether the bytes were counted.
        """
        with self._changed:
            if self._held + size > limit - reserve or self.taken + size > limit:
                return False
            self._held += size
            return True

    def send_held(self, size: int) -> None:
        """Turn held bytes into bytes in flight. The thread that sends them calls `release`."""
        with self._changed:
            self._held -= size
            self._in_flight += size

    def let_go(self, size: int) -> None:
        """Return bytes that were held."""
        with self._changed:
            self._held -= size
            self._changed.notify_all()


@contextlib.contextmanager
def in_flight(size: int, limit: int, stop: Stop) -> Iterator[None]:
    """Count bytes as in flight in the budget of this process, while the block runs.

    Args:
        size: Number of bytes.
        limit: The most bytes in use, held ones included.
        stop: Ends the wait for memory.

    Raises:
        TransferStopped: If the transfer was cancelled while it waited.
    """
    budget = memory_budget()
    budget.acquire(size, limit, stop)
    try:
        yield
    finally:
        budget.release(size)


_budget: PerProcess[MemoryBudget] = PerProcess(MemoryBudget)


def memory_budget() -> MemoryBudget:
    """The budget of this process. A forked child begins with an empty one."""
    return _budget.get()
