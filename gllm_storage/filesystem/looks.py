"""`Looks`: the last look of each thread at an object, for an `open` right after it, which then sends no request."""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gllm_storage.info import ObjectInfo

_SECONDS = 1.0
"""How long a look counts."""


class Looks(threading.local):
    """The last look of each thread of one filesystem. A write or delete in this process ends those of all filesystems."""

    _changes = itertools.count(1)
    _changed = 0

    def __init__(self) -> None:
        self._last: tuple[tuple[str, str], ObjectInfo, float, int] | None = None

    @classmethod
    def end(cls) -> None:
        """End the looks of all threads and filesystems, after a write or delete."""
        cls._changed = next(cls._changes)

    def remember(self, bucket: str, key: str, info: ObjectInfo) -> None:
        """Keep the facts about an object.

        Args:
            bucket: Its bucket.
            key: Its key.
            info: The facts.
        """
        self._last = (bucket, key), info, time.monotonic(), Looks._changed

    def take(self, bucket: str, key: str) -> ObjectInfo | None:
        """The facts of the last look, if it was at this object, a moment ago, and before no write. They serve once.

        Args:
            bucket: The bucket.
            key: The key.
        """
        last, self._last = self._last, None
        if last is None:
            return None
        place, info, when, changed = last
        is_recent = changed == Looks._changed and time.monotonic() - when < _SECONDS
        # A size of 0 counts only after a GET request, which `open` sends.
        return info if is_recent and place == (bucket, key) and info.etag and info.size else None
