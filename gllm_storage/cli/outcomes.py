"""The result of `cp`, `mv`, `rm` and `sync` as one JSON document, which is written file by file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Self

import click

from gllm_storage.cli import signals
from gllm_storage.cli.exits import EXPECTED, Exit, SeveralErrors, code_of, message_of
from gllm_storage.cli.output import StreamError, scrubbed, stream_errors

if TYPE_CHECKING:
    from types import TracebackType

    from gllm_storage.cli.failures import Failures
    from gllm_storage.folders import FolderResult


class Outcomes:
    """The outcomes of a command.

    They are not collected: each file is printed when its outcome is known, and the counts at the end. Enter it as a context
    manager when the arguments are checked. The document is complete also after a failure or Ctrl-C.

    Args:
        failures: The failures of the command, which take part.
        as_json: Whether to print; otherwise this does nothing.
        dry_run: Whether the outcomes are those that would be.
    """

    def __init__(self, failures: Failures, *, as_json: bool, dry_run: bool) -> None:
        self.as_json = as_json
        self._dry_run = dry_run
        self._failures = failures
        self._separator = ""
        self._counts = {"transferred": 0, "deleted": 0, "failed": 0}
        self._bytes = 0
        self._equal = {"skipped": 0, "skipped_bytes": 0, "not_begun": 0}

    def __enter__(self) -> Self:
        if self.as_json:
            self._failures.on_failure = self._failed
            _write('{\n  "files": [')
        return self

    def add(self, action: str, url: str, size: int | None) -> None:
        """Print the outcome of one file.

        Args:
            action: ``"transferred"`` or ``"deleted"``.
            url: URL or path of the file that was written or deleted.
            size: Its size in bytes; None if it is not known.
        """
        if self.as_json:
            if action == "transferred":
                self._bytes += size or 0
            self._print(action, url, size=size)

    def add_counts(self, result: FolderResult) -> None:
        """Count the files of a folder that were equal, and those that were not begun because of a failure."""
        for name in self._equal:
            self._equal[name] += getattr(result, name)

    def _failed(self, error: Exception, url: str | None) -> None:
        where = url or getattr(error, "url", None) or getattr(error, "filename", None)
        self._print("failed", where, error=scrubbed(message_of(error)), exit_code=int(code_of(error)))

    def _print(self, action: str, url: str | None, **facts: Any) -> None:
        self._counts[action] += 1
        _write(f"{self._separator}\n    {json.dumps({'action': action, 'url': url, **facts})}")
        self._separator = ","

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Complete the document, unless standard output cannot be written."""
        if not self.as_json or isinstance(error, (BrokenPipeError, StreamError)):
            return
        if isinstance(error, EXPECTED) and not isinstance(error, (SeveralErrors, click.ClickException)):
            self._failed(error, None)
        totals: dict[str, Any] = {
            "transferred": self._counts["transferred"],
            "transferred_bytes": self._bytes,
            "deleted": self._counts["deleted"],
            "failed": self._counts["failed"],
            **self._equal,
            "dry_run": self._dry_run,
            "exit_code": int(_exit_code(error)),
        }
        lines = "".join(f",\n  {json.dumps(name)}: {json.dumps(value)}" for name, value in totals.items())
        end = "\n  ]" if self._separator else "]"
        _write(f"{end}{lines}\n}}\n")


def _exit_code(error: BaseException | None) -> int:
    if error is None:
        return Exit.OK
    return signals.exit_code(error) if isinstance(error, KeyboardInterrupt) else code_of(error)


def _write(text: str) -> None:
    with stream_errors():
        click.echo(text, nl=False)
