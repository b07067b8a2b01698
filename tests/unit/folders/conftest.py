"""Fixtures of the tests of folders."""

from __future__ import annotations

import os
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import storage_client_from_url
from gllm_storage.folders.index import is_settled

if TYPE_CHECKING:
    from pathlib import Path

    from gllm_storage.fsspec_client import FsspecStorageClient


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the test's own index."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("GLLM_STORAGE_CACHE", str(folder))
    return folder


@pytest.fixture
def client() -> FsspecStorageClient:
    """A client with an empty store."""
    made: Any = storage_client_from_url(f"memory://test-{uuid.uuid4().hex[:12]}")
    found: FsspecStorageClient = made
    return found


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A local folder with three files, which are old enough to be remembered."""
    folder = tmp_path / "local"
    for name in ("a.bin", "b/c.bin", "d.txt"):
        write(folder / name, name.encode())
    settle(folder / "d.txt")
    return folder


def write(path: Path, content: bytes) -> None:
    """Write a file, and give it an old time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (time.time() - 1000,) * 2)


def settle(path: Path) -> None:
    """Wait until a file is so old that its checksum may be remembered."""
    status = path.stat()
    while not is_settled(status.st_mtime_ns, status.st_ctime_ns, time.time_ns()):
        time.sleep(0.005)


def stored(client: FsspecStorageClient) -> set[str]:
    """The keys of a client's store."""
    return {info.url.removeprefix(client.url("x").removesuffix("x")) for info in client.list_files()}
