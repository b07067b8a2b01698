"""One of many files failed: say so, go on with the others, and exit with a code that tells."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from gllm_storage.cli.exits import Exit, SeveralErrors, code_of, message_of
from gllm_storage.cli.output import StreamError, complain, show_traceback
from gllm_storage.errors import BucketNotFoundError, ConflictCheckUnsupportedError, StorageUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

DEBUG = "gllm_storage.debug"
"""Where click's context keeps whether to show tracebacks."""


class Failures:
    """What went wrong so far."""

    def __init__(self) -> None:
        self._errors: list[Exception] = []

    @contextlib.contextmanager
    def tolerated(self) -> Iterator[None]:
        """Show a failure within the block, and go on; unless every other file would fail for the same reason.

        Raises:
            SeveralErrors: If there is no use in going on.
        """
        try:
            yield
        except (BrokenPipeError, StreamError, SeveralErrors):
            raise
        except Exception as error:
            if code_of(error) is Exit.BUG:
                raise
            self.add(error)
            if _is_hopeless(error):
                raise SeveralErrors(self._errors) from error

    def add(self, error: Exception) -> None:
        """Show a failure, and remember it."""
        if click.get_current_context().meta.get(DEBUG):
            show_traceback(error)
        complain(message_of(error))
        self._errors.append(error)

    def finish(self) -> None:
        """End the command with its failures.

        Raises:
            SeveralErrors: If there are any.
        """
        if self._errors:
            raise SeveralErrors(self._errors)


def _is_hopeless(error: Exception) -> bool:
    # Without a status the store did not even answer, through all retries: the next file would wait as long for nothing.
    unreachable = isinstance(error, StorageUnavailableError) and error.status is None
    return unreachable or isinstance(error, (BucketNotFoundError, ConflictCheckUnsupportedError, ImportError))
