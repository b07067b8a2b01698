"""``check``: what does this store do?"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gllm_storage.cli.check import access, races, reads, timing
from gllm_storage.cli.check.bench import leaving_no_folder, prepared
from gllm_storage.cli.check.conflict import conclude
from gllm_storage.cli.check.model import Report, Row, Verdict
from gllm_storage.cli.check.show import announcing, show_table
from gllm_storage.cli.exits import Exit, code_of, message_of
from gllm_storage.cli.options import clients
from gllm_storage.cli.output import complain, say_json, scrubbed
from gllm_storage.cli.places import Folder, address
from gllm_storage.cli.settings import Store
from gllm_storage.errors import AccessDeniedError
from gllm_storage.settings import size

if TYPE_CHECKING:
    from collections.abc import Callable

    from gllm_storage.cli.check.bench import Bench

_PARTS = 5 * 2**20
# With these, objects that are quick to send go in parts already; each is S3's smallest.
_SMALL_PARTS = {"multipart_threshold": str(_PARTS), "part_size": str(_PARTS)}
_CHECKS: tuple[tuple[str, Callable[[Bench], Row]], ...] = (
    (races.SMALL, races.race_small),
    (races.LARGE, races.race_large),
    (reads.RANGES, reads.read_ranges),
    (reads.PINNED, reads.read_pinned),
    (reads.CHECKSUMS, reads.look_at_checksum),
    (timing.CLOCK, timing.compare_clocks),
    (timing.LATENCY, timing.measure_latency),
    (timing.THROUGHPUT, timing.measure_throughput),
)


def check_store(url: str, *, as_json: bool, writers: int, rounds: int, large_size: str) -> int:
    """Find out what a store does, and print it.

    Returns:
        What to exit with.

    Raises:
        ValueError: If the URL or a setting is wrong.
        ImportError: If the provider's extra is not installed.
    """
    where = address(url)
    store = Store(where.root)
    client = clients([store], defaults=_SMALL_PARTS)[store]
    folder = Folder(client, f"{where.key}/" if where.key and not where.is_folder else where.key)
    large = _large(large_size)
    with (
        leaving_no_folder(f"/{where.key}" if where.scheme == "file" else ""),
        prepared(folder, large_size=large, writers=writers, rounds=rounds) as bench,
    ):
        report = _checked(bench)
    code = code_of(report.stopped_by) if report.stopped_by else Exit.OK
    if as_json:
        say_json(report.as_json(code))
    else:
        show_table(report)
    if report.stopped_by:
        complain(message_of(report.stopped_by))
    return code


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
    with announcing() as announce:
        try:
            _check_all(bench, report, announce)
        finally:
            announce("removing what was written")
            left = bench.remove_all()
            if not _may_have_written(bench, report):
                left = []
            if left:
                complain(f"warning: could not be removed, or not be looked for: {', '.join(left)}")
    report.rows.append(_removal(report, left))
    report.rows = [replace(row, detail=scrubbed(row.detail)) for row in report.rows]
    conclusion = conclude(report)
    report.conflict, report.exclusive = conclusion.sentence, conclusion.exclusive
    return report


def _check_all(bench: Bench, report: Report, announce: Callable[[str], None]) -> None:
    announce(access.REACHABLE)
    rows, stopped = access.look(bench)
    report.rows += rows
    if stopped is not None and not isinstance(stopped, AccessDeniedError):
        report.stopped_by = stopped
        return
    announce(access.WRITING)
    row, failed = access.write(bench)
    report.rows.append(row)
    # Who may read only can be told all that; who may do nothing cannot be told anything.
    report.stopped_by = stopped if isinstance(failed, AccessDeniedError) else None
    if failed is not None and not isinstance(failed, AccessDeniedError):
        report.stopped_by = failed
    for name, check in _CHECKS:
        announce(name)
        report.rows.append(_skipped(name, failed) if failed else _tried(name, check, bench))


def _tried(name: str, check: Callable[[Bench], Row], bench: Bench) -> Row:
    try:
        return check(bench)
    except AccessDeniedError as error:
        return Row(name, Verdict.DENIED, message_of(error))
    except Exception as error:
        if code_of(error) is Exit.BUG:
            raise
        # One question that fails must not keep us from asking the others.
        return Row(name, Verdict.FAILED, message_of(error))


def _skipped(name: str, failed: Exception) -> Row:
    if isinstance(failed, AccessDeniedError):
        return Row(name, Verdict.DENIED, "needs permission to write")
    return Row(name, Verdict.SKIPPED, "needs an object, and writing failed")


def _may_have_written(bench: Bench, report: Report) -> bool:
    """A write that failed or was interrupted may have been carried out all the same; one that was denied was not."""
    return access.WRITTEN in bench.used and report.verdict(access.WRITING) is not Verdict.DENIED


def _removal(report: Report, left: list[str]) -> Row:
    wrote = report.verdict(access.WRITING) is Verdict.OK
    if left:
        what = "left behind" if wrote else "could not be removed, or not be looked for"
        return Row("removed", Verdict.FAILED, f"{what}: {', '.join(left)}", {"left": left})
    return Row("removed", Verdict.OK, "all that was written" if wrote else "nothing was written", {"left": []})
