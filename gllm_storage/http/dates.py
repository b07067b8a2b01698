"""Dates in HTTP headers, in English whatever the locale is: https://www.rfc-editor.org/rfc/rfc9110#section-5.6.7."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DATE = re.compile(r"[A-Z][a-z]{2}, ([0-9]{1,2}) ([A-Z][a-z]{2}) ([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT")


def read_date(text: str) -> datetime:
    """Read a date such as ``Sat, 28 Nov 2026 12:00:00 GMT``.

    Raises:
        ValueError: If it is of another form, or not a date.
    """
    found = _DATE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:80]!r} is not a date of HTTP")
    day, month, year, hour, minute, second = found.groups()
    return datetime(int(year), _MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second), tzinfo=UTC)


def date_now() -> str:
    """The time, as a date for a header."""
    now = datetime.now(UTC)
    return f"{_DAYS[now.weekday()]}, {now.day:02} {_MONTHS[now.month - 1]} {now.year} {now:%H:%M:%S} GMT"
