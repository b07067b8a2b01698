"""How an upload goes: in one PutObject, or in parts."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

from gllm_storage.errors import ConflictCheckUnsupportedError, ErrorDetails, NonAtomicWriteWarning
from gllm_storage.s3.capabilities import Condition, ConditionalWrites

MIB = 2**20
MAX_PUT = 5 * 2**30
"""The largest PutObject and the largest part, in bytes: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html"""
MIN_PART = 5 * MIB
MAX_PARTS = 10_000


@dataclass(frozen=True)
class TransferSettings:
    """How objects are moved.

    Attributes:
        multipart_threshold: Files of more bytes than this are uploaded in parts.
        part_size: Bytes in a part, and in a ranged read; more where an object would have over 10,000 parts.
        max_concurrency: How many parts of one object are under way at a time.
        max_attempts: How often a part is tried in all.
        conditional_writes: ``"auto"`` finds out what the endpoint does; ``"enforced"`` trusts it to enforce, without
            asking; ``"best-effort"`` accepts a check that can race where the endpoint does nothing.
    """

    multipart_threshold: int = 16 * MIB
    part_size: int = 8 * MIB
    max_concurrency: int = 10
    max_attempts: int = 5
    conditional_writes: str = "auto"


@dataclass(frozen=True)
class UploadPlan:
    """What will be sent.

    Attributes:
        multipart: Whether in parts.
        part_size: Bytes in a part but the last.
        conditional: Whether the write carries ``If-None-Match: *``.
    """

    multipart: bool
    part_size: int
    conditional: bool

    def part_ranges(self, size: int) -> list[tuple[int, int]]:
        """(offset, length) of each part; an empty object has one empty part."""
        return [(offset, min(self.part_size, size - offset)) for offset in range(0, size, self.part_size)] or [(0, 0)]


def part_size_for(size: int, part_size: int) -> int:
    """Part size in bytes that needs at most 10,000 parts."""
    needed = math.ceil(size / MAX_PARTS)
    return max(part_size, math.ceil(needed / MIB) * MIB)


def plan_overwrite(size: int, settings: TransferSettings) -> UploadPlan:
    """Plan an upload that replaces what is there."""
    multipart = size > min(settings.multipart_threshold, MAX_PUT)
    return UploadPlan(multipart, part_size_for(size, settings.part_size), conditional=False)


def plan_create(size: int, settings: TransferSettings, enforced: ConditionalWrites, details: ErrorDetails) -> UploadPlan:
    """Plan an exclusive create by what the endpoint enforces.

    Args:
        size: Bytes to send.
        settings: How objects are moved.
        enforced: What the endpoint does with conditional writes.
        details: What the upload is about.

    Returns:
        The plan. It is not conditional where the endpoint cannot do it and the config accepts that, or where the object
        is over 5 GiB and only PutObject is conditional; a `NonAtomicWriteWarning` was given then.

    Raises:
        ConflictCheckUnsupportedError: If the endpoint enforces neither operation's condition.
    """
    put, complete = (each is Condition.ENFORCED for each in (enforced.put, enforced.complete))
    usual = plan_overwrite(size, settings)
    if complete and (usual.multipart or not put):
        return UploadPlan(multipart=True, part_size=usual.part_size, conditional=True)
    if put and size <= MAX_PUT:
        return UploadPlan(multipart=False, part_size=usual.part_size, conditional=True)
    if not put and settings.conditional_writes != "best-effort":
        raise ConflictCheckUnsupportedError(
            f"{details.url}: this endpoint cannot create exclusively (If-None-Match on PutObject is "
            f"{enforced.put.value}, on CompleteMultipartUpload {enforced.complete.value}), so check_conflict=True was "
            "refused and nothing was written. Use check_conflict=False, another store, or conditional_writes='best-effort' "
            "to accept a check that can race",
            details,
        )
    why = "it is larger than 5 GiB and the endpoint" if put else "the endpoint"
    warnings.warn(
        f"{details.url}: looked first and then wrote, which can race with another writer: {why} has no conditional "
        "CompleteMultipartUpload",
        NonAtomicWriteWarning,
        stacklevel=2,
    )
    return usual


def check_transfer_settings(settings: TransferSettings) -> TransferSettings:
    """Check sizes against S3's limits.

    Returns:
        The settings, unchanged.

    Raises:
        ValueError: If a size is impossible.
    """
    if not MIN_PART <= settings.part_size <= MAX_PUT:
        raise ValueError(f"part_size must be between 5 MiB and 5 GiB, not {settings.part_size} bytes")
    if settings.multipart_threshold > MAX_PUT:
        raise ValueError(f"multipart_threshold must be at most 5 GiB, not {settings.multipart_threshold} bytes")
    return settings
