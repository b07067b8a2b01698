"""The keys that our uploads leave in an object's user metadata, beside the caller's own."""

from __future__ import annotations

from gllm_storage.store.checksums import is_well_formed

WRITE_ID = "gllm-write-id"
CHECKSUM = "gllm-crc64nvme"
WRITE_ID_UNDERSCORED = "gllm_write_id"
CHECKSUM_UNDERSCORED = "gllm_crc64nvme"
"""Azure takes identifiers only, and so it is on GCS, too."""
MD5_UNDERSCORED = "gllm_md5"
"""On Azure: the MD5 that our upload left in the blob's properties. Where another one stands there, or none, the blob was
written again by a client that carried our metadata along."""


def kept_checksum(kept: str, size: int) -> str | None:
    """The checksum that our metadata keep of an object, as ``"crc64nvme:…"``.

    Args:
        kept: The metadata's value: the CRC, and the size that it was computed of.
        size: The object's size in bytes.

    Returns:
        The checksum, or None if there is none, or not of this content: a copy or an append by another client may have
        carried our metadata along. That shows by the size, and only a shorter object is one that a store has cut off.
    """
    ours, _, of_size = kept.partition("-")
    if ours and of_size.isdigit() and size <= int(of_size) and is_well_formed(ours, "crc64nvme"):
        return f"crc64nvme:{ours}"
    return None
