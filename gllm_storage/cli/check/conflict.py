"""The last line: what ``check_conflict=True`` will do here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gllm_storage.cli.check.model import Verdict
from gllm_storage.cli.check.races import LARGE, ONE_REQUEST, SMALL

if TYPE_CHECKING:
    from gllm_storage.cli.check.model import Report, Row

_NAME = "check_conflict=True"


def sentence(report: Report) -> str:
    """Say it in one sentence."""
    small, large = report.row(SMALL), report.row(LARGE)
    if small is None or large is None:
        return f"{_NAME}: not known, because the store could not be checked."
    verdicts = (small.verdict, large.verdict)
    if Verdict.BAD in verdicts:
        return (
            f"{_NAME} is NOT safe here: an object was overwritten, or a race had not exactly one winner; do not rely on it."
        )
    if Verdict.DENIED in verdicts:
        return f"{_NAME}: not known, because these credentials may not write here."
    if Verdict.FAILED in verdicts or Verdict.SKIPPED in verdicts:
        return f"{_NAME}: not known, because it could not be tried; see the row that failed."
    return _of_a_store_that_answers(report, small, large)


def _of_a_store_that_answers(report: Report, small: Row, large: Row) -> str:
    if small.verdict is Verdict.OK and large.verdict is Verdict.OK:
        if report.provider == "s3" and large.values["sent"] == ONE_REQUEST:
            return (
                f"{_NAME} is atomic here up to 5 GiB, in one request: of the writers in each race, one won; above, it looks "
                "first and then writes, with a NonAtomicWriteWarning."
            )
        return f"{_NAME} is atomic here at any size: of the writers in each race, one won."
    refused = [row for row in (small, large) if row.detail.startswith("refused")]
    if len(refused) == 2:  # noqa: PLR2004 - both
        return f"{_NAME} will be refused here with ConflictCheckUnsupportedError, and nothing will be written."
    if refused:
        size = "small" if refused[0] is small else "large"
        return f"{_NAME} will be refused here for {size} objects, with nothing written; the other size is as the table says."
    return f"{_NAME} looks first and then writes here, with a NonAtomicWriteWarning: two writers may both win."
