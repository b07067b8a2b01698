"""``check``: measure the guarantees of a store."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from gllm_storage.cli.commands.check import access, races, reads, timing
from gllm_storage.cli.commands.check.bench import prepared, removing_folders
from gllm_storage.cli.commands.check.report import IN_PARTS, LARGE, SMALL, WRITING, Report, Row, Verdict, conclude
from gllm_storage.cli.exits import EXPECTED, Exit, code_of, message_of
from gllm_storage.cli.options import clients, json_option, store_options, url_argument
from gllm_storage.cli.output import complain, printable, say, say_json, scrubbed, shows_progress, stream_errors
from gllm_storage.cli.places import Folder, address
from gllm_storage.cli.settings import Store
from gllm_storage.errors import AccessDeniedError
from gllm_storage.settings import size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gllm_storage.cli.commands.check.bench import Bench

_PARTS = 5 * 2**20
# S3's smallest parts, so that objects that are quick to send go in parts.
_SMALL_PARTS = {"multipart_threshold": str(_PARTS), "part_size": str(_PARTS)}
_CHECKS: tuple[tuple[str, Callable[[Bench], Row]], ...] = (
    (SMALL, races.race_small),
    (LARGE, races.race_large),
    (IN_PARTS, races.race_in_parts),
    (reads.RANGES, reads.read_ranges),
    (reads.PINNED, reads.read_pinned),
    (reads.CHECKSUMS, reads.verify_checksum),
    (timing.CLOCK, timing.compare_clocks),
    (timing.LATENCY, timing.measure_latency),
    (timing.THROUGHPUT, timing.measure_throughput),
)
_STYLES = {
    Verdict.OK: "green",
    Verdict.NO: "yellow",
    Verdict.DENIED: "yellow",
    Verdict.SKIPPED: "dim",
    Verdict.BAD: "bold red",
    Verdict.FAILED: "bold red",
}
_PIPE_WIDTH = 160


@click.command()
@url_argument
@json_option
@click.option("--writers", default=8, show_default=True, type=click.IntRange(2, 64), help="Writers in a race.")
@click.option("--rounds", default=12, show_default=True, type=click.IntRange(1, 1000), help="Races of each kind.")
@click.option("--large-size", default="8MiB", show_default=True, metavar="SIZE", help="Size of the large object.")
@store_options
def check(url: str, as_json: bool, writers: int, rounds: int, large_size: str) -> None:
    """Measure the guarantees of a store.

    Writes objects below URL, and removes them again. In each race, WRITERS create one object at the same moment; with the
    defaults, up to 1.6 GB are sent.
    """
    where = address(url)
    store = Store(where.root)
    client = clients([store], defaults=_SMALL_PARTS)[store]
    folder = Folder(client, f"{where.key}/" if where.key and not where.is_folder else where.key)
    large = _large(large_size)
    with (
        removing_folders(f"/{where.key}" if where.scheme == "file" else ""),
        prepared(folder, large_size=large, writers=writers, rounds=rounds) as bench,
    ):
        report = _checked(bench)
    code = code_of(report.stopped_by) if report.stopped_by else Exit.OK
    if as_json:
        say_json(report.as_json(code))
    else:
        _show_table(report)
    if report.stopped_by:
        complain(message_of(report.stopped_by))
    if code:
        raise click.exceptions.Exit(code)


def _large(text: str) -> int:
    try:
        found = size(text)
    except ValueError as error:
        raise ValueError(f"--large-size {text!r}: it {error}") from error
    if found <= _PARTS:
        raise ValueError(f"--large-size {text!r}: it must be more than 5MiB, so that the object can go in parts")
    return found


def _checked(bench: Bench) -> Report:
    report = Report(bench.folder.url, bench.client.provider)
    left: list[str] = []
    with _announcing() as announce:
        try:
            _check_all(bench, report, announce)
        finally:
            announce("removing all objects")
            left = bench.remove_all()
            if not _may_have_written(bench, report):
                left = []
            if left:
                complain(f"warning: could not be removed, or not be checked: {', '.join(left)}")
    report.rows.append(_removal(report, left))
    report.rows = [replace(row, detail=scrubbed(row.detail)) for row in report.rows]
    conclusion = conclude(report)
    report.conflict, report.exclusive = conclusion.sentence, conclusion.exclusive
    return report


def _check_all(bench: Bench, report: Report, announce: Callable[[str], None]) -> None:
    announce(access.REACHABLE)
    rows, stopped = access.read(bench)
    report.rows += rows
    if stopped is not None and not isinstance(stopped, AccessDeniedError):
        report.stopped_by = stopped
        return
    announce(WRITING)
    row, failed = access.write(bench)
    report.rows.append(row)
    # Credentials that may only read, or only write, still give a report. Only without both permissions is it an error.
    report.stopped_by = stopped if isinstance(failed, AccessDeniedError) else None
    if failed is not None and not isinstance(failed, AccessDeniedError):
        report.stopped_by = failed
    for name, question in _CHECKS:
        announce(name)
        report.rows.append(_skipped(name, failed) if failed else _tried(name, question, bench))


def _tried(name: str, question: Callable[[Bench], Row], bench: Bench) -> Row:
    try:
        return question(bench)
    except AccessDeniedError as error:
        return Row(name, Verdict.DENIED, message_of(error))
    except EXPECTED as error:
        return Row(name, Verdict.FAILED, message_of(error))  # the other checks still run


def _skipped(name: str, failed: Exception) -> Row:
    if isinstance(failed, AccessDeniedError):
        return Row(name, Verdict.DENIED, "needs permission to write")
    return Row(name, Verdict.SKIPPED, "needs an object, and writing failed")


def _may_have_written(bench: Bench, report: Report) -> bool:
    """A write that failed or was interrupted may have stored the object; a write that was denied did not."""
    return access.WRITTEN in bench.used and report.verdict(WRITING) is not Verdict.DENIED


def _removal(report: Report, left: list[str]) -> Row:
    wrote = report.verdict(WRITING) is Verdict.OK
    if left:
        event = "left behind" if wrote else "could not be removed, or not be checked"
        return Row("removed", Verdict.FAILED, f"{event}: {', '.join(left)}", {"left": left})
    return Row("removed", Verdict.OK, "all objects" if wrote else "nothing was written", {"left": []})


def _show_table(report: Report) -> None:
    from rich.box import ASCII, HEAVY_HEAD
    from rich.console import Console  # rich takes 60 ms to import, and --json does not need it
    from rich.table import Table
    from rich.text import Text

    table = Table("check", "", "result", box=HEAVY_HEAD if _can_draw_lines() else ASCII)
    for row in report.rows:
        detail = Text(printable(row.detail), overflow="fold")
        table.add_row(row.name, Text(row.verdict, style=_STYLES[row.verdict]), detail)
    say(report.url)
    with stream_errors():
        Console(file=sys.stdout, width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)
    say(report.conflict)


def _can_draw_lines() -> bool:
    try:
        "┏━│".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return os.environ.get("TERM") != "dumb"


@contextlib.contextmanager
def _announcing() -> Iterator[Callable[[str], None]]:
    """Show the running check on a terminal."""
    if not shows_progress():
        yield lambda _: None
        return
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("checking") as status:
        yield lambda name: status.update(f"checking: {name}")
