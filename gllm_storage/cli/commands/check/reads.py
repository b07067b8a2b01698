"""Checks of reading: ranges, pinned versions, checksums."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from gllm_storage.cli.commands.check.report import Row, Verdict
from gllm_storage.testing import checks
from gllm_storage.testing.checks import content

if TYPE_CHECKING:
    from gllm_storage.cli.commands.check.bench import Bench

RANGES, PINNED, CHECKSUMS = "ranged reads", "pinned reads", "checksums"
_SIZE = 2**20
_BLOCK = 2**16


def read_ranges(bench: Bench) -> Row:
    """Read ranges from an open object."""
    expected = content(7, _SIZE)
    bench.put("ranges", expected)
    offsets = (_SIZE // 2 + 1, 0, _SIZE - 10, 3 * _BLOCK)
    with bench.client.open(bench.path("ranges"), "rb", block_size=_BLOCK) as file:
        wrong = checks.wrong_ranges(file, expected, offsets)
    if wrong:
        return Row(RANGES, Verdict.BAD, f"wrong bytes at the offsets {', '.join(map(str, wrong))}")
    return Row(RANGES, Verdict.OK, "all bytes are right")


def read_pinned(bench: Bench) -> Row:
    """Replace an object while it is open, and continue to read."""
    old, new = content(8, _SIZE), content(9, _SIZE)
    bench.put("pinned", old)
    with bench.client.open(bench.path("pinned"), "rb", block_size=_BLOCK) as file:
        found = checks.read_while_replaced(file, partial(bench.put, "pinned", new), _BLOCK)
    if found is None:
        return Row(PINNED, Verdict.OK, "a reader gets an error if the object is replaced")
    if found == old:
        return Row(PINNED, Verdict.OK, "a reader continues with the old version if the object is replaced")
    return Row(PINNED, Verdict.BAD, "a reader gets a mix of two versions if the object is replaced")


def verify_checksum(bench: Bench) -> Row:
    """Compare the full-object checksum that the store keeps with the content."""
    expected = content(10, _SIZE)
    bench.put("checksum", expected)
    kept = bench.client.info(bench.path("checksum")).checksum
    if kept is None:
        return Row(CHECKSUMS, Verdict.NO, "the store keeps none; downloads are verified by size", {"algorithm": None})
    algorithm = kept.partition(":")[0]
    values = {"algorithm": algorithm}
    is_right = checks.is_checksum_of(kept, expected)
    if is_right is None:
        return Row(CHECKSUMS, Verdict.NO, f"the store keeps {algorithm}, which this library cannot compute", values)
    if not is_right:
        return Row(CHECKSUMS, Verdict.BAD, f"the store keeps a wrong {algorithm} of the object", values)
    return Row(CHECKSUMS, Verdict.OK, f"the store keeps the right {algorithm} of the object", values)
