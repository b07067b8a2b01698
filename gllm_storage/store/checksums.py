"""Full-object checksums, and the user metadata in which uploads of this library keep them.

GCS computes a CRC32C of every object. Not every S3-compatible store keeps a full-object checksum, and Azure computes none
for an upload in blocks: there the library keeps its own CRC-64/NVME in the user metadata. Another client may carry that
metadata along when it copies or appends; `kept_checksum` and `MD5_UNDERSCORED` show that it is not of this content any more.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from functools import cache
from typing import TYPE_CHECKING, Any

from gllm_storage.files.source import CHUNK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from _typeshed import ReadableBuffer

_HEX_DIGITS = frozenset("0123456789abcdef")
_WIDTH = {"crc64nvme": 8, "crc32c": 4, "crc32": 4, "sha256": 32, "sha1": 20, "md5": 16}


@cache
def _crt() -> Any:
    """The module that computes CRCs. Its import takes 70 ms, so it happens on first use.

    Measured on one core: crc64nvme and crc32c 18 GiB/s, zlib's crc32 2.8 GiB/s. awscrt starts no threads for them.
    """
    from awscrt import checksums as crt  # imported on first use

    return crt


@cache
def _update_of(algorithm: str) -> Callable[[ReadableBuffer, int], int]:
    found: Callable[[ReadableBuffer, int], int] = zlib.crc32 if algorithm == "crc32" else getattr(_crt(), algorithm)
    return found


FOLDABLE = ("crc64nvme", "crc32c", "crc32")
"""Algorithms that combine: the checksum of the content follows from those of its parts, computed in any order."""
ALGORITHMS = ("crc64nvme", "crc32c", "crc32", "sha256", "sha1")
"""Algorithms of S3 that downloads verify, in lower case, the preferred first. MD5, of GCS and Azure, is verified as well."""


WRITE_ID = "gllm-write-id"
"""Metadata key of the write-id (`store.create`) on S3."""
CHECKSUM = "gllm-crc64nvme"
"""Metadata key of the checksum on S3."""
WRITE_ID_UNDERSCORED = "gllm_write_id"
"""Metadata key of the write-id on GCS and Azure. Azure requires an identifier."""
CHECKSUM_UNDERSCORED = "gllm_crc64nvme"
"""Metadata key of the checksum on Azure."""
MD5_UNDERSCORED = "gllm_md5"
"""Metadata key, on Azure, of the MD5 that the upload also wrote to the blob's properties. If the properties hold another MD5
or none, a client wrote the blob again and carried this metadata along: the checksum is not of this content."""


def crc64nvme(data: bytes | bytearray | memoryview) -> int:
    """CRC-64/NVME of a buffer."""
    return int(_crt().crc64nvme(data))


def crc32c(data: bytes) -> int:
    """CRC32C of a buffer."""
    return int(_crt().crc32c(data))


def combine_crc64nvme(first: int, second: int, second_length: int) -> int:
    """CRC-64/NVME of two concatenated pieces.

    Args:
        first: CRC of the first piece.
        second: CRC of the second piece.
        second_length: Length of the second piece in bytes.
    """
    return int(_crt().combine_crc64nvme(first, second, second_length))


def update(data: ReadableBuffer, crc: int, algorithm: str) -> int:
    """Continue a CRC over more bytes.

    Args:
        data: The bytes.
        crc: CRC of the bytes before; 0 at the start.
        algorithm: One of `FOLDABLE`.
    """
    return _update_of(algorithm)(data, crc)


def fold(parts: Iterable[tuple[int, int]], algorithm: str) -> int:
    """CRC of the complete content from those of its parts.

    Args:
        parts: CRC and length in bytes of each part, in the order of the content.
        algorithm: One of `FOLDABLE`.
    """
    combine = getattr(_crt(), f"combine_{algorithm}")
    combined = 0
    for crc, length in parts:
        combined = int(combine(combined, crc, length))
    return combined


def encode(checksum: int, algorithm: str = "crc64nvme") -> str:
    """Encode a CRC as S3 does: base64 of its big-endian bytes."""
    return binascii.b2a_base64(checksum.to_bytes(_WIDTH[algorithm], "big"), newline=False).decode()


def is_well_formed(value: str, algorithm: str) -> bool:
    """Whether a text is base64 of as many bytes as a checksum of that algorithm has."""
    try:
        return len(base64.b64decode(value, validate=True)) == _WIDTH[algorithm]
    except ValueError:  # not base64, or not ASCII
        return False


def checksum_of(read_at: Callable[[int, int], bytes], size: int, algorithm: str = "crc64nvme", *, start: int = 0) -> str:
    """Checksum of a range, encoded as S3 does: base64.

    Args:
        read_at: Reads exactly the bytes of (offset, length).
        size: Number of bytes.
        algorithm: One of `ALGORITHMS`, or ``"md5"``.
        start: Offset of the first byte.
    """
    if algorithm in FOLDABLE:
        return encode(crc_of(read_at, size, algorithm, start=start), algorithm)
    digest = hashlib.new(algorithm, usedforsecurity=False)
    for offset in range(start, start + size, CHUNK):
        digest.update(read_at(offset, min(CHUNK, start + size - offset)))
    return base64.b64encode(digest.digest()).decode()


def crc_of(read_at: Callable[[int, int], bytes], size: int, algorithm: str = "crc64nvme", *, start: int = 0) -> int:
    """CRC of a range, as a number; arguments as in `checksum_of`, the algorithm one of `FOLDABLE`."""
    update = _update_of(algorithm)
    crc = 0
    for offset in range(start, start + size, CHUNK):
        crc = update(read_at(offset, min(CHUNK, start + size - offset)), crc)
    return crc


def fold_crc64nvme(parts: Iterable[tuple[int, int]]) -> int:
    """CRC-64/NVME of the complete content from those of its parts; as `fold`."""
    return fold(parts, "crc64nvme")


def etag_of_parts(etags: Iterable[str]) -> str | None:
    """The ETag that S3 gives to an object of several parts: the MD5 of their MD5s, and their number.

    Args:
        etags: The ETags of the parts, in order.

    Returns:
        The ETag without quotes; None if the ETags of the parts are not MD5s, as with encryption by KMS.
    """
    md5s = [each.strip('"') for each in etags]
    if not all(len(each) == 2 * _WIDTH["md5"] and set(each) <= _HEX_DIGITS for each in md5s):
        return None
    digest = hashlib.md5(b"".join(bytes.fromhex(each) for each in md5s), usedforsecurity=False)
    return f"{digest.hexdigest()}-{len(md5s)}"


def kept_checksum(kept: str, size: int) -> str | None:
    """The checksum in the user metadata of an object, as ``"crc64nvme:…"``.

    Args:
        kept: The metadata value: the CRC, ``-``, and the size in bytes of the content that it was computed from.
        size: Size of the object in bytes.

    Returns:
        The checksum. None if the value is missing or malformed, or if the object is longer than the content: another client
        has then appended to it and carried the metadata along. A shorter object counts as damaged: the checksum is
        returned, so that verification fails.
    """
    ours, _, of_size = kept.partition("-")
    if ours and of_size.isdigit() and size <= int(of_size) and is_well_formed(ours, "crc64nvme"):
        return f"crc64nvme:{ours}"
    return None
