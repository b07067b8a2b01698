"""Upload plans, by the size, the settings, and the preconditions that the endpoint enforces."""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import Any

import pytest

from gllm_storage.errors import ConflictCheckUnsupportedError, ErrorDetails, NonAtomicWriteWarning
from gllm_storage.s3.probe import (
    ALL_ENFORCED,
    Condition,
    ConditionalWrites,
    UploadPlan,
    plan_create,
    plan_overwrite,
)
from gllm_storage.s3.settings import EXCLUSIVE_PUT_LIMIT, MAX_PUT, S3TransferSettings, check_transfer_settings
from gllm_storage.settings import MIB
from gllm_storage.store.transfer import MAX_PARTS, part_size_for

DETAILS = ErrorDetails("s3", "s3://models/a", "upload")
USUAL = S3TransferSettings()
PUT_ONLY = ConditionalWrites(Condition.ENFORCED, Condition.IGNORED)
COMPLETE_ONLY = ConditionalWrites(Condition.REFUSED, Condition.ENFORCED)
CHECKED = ConditionalWrites(Condition.ENFORCED, Condition.CHECKED)
COMPLETE_CHECKED = ConditionalWrites(Condition.REFUSED, Condition.CHECKED)
NEITHER = [
    ConditionalWrites(put, complete)
    for put in (Condition.IGNORED, Condition.REFUSED)
    for complete in (Condition.IGNORED, Condition.REFUSED)
] + [COMPLETE_CHECKED]
TB = 10**12


@pytest.mark.parametrize(
    ("size", "threshold", "multipart"),
    [
        (0, 16 * MIB, False),
        (16 * MIB, 16 * MIB, False),
        (16 * MIB + 1, 16 * MIB, True),
        (1, 1, False),
        (2, 1, True),
        (5 * 10**9, 5 * 10**9, False),
        (5 * 10**9 + 1, 5 * 10**9, True),
        (MAX_PUT, MAX_PUT, False),
        (MAX_PUT + 1, MAX_PUT, True),
        (5 * TB, 16 * MIB, True),
    ],
)
def test_multipart_threshold(size: int, threshold: int, multipart: bool) -> None:
    """Files above the threshold are uploaded in parts."""
    settings = S3TransferSettings(multipart_threshold=threshold)
    for plan in (plan_overwrite(size, settings), plan_create(size, settings, ALL_ENFORCED, DETAILS)):
        assert plan.multipart == multipart
    assert not plan_overwrite(size, settings).conditional
    assert plan_create(size, settings, ALL_ENFORCED, DETAILS).conditional


@pytest.mark.parametrize("size", [0, 1, 8 * MIB, 8 * MIB + 1, 100 * MIB, 80_000 * MIB, 80_000 * MIB + 1, 5 * 2**40, 50 * TB])
def test_part_ranges(size: int) -> None:
    """The parts cover the complete file, and there are at most 10,000 of them."""
    plan = UploadPlan(multipart=True, part_size=part_size_for(size, 8 * MIB), conditional=True)
    ranges = plan.part_ranges(size)
    assert len(ranges) <= MAX_PARTS
    assert ranges[0][0] == 0
    assert all(start + length == following for (start, length), (following, _) in pairwise(ranges))
    assert sum(ranges[-1]) == size
    assert {length for _, length in ranges[:-1]} <= {plan.part_size}
    assert plan.part_size >= 8 * MIB


def test_part_of_empty_file() -> None:
    """An empty file in parts has one empty part."""
    assert UploadPlan(multipart=True, part_size=8 * MIB, conditional=True).part_ranges(0) == [(0, 0)]


@pytest.mark.parametrize("size", [0, 16 * MIB, 17 * MIB, MAX_PUT])
def test_put_only_up_to_5_gib(size: int) -> None:
    """If only PutObject enforces the precondition, files up to 5 GiB are sent by one PutObject."""
    plan = plan_create(size, S3TransferSettings(multipart_threshold=5 * MIB), PUT_ONLY, DETAILS)
    assert (plan.multipart, plan.conditional) == (False, True)


@pytest.mark.parametrize("conditional_writes", ["auto", "best-effort"])
def test_put_only_above_5_gib(conditional_writes: str) -> None:
    """If only PutObject enforces the precondition, files above 5 GiB are sent in parts, with a warning."""
    with pytest.warns(NonAtomicWriteWarning, match="s3://models/a.*5 GiB"):
        plan = plan_create(MAX_PUT + 1, S3TransferSettings(conditional_writes=conditional_writes), PUT_ONLY, DETAILS)
    assert (plan.multipart, plan.conditional) == (True, False)


@pytest.mark.parametrize("size", [0, 1, 16 * MIB, 17 * MIB, MAX_PUT + 1, 5 * TB])
def test_complete_only(size: int) -> None:
    """If only CompleteMultipartUpload enforces the precondition, all files are sent in parts."""
    plan = plan_create(size, USUAL, COMPLETE_ONLY, DETAILS)
    assert (plan.multipart, plan.conditional) == (True, True)


