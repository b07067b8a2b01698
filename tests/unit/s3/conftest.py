"""Fixtures of the unit tests of S3."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gllm_storage.store.retry import RetryEvent, subscribe
from gllm_storage.testing import no_waits

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def events() -> Iterator[list[RetryEvent]]:
    """The events of a test, without waits."""
    found: list[RetryEvent] = []
    unsubscribe = subscribe(found.append)
    with no_waits():
        yield found
    unsubscribe()
