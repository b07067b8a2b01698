"""State that must not cross a `fork`: sockets, locks and SDK clients belong to the process that made them.

`fork` copies the memory of a process, but of its threads only the one that called it. PyTorch's `DataLoader` forks its
workers, often while a client is in use. In the child

- a socket is the parent's own: both processes would read parts of the same answers, and break the TLS session;
- a lock that another thread held during the fork is locked for ever, because that thread does not exist in the child;
- an event loop or a thread pool exists as an object, but no thread runs it.

So each such value lives in a `PerProcess`, which compares process ids at each use: a child makes a value of its own, under a
lock of its own, and leaves the parent's alone.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


@dataclass
class _Cell(Generic[T]):
    """The value of one process, and the lock under which it is made."""

    pid: int = field(default_factory=os.getpid)
    lock: threading.Lock = field(default_factory=threading.Lock)
    value: T | None = None


class PerProcess(Generic[T]):
    """A value that each process makes once, when it is first used. Threads of one process share it.

    Args:
        make: Makes the value. An exception of it reaches the caller of `get`, and the next call tries again.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._cell: _Cell[T] = _Cell()

    def get(self) -> T:
        """The value of this process.

        Raises:
            Exception: Any exception of `make`.
        """
        cell = self._cell
        if cell.pid != os.getpid():
            # No lock guards this line, since the parent's lock may be locked for ever. Two threads of a new child may both
            # replace the cell; one of them then keeps a value that no later call returns. That wastes one client.
            cell = self._cell = _Cell()
        if cell.value is not None:
            return cell.value
        with cell.lock:
            if cell.value is None:
                cell.value = self._make()
            return cell.value

    def peek(self) -> T | None:
        """The value of this process, if it was made already."""
        cell = self._cell
        return cell.value if cell.pid == os.getpid() else None

    def forget(self) -> None:
        """Drop the value of this process, so that the next `get` makes another."""
        if self._cell.pid == os.getpid():
            self._cell = _Cell()


_identity: PerProcess[str] = PerProcess(lambda: os.urandom(8).hex())


def this_process() -> str:
    """A text that no other process has, also not on another machine."""
    return _identity.get()
