"""The last line: what ``check_conflict=True`` will do here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from gllm_storage.cli.check.access import WRITING
from gllm_storage.cli.check.model import Verdict
from gllm_storage.cli.check.races import LARGE, ONE_REQUEST, SMALL

if TYPE_CHECKING:
    from gllm_storage.cli.check.model import Report, Row

_NAME = "check_conflict=True"


class Exclusive(StrEnum):
    """What ``check_conflict=True`` will do, in a word for machines."""

    ATOMIC = "atomic"
    ATOMIC_IN_ONE_REQUEST = "atomic-in-one-request"
    LOOKS_FIRST = "looks-first"
    REFUSED = "refused"
    REFUSED_SMALL = "refused-small"
    REFUSED_LARGE = "refused-large"
    UNSAFE = "unsafe"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Conclusion:
    """What ``check_conflict=True`` will do.

    Attributes:
        exclusive: In a word.
        sentence: In a sentence.
    """

    exclusive: Exclusive
    sentence: str


def conclude(report: Report) -> Conclusion:
    """Draw it from the races."""
    small, large = report.row(SMALL), report.row(LARGE)
    if small is None or large is None:
        return _unknown("the store could not be checked.")
    verdicts = (small.verdict, large.verdict)
    if Verdict.BAD in verdicts:
        return Conclusion(
            Exclusive.UNSAFE,
            f"{_NAME} is NOT safe here: an object was overwritten, or a race had not exactly one winner; do not rely on it.",
        )
    if Verdict.DENIED in verdicts:
        if report.verdict(WRITING) is Verdict.DENIED:
            return _unknown("these credentials may not write here.")
        return _unknown("these credentials may not do all that it takes to try; see the rows that say denied.")
    if Verdict.FAILED in verdicts or Verdict.SKIPPED in verdicts:
        return _unknown("it could not be tried; see the row that failed.")
    return _of_a_store_that_answers(report, small, large)


def _unknown(because: str) -> Conclusion:
    return Conclusion(Exclusive.UNKNOWN, f"{_NAME}: not known, because {because}")


def _of_a_store_that_answers(report: Report, small: Row, large: Row) -> Conclusion:
    if small.verdict is Verdict.OK and large.verdict is Verdict.OK:
        if report.provider == "s3" and large.values["sent"] == ONE_REQUEST:
            return Conclusion(
                Exclusive.ATOMIC_IN_ONE_REQUEST,
                f"{_NAME} is atomic here up to 5 GiB, in one request: of the writers in each race, one won; above, it looks "
                "first and then writes, with a NonAtomicWriteWarning.",
            )
        return Conclusion(Exclusive.ATOMIC, f"{_NAME} is atomic here at any size: of the writers in each race, one won.")
    refused = [row for row in (small, large) if row.detail.startswith("refused")]
    if len(refused) == 2:  # noqa: PLR2004 - both
        return Conclusion(
            Exclusive.REFUSED,
            f"{_NAME} will be refused here with ConflictCheckUnsupportedError, and nothing will be written.",
        )
    if refused:
        which = Exclusive.REFUSED_SMALL if refused[0] is small else Exclusive.REFUSED_LARGE
        size = which.rpartition("-")[2]
        return Conclusion(
            which,
            f"{_NAME} will be refused here for {size} objects, with nothing written; the other size is as the table says.",
        )
    return Conclusion(
        Exclusive.LOOKS_FIRST,
        f"{_NAME} looks first and then writes here, with a NonAtomicWriteWarning: two writers may both win.",
    )
