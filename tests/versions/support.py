"""Models in memory, and the small objects of their logs."""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from gllm_storage import MemoryStorageClient
from gllm_storage.files.source import MemorySource
from gllm_storage.folders.index import is_settled
from gllm_storage.store.checksums import crc64nvme, encode, update
from gllm_storage.versions.hash_index import hash_index
from gllm_storage.versions.layout import Model, model_of
from gllm_storage.versions.stored_file import Content
from gllm_storage.versions.tree import TreeDigest, TreeFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from gllm_storage.store.port import ObjectStore

_numbers = itertools.count()
MODEL = "models/llama-ft"


def new_client() -> MemoryStorageClient:
    return MemoryStorageClient({"bucket_name": f"versions-{next(_numbers)}"})


def new_model() -> Model:
    return model_of(new_client(), MODEL)


def store_bytes(store: ObjectStore, key: str, data: bytes) -> None:
    transfer = store.transfer(key, "upload")
    store.upload(store.request(key, MemorySource(data, transfer.details), transfer))


def read_bytes(store: ObjectStore, key: str) -> bytes:
    return store.read(key, store.transfer(key, "read"))


def keys_of(model: Model, folder: str = "") -> list[str]:
    return [model.below(each) for each in model.store.list_keys(f"{model.prefix}/{folder}")]


def tree_file(path: str, data: bytes) -> TreeFile:
    return TreeFile(path, len(data), hashlib.sha256(data).hexdigest(), encode(crc64nvme(data)))


def digest_of(files: Mapping[str, bytes]) -> str:
    digest = TreeDigest()
    for path in sorted(files, key=str.encode):
        digest.add(tree_file(path, files[path]))
    return digest.value()


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def clear_memory() -> None:
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def settled(folder: Path) -> Path:
    """Wait until the checksums of all files may be remembered."""
    for path in folder.rglob("*"):
        status = path.stat()
        while not is_settled(status.st_mtime_ns, status.st_ctime_ns, time.time_ns()):
            time.sleep(0.005)
    return folder


@contextmanager
def opened_in(folder: Path) -> Iterator[set[str]]:
    """The files of a folder that are opened during the block."""
    found, start, real = set[str](), f"{folder}{os.sep}", os.open

    def counted(path: Any, *args: Any, **kwargs: Any) -> int:
        if isinstance(path, str) and path.startswith(start):
            found.add(path.removeprefix(start))
        return real(path, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", counted)
        yield found


def claim(path: Path, data: bytes) -> None:
    """Let the index say that a file, in its state, has a certain content."""
    file, crc32c = tree_file("x", data), encode(update(data, 0, "crc32c"), "crc32c")
    with hash_index() as hashes:
        status = path.stat()
        hashes.learn(str(path), status, status, time.time_ns(), Content(len(data), file.sha256, file.crc64nvme, crc32c))
