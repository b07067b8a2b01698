"""The exported names of the package, and the modules that importing it loads."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gllm_storage

DOCUMENTED = [
    "CloudStorageClient",
    "CloudStorageRegistry",
    "FsspecStorageClient",
    "LocalStorageClient",
    "MemoryStorageClient",
    "S3StorageClient",
    "get_storage_client",
    "storage_client_from_url",
]
HEAVY = ["boto3", "botocore", "s3fs", "fsspec", "aiohttp", "aiobotocore", "awscrt", "importlib.metadata"]


def test_exported_names() -> None:
    """`__all__` lists all public names, and nothing else."""
    modules = {"annotations", "import_module"}
    public = {
        name
        for name in dir(gllm_storage)
        if not name.startswith("_") and not isinstance(getattr(gllm_storage, name), type(sys)) and name not in modules
    }
    assert public - {"TYPE_CHECKING", "Any"} == set(gllm_storage.__all__)
    assert sorted(gllm_storage.__all__) == gllm_storage.__all__


@pytest.mark.parametrize("name", gllm_storage.__all__)
def test_docstring_of_a_name(name: str) -> None:
    """Each exported name exists and has a docstring."""
    assert getattr(gllm_storage, name).__doc__
    assert name in dir(gllm_storage)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_documented_name(name: str) -> None:
    """Each documented name is importable."""
    assert name in gllm_storage.__all__
    scope: dict[str, object] = {}
    exec(f"from gllm_storage import {name}", scope)  # noqa: S102 - the import statement of a user
    assert scope[name] is getattr(gllm_storage, name)


@pytest.mark.parametrize(
    ("package", "name", "parent"),
    [
        ("gllm_storage.s3", "S3FileSystem", "s3fs"),
        ("gllm_storage.gcs", "GCSFileSystem", "gcsfs"),
        ("gllm_storage.azure", "AzureBlobFileSystem", "adlfs"),
    ],
)
def test_filesystem_of_a_package(package: str, name: str, parent: str) -> None:
    """A filesystem is importable from the package of its provider."""
    found = getattr(importlib.import_module(package), name)
    assert found.__module__ == f"{package}.filesystem"
    assert any(each.__module__.startswith(parent) and each.__name__ == name for each in found.__mro__)
    with pytest.raises(AttributeError, match="nothing_like_this"):
        _ = importlib.import_module(package).nothing_like_this


def test_unknown_name() -> None:
    """An unknown name raises AttributeError, or ImportError in an import statement."""
    with pytest.raises(AttributeError, match=r"gllm_storage.*nothing_like_this"):
        _ = gllm_storage.nothing_like_this
    with pytest.raises(ImportError, match="nothing_like_this"):
        exec("from gllm_storage import nothing_like_this")  # noqa: S102 - the import statement of a user


def test_modules_on_first_use() -> None:
    """The public packages are attributes after ``import gllm_storage``, which imports none of them."""
    names = ["executors", "folders", "testing", "versions"]
    program = (
        f"import sys, gllm_storage; print([name for name in {names} if f'gllm_storage.{{name}}' in sys.modules]); "
        f"print([getattr(gllm_storage, name).__name__ for name in {names}]); print(set({names}) <= set(dir(gllm_storage)))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60).stdout
    assert said.splitlines() == ["[]", str([f"gllm_storage.{name}" for name in names]), "True"]


def test_version() -> None:
    """The version consists of three numbers."""
    assert [part.isdigit() for part in gllm_storage.__version__.split(".")] == [True] * 3


def test_import_without_sdk() -> None:
    """Importing the package loads no SDK."""
    program = f"import sys, gllm_storage; print([name for name in {HEAVY} if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60).stdout
    assert said == "[]\n"


def test_verbs_without_s3fs(tmp_path: Path) -> None:
    """The verbs on S3 load neither s3fs nor aiohttp."""
    (tmp_path / "file").write_bytes(b"content")
    program = f"""
import sys
from moto import mock_aws
from gllm_storage import get_storage_client
with mock_aws():
    client = get_storage_client("s3", {{"bucket_name": "models", "region_name": "us-east-1"}})
    client.store.connection.client.create_bucket(Bucket="models")
    client.upload_file({str(tmp_path / "file")!r}, "a", check_conflict=True)
    client.download_file("a", {str(tmp_path / "back")!r})
    assert client.file_exists("a") and client.info("a").size == 7 and len(list(client.list_files())) == 1
    client.delete_file("a")
print([name for name in ("s3fs", "aiohttp", "aiobotocore", "fsspec") if name in sys.modules])
"""
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120, env={**os.environ, **keys}
    ).stdout
    assert said == "[]\n"
    assert (tmp_path / "back").read_bytes() == b"content"


def test_top_level_modules() -> None:
    """A new top-level module is a decision: there are eight, beside `__init__`."""
    found = {path.stem for path in Path(gllm_storage.__file__).parent.glob("*.py")} - {"__init__"}
    assert found == {"client", "errors", "fsspec_client", "info", "paths", "registry", "settings", "synonyms"}


def test_clients_without_sdk() -> None:
    """Memory and local clients load no SDK."""
    program = (
        "import sys, gllm_storage; from gllm_storage import *; "
        "gllm_storage.get_storage_client('memory', {}); gllm_storage.get_storage_client('file', {'root': '/data'}); "
        f"print([name for name in {['boto3', 's3fs', 'aiohttp', 'awscrt']} if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60).stdout
    assert said == "[]\n"
