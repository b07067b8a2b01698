"""Claims of the documentation that another page can prove: the speed beside s3fs, in the tables of the benchmark."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHARES = {
    "tenth": 1 / 10,
    "eighth": 1 / 8,
    "seventh": 1 / 7,
    "sixth": 1 / 6,
    "fifth": 1 / 5,
    "quarter": 1 / 4,
    "third": 1 / 3,
    "half": 1 / 2,
}
NUMBERS = {"a": 1, "two": 2, "three": 3, "four": 4}
JOBS = {"for 1 GiB": ("1 GiB up", "1 GiB down, to a file"), "for 2000": ("2000 × 16 KiB up", "2000 × 16 KiB down, to files")}
SHARE = r"(a|two|three|four) (\w+?)s?"


def share(number: str, name: str) -> float:
    return NUMBERS[number] * SHARES[name]


def process_time(job: str, peer: str) -> float:
    """The wall-clock time of a complete process over https, in the tables."""
    page = (ROOT / "docs" / "benchmarks-tables.md").read_text(encoding="utf-8")
    table = page.partition("## S3 over https")[2].partition(f"### {job}\n")[2].partition("\n### ")[0]
    (row,) = re.findall(rf"^\| {peer} \|.*$", table, re.MULTILINE)
    return float(row.split("|")[3])


@pytest.mark.parametrize("page", ["README.md", "docs/guarantees.md"])
@pytest.mark.parametrize("jobs", JOBS)
def test_speed(page: str, jobs: str) -> None:
    """The range of shares of s3fs's time is that of the tables, up to a tenth of it."""
    (row,) = re.findall(r"^\|.*complete processes need.*s3fs.*$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    claims = re.findall(rf"{SHARE} to {SHARE} (?:of s3fs's time )?(for \d+(?: GiB)?)", row)
    ((*claimed, _),) = [each for each in claims if each[-1] == jobs]
    least, most = share(*claimed[:2]), share(*claimed[2:])
    measured = [process_time(job, "gllm-storage") / process_time(job, "s3fs") for job in JOBS[jobs]]
    assert min(measured) == pytest.approx(least, rel=0.1)
    assert 0.8 * most <= max(measured) <= 1.1 * most
