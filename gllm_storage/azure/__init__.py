"""Provider ``azure``: Azure Blob Storage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gllm_storage.concurrency as _concurrency  # noqa: F401 - before the SDKs; see `concurrency.exiting`

if TYPE_CHECKING:
    from gllm_storage.azure.filesystem import AzureBlobFileSystem

__all__ = ["AzureBlobFileSystem"]


def __getattr__(name: str) -> Any:
    if name == "AzureBlobFileSystem":
        from gllm_storage.azure.filesystem import AzureBlobFileSystem  # it imports adlfs

        return AzureBlobFileSystem
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
