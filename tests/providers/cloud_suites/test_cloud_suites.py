"""gcsfs's and adlfs's own tests pass with this library's filesystems, except for the documented deviations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.providers.cloud_suites.run import ADLFS, GCSFS, Suite, run_part

if TYPE_CHECKING:
    from collections.abc import Callable

SUITES = (GCSFS, ADLFS)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("suite", "part"), [pytest.param(suite, part, id=f"{suite}-{part}") for suite in SUITES for part in range(suite.parts)]
)
def test_cloud_suite(suite: Suite, part: int, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Exactly the listed deviations fail; all other tests pass."""
    report = run_part(suite, part, tmp_path)
    record_property(f"{suite}'s suite, part {part + 1} of {suite.parts}", f"{report.counts()} in {report.seconds:.0f} s")
    functions = {name.partition("[")[0] for name in report.collected}
    assert set(suite.left_out) <= functions
    assert set(suite.deviations) <= functions | set(report.collected)
    expected = {name for name in report.outcomes if {name, name.partition("[")[0]} & set(suite.deviations)}
    unexpected = report.those("failed") - expected
    assert not unexpected, "\n\n".join(f"{name}\n{report.messages[name]}" for name in sorted(unexpected))
    passing = expected - report.those("failed")
    assert not passing, f"these pass now; take them out of the deviations: {sorted(passing)}"


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_documented_deviations(suite: Suite) -> None:
    """The documentation names each deviation and each test that is left out."""
    page = (Path(__file__).parents[3] / "docs" / f"{suite}.md").read_text(encoding="utf-8")
    for name in (*suite.deviations, *suite.left_out):
        assert f"`{name.partition('::')[2].partition('[')[0]}`" in page, name
