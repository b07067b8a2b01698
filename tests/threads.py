"""Threads that share a file and rely on the interpreter's lock, as those of DuckDB do."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def no_switches() -> Iterator[None]:
    """Let other threads run only while a thread waits, as callers assume that rely on the interpreter's lock."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(60)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@contextmanager
def switches_at_calls(path: str) -> Iterator[None]:
    """Let other threads run at each call in a source file, where the interpreter may do so: those started meanwhile."""

    def let_others_run(frame: Any, *_: object) -> None:
        if frame.f_code.co_filename == path:
            time.sleep(0.0)

    threading.setprofile(let_others_run)
    try:
        yield
    finally:
        threading.setprofile(None)


def in_threads(number: int, work: Callable[[int], object]) -> None:
    """Run work in several threads at a time, and raise the first exception."""
    with ThreadPoolExecutor(number) as pool, no_switches():
        for each in [pool.submit(work, number) for number in range(number)]:
            each.result()


def line_of(content: bytes, start: int) -> bytes:
    return content[start:].split(b"\n", 1)[0] + b"\n"


def read_in(file: Any, method: str, start: int, size: int, content: bytes) -> tuple[bytes, bytes]:
    """Seek and read, as one step. Returns the bytes and the expected ones."""
    file.seek(start)
    if method == "readline":
        return file.readline(), line_of(content, start)
    if method == "next":
        return next(file), line_of(content, start)
    if method == "readinto":
        target = bytearray(size)
        return bytes(target[: file.readinto(target)]), content[start : start + size]
    return file.read(size), content[start : start + size]
