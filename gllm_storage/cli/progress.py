"""A progress bar on a terminal, and none in a pipe."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

from fsspec.callbacks import DEFAULT_CALLBACK, Callback

from gllm_storage.cli.output import human_size, printable, say, shows_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress, Task

_LONGEST_NAME = 40


class Bars:
    """The progress bars of a command.

    Args:
        progress: Rich's display; None shows nothing.
    """

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress

    @contextlib.contextmanager
    def watching(self, name: str, size: int | None = None) -> Iterator[Callback]:
        """Show a bar for one file.

        Args:
            name: The text beside the bar.
            size: The size of the file in bytes; None until the callback tells it.

        Yields:
            The fsspec callback that moves the bar.
        """
        if self._progress is None:
            yield DEFAULT_CALLBACK
            return
        task = self._progress.add_task(_shortened(printable(name)), total=size)
        try:
            yield _BarCallback(self._progress, task)
        except BaseException:
            self._progress.remove_task(task)
            raise

    def counting(self) -> FolderBar | None:
        """Show a bar for all files of a folder together; the callback that moves it, or None if no bars are shown."""
        if self._progress is None:
            return None
        return FolderBar(self._progress, self._progress.add_task("comparing", total=None))

    def clear(self) -> None:
        """Remove the bars of finished files."""
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
    """Show progress bars within the block.

    Args:
        quiet: Whether to show none, even on a terminal.
    """
    if quiet or not shows_progress():
        yield Bars(None)
        return
    with _display() as display:
        yield Bars(display)


def _display() -> Progress:
    from rich.console import Console  # rich takes 60 ms to import, and pipes do not need it
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class _Speed(ProgressColumn):
        """Rich's own column shows MB/s beside the MiB of the size."""

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("?" if speed is None else f"{human_size(speed)}/s")

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        _Speed(),
        TimeRemainingColumn(),
    )
    # Rich must not redirect standard output: it may be a pipe while standard error is the terminal.
    return Progress(*columns, console=Console(stderr=True), redirect_stdout=False)


class _BarCallback(Callback):
    """The fsspec callback that moves one bar.

    Args:
        progress: Rich's display; it has a lock, so that threads may call at once.
        task: The bar.
    """

    def __init__(self, progress: Progress, task: Any) -> None:
        super().__init__()
        self._advance: Callable[[int], None] = lambda moved: progress.advance(task, moved)
        self._resize: Callable[[int], None] = lambda size: progress.update(task, total=size)

    def set_size(self, size: int) -> None:
        """Set the size of the file in bytes."""
        super().set_size(size)
        self._resize(size)

    def relative_update(self, inc: int = 1) -> None:
        """Move the bar by a number of bytes."""
        self._advance(inc)


class FolderBar(Callback):
    """The callback of a transfer of a folder: moves a bar by bytes, beside the number of complete files.

    Args:
        progress: As in `_BarCallback`.
        task: The bar.
    """

    def __init__(self, progress: Progress, task: Any) -> None:
        super().__init__()
        self._progress = progress
        self._task = task
        self._files = self._complete = 0

    def expect(self, files: int, size: int) -> None:
        """Set the number of files, and their bytes."""
        self._files = files
        self._progress.update(self._task, total=size, description=self._text())

    def relative_update(self, inc: int = 1) -> None:
        """Count complete files."""
        self._complete += inc
        self._progress.update(self._task, description=self._text())

    def branched(self, path_1: str, path_2: str, **_: Any) -> Callback:
        """The callback for the bytes of one file."""
        del path_1, path_2
        return _FileOfFolder(self._progress, self._task)

    def _text(self) -> str:
        return f"{self._complete} of {self._files} files"


class _FileOfFolder(_BarCallback):
    def set_size(self, size: int) -> None:
        """The bar has the size of all files."""


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}"
