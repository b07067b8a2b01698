"""Dates in HTTP headers, compared with those of the standard library."""

from __future__ import annotations

import email.utils
from datetime import UTC, datetime, timedelta

import pytest

from gllm_storage.http.dates import date_now, read_date


def test_read() -> None:
    """A date of each month is read."""
    for number in range(24):
        moment = datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC) + timedelta(days=17 * number)
        assert read_date(email.utils.format_datetime(moment, usegmt=True)) == moment


@pytest.mark.parametrize(
    "text",
    ["", "Sat, 28 Nov 2026", "Sat, 31 Feb 2026 12:00:00 GMT", "Sat, 28 Nau 2026 12:00:00 GMT", "2026-11-28"],
)
def test_no_date(text: str) -> None:
    """Any other text is a ValueError."""
    with pytest.raises(ValueError, match=r"."):
        read_date(text)


def test_now() -> None:
    """The time is the time of the machine, as the standard library formats it."""
    before = datetime.now(UTC).replace(microsecond=0)
    text = date_now()
    found = email.utils.parsedate_to_datetime(text)
    assert before <= found <= datetime.now(UTC)
    assert text == email.utils.format_datetime(found, usegmt=True)
