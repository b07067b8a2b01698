"""`Transfer`: the operation, settings, progress and stop of one upload or download; and the sizes of its parts."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gllm_storage.concurrency.stop import Stop
from gllm_storage.errors import user_code
from gllm_storage.settings import MIB, TransferSettings

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from fsspec.callbacks import Callback

    from gllm_storage.errors import ErrorDetails
    from gllm_storage.files.target import Preserved
    from gllm_storage.info import ObjectInfo, Stored

MAX_PARTS = 10_000
"""The most parts of a multipart upload on S3."""

_LARGEST_RANGE = 4
"""The size of the largest range of a download, in parts."""


def part_size_for(size: int, part_size: int, max_parts: int = MAX_PARTS) -> int:
    """The part size for an object.

    Args:
        size: Size of the object in bytes.
        part_size: The part size of the settings, in bytes.
        max_parts: The most parts.

    Returns:
        `part_size`, or the smallest number of MiB with which `max_parts` parts suffice.
    """
    if size <= part_size * max_parts:
        return part_size
    needed = math.ceil(size / max_parts)
    return max(part_size, math.ceil(needed / MIB) * MIB)


def range_size_for(size: int, settings: TransferSettings) -> int:
    """The size of the ranges in which a large object is downloaded.

    Each range costs a round trip, in which its connection is idle: 20 ms of 180 for 8 MiB at 50 MiB/s. So the ranges of a
    large object are up to four times as large as a part, as long as each of the concurrent ones is followed by three others:
    with fewer, the last ones would leave most connections idle.

    Args:
        size: Size of the object in bytes.
        settings: The part size, and how many ranges are read at a time.

    Returns:
        A size in bytes.
    """
    smallest = part_size_for(size, settings.part_size)
    fair = math.ceil(size / (4 * settings.max_concurrency) / MIB) * MIB
    return max(smallest, min(fair, _LARGEST_RANGE * settings.part_size))


def part_ranges(size: int, part_size: int) -> list[tuple[int, int]]:
    """Offset and length of each part. An empty object has one empty part."""
    return [(offset, min(part_size, size - offset)) for offset in range(0, size, part_size)] or [(0, 0)]


class Progress:
    """Reports the progress of one transfer to a callback. Any thread may call it.

    The reported bytes never exceed the size, although parts may be sent twice, and `finish` makes them equal to it, although
    the answer to a write may be lost.

    Args:
        callback: An fsspec callback, which receives the size in bytes, then the increments; or a function, which is called
            with each increment. None reports nothing.
    """

    def __init__(self, callback: Callback | Callable[[int], object] | None = None) -> None:
        self._set_size: Callable[[int], object] | None = getattr(callback, "set_size", None)
        self._update: Callable[[int], object] | None = getattr(callback, "relative_update", callback)
        self._lock = threading.Lock()
        self._size = 0
        self._reported = 0

    def expect(self, size: int) -> None:
        """Report the size of the object in bytes."""
        with self._lock:
            self._size = size
            if self._set_size is not None:
                with user_code():
                    self._set_size(size)

    def __call__(self, moved: int) -> None:
        """Report that so many more bytes were moved."""
        with self._lock:
            more = min(moved, self._size - self._reported)
            if more > 0:
                self._reported += more
                if self._update is not None:
                    with user_code():
                        self._update(more)

    def finish(self) -> None:
        """Report that all bytes were moved."""
        self(self._size)


class _NoProgress(Progress):
    """Reports nothing, and counts nothing: many transfers share it."""

    def expect(self, size: int) -> None:
        """Ignore the size."""

    def __call__(self, moved: int) -> None:
        """Ignore the bytes."""

    def finish(self) -> None:
        """Ignore the end."""


NO_PROGRESS: Progress = _NoProgress()
"""The progress of a transfer without a callback."""


def progress_of(callback: Callback | Callable[[int], object] | None) -> Progress:
    """The progress that reports to a callback; as `Progress`."""
    return NO_PROGRESS if callback is None else Progress(callback)


def _any_version(version: ObjectInfo) -> None:
    """Accept every version."""


def _not_noted(stored: Stored) -> None:
    """Note nothing."""


@dataclass(frozen=True)
class Transfer:
    """The context of one upload or download.

    Attributes:
        details: The operation, for errors.
        settings: Part size, concurrency, attempts and memory.
        progress: Receives the size in bytes, and the bytes as they move.
        stop: Cancels the transfer when set.
        accept: Called with each version of the object whose content a download is about to receive: its size, its ETag and
            its checksum, if the store reports them. The last one is the version that was delivered. An exception refuses the
            version, and ends the download.
        stored: Called with the result of a copy, where the store's answer states it.
        named: Called when a downloaded file has its name, as `Draft` calls it. None: the file keeps the time of its content.
        preserved: Called for the time and the mode of a downloaded file, after `accept`; None for the usual ones.
    """

    details: ErrorDetails
    settings: TransferSettings
    progress: Progress = NO_PROGRESS
    stop: Stop = field(default_factory=Stop)
    accept: Callable[[ObjectInfo], object] = _any_version
    stored: Callable[[Stored], object] = _not_noted
    named: Callable[[os.stat_result], object] | None = None
    preserved: Callable[[], Preserved] | None = None

    def attempt(self) -> Transfer:
        """A copy for one attempt. Its stop ends this attempt only; the stop of the transfer ends both."""
        # Not by `replace`, which takes three times as long: each small object has an attempt.
        stop = Stop(self.stop)
        return Transfer(
            self.details, self.settings, self.progress, stop, self.accept, self.stored, self.named, self.preserved
        )
