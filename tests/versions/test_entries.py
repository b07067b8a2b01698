"""The entries of logs, as objects."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from gllm_storage.errors import ErrorDetails, IntegrityError, UnsupportedOperationError
from gllm_storage.versions.entries import (
    LARGEST_ENTRY,
    Aborted,
    AliasEntry,
    Deleted,
    Entry,
    Manifest,
    decode_entry,
    encode_entry,
)

DETAILS = ErrorDetails("memory", "memory://b/versions/v3/99999998.json", "resolve")
DIGEST, PLACE, TIME = "sha256:" + "ab" * 32, "ab" * 32 + "-0", "2026-11-28T18:00:00+00:00"
MANIFEST = Manifest(
    "models/m", "v3", DIGEST, PLACE, 2, 10, 200, "cd" * 32, "gllm-storage/1", TIME, {"loss": 0.5, "tags": ["ä"]}
)


@pytest.mark.parametrize(
    "entry", [MANIFEST, Aborted(), Deleted(DIGEST, PLACE, TIME), AliasEntry("v3", DIGEST, "0f", TIME, "latest")], ids=repr
)
def test_entry_and_back(entry: Entry) -> None:
    """An entry is read as it was written; its JSON is canonical."""
    data = encode_entry(entry)
    assert decode_entry(data, DETAILS) == entry
    fields = json.loads(data)
    assert data == json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def test_move_without_alias() -> None:
    """An entry of a version of the library that did not write the name of the alias is read."""
    fields = json.loads(encode_entry(AliasEntry("v3", DIGEST, "0f", TIME, "latest")))
    del fields["alias"]
    assert decode_entry(json.dumps(fields).encode(), DETAILS) == AliasEntry("v3", DIGEST, "0f", TIME)


def test_unknown_field() -> None:
    """A field that this version does not know is ignored: a later one may add it without a new format."""
    fields = json.loads(encode_entry(MANIFEST)) | {"signature": "…"}
    assert decode_entry(json.dumps(fields).encode(), DETAILS) == MANIFEST


@pytest.mark.parametrize(
    "changes",
    [
        {"format": None},
        {"format": "1"},
        {"format": 0},
        {"kind": "unknown"},
        {"kind": None},
        {"kind": ["manifest"]},
        {"digest": "sha256:x"},
        {"digest": "sha256:" + "cd" * 32},
        {"place": "../../x-0"},
        {"place": "cd" * 32 + "-0"},
        {"version": "../v3"},
        {"version": 3},
        {"files": -1},
        {"files": True},
        {"size": "10"},
        {"tree_sha256": "x"},
        {"tree_size": None},
        {"metadata": []},
        {"time": 5},
    ],
    ids=str,
)
def test_damaged_entry(changes: dict[str, Any]) -> None:
    """An entry with a field that it cannot have is refused, with its URL."""
    fields = json.loads(encode_entry(MANIFEST)) | changes
    with pytest.raises(IntegrityError, match="memory://b/versions"):
        decode_entry(json.dumps(fields).encode(), DETAILS)


@pytest.mark.parametrize("name", [each.name for each in dataclasses.fields(Manifest)])
def test_missing_field(name: str) -> None:
    """An entry without one of its fields is refused."""
    fields = json.loads(encode_entry(MANIFEST))
    del fields[name]
    with pytest.raises(IntegrityError, match=name):
        decode_entry(json.dumps(fields).encode(), DETAILS)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b" " * LARGEST_ENTRY])
def test_not_an_entry(data: bytes) -> None:
    """An object that is not JSON, or too large, is refused."""
    with pytest.raises(IntegrityError):
        decode_entry(data, DETAILS)


def test_later_format() -> None:
    """An entry of a later format is refused with the advice to update."""
    with pytest.raises(UnsupportedOperationError, match=r"format 7.*Update gllm-storage"):
        decode_entry(b'{"format":7,"kind":"manifest"}', DETAILS)


@pytest.mark.parametrize("metadata", [{"x": b""}, {"x": float("nan")}, {"x": "y" * LARGEST_ENTRY}, {"x": "\ud800"}])
def test_impossible_metadata(metadata: dict[str, Any]) -> None:
    """Metadata that is not JSON, or makes the manifest too large, is a ValueError."""
    with pytest.raises(ValueError, match=r"must be JSON|the limit is"):
        encode_entry(dataclasses.replace(MANIFEST, metadata=metadata))
