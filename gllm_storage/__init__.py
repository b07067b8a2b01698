"""Store model artifacts in S3, GCS, Azure, a local folder or memory, and open them by fsspec URL.

Exclusive creates never overwrite, downloads are complete and verified, and another URL scheme selects another provider::

    from gllm_storage import storage_client_from_url

    client = storage_client_from_url("s3://models/team-a")
    url = client.upload_file("model.safetensors", "v3/model.safetensors", check_conflict=True)
    client.download_file(url, "copy.safetensors")
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType as _ModuleType
from typing import TYPE_CHECKING, Any

from gllm_storage.client import CloudStorageClient
from gllm_storage.errors import (
    AccessDeniedError,
    BucketNotFoundError,
    ConflictCheckUnsupportedError,
    FolderError,
    InsecureTLSWarning,
    IntegrityError,
    NonAtomicWriteWarning,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
    UnsupportedOperationError,
)
from gllm_storage.info import ObjectInfo, ObjectProperties
from gllm_storage.paths import ExactKey
from gllm_storage.registry import CloudStorageRegistry, get_storage_client, register_filesystems, storage_client_from_url

if TYPE_CHECKING:
    from gllm_storage.azure.client import AzureStorageClient
    from gllm_storage.fsspec_client import FsspecStorageClient
    from gllm_storage.gcs.client import GCSStorageClient
    from gllm_storage.local.client import LocalStorageClient
    from gllm_storage.memory.client import MemoryStorageClient
    from gllm_storage.s3.client import S3StorageClient

__version__ = "0.1.0"

__all__ = [
    "AccessDeniedError",
    "AzureStorageClient",
    "BucketNotFoundError",
    "CloudStorageClient",
    "CloudStorageRegistry",
    "ConflictCheckUnsupportedError",
    "ExactKey",
    "FolderError",
    "FsspecStorageClient",
    "GCSStorageClient",
    "InsecureTLSWarning",
    "IntegrityError",
    "LocalStorageClient",
    "MemoryStorageClient",
    "NonAtomicWriteWarning",
    "ObjectExistsError",
    "ObjectInfo",
    "ObjectNotFoundError",
    "ObjectProperties",
    "S3StorageClient",
    "StorageError",
    "StorageUnavailableError",
    "UnsupportedOperationError",
    "get_storage_client",
    "register_filesystems",
    "storage_client_from_url",
]

# Importing the package loads no provider: fsspec, s3fs and boto3 take half a second together.
_ON_FIRST_USE = {
    "AzureStorageClient": "gllm_storage.azure.client",
    "FsspecStorageClient": "gllm_storage.fsspec_client",
    "GCSStorageClient": "gllm_storage.gcs.client",
    "LocalStorageClient": "gllm_storage.local.client",
    "MemoryStorageClient": "gllm_storage.memory.client",
    "S3StorageClient": "gllm_storage.s3.client",
}


_MODULES = ("executors", "folders", "testing", "versions")
"""The public packages that are imported on first use: ``gllm_storage.versions`` works after ``import gllm_storage``."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ON_FIRST_USE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})


class _MovedModule(_ModuleType):
    """A module path of version 0.1.0 that existing pickles contain. Its names are imported from the new module on use."""

    def __init__(self, old_name: str, new_name: str) -> None:
        super().__init__(old_name)
        self._new_name = new_name

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self._new_name), name)


for _old, _new in (("objects", "info"), ("reading", "filesystem.reading")):
    sys.modules[f"{__name__}.{_old}"] = _MovedModule(f"{__name__}.{_old}", f"{__name__}.{_new}")
