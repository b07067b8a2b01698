"""State that must not cross a `fork`: sockets, locks and SDK clients belong to the process that made them."""

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
    pid: int = field(default_factory=os.getpid)
    lock: threading.Lock = field(default_factory=threading.Lock)
    value: T | None = None


class PerProcess(Generic[T]):
    """A value that is made once in each process, on first use, by whichever thread comes first.

    A forked child makes its own and never looks at the parent's, nor at the parent's lock, which another thread may have
    held at the moment of the fork.

    Args:
        make: Makes the value.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._cell: _Cell[T] = _Cell()

    def get(self) -> T:
        """The value of this process."""
        cell = self._cell
        if cell.pid != os.getpid():
            # Two threads of a new child may both come here; one cell is then lost, which costs a client, not a promise.
            cell = self._cell = _Cell()
        with cell.lock:
            if cell.value is None:
                cell.value = self._make()
            return cell.value
