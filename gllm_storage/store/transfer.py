"""`Transfer`: what all uploads and downloads share: how they go, who watches, and what stops them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gllm_storage.concurrency.budget import DEFAULT_LIMIT
from gllm_storage.concurrency.workers import Stop
from gllm_storage.store.progress import Progress

if TYPE_CHECKING:
    from gllm_storage.errors import ErrorDetails

MIB = 2**20
MAX_PARTS = 10_000


@dataclass(frozen=True)
class TransferSettings:
    """How objects are moved.

    Attributes:
        multipart_threshold: Files of more bytes than this are uploaded in parts.
        part_size: Bytes in a part, and in a ranged read; more where an object would have over 10,000 parts.
        max_concurrency: How many parts of one object are under way at a time.
        max_attempts: How often a part is tried in all.
        memory_limit: Bytes of content that all transfers of the process hold in memory at a time (`memory_budget`).
    """

    multipart_threshold: int = 16 * MIB
    part_size: int = 8 * MIB
    max_concurrency: int = 10
    max_attempts: int = 5
    memory_limit: int = DEFAULT_LIMIT


def part_size_for(size: int, part_size: int, max_parts: int = MAX_PARTS) -> int:
    """Part size in bytes that needs at most `max_parts` parts."""
    needed = math.ceil(size / max_parts)
    return max(part_size, math.ceil(needed / MIB) * MIB)


def part_ranges(size: int, part_size: int) -> list[tuple[int, int]]:
    """(offset, length) of each part; an empty object has one empty part."""
    return [(offset, min(part_size, size - offset)) for offset in range(0, size, part_size)] or [(0, 0)]


@dataclass(frozen=True)
class Transfer:
    """What all uploads and downloads have.

    Attributes:
        details: What it is about, for errors.
        settings: How objects are moved.
        progress: Told how many bytes there are, and how many of them were moved.
        stop: Ends the transfer when set.
    """

    details: ErrorDetails
    settings: TransferSettings
    progress: Progress = field(default_factory=Progress)
    stop: Stop = field(default_factory=Stop)

    def attempt(self) -> Transfer:
        """The same, with a stop of its own for one attempt."""
        return dataclasses.replace(self, stop=Stop(self.stop))
