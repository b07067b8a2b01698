"""Provider ``azure``: Azure Blob Storage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gllm_storage.concurrency.exiting import import_executors

if TYPE_CHECKING:
    from gllm_storage.azure.filesystem import AzureBlobFileSystem

__all__ = ["AzureBlobFileSystem"]

import_executors()  # before the SDKs


def __getattr__(name: str) -> Any:
    if name == "AzureBlobFileSystem":
        from gllm_storage.azure.filesystem import AzureBlobFileSystem  # it imports adlfs

        return AzureBlobFileSystem
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
