"""Packages that another thread imports at the moment: their modules exist already, without their names."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage.concurrency.exiting import is_green
from gllm_storage.errors import ErrorDetails, StorageError
from gllm_storage.filesystem import foreign
from gllm_storage.info import ObjectInfo
from gllm_storage.s3.client import S3StorageClient
from gllm_storage.s3.errors import translated
from gllm_storage.s3.http.guard import Listeners

if TYPE_CHECKING:
    from collections.abc import Callable

DETAILS = ErrorDetails("s3", "s3://bucket/a", "upload")


def error_of_s3() -> None:
    with pytest.raises(ZeroDivisionError), translated(DETAILS):
        raise ZeroDivisionError


def error_of_foreign() -> None:
    with pytest.raises(StorageError, match="unknown"), foreign._translated(DETAILS):
        raise OSError("unknown")


def listeners() -> None:
    Listeners().any()


def open_file() -> None:
    config = {"bucket_name": "bucket", "aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
    files: Any = S3StorageClient(config).filesystem_to_open("rb", {})
    assert files.open_version("bucket/a", ObjectInfo("s3://bucket/a", 1), None).size == 1


def threads() -> None:
    assert not is_green()


@pytest.mark.parametrize(
    ("module", "call"),
    [
        ("botocore.parsers", error_of_s3),
        ("botocore.handlers", listeners),
        ("s3fs.core", open_file),
        ("aiohttp", error_of_foreign),
        ("gevent.monkey", threads),
        ("eventlet.patcher", threads),
    ],
)
def test_module_without_names(module: str, call: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A call beside the import of a package ends as without the package."""
    monkeypatch.setitem(sys.modules, module, ModuleType(module))
    call()
