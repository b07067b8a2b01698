"""s3fs's own tests pass with this library's filesystem, except for the documented deviations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.providers.s3fs_suite.deviations import BETTER, DEVIATIONS, LEFT_OUT
from tests.providers.s3fs_suite.run import run_part
from tests.providers.s3fs_suite.source import SuiteUnavailableError, fetch_suite

if TYPE_CHECKING:
    from collections.abc import Callable

PARTS = 4


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
def test_s3fs_suite(part: int, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Exactly the listed deviations fail; all other tests of s3fs pass."""
    report = run_part(part, PARTS, fetch_suite(), tmp_path)
    record_property(f"s3fs's suite, part {part + 1} of {PARTS}", f"{report.counts()} in {report.seconds:.0f} s")
    functions = {name.partition("[")[0] for name in report.collected}
    assert set(LEFT_OUT) <= functions
    assert set(DEVIATIONS) <= functions | set(report.collected)
    expected = {name for name in report.outcomes if name in DEVIATIONS or name.partition("[")[0] in DEVIATIONS}
    unexpected = report.those("failed") - expected
    assert not unexpected, "\n\n".join(f"{name}\n{report.messages[name]}" for name in sorted(unexpected))
    assert report.those("failed") == expected, (
        f"these pass now; take them out of the deviations: {expected - report.those('failed')}"
    )
    assert report.those("xpassed") == set(BETTER) & set(report.outcomes)


def test_download_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network, the download of the suite raises a clear error and leaves no file."""
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(SuiteUnavailableError, match="pip cannot download that of s3fs"):
        fetch_suite(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_location_of_suite() -> None:
    """The downloaded suite is in a folder that git ignores."""
    root = Path(__file__).parents[3]
    ignored = (root / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert f"{fetch_suite().relative_to(root).parts[0]}/" in ignored


def test_documented_deviations() -> None:
    """The documentation names each deviation."""
    text = (Path(__file__).parents[3] / "docs" / "s3fs.md").read_text(encoding="utf-8")
    for name in [*DEVIATIONS, *LEFT_OUT, *BETTER]:
        assert name.rpartition("::")[2] in text
