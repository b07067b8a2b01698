"""The classes that this library adds to the filesystems of s3fs, gcsfs, adlfs and fsspec."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from gllm_storage.azure.filesystem import AzureBlobFileSystem
from gllm_storage.gcs.filesystem import GCSFileSystem
from gllm_storage.local.filesystem import LocalStoreFileSystem
from gllm_storage.memory.filesystem import MemoryFileSystem
from gllm_storage.s3.filesystem import S3FileSystem

ALL: list[Any] = [S3FileSystem, GCSFileSystem, AzureBlobFileSystem, LocalStoreFileSystem, MemoryFileSystem]


def split(of: Any) -> tuple[list[Any], list[Any]]:
    """Return the classes of this library in the MRO, and the other classes."""
    ours = [each for each in of.__mro__ if each.__module__.startswith("gllm_storage")]
    return ours, [each for each in of.__mro__ if each not in ours]


@pytest.mark.parametrize("of", ALL, ids=lambda of: of.__name__)
def test_two_classes(of: Any) -> None:
    """The MRO consists of the provider's class, one mixin, and the classes of the upstream filesystem."""
    ours, theirs = split(of)
    assert len(ours) == 2, ours
    assert list(theirs[0].__mro__) == theirs


@pytest.mark.parametrize("of", ALL, ids=lambda of: of.__name__)
def test_coroutines(of: Any) -> None:
    """A method that fsspec awaits is a coroutine, and a method that it calls is not."""
    ours, theirs = split(of)
    for cls in ours:
        for name, method in vars(cls).items():
            hidden = next((vars(each)[name] for each in theirs if name in vars(each)), None)
            if hidden is not None and not name.startswith("__"):
                assert inspect.iscoroutinefunction(method) == inspect.iscoroutinefunction(hidden), f"{cls.__name__}.{name}"
