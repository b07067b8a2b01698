"""Failures of some of several files: print each, go on with the others, and end with an exit code for all."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from gllm_storage.cli.exits import EXPECTED, SeveralErrors, message_of
from gllm_storage.cli.output import StreamError, complain, show_traceback
from gllm_storage.errors import ends_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEBUG = "gllm_storage.debug"
"""The key of click's context for the option ``--debug``."""


class Failures:
    """The failures of a command so far.

    Examples:
        >>> failures = Failures()
        >>> for name in names:
        ...     with failures.tolerated():
        ...         remove(name)
        >>> failures.finish()
    """

    def __init__(self) -> None:
        self._errors: list[Exception] = []
        self.ends_all = False
        """Whether the other files of the command would fail, too."""
        self.on_failure: Callable[[Exception, str | None], object] | None = None
        """Called with each failure that is printed, and the URL or path of its file if the failure does not tell."""

    @contextlib.contextmanager
    def tolerated(self) -> Iterator[None]:
        """Print a failure within the block and go on, unless all other files would fail for the same reason.

        Raises:
            SeveralErrors: If the other files would fail, too.
        """
        try:
            yield
        except (BrokenPipeError, StreamError, SeveralErrors):
            raise
        except EXPECTED as error:
            self.add(error)
            if ends_all(error):
                raise SeveralErrors(self._errors) from error

    def finish(self) -> None:
        """End the command.

        Raises:
            SeveralErrors: If there were failures.
        """
        if self._errors:
            raise SeveralErrors(self._errors)

    def add(self, error: Exception, url: str | None = None) -> None:
        """Print a failure; of those that all files would have, only the first one.

        Args:
            error: The failure.
            url: URL or path of the file, for `on_failure`.
        """
        if self.ends_all and ends_all(error):
            return
        self.ends_all |= ends_all(error)
        if click.get_current_context().meta.get(DEBUG):
            show_traceback(error)
        complain(message_of(error))
        if self.on_failure is not None:
            self.on_failure(error, url)
        self._errors.append(error)
