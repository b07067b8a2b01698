"""Reads: ranges, one version, checksums."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from gllm_storage.cli.check.bench import content
from gllm_storage.cli.check.model import Row, Verdict
from gllm_storage.errors import StorageError
from gllm_storage.store import checksums

if TYPE_CHECKING:
    from gllm_storage.cli.check.bench import Bench

RANGES, PINNED, CHECKSUMS = "ranged reads", "pinned reads", "checksums"
_SIZE = 2**20
_BLOCK = 2**16


def read_ranges(bench: Bench) -> Row:
    """Read pieces from the middle of an object."""
    expected = content(7, _SIZE)
    bench.put("ranges", expected)
    wrong = []
    with bench.client.open(bench.path("ranges"), "rb", block_size=_BLOCK) as file:
        for offset in (_SIZE // 2 + 1, 0, _SIZE - 10, 3 * _BLOCK):
            file.seek(offset)
            if file.read(100) != expected[offset : offset + 100]:
                wrong.append(offset)
    if wrong:
        return Row(RANGES, Verdict.BAD, f"wrong bytes came at {', '.join(map(str, wrong))}")
    return Row(RANGES, Verdict.OK, "each range is the right one")


def read_pinned(bench: Bench) -> Row:
    """Replace an object while it is open, and read on."""
    old, new = content(8, _SIZE), content(9, _SIZE)
    bench.put("pinned", old)
    with bench.client.open(bench.path("pinned"), "rb", block_size=_BLOCK) as file:
        first = file.read(_BLOCK)
        bench.put("pinned", new)
        try:
            read = first + file.read()
        except (StorageError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in {errno.EBUSY, errno.ENOENT}:
                raise
            return Row(PINNED, Verdict.OK, "a reader of an object that is replaced gets an error")
    if read == old:
        return Row(PINNED, Verdict.OK, "a reader of an object that is replaced goes on with the old one")
    return Row(PINNED, Verdict.BAD, "a reader of an object that is replaced gets a mix of the two")


def look_at_checksum(bench: Bench) -> Row:
    """Is a checksum of the whole object kept, and is it right?"""
    expected = content(10, _SIZE)
    bench.put("checksum", expected)
    kept = bench.client.info(bench.path("checksum")).checksum
    if kept is None:
        return Row(CHECKSUMS, Verdict.NO, "none is kept; downloads are compared by size", {"algorithm": None})
    algorithm, _, value = kept.partition(":")
    values = {"algorithm": algorithm}
    if algorithm not in {*checksums.ALGORITHMS, "md5"}:
        return Row(CHECKSUMS, Verdict.NO, f"{algorithm} is kept, which we cannot check", values)
    found = checksums.checksum_of(lambda offset, length: expected[offset : offset + length], _SIZE, algorithm)
    if found != value:
        return Row(CHECKSUMS, Verdict.BAD, f"{algorithm} is kept, and is wrong", values)
    return Row(CHECKSUMS, Verdict.OK, f"{algorithm} of the whole object is kept, and is right", values)