@pytest.mark.parametrize("enforced", NEITHER, ids=str)
@pytest.mark.parametrize("size", [0, 17 * MIB, 5 * TB])
def test_no_enforcement(enforced: ConditionalWrites, size: int) -> None:
    """If neither operation enforces the precondition, an exclusive create is refused."""
    with pytest.raises(ConflictCheckUnsupportedError, match="s3://models/a") as caught:
        plan_create(size, USUAL, enforced, DETAILS)
    for part in (enforced.put.value, enforced.complete.value, "best-effort", "check_conflict=False"):
        assert part in str(caught.value)


@pytest.mark.parametrize("size", [0, 16 * MIB, 17 * MIB, EXCLUSIVE_PUT_LIMIT])
def test_checked_up_to_limit(size: int) -> None:
    """If CompleteMultipartUpload may not be atomic, files go in one PutObject, above the threshold as well."""
    plan = plan_create(size, S3TransferSettings(multipart_threshold=5 * MIB), CHECKED, DETAILS)
    assert (plan.multipart, plan.conditional) == (False, True)


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        (S3TransferSettings(), EXCLUSIVE_PUT_LIMIT + 1),
        (S3TransferSettings(exclusive_put_limit=20 * MIB), 20 * MIB + 1),
        (S3TransferSettings(exclusive_put_limit=1), 16 * MIB + 1),
    ],
)
def test_checked_above_limit(settings: S3TransferSettings, size: int) -> None:
    """Above the limit the completion still carries the precondition, and a warning says that it can race."""
    with pytest.warns(NonAtomicWriteWarning, match="s3://models/a.*MiB|bytes.*perhaps not atomically"):
        plan = plan_create(size, settings, CHECKED, DETAILS)
    assert (plan.multipart, plan.conditional) == (True, True)


def test_small_limit() -> None:
    """A limit below the multipart threshold does not send small files in parts."""
    plan = plan_create(16 * MIB, S3TransferSettings(exclusive_put_limit=1), CHECKED, DETAILS)
    assert (plan.multipart, plan.conditional) == (False, True)


def test_put_only_with_limit() -> None:
    """A limit that the caller has set holds where parts can only overwrite, too."""
    settings = S3TransferSettings(exclusive_put_limit=20 * MIB)
    assert not plan_create(20 * MIB, settings, PUT_ONLY, DETAILS).multipart
    with pytest.warns(NonAtomicWriteWarning, match="larger than 20 MiB"):
        plan = plan_create(20 * MIB + 1, settings, PUT_ONLY, DETAILS)
    assert (plan.multipart, plan.conditional) == (True, False)


def test_best_effort_if_checked() -> None:
    """With best effort, a completion that may not be atomic carries the precondition, with a warning."""
    with pytest.warns(NonAtomicWriteWarning, match="not atomically"):
        plan = plan_create(1, S3TransferSettings(conditional_writes="best-effort"), COMPLETE_CHECKED, DETAILS)
    assert (plan.multipart, plan.conditional) == (True, True)


@pytest.mark.parametrize("enforced", NEITHER[:-1], ids=str)
@pytest.mark.parametrize(("size", "multipart"), [(0, False), (17 * MIB, True)])
def test_best_effort(enforced: ConditionalWrites, size: int, multipart: bool) -> None:
    """With best effort, an unenforced precondition is left out, with a warning."""
    with pytest.warns(NonAtomicWriteWarning, match="s3://models/a"):
        plan = plan_create(size, S3TransferSettings(conditional_writes="best-effort"), enforced, DETAILS)
    assert (plan.multipart, plan.conditional) == (multipart, False)


@pytest.mark.parametrize("enforced", [ALL_ENFORCED, PUT_ONLY, COMPLETE_ONLY, CHECKED], ids=str)
def test_best_effort_if_enforced(enforced: ConditionalWrites) -> None:
    """With best effort, an enforced precondition is used all the same, without a warning."""
    settings = S3TransferSettings(conditional_writes="best-effort")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert plan_create(17 * MIB, settings, enforced, DETAILS) == plan_create(17 * MIB, USUAL, enforced, DETAILS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"part_size": 5 * MIB - 1},
        {"part_size": MAX_PUT + 1},
        {"multipart_threshold": MAX_PUT + 1},
        {"exclusive_put_limit": MAX_PUT + 1},
    ],
    ids=str,
)
def test_sizes_beyond_limits(wrong: dict[str, Any]) -> None:
    """Sizes beyond the limits of S3 are refused."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        check_transfer_settings(S3TransferSettings(**wrong))


def test_sizes_at_limits() -> None:
    """Sizes at the limits of S3 are accepted."""
    settings = S3TransferSettings(part_size=5 * MIB, multipart_threshold=MAX_PUT)
    assert check_transfer_settings(settings) is settings


@pytest.mark.parametrize(
    ("size", "enforced", "multipart", "conditional"),
    [
        (100 * MIB, CHECKED, True, True),
        (100 * MIB, PUT_ONLY, True, False),
        (6 * 2**30, PUT_ONLY, True, False),
        (MIB, CHECKED, False, True),
        (MIB, PUT_ONLY, False, True),
        (100 * MIB, ALL_ENFORCED, True, True),
    ],
)
def test_writers_of_one_content(size: int, enforced: ConditionalWrites, multipart: bool, conditional: bool) -> None:
    """If all writers of a key write the same content, a check that can race is enough for parts, without a warning."""
    plan = plan_create(size, USUAL, enforced, DETAILS, has_one_content=True)
    assert (plan.multipart, plan.conditional) == (multipart, conditional)
