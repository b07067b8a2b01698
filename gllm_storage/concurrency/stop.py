"""`Stop`: how the threads of a transfer learn that it was cancelled.

A transfer runs in several threads, and Python cannot end a thread from outside. So every thread asks: before each request,
between the pieces of a body, and while it waits. A `Stop` answers. The thread's own stop is in a thread-local variable
(`stopped_by`, `running_stop`), so that code far below, such as a hook inside an SDK, can ask without a parameter. The limit
on the bandwidth of the transfer gets there in the same way.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gllm_storage.concurrency.bandwidth import Bandwidth


class TransferStopped(BaseException):
    """Raised in the threads of a transfer that was cancelled.

    A `BaseException`, because SDKs retry after any `Exception`.
    """


class Stop:
    """Tells the threads of one attempt to end.

    Args:
        parent: Ends all attempts of the transfer, for example when an asyncio task is cancelled.
        bandwidth: Limits the bytes per second; None for the limit of the parent.

    Attributes:
        bandwidth: The limit; None for no limit.
    """

    __slots__ = ("_callbacks", "_is_set", "_parent", "bandwidth")

    def __init__(self, parent: Stop | None = None, bandwidth: Bandwidth | None = None) -> None:
        self._parent = parent
        self.bandwidth: Bandwidth | None = parent.bandwidth if bandwidth is None and parent is not None else bandwidth
        self._is_set = False  # no Event, which costs as much as the rest of a small request's bookkeeping
        self._callbacks: list[Callable[[], None]] = []

    def set(self) -> None:
        """End this attempt."""
        self._is_set = True
        for callback in list(self._callbacks):
            callback()

    def on_set(self, callback: Callable[[], None]) -> None:
        """Register a callback, such as the close of a connection on which a server stalls.

        Args:
            callback: Called by any thread, at once if the stop is set already, and perhaps twice.
        """
        self._callbacks.append(callback)
        if self._parent is not None:
            self._parent.on_set(callback)
        if self.is_set():
            callback()

    def forget(self, callback: Callable[[], None]) -> None:
        """Unregister a callback."""
        if callback in self._callbacks:
            self._callbacks.remove(callback)
        if self._parent is not None:
            self._parent.forget(callback)

    def is_set(self) -> bool:
        """Whether the attempt ends."""
        return self._is_set or (self._parent is not None and self._parent.is_set())

    def check(self) -> None:
        """End here if the stop is set.

        Raises:
            TransferStopped: If the stop is set.
        """
        if self._is_set or (self._parent is not None and self._parent.is_set()):
            raise TransferStopped

    def wait(self, seconds: float) -> None:
        """Wait; the wait ends at once when the stop is set.

        Args:
            seconds: How long.

        Raises:
            TransferStopped: If the stop is set.
        """
        woken = threading.Event()
        self.on_set(woken.set)
        try:
            woken.wait(seconds)
        finally:
            self.forget(woken.set)
        self.check()


@contextlib.contextmanager
def set_after(seconds: float, stop: Stop) -> Iterator[None]:
    """Set a stop if this block takes longer than a number of seconds; it is the stop of this thread meanwhile."""
    timer = threading.Timer(seconds, stop.set)
    timer.daemon = True
    timer.start()
    try:
        with stopped_by(stop):
            yield
    finally:
        timer.cancel()


_running = threading.local()


def running_stop() -> Stop | None:
    """The stop of this thread's work, for a transfer that begins within it; None if nothing ends it."""
    stop: Stop | None = getattr(_running, "stop", None)
    return stop


def check_stop(*_: Any, **__: Any) -> None:
    """End here if this thread's transfer was cancelled; a hook that SDKs call before each request.

    Raises:
        TransferStopped: If it was cancelled.
    """
    stop: Stop | None = getattr(_running, "stop", None)
    if stop is not None:
        stop.check()


class stopped_by:
    """Let a stop end the requests of this thread while the block runs.

    Args:
        stop: The stop; None lets nothing end them, as for the abort of a multipart upload.
    """

    __slots__ = ("_before", "_stop")

    def __init__(self, stop: Stop | None) -> None:
        self._stop = stop

    def __enter__(self) -> None:
        self._before: Stop | None = getattr(_running, "stop", None)
        _running.stop = self._stop

    def __exit__(self, *_: object) -> None:
        _running.stop = self._before
