"""Provider ``s3``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gllm_storage.concurrency.exiting import import_executors

if TYPE_CHECKING:
    from gllm_storage.s3.filesystem import S3FileSystem

__all__ = ["S3FileSystem"]

import_executors()  # before the SDKs


def __getattr__(name: str) -> Any:
    if name == "S3FileSystem":
        from gllm_storage.s3.filesystem import S3FileSystem  # it imports s3fs and botocore

        return S3FileSystem
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
