"""Old names of `tests.promises.faulty`, until tests/providers imports from there."""

from __future__ import annotations

from tests.promises.faulty import (
    AZURE,
    CONTENT,
    GCS,
    NAME,
    SMALL,
    Faulty,
    behind_proxy,
    content_of,
    impatient,
    no_waits,
    proxied,
)

CLOUDS = [GCS, AZURE]
LARGE = GCS.large

__all__ = [
    "AZURE",
    "CLOUDS",
    "CONTENT",
    "GCS",
    "LARGE",
    "NAME",
    "SMALL",
    "Faulty",
    "behind_proxy",
    "content_of",
    "impatient",
    "no_waits",
    "proxied",
]
