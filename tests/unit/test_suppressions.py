"""Suppressed lint and type errors (CONTRIBUTING.md, "Rules")."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SUPPRESSION = re.compile(r"#\s*(noqa|type:\s*ignore|pragma: no cover)")
WITH_REASON = re.compile(r"# (noqa: [A-Z0-9]+(, [A-Z0-9]+)* - |type: ignore\[[a-z-]+(, [a-z-]+)*\]  # )\S")
UNUSED_ARGUMENT = re.compile(r"\b(mode|check_conflict)\b.*# noqa: ARG")


def suppressions() -> dict[str, str]:
    """The lines with a suppression, by file and number."""
    files = [
        path for folder in ("gllm_storage", "tests", "examples", "benchmarks") for path in (ROOT / folder).rglob("*.py")
    ]
    return {
        f"{path.relative_to(ROOT)}:{number}": line
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if path != Path(__file__) and SUPPRESSION.search(line)
    }


def test_reasons() -> None:
    """Each suppression names its error, and has its reason beside it."""
    found = suppressions()
    assert found
    assert [place for place, line in found.items() if not WITH_REASON.search(line)] == []


def test_promises() -> None:
    """No argument that carries a promise may be unused."""
    assert [place for place, line in suppressions().items() if UNUSED_ARGUMENT.search(line)] == []
