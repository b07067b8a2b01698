"""Checksums: the known vectors, and what S3 makes of them."""

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
def test_a_crc_has_its_catalogued_check_value(algorithm: str) -> None:
    assert crc_of(reader(CHECK), len(CHECK), algorithm) == VECTORS[algorithm]


def test_crc64nvme_in_one_call_is_the_same() -> None:
    assert crc64nvme(CHECK) == VECTORS["crc64nvme"]
    assert crc64nvme(b"") == 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, 2 * CHUNK + 3])
def test_a_checksum_does_not_depend_on_how_the_file_is_read(algorithm: str, size: int) -> None:
    data = os.urandom(size)
    plain = {
        "crc64nvme": lambda: crc64nvme(data).to_bytes(8, "big"),
        "crc32": lambda: binascii.crc32(data).to_bytes(4, "big"),
        "sha1": lambda: hashlib.sha1(data).digest(),  # noqa: S324 - S3 has it
        "sha256": lambda: hashlib.sha256(data).digest(),
        "crc32c": lambda: base64.b64decode(checksum_of(reader(b"xx" + data), size, "crc32c", start=2)),
    }
    found = checksum_of(reader(data), size, algorithm)
    assert base64.b64decode(found) == plain[algorithm]()
    assert is_well_formed(found, algorithm)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_section_has_the_checksum_of_its_bytes(algorithm: str) -> None:
    data = os.urandom(2 * CHUNK)
    part = data[1000 : 1000 + CHUNK + 5]
    assert checksum_of(reader(data), len(part), algorithm, start=1000) == checksum_of(reader(part), len(part), algorithm)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 9), (9, 0), (4, 5), (1, CHUNK), (CHUNK + 7, 3 * CHUNK)])
def test_the_checksums_of_two_pieces_make_the_checksum_of_both(first: int, second: int) -> None:
    one, other = os.urandom(first), os.urandom(second)
    assert combine_crc64nvme(crc64nvme(one), crc64nvme(other), second) == crc64nvme(one + other)


def test_the_check_value_can_be_put_together() -> None:
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
def test_a_crc_is_written_as_s3_writes_it(checksum: int, algorithm: str, text: str) -> None:
    assert encode(checksum, algorithm) == text
    assert is_well_formed(text, algorithm)


@pytest.mark.parametrize(
    ("value", "algorithm"),
    [("", "crc32"), ("y/Q5Jg", "crc32"), ("y/Q5Jg==", "crc64nvme"), ("rosUhgp5mIg=-5", "crc64nvme"), ("!!!!", "sha1")],
)
def test_what_is_no_checksum_is_recognized(value: str, algorithm: str) -> None:
    assert not is_well_formed(value, algorithm)
