"""Waiting for what another thread, process or server does, however long a busy machine takes for it."""

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
"""Seconds within which everything comes about that ever will: CI's machines have stood still for ten."""


def eventually(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)


def main_waits() -> bool:
    """Whether the main thread waits for another one, as in `threading.Event.wait`; but not for one that it starts.

    A Ctrl-C at the end of `threading.Thread.start` may come out as RuntimeError, or end the new thread: CPython 3.11 then
    releases a lock that the other one holds.
    """
    main = threading.main_thread().ident
    assert main is not None
    frames = list(itertools.islice(_names(sys._current_frames()[main]), 3))
    return frames[0] == "wait" and "start" not in frames


def _names(frame: FrameType | None) -> Iterator[str]:
    while frame is not None:
        yield frame.f_code.co_name
        frame = frame.f_back
