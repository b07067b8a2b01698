"""Provider ``gcs``: Google Cloud Storage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gllm_storage.concurrency as _concurrency  # noqa: F401 - before the SDKs; see `concurrency.exiting`

if TYPE_CHECKING:
    from gllm_storage.gcs.filesystem import GCSFileSystem

__all__ = ["GCSFileSystem"]


def __getattr__(name: str) -> Any:
    if name == "GCSFileSystem":
        from gllm_storage.gcs.filesystem import GCSFileSystem  # it imports gcsfs

        return GCSFileSystem
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
