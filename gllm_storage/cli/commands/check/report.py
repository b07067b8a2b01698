"""The report of ``check``: one row for each check, and the conclusion about ``check_conflict=True``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

WRITING = "writing"
SMALL, LARGE = "exclusive create, small", "exclusive create, large"
IN_PARTS = "exclusive create, in parts"
PARTS, ONE_REQUEST = "in parts", "in one request"
_NAME = "check_conflict=True"


class Verdict(StrEnum):
    """The result of one check."""

    OK = "ok"
    NO = "no"  # the store lacks a feature, and no data is at risk
    BAD = "bad"  # the store breaks a promise
    DENIED = "denied"
    FAILED = "failed"
    SKIPPED = "skipped"


class Exclusive(StrEnum):
    """The effect of ``check_conflict=True``, in one word for programs."""

    ATOMIC = "atomic"
    ATOMIC_IN_ONE_REQUEST = "atomic-in-one-request"
    LOOKS_FIRST = "looks-first"
    REFUSED = "refused"
    REFUSED_SMALL = "refused-small"
    REFUSED_LARGE = "refused-large"
    UNSAFE = "unsafe"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Row:
    """One check.

    Attributes:
        name: The name of the check.
        verdict: The result.
        detail: The result in words.
        values: The result in numbers, for programs.
    """

    name: str
    verdict: Verdict
    detail: str
    values: dict[str, Any] = field(default_factory=dict)


@dataclass
class Report:
    """All checks of a store.

    Attributes:
        url: The folder that was checked.
        provider: The provider.
        rows: The checks.
        conflict: The effect of ``check_conflict=True``, in a sentence.
        exclusive: The same in one word, for programs.
        stopped_by: The error that ended the checks early, or made them useless; None if all ran.
    """

    url: str
    provider: str
    rows: list[Row] = field(default_factory=list)
    conflict: str = ""
    exclusive: str = ""
    stopped_by: Exception | None = None

    def row(self, name: str) -> Row | None:
        """The row with this name; None if there is none."""
        return next((each for each in self.rows if each.name == name), None)

    def verdict(self, name: str) -> Verdict | None:
        """The verdict of the row with this name; None if there is none."""
        row = self.row(name)
        return row.verdict if row else None

    def as_json(self, exit_code: int) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "url": self.url,
            "provider": self.provider,
            "checks": [asdict(each) for each in self.rows],
            "check_conflict": self.conflict,
            "exclusive_create": self.exclusive,
            "exit_code": exit_code,
        }


@dataclass(frozen=True)
class Conclusion:
    """The effect of ``check_conflict=True``.

    Attributes:
        exclusive: In one word.
        sentence: In a sentence.
    """

    exclusive: Exclusive
    sentence: str


def conclude(report: Report) -> Conclusion:
    """Conclude the effect of ``check_conflict=True`` from the races."""
    small, large = report.row(SMALL), report.row(LARGE)
    if small is None or large is None:
        return _unknown("the store could not be checked.")
    verdicts = (small.verdict, large.verdict)
    if Verdict.BAD in verdicts:
        return Conclusion(
            Exclusive.UNSAFE,
            f"{_NAME} is NOT safe here: an object was overwritten, or a race did not have exactly one winner; do not rely "
            "on it.",
        )
    if Verdict.DENIED in verdicts:
        if report.verdict(WRITING) is Verdict.DENIED:
            return _unknown("these credentials may not write here.")
        return _unknown("these credentials do not permit all requests of the races; see the rows that say denied.")
    if Verdict.FAILED in verdicts or Verdict.SKIPPED in verdicts:
        return _unknown("the races failed; see the row that says failed.")
    return _of_finished_races(report, small, large)


def _unknown(reason: str) -> Conclusion:
    return Conclusion(Exclusive.UNKNOWN, f"{_NAME}: not known, because {reason}")


def _of_finished_races(report: Report, small: Row, large: Row) -> Conclusion:
    if small.verdict is Verdict.OK and large.verdict is Verdict.OK:
        return _of_won_races(report, small, large)
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
            f"{_NAME} will be refused here for {size} objects, with nothing written; see the table for the other size.",
        )
    return Conclusion(
        Exclusive.LOOKS_FIRST,
        f"{_NAME} sends a HEAD request and then writes here, with a NonAtomicWriteWarning: two writers may both succeed.",
    )


_NO_PROOF = "Races can show that a store is not atomic; they do not prove that it is."


def _of_won_races(report: Report, small: Row, large: Row) -> Conclusion:
    shown = f"each race had one winner ({_races(small)} with small objects, {_races(large)} with large ones)"
    if large.values.get("sent") != ONE_REQUEST:
        return Conclusion(Exclusive.ATOMIC, f"{_NAME} is atomic here at any size: {shown}. {_NO_PROOF}")
    limit = large.values.get("limit", "5 GiB")
    parts = report.row(IN_PARTS)
    if parts is not None and parts.verdict is Verdict.OK:
        above = (
            f"Larger objects go in parts, with a NonAtomicWriteWarning: {_races(parts)} in parts had one winner each, which "
            "does not prove that the store is atomic there"
        )
    elif parts is not None and parts.verdict is Verdict.NO:
        above = "Larger objects go in parts, with a NonAtomicWriteWarning, and races in parts had several winners"
    else:
        above = "Larger objects go in parts, with a NonAtomicWriteWarning; no race in parts was finished"
    sentence = f"{_NAME} is atomic here up to {limit}, in one request: {shown}. {_NO_PROOF} {above}."
    return Conclusion(Exclusive.ATOMIC_IN_ONE_REQUEST, sentence)


def _races(row: Row) -> str:
    return f"{len(row.values.get('winners', ()))} of {row.values.get('writers', 0)} writers"
