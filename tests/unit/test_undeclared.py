"""A store that does not declare exclusive create: every verb and method refuses it, although `upload` ignores it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from gllm_storage.errors import ConflictCheckUnsupportedError, Remedy
from gllm_storage.filesystem.base import StoreFileSystem
from gllm_storage.memory.client import MemoryStorageClient
from gllm_storage.memory.store import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gllm_storage.info import Stored
    from gllm_storage.store.port import ObjectStore, UploadRequest


class Ignoring(MemoryStore):
    """It overwrites, whatever the request says."""

    creates_exclusively: ClassVar[bool] = False

    def upload(self, request: UploadRequest) -> Stored:
        return super().upload(replace(request, exclusive=False))


class IgnoringClient(MemoryStorageClient):
    def make_store(self) -> MemoryStore:
        return Ignoring(MemoryFileSystem(), "undeclared")


class IgnoringFileSystem(StoreFileSystem):
    provider: ClassVar[str] = "memory"
    scheme: ClassVar[str] = "memory"
    protocol: Any = "memory"
    cachable = False

    def bucket_store(self, bucket: str) -> ObjectStore:
        return Ignoring(MemoryFileSystem(), bucket)


METHODS: dict[str, Callable[[IgnoringFileSystem, str], object]] = {
    "put_file": lambda fs, local: fs.put_file(local, "undeclared/x", mode="create"),
    "put": lambda fs, local: fs.put([local, local], ["undeclared/x", "undeclared/y"], mode="create"),
    "pipe_file": lambda fs, _: fs.pipe_file("undeclared/x", b"new", mode="create"),
    "pipe": lambda fs, _: fs.pipe({"undeclared/x": b"new", "undeclared/y": b"new"}, mode="create"),
    "open": lambda fs, _: fs.open("undeclared/x", "xb"),
}


@pytest.fixture
def local(tmp_path: Path) -> str:
    """A local file."""
    path = tmp_path / "new"
    path.write_bytes(b"new")
    return str(path)


@pytest.fixture(autouse=True)
def _previous() -> None:
    MemoryFileSystem().pipe_file("undeclared/x", b"previous")


def check(error: ConflictCheckUnsupportedError) -> None:
    assert error.remedy is Remedy.NO_CONFLICT_CHECK
    assert MemoryFileSystem().cat_file("undeclared/x") == b"previous"
    assert not MemoryFileSystem().exists("undeclared/y")


def test_client(local: str) -> None:
    """`check_conflict=True` is refused, and the object stays."""
    client = IgnoringClient({"bucket_name": "undeclared"})
    with pytest.raises(ConflictCheckUnsupportedError) as caught:
        client.upload_file(local, "x", check_conflict=True)
    check(caught.value)


@pytest.mark.parametrize("method", METHODS)
def test_filesystem(method: str, local: str) -> None:
    """An exclusive mode is refused, and the object stays."""
    with pytest.raises(ConflictCheckUnsupportedError) as caught:
        METHODS[method](IgnoringFileSystem(), local)
    check(caught.value)
