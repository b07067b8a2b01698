"""Provider ``gcs``: Google Cloud Storage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gllm_storage.concurrency.exiting import import_executors

if TYPE_CHECKING:
    from gllm_storage.gcs.filesystem import GCSFileSystem

__all__ = ["GCSFileSystem"]

import_executors()  # before the SDKs


def __getattr__(name: str) -> Any:
    if name == "GCSFileSystem":
        from gllm_storage.gcs.filesystem import GCSFileSystem  # it imports gcsfs

        return GCSFileSystem
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
