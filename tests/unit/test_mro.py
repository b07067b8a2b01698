"""The filesystems' classes: few of them, and no method that hides one of fsspec's that is called in another way."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest

FILESYSTEMS = {
    "s3": ("gllm_storage.s3.filesystem:S3FileSystem", "s3fs:S3FileSystem"),
    "gcs": ("gllm_storage.gcs.filesystem:GCSFileSystem", "gcsfs:GCSFileSystem"),
    "azure": ("gllm_storage.azure.filesystem:AzureBlobFileSystem", "adlfs:AzureBlobFileSystem"),
    "file": ("gllm_storage.local.filesystem:LocalStoreFileSystem", "fsspec.implementations.local:LocalFileSystem"),
    "memory": ("gllm_storage.memory.filesystem:MemoryFileSystem", "fsspec.implementations.memory:MemoryFileSystem"),
}


def imported(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("provider", FILESYSTEMS)
def test_what_fsspec_awaits_is_a_coroutine_and_what_it_calls_is_none(provider: str) -> None:
    of = imported(FILESYSTEMS[provider][0])
    ours = [each for each in of.__mro__ if each.__module__.startswith("gllm_storage")]
    theirs = [each for each in of.__mro__ if not each.__module__.startswith("gllm_storage")]
    for cls in ours:
        for name, method in vars(cls).items():
            hidden = next((vars(each)[name] for each in theirs if name in vars(each)), None)
            if hidden is not None and not name.startswith("__"):
                assert inspect.iscoroutinefunction(method) == inspect.iscoroutinefunction(hidden), f"{cls.__name__}.{name}"


@pytest.mark.parametrize("provider", FILESYSTEMS)
def test_two_classes_above_upstreams(provider: str) -> None:
    """A filesystem is its class, one mixin, and the classes of upstream's."""
    ours, theirs = map(imported, FILESYSTEMS[provider])
    above = [each for each in ours.__mro__ if each not in theirs.__mro__]
    assert len(above) == 2
    assert above[0] is ours
    assert len(ours.__mro__) == len(theirs.__mro__) + 2
