"""No method of ours hides one of fsspec's that is called in another way."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from gllm_storage.azure.filesystem import AzureBlobFileSystem
from gllm_storage.gcs.filesystem import GCSFileSystem
from gllm_storage.local.filesystem import LocalStoreFileSystem
from gllm_storage.memory.filesystem import MemoryFileSystem
from gllm_storage.s3.filesystem import S3FileSystem


@pytest.mark.parametrize("of", [S3FileSystem, GCSFileSystem, AzureBlobFileSystem, LocalStoreFileSystem, MemoryFileSystem])
def test_what_fsspec_awaits_is_a_coroutine_and_what_it_calls_is_none(of: Any) -> None:
    ours = [each for each in of.__mro__ if each.__module__.startswith("gllm_storage")]
    theirs = [each for each in of.__mro__ if not each.__module__.startswith("gllm_storage")]
    for cls in ours:
        for name, method in vars(cls).items():
            hidden = next((vars(each)[name] for each in theirs if name in vars(each)), None)
            if hidden is not None and not name.startswith("__"):
                assert inspect.iscoroutinefunction(method) == inspect.iscoroutinefunction(hidden), f"{cls.__name__}.{name}"
