"""Fixtures of the unit tests of S3."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gllm_storage.testing import no_waits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gllm_storage.store.retry import RetryEvent


@pytest.fixture
def events(events: list[RetryEvent]) -> Iterator[list[RetryEvent]]:
    """The events of a test, without waits."""
    with no_waits():
        yield events
