"""How an upload goes: in one PutObject, or in parts."""

from __future__ import annotations

import dataclasses
import operator
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gllm_storage.errors import ConflictCheckUnsupportedError, ErrorDetails, NonAtomicWriteWarning
from gllm_storage.s3.probe import Condition, ConditionalWrites
from gllm_storage.settings import MIB, TransferSettings
from gllm_storage.store.transfer import part_ranges, part_size_for

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_PUT = 5 * 2**30
"""The largest PutObject and the largest part, in bytes: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html"""
MIN_PART = 5 * MIB


@dataclass(frozen=True)
class S3TransferSettings(TransferSettings):
    """How objects are moved to and from S3.

    Attributes:
        conditional_writes: ``"auto"`` finds out what the endpoint does; ``"enforced"`` trusts it to enforce, without
            asking; ``"best-effort"`` accepts a check that can race where the endpoint does nothing.
    """

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
        return part_ranges(size, self.part_size)


def plan_overwrite(size: int, settings: TransferSettings) -> UploadPlan:
    """Plan an upload that replaces what is there."""
    multipart = size > min(settings.multipart_threshold, MAX_PUT)
    return UploadPlan(multipart, part_size_for(size, settings.part_size), conditional=False)


def plan_create(size: int, settings: S3TransferSettings, enforced: ConditionalWrites, details: ErrorDetails) -> UploadPlan:
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


def check_transfer_settings(settings: S3TransferSettings) -> S3TransferSettings:
    """Check sizes against S3's limits.

    Returns:
        The settings, unchanged.

    Raises:
        ValueError: If a size is impossible.
    """
    if not MIN_PART <= settings.part_size <= MAX_PUT:
        raise ValueError(f"part_size must be between 5 MiB and 5 GiB, not {settings.part_size} bytes")
    if settings.memory_limit < settings.part_size:
        raise ValueError(
            f"memory_limit ({settings.memory_limit} bytes) is smaller than a part (part_size={settings.part_size} bytes)"
        )
    if settings.multipart_threshold > MAX_PUT:
        raise ValueError(f"multipart_threshold must be at most 5 GiB, not {settings.multipart_threshold} bytes")
    return settings


def settings_of_call(settings: S3TransferSettings, options: Mapping[str, Any], least: int = MIN_PART) -> S3TransferSettings:
    """How one call moves its object, which may say how large its parts are, and how many of them go at a time.

    Args:
        settings: How the filesystem does.
        options: The arguments of the call, s3fs's ``chunksize`` and ``max_concurrency`` among them. What is larger than a
            chunk goes in parts then, whatever the threshold.
        least: The fewest bytes in a part.

    Raises:
        ValueError: If parts cannot be of that size, or not so many of them go at a time.
    """
    changes: dict[str, Any] = {}
    part_size, workers = options.get("chunksize"), options.get("max_concurrency")
    if part_size is not None:
        size = _integer(part_size)
        if size is None or not least <= size <= MAX_PUT:
            raise ValueError(f"chunksize must be a number of bytes between {least} and {MAX_PUT}, not {part_size!r}")
        changes = {"part_size": size, "multipart_threshold": size}
    if workers is not None:
        number = _integer(workers)
        if number is None or number < 1:
            raise ValueError(f"max_concurrency must be a number, at least 1, not {workers!r}")
        changes["max_concurrency"] = number
    return dataclasses.replace(settings, **changes) if changes else settings


def _integer(value: Any) -> int | None:
    try:
        return operator.index(value)
    except TypeError:
        return None
