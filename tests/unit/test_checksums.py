"""Checksums: the published check values, and their encoding in S3."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from typing import TYPE_CHECKING

import pytest

from gllm_storage.files.source import CHUNK
from gllm_storage.store.checksums import (
    ALGORITHMS,
    checksum_of,
    combine_crc64nvme,
    crc64nvme,
    crc_of,
    encode,
    is_well_formed,
)

if TYPE_CHECKING:
    from collections.abc import Callable

CHECK = b"123456789"
VECTORS = {"crc64nvme": 0xAE8B14860A799888, "crc32c": 0xE3069283, "crc32": 0xCBF43926}


def reader(data: bytes) -> Callable[[int, int], bytes]:
    return lambda offset, length: data[offset : offset + length]


@pytest.mark.parametrize("algorithm", VECTORS)
def test_check_value(algorithm: str) -> None:
    """Each CRC has the check value that the CRC catalogue lists."""
    assert crc_of(reader(CHECK), len(CHECK), algorithm) == VECTORS[algorithm]


def test_check_value_in_one_call() -> None:
    """`crc64nvme` returns the check value in one call, and 0 for empty data."""
    assert crc64nvme(CHECK) == VECTORS["crc64nvme"]
    assert crc64nvme(b"") == 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, 2 * CHUNK + 3])
def test_checksum_of_chunks(algorithm: str, size: int) -> None:
    """A checksum that is read in chunks equals the checksum of the complete data."""
    data = os.urandom(size)
    plain = {
        "crc64nvme": lambda: crc64nvme(data).to_bytes(8, "big"),
        "crc32": lambda: binascii.crc32(data).to_bytes(4, "big"),
        "sha1": lambda: hashlib.sha1(data).digest(),  # noqa: S324 - S3 offers SHA-1
        "sha256": lambda: hashlib.sha256(data).digest(),
        "crc32c": lambda: base64.b64decode(checksum_of(reader(b"xx" + data), size, "crc32c", start=2)),
    }
    found = checksum_of(reader(data), size, algorithm)
    assert base64.b64decode(found) == plain[algorithm]()
    assert is_well_formed(found, algorithm)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_checksum_of_a_section(algorithm: str) -> None:
    """The checksum of a section is the checksum of its bytes."""
    data = os.urandom(2 * CHUNK)
    part = data[1000 : 1000 + CHUNK + 5]
    assert checksum_of(reader(data), len(part), algorithm, start=1000) == checksum_of(reader(part), len(part), algorithm)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 9), (9, 0), (4, 5), (1, CHUNK), (CHUNK + 7, 3 * CHUNK)])
def test_combined_checksum(first: int, second: int) -> None:
    """The checksums of two pieces combine into the checksum of both."""
    one, other = os.urandom(first), os.urandom(second)
    assert combine_crc64nvme(crc64nvme(one), crc64nvme(other), second) == crc64nvme(one + other)


def test_combined_check_value() -> None:
    """The checksums of two pieces of the check string combine into the check value."""
    assert combine_crc64nvme(crc64nvme(CHECK[:4]), crc64nvme(CHECK[4:]), 5) == VECTORS["crc64nvme"]


@pytest.mark.parametrize(
    ("checksum", "algorithm", "text"),
    [
        (VECTORS["crc64nvme"], "crc64nvme", "rosUhgp5mIg="),
        (VECTORS["crc32c"], "crc32c", "4waSgw=="),
        (VECTORS["crc32"], "crc32", "y/Q5Jg=="),
        (0, "crc64nvme", "AAAAAAAAAAA="),
    ],
)
def test_encoding(checksum: int, algorithm: str, text: str) -> None:
    """A CRC is encoded as S3 encodes it."""
    assert encode(checksum, algorithm) == text
    assert is_well_formed(text, algorithm)


@pytest.mark.parametrize(
    ("value", "algorithm"),
    [("", "crc32"), ("y/Q5Jg", "crc32"), ("y/Q5Jg==", "crc64nvme"), ("rosUhgp5mIg=-5", "crc64nvme"), ("!!!!", "sha1")],
)
def test_malformed_checksum(value: str, algorithm: str) -> None:
    """A malformed checksum is recognized."""
    assert not is_well_formed(value, algorithm)
