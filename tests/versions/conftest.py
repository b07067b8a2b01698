"""Each test of this folder has the memory of this process for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.versions.support import clear_memory

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    clear_memory()
    yield
    clear_memory()
