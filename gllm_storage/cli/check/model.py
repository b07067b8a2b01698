"""What ``check`` finds out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """What one row says."""

    OK = "ok"
    NO = "no"  # the store cannot, and nothing is lost by it
    BAD = "bad"  # the store does what it must not
    DENIED = "denied"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Row:
    """One finding.

    Attributes:
        name: What was looked at.
        verdict: How it is.
        detail: The same in words.
        values: The same in numbers, for machines.
    """

    name: str
    verdict: Verdict
    detail: str
    values: dict[str, Any] = field(default_factory=dict)


@dataclass
class Report:
    """All findings about a store.

    Attributes:
        url: Where it was checked.
        provider: The provider.
        rows: The findings.
        conflict: What ``check_conflict=True`` will do here, in a sentence.
        exclusive: The same in a word, for machines.
        stopped_by: What ended the check early, or made it worthless; None if the store could be checked.
    """

    url: str
    provider: str
    rows: list[Row] = field(default_factory=list)
    conflict: str = ""
    exclusive: str = ""
    stopped_by: Exception | None = None

    def row(self, name: str) -> Row | None:
        """The row of that name."""
        return next((each for each in self.rows if each.name == name), None)

    def verdict(self, name: str) -> Verdict | None:
        """The verdict of the row of that name; None if there is none."""
        row = self.row(name)
        return row.verdict if row else None

    def as_json(self, exit_code: int) -> dict[str, Any]:
        """For machines."""
        return {
            "url": self.url,
            "provider": self.provider,
            "checks": [asdict(each) for each in self.rows],
            "check_conflict": self.conflict,
            "exclusive_create": self.exclusive,
            "exit_code": exit_code,
        }
