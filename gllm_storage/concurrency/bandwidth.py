"""`Bandwidth`: the most bytes per second that all threads of one transfer move together.

The threads find it by their stop (`Stop.bandwidth`). Where bytes go over a connection, in `http.wire` and `store.answers`,
they go in small pieces, and a thread waits for each. A thread that waits for its turn holds no lock, wakes when the transfer
is cancelled, and does not count as waiting for a server. Kernels and servers buffer some bytes of each connection.
"""

from __future__ import annotations

import sys
import threading
import time
from numbers import Real
from typing import TYPE_CHECKING, Any

from gllm_storage.concurrency.stop import Stop, running_stop

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BURST_SECONDS = 0.1
"""Time without use, of which the bytes may be moved later: otherwise each wait that ends late would be lost."""
_PIECE_SECONDS = 0.05
_LARGEST_PIECE = 2**16
_SHORTEST_WAIT = 0.001


class Bandwidth:
    """A limit on the bytes that move in both directions together. Any thread may use it.

    Args:
        rate: The most bytes per second, on average. In any time t, at most ``rate * (t + BURST_SECONDS)`` bytes are
            granted. A byte is sent after its grant; bytes are received just before it, at most one piece per connection.

    Attributes:
        piece: The most bytes to move at once: those of 50 ms, so that many connections take turns before their servers end
            them as idle; at most 64 KiB.

    Raises:
        ValueError: If the rate is not a positive number.
    """

    def __init__(self, rate: float) -> None:
        kind: Any = type(rate)
        if not issubclass(kind, Real) or kind is bool or not 0 < rate <= sys.float_info.max:
            raise ValueError(f"bandwidth={rate!r}: it must be a positive number of bytes per second")
        self._rate = float(rate)
        self.piece = max(1, int(min(_LARGEST_PIECE, self._rate * _PIECE_SECONDS)))
        self._lock = threading.Lock()
        self._free_at = time.monotonic()

    def take(self, count: int) -> None:
        """Wait until so many more bytes are granted. Threads are served in the order of their calls.

        Raises:
            TransferStopped: If this thread's transfer was cancelled.
        """
        with self._lock:
            begin = max(self._free_at, time.monotonic() - BURST_SECONDS)
            self._free_at = end = begin + count / self._rate
        seconds = end - time.monotonic()
        if seconds > _SHORTEST_WAIT:
            (running_stop() or Stop()).wait(min(seconds, threading.TIMEOUT_MAX))

    def paced(self, chunks: Iterable[bytes | bytearray | memoryview]) -> Iterator[memoryview]:
        """The same bytes in small pieces, each after its grant; raises as `take`."""
        for chunk in chunks:
            view = memoryview(chunk).cast("B")
            for start in range(0, len(view), self.piece):
                piece = view[start : start + self.piece]
                self.take(len(piece))
                yield piece


def running_bandwidth() -> Bandwidth | None:
    """The limit of this thread's work; None if there is none."""
    stop = running_stop()
    return None if stop is None else stop.bandwidth


def pace(count: int) -> None:
    """Wait until so many bytes are granted, if this thread's work has a limit; as `Bandwidth.take`."""
    bandwidth = running_bandwidth()
    if bandwidth is not None:
        bandwidth.take(count)
