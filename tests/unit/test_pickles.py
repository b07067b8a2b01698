"""Pickles that version 0.1.0 wrote, at commit bcac1e2, still load."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from gllm_storage import ObjectInfo, StorageError, get_storage_client
from gllm_storage.errors import OURS

PICKLES = Path(__file__).parents[1] / "pickles"
NAMES = sorted(each.stem for each in PICKLES.glob("*.pickle"))


def load(name: str) -> Any:
    return pickle.loads((PICKLES / f"{name}.pickle").read_bytes())  # files of this repository


def names_of(kind: str) -> list[str]:
    return [name for name in NAMES if name.startswith(f"{kind}-")]


@pytest.mark.parametrize("name", names_of("client"))
def test_client(name: str) -> None:
    """A client loads with its config, and equals a new client with the same config."""
    client = load(name)
    assert client == get_storage_client(name.removeprefix("client-"), client.config)
    assert client.config.items() >= {"prefix": "team-a"}.items() or name in {"client-file", "client-fsspec", "client-memory"}


@pytest.mark.parametrize("name", names_of("filesystem"))
def test_filesystem(name: str) -> None:
    """A filesystem loads with its options, also with a default that has changed since."""
    filesystem = load(name)
    expected = load(name.replace("filesystem-", "client-")).filesystem
    assert type(filesystem) is type(expected)
    changed = {"max_concurrency": 10} if "max_concurrency" in expected.storage_options else {}
    assert filesystem.storage_options == {**expected.storage_options, **changed}


@pytest.mark.parametrize("name", names_of("file"))
def test_open_file(name: str) -> None:
    """An open file loads at its position, pinned to its version."""
    file = load(name)
    assert file.tell() == 10
    assert file.size == 1000
    assert file.version == load(name.replace("file-", "info-"))
    assert file.path == "models/key"


@pytest.mark.parametrize("name", names_of("info"))
def test_info(name: str) -> None:
    """A description of an object loads with all its fields."""
    info = load(name)
    assert isinstance(info, ObjectInfo)
    assert (info.size, info.etag, info.checksum, info.metadata) == (1000, "abc", "crc64nvme:AAAAAAAAAAA=", {"a": "b"})


@pytest.mark.parametrize("name", names_of("error"))
def test_error(name: str) -> None:
    """An error loads as its class, with its details."""
    error = load(name)
    assert type(error).__name__ == name.removeprefix("error-")
    assert isinstance(error, OURS)
    assert error.message == "it failed"
    assert (error.provider, error.url, error.operation) == ("s3", "s3://models/key", "upload")
    assert (error.status, error.code, error.request_id) == (503, "SlowDown", "id-1")
    assert not isinstance(error, StorageError) or "it failed" in str(error)


def test_all_kinds() -> None:
    """All 26 pickles are present."""
    assert len(NAMES) == 26
