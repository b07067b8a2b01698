"""One budget of memory for all transfers of a process, so that many at once need no more than one.

Two kinds of bytes count. Bytes *in flight*, such as a part that is being sent, are given back by the thread that moves them,
whatever the caller does; one may wait for them. Bytes that are *held* stay as long as the caller likes, such as what was
read ahead of him, or what he has written of a part that is not full; nobody may wait for those, so there is only `try_hold`,
and whoever gets nothing does without.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from gllm_storage.concurrency.fork import PerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gllm_storage.concurrency.stop import Stop

_LOOK_SECONDS = 0.2


class MemoryBudget:
    """What is taken of the memory, in bytes. Each call says its own limit: clients of all settings share one budget."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._in_flight = 0
        self._held = 0

    @property
    def taken(self) -> int:
        """Bytes that are taken now."""
        return self._in_flight + self._held

    def acquire(self, size: int, limit: int, stop: Stop) -> None:
        """Take bytes for something in flight; waits until there is room. A single one always fits.

        Args:
            size: How many.
            limit: How many all may take together.
            stop: Ends the wait.

        Raises:
            TransferStopped: If `stop` was set.
        """
        with self._changed:
            while self._in_flight and self.taken + size > limit:
                stop.check()
                self._changed.wait(_LOOK_SECONDS)
            self._in_flight += size

    def release(self, size: int) -> None:
        """Give back bytes that were in flight."""
        with self._changed:
            self._in_flight -= size
            self._changed.notify_all()

    def try_hold(self, size: int, limit: int, reserve: int) -> bool:
        """Take bytes that stay for as long as the caller likes, if there is room.

        Args:
            size: How many.
            limit: How many all may take together.
            reserve: Bytes to leave for what is in flight: the size of one part.

        Returns:
            Whether they were taken.
        """
        with self._changed:
            if self._held + size > limit - reserve or self.taken + size > limit:
                return False
            self._held += size
            return True

    def send_held(self, size: int) -> None:
        """Bytes that were held go in flight; whoever moves them gives them back by `release`."""
        with self._changed:
            self._held -= size
            self._in_flight += size

    def let_go(self, size: int) -> None:
        """Give back bytes that were held."""
        with self._changed:
            self._held -= size
            self._changed.notify_all()


@contextlib.contextmanager
def in_flight(size: int, limit: int, stop: Stop) -> Iterator[None]:
    """Take bytes of the process's budget for something in flight, for as long as the block lasts; as `acquire`."""
    budget = memory_budget()
    budget.acquire(size, limit, stop)
    try:
        yield
    finally:
        budget.release(size)


_budget: PerProcess[MemoryBudget] = PerProcess(MemoryBudget)


def memory_budget() -> MemoryBudget:
    """The budget of this process."""
    return _budget.get()
