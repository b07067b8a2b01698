"""`Transfer`: the settings, the progress and the stop that all uploads and downloads carry; and their part sizes."""

from __future__ import annotations

import dataclasses
import math
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gllm_storage.concurrency.stop import Stop
from gllm_storage.settings import MIB, TransferSettings

if TYPE_CHECKING:
    from fsspec.callbacks import Callback

    from gllm_storage.errors import ErrorDetails

MAX_PARTS = 10_000


def part_size_for(size: int, part_size: int, max_parts: int = MAX_PARTS) -> int:
    """Part size in bytes that needs at most `max_parts` parts."""
    needed = math.ceil(size / max_parts)
    return max(part_size, math.ceil(needed / MIB) * MIB)


def part_ranges(size: int, part_size: int) -> list[tuple[int, int]]:
    """(offset, length) of each part; an empty object has one empty part."""
    return [(offset, min(part_size, size - offset)) for offset in range(0, size, part_size)] or [(0, 0)]


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


@dataclass(frozen=True)
class Transfer:
    """What all uploads and downloads have.

    Attributes:
        details: What it is about, for errors.
        settings: How objects are moved.
        progress: Told how many bytes there are, and how many of them were moved.
        stop: Ends the transfer when set.
    """

    details: ErrorDetails
    settings: TransferSettings
    progress: Progress = field(default_factory=Progress)
    stop: Stop = field(default_factory=Stop)

    def attempt(self) -> Transfer:
        """The same, with a stop of its own for one attempt."""
        return dataclasses.replace(self, stop=Stop(self.stop))
