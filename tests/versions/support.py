"""Models in memory, and the small objects of their logs."""

from __future__ import annotations

import hashlib
import itertools
from typing import TYPE_CHECKING

from fsspec.implementations.memory import MemoryFileSystem

from gllm_storage import MemoryStorageClient
from gllm_storage.files.source import MemorySource
from gllm_storage.store.checksums import crc64nvme, encode
from gllm_storage.versions.layout import Model, model_of
from gllm_storage.versions.tree import TreeDigest, TreeFile

if TYPE_CHECKING:
    from collections.abc import Mapping
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
