"""A progress bar on a terminal, and none in a pipe."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

from fsspec.callbacks import DEFAULT_CALLBACK, Callback

from gllm_storage.cli.output import printable, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress

_LONGEST_NAME = 40


class Bars:
    """Shows what is being copied; without a terminal it shows nothing.

    Args:
        progress: Rich's display, or None.
    """

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress

    @contextlib.contextmanager
    def watching(self, what: str, size: int | None = None) -> Iterator[Callback]:
        """A bar for one file, and the fsspec callback that moves it."""
        if self._progress is None:
            yield DEFAULT_CALLBACK
            return
        task = self._progress.add_task(_shortened(printable(what)), total=size)
        try:
            yield _BarCallback(self._progress, task)
        except BaseException:
            self._progress.remove_task(task)
            raise

    def forget(self) -> None:
        """Take the bars of finished files away, before the next of many files."""
        if self._progress is not None:
            for task in self._progress.task_ids:
                self._progress.remove_task(task)

    def say(self, text: str) -> None:
        """Print a line on standard output, above the bars if they share a terminal."""
        if self._progress is not None and sys.stdout.isatty():
            self._progress.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)
        else:
            say(text)


@contextlib.contextmanager
def bars(*, quiet: bool = False) -> Iterator[Bars]:
    """Show bars while something is copied.

    Args:
        quiet: Whether to show none in any case.
    """
    if quiet or not is_terminal():
        yield Bars(None)
        return
    with _display() as display:
        yield Bars(display)


def is_terminal() -> bool:
    """Whether there is somebody to see a bar, and a terminal that can move one."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _display() -> Progress:
    from rich.console import Console  # noqa: PLC0415 - rich takes 60 ms to import, and pipes need none of it
    from rich.progress import (  # noqa: PLC0415 - as above
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    # Standard output stays as it is: it may be a pipe, while standard error is the terminal.
    return Progress(*columns, console=Console(stderr=True), redirect_stdout=False)


class _BarCallback(Callback):  # type: ignore[misc]  # fsspec publishes no types
    """Fsspec's callback, moving one bar.

    Args:
        progress: Rich's display; it has a lock of its own.
        task: The bar.
    """

    def __init__(self, progress: Progress, task: Any) -> None:
        super().__init__()
        self._advance: Callable[[int], None] = lambda moved: progress.advance(task, moved)
        self._resize: Callable[[int], None] = lambda size: progress.update(task, total=size)

    def set_size(self, size: int) -> None:
        """The whole number of bytes."""
        super().set_size(size)
        self._resize(size)

    def relative_update(self, inc: int = 1) -> None:
        """Bytes were moved."""
        self._advance(inc)


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}"
