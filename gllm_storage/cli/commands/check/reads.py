"""Checks of reading: ranges, pinned versions, checksums."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from gllm_storage.cli.commands.check.bench import content
from gllm_storage.cli.commands.check.report import Row, Verdict
from gllm_storage.errors import StorageError

if TYPE_CHECKING:
    from gllm_storage.cli.commands.check.bench import Bench

RANGES, PINNED, CHECKSUMS = "ranged reads", "pinned reads", "checksums"
_SIZE = 2**20
_BLOCK = 2**16


def read_ranges(bench: Bench) -> Row:
    """Read ranges from an open object."""
    expected = content(7, _SIZE)
    bench.put("ranges", expected)
    wrong = []
    with bench.client.open(bench.path("ranges"), "rb", block_size=_BLOCK) as file:
        for offset in (_SIZE // 2 + 1, 0, _SIZE - 10, 3 * _BLOCK):
            file.seek(offset)
            if file.read(100) != expected[offset : offset + 100]:
                wrong.append(offset)
    if wrong:
        return Row(RANGES, Verdict.BAD, f"wrong bytes at the offsets {', '.join(map(str, wrong))}")
    return Row(RANGES, Verdict.OK, "all bytes are right")


def read_pinned(bench: Bench) -> Row:
    """Replace an object while it is open, and continue to read."""
    old, new = content(8, _SIZE), content(9, _SIZE)
    bench.put("pinned", old)
    with bench.client.open(bench.path("pinned"), "rb", block_size=_BLOCK) as file:
        first = file.read(_BLOCK)
        bench.put("pinned", new)
        try:
            found = first + file.read()
        except (StorageError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in {errno.EBUSY, errno.ENOENT}:
                raise
            return Row(PINNED, Verdict.OK, "a reader gets an error if the object is replaced")
    if found == old:
        return Row(PINNED, Verdict.OK, "a reader continues with the old version if the object is replaced")
    return Row(PINNED, Verdict.BAD, "a reader gets a mix of two versions if the object is replaced")


def verify_checksum(bench: Bench) -> Row:
    """Compare the full-object checksum that the store keeps with the content."""
    from gllm_storage.store import checksums  # noqa: PLC0415 - it imports awscrt, which --help does not need

    expected = content(10, _SIZE)
    bench.put("checksum", expected)
    kept = bench.client.info(bench.path("checksum")).checksum
    if kept is None:
        return Row(CHECKSUMS, Verdict.NO, "the store keeps none; downloads are verified by size", {"algorithm": None})
    algorithm, _, value = kept.partition(":")
    values = {"algorithm": algorithm}
    if algorithm not in {*checksums.ALGORITHMS, "md5"}:
        return Row(CHECKSUMS, Verdict.NO, f"the store keeps {algorithm}, which this library cannot compute", values)
    found = checksums.checksum_of(lambda offset, length: expected[offset : offset + length], _SIZE, algorithm)
    if found != value:
        return Row(CHECKSUMS, Verdict.BAD, f"the store keeps a wrong {algorithm} of the object", values)
    return Row(CHECKSUMS, Verdict.OK, f"the store keeps the right {algorithm} of the object", values)
