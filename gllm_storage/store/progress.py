"""`Progress`: who watches a transfer hears of it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fsspec.callbacks import Callback


class Progress:
    """Tells an fsspec callback, from any thread, how much was moved: never more than there is, and all of it at the end.

    Parts that are sent again, and answers that are lost, would otherwise make it more or less.

    Args:
        callback: Told the size in bytes, and how many more were moved; None if nobody watches.
    """

    def __init__(self, callback: Callback | None = None) -> None:
        self._callback = callback
        self._lock = threading.Lock()
        self._size = 0
        self._told = 0

    def expect(self, size: int) -> None:
        """So many bytes there are in all."""
        with self._lock:
            self._size = size
            if self._callback is not None:
                self._callback.set_size(size)

    def __call__(self, moved: int) -> None:
        """So many more bytes were moved."""
        with self._lock:
            more = min(moved, self._size - self._told)
            if more > 0:
                self._told += more
                if self._callback is not None:
                    self._callback.relative_update(more)

    def finish(self) -> None:
        """All of them were."""
        self(self._size)
