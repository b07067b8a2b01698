"""Sizes of the ranges of a download."""

from __future__ import annotations

import pytest

from gllm_storage.settings import MIB, TransferSettings
from gllm_storage.store.transfer import MAX_PARTS, part_ranges, range_size_for

SETTINGS = TransferSettings(part_size=8 * MIB, max_concurrency=16)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (9 * MIB, 8 * MIB),  # smaller ranges than a part cost requests
        (640 * MIB, 10 * MIB),
        (1024 * MIB, 16 * MIB),
        (2**40, 105 * MIB),  # at most 10,000 ranges, as parts
        (8192 * MIB, 32 * MIB),  # at most four parts
    ],
)
def test_range_size(size: int, expected: int) -> None:
    """Ranges grow with the object: four for each connection, from one part to four parts."""
    assert range_size_for(size, SETTINGS) == expected
    ranges = part_ranges(size, range_size_for(size, SETTINGS))
    assert sum(length for _, length in ranges) == size
    assert len(ranges) <= MAX_PARTS
