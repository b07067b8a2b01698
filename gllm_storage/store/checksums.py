"""Full-object checksums, so that a bit flipped on the way is noticed by whoever downloads, however the bytes were moved."""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from typing import TYPE_CHECKING

from awscrt import checksums as crt

from gllm_storage.files.local_files import CHUNK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from _typeshed import ReadableBuffer

_WIDTH = {"crc64nvme": 8, "crc32c": 4, "crc32": 4, "sha256": 32, "sha1": 20, "md5": 16}
_UPDATE: dict[str, Callable[[ReadableBuffer, int], int]] = {
    # Measured on one core: crc64nvme and crc32c 18 GiB/s, crc32 2.8 GiB/s; awscrt computes them without threads.
    "crc64nvme": crt.crc64nvme,
    "crc32c": crt.crc32c,
    "crc32": zlib.crc32,
}
_COMBINE: dict[str, Callable[[int, int, int], int]] = {
    "crc64nvme": crt.combine_crc64nvme,
    "crc32c": crt.combine_crc32c,
    "crc32": crt.combine_crc32,
}
FOLDABLE = tuple(_COMBINE)
"""What can be computed of pieces side by side, or as they come."""
ALGORITHMS = ("crc64nvme", "crc32c", "crc32", "sha256", "sha1")
"""What S3 keeps and we can check, most preferred first; in lower case. GCS and Azure keep MD5, which we check, too."""


def crc64nvme(data: bytes | memoryview) -> int:
    """CRC-64/NVME of some bytes."""
    return int(crt.crc64nvme(data))


def crc32c(data: bytes) -> int:
    """CRC32C of some bytes."""
    return int(crt.crc32c(data))


def combine_crc64nvme(first: int, second: int, second_length: int) -> int:
    """CRC-64/NVME of two pieces put together, from the checksum of each."""
    return int(_COMBINE["crc64nvme"](first, second, second_length))


def update(data: ReadableBuffer, crc: int, algorithm: str) -> int:
    """CRC of what came before, and of some more bytes."""
    return _UPDATE[algorithm](data, crc)


def fold(parts: Iterable[tuple[int, int]], algorithm: str) -> int:
    """CRC of the whole, from the CRC and the length in bytes of each part.

    Args:
        parts: In their order.
        algorithm: One of `FOLDABLE`.
    """
    whole = 0
    for crc, length in parts:
        whole = int(_COMBINE[algorithm](whole, crc, length))
    return whole


def encode(checksum: int, algorithm: str = "crc64nvme") -> str:
    """A CRC as S3 writes it: big-endian, base64."""
    return base64.b64encode(checksum.to_bytes(_WIDTH[algorithm], "big")).decode()


def is_well_formed(value: str, algorithm: str) -> bool:
    """Whether a text can be a checksum of that algorithm, as S3 writes it."""
    try:
        return len(base64.b64decode(value, validate=True)) == _WIDTH[algorithm]
    except binascii.Error:
        return False


def checksum_of(read_at: Callable[[int, int], bytes], size: int, algorithm: str = "crc64nvme", *, start: int = 0) -> str:
    """Checksum of `size` bytes from `start`, as S3 writes it.

    Args:
        read_at: Reads exactly (offset, length) bytes.
        size: How many bytes.
        algorithm: One of `ALGORITHMS`, or ``"md5"``.
        start: Where to begin.
    """
    if algorithm in _UPDATE:
        return encode(crc_of(read_at, size, algorithm, start=start), algorithm)
    digest = hashlib.new(algorithm, usedforsecurity=False)
    for offset in range(start, start + size, CHUNK):
        digest.update(read_at(offset, min(CHUNK, start + size - offset)))
    return base64.b64encode(digest.digest()).decode()


def crc_of(read_at: Callable[[int, int], bytes], size: int, algorithm: str = "crc64nvme", *, start: int = 0) -> int:
    """CRC of `size` bytes from `start`, as a number."""
    update = _UPDATE[algorithm]
    crc = 0
    for offset in range(start, start + size, CHUNK):
        crc = update(read_at(offset, min(CHUNK, start + size - offset)), crc)
    return crc


def fold_crc64nvme(parts: Iterable[tuple[int, int]]) -> int:
    """CRC-64/NVME of the whole, as `fold`."""
    return fold(parts, "crc64nvme")
