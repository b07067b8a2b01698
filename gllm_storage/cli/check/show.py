"""The table, and what is shown while people wait for it."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from gllm_storage.cli.check.model import Verdict
from gllm_storage.cli.output import printable, say, stream_errors
from gllm_storage.cli.progress import is_terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gllm_storage.cli.check.model import Report

_STYLES = {
    Verdict.OK: "green",
    Verdict.NO: "yellow",
    Verdict.DENIED: "yellow",
    Verdict.SKIPPED: "dim",
    Verdict.BAD: "bold red",
    Verdict.FAILED: "bold red",
}
_PIPE_WIDTH = 160


def show_table(report: Report) -> None:
    """Print the report for people; its last line says what ``check_conflict=True`` will do."""
    from rich.box import ASCII, HEAVY_HEAD  # noqa: PLC0415 - as above
    from rich.console import Console  # noqa: PLC0415 - rich takes 60 ms to import, and --json needs none of it
    from rich.table import Table  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    table = Table("check", "", "what was found", box=HEAVY_HEAD if _can_show_lines() else ASCII)
    for row in report.rows:
        detail = Text(printable(row.detail), overflow="fold")
        table.add_row(row.name, Text(row.verdict, style=_STYLES[row.verdict]), detail)
    say(report.url)
    with stream_errors():
        Console(file=sys.stdout, width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)
    say(report.conflict)


def _can_show_lines() -> bool:
    try:
        "┏━│".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return os.environ.get("TERM") != "dumb"


@contextlib.contextmanager
def announcing() -> Iterator[Callable[[str], None]]:
    """Show on a terminal what is being looked at."""
    if not is_terminal():
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415 - as above

    console = Console(stderr=True)
    with console.status("checking") as status:
        yield lambda what: status.update(f"checking: {what}")
