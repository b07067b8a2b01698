"""Waiting for another thread, process or server, with a time limit that is long enough for a busy machine."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

PATIENCE = 60.0
"""Time limit of every wait, in seconds. CI machines have paused for ten seconds."""


def eventually(condition: Callable[[], object]) -> None:
    """Wait until a condition is true, for at most `PATIENCE` seconds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)


def main_waits() -> bool:
    """Whether the main thread waits for another thread, as in `threading.Event.wait`, except in `threading.Thread.start`.

    A Ctrl-C at the end of `threading.Thread.start` may raise RuntimeError, or end the new thread: CPython 3.11 then
    releases a lock that the other thread holds.
    """
    main = threading.main_thread().ident
    assert main is not None
    frames = list(itertools.islice(_names(sys._current_frames()[main]), 3))
    return frames[0] == "wait" and "start" not in frames


def _names(frame: FrameType | None) -> Iterator[str]:
    while frame is not None:
        yield frame.f_code.co_name
        frame = frame.f_back
