"""Configs of the provider ``gcs``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from google.auth.exceptions import GoogleAuthError

from gllm_storage import AccessDeniedError, GCSStorageClient, get_storage_client, storage_client_from_url
from gllm_storage.errors import Remedy
from gllm_storage.gcs import GCSFileSystem

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({}, "missing key 'bucket_name'"),
        ({"bucket_name": "B"}, "bucket_name='B' is not a bucket name"),
        ({"bucket_name": "models", "endpont_url": "http://x"}, "did you mean 'endpoint_url'"),
        ({"bucket_name": "models", "endpoint_url": "x"}, "must be a URL"),
        ({"bucket_name": "models", "token": "ya29.secret"}, "token='***' is neither the path of a key file"),
        ({"bucket_name": "models", "part_size": "1MB"}, "must be a multiple of 256KiB"),
        ({"bucket_name": "models", "part_size": "1GiB"}, "512MiB"),
        ({"bucket_name": "models", "multipart_threshold": "5GB"}, "at most 256MiB"),
        ({"bucket_name": "models", "requester_pays": "true"}, "needs project"),
        ({"bucket_name": "models", "anonymous": "true", "token": "cloud"}, "contradicts token"),
        ({"bucket_name": "models", "max_attempts": "0"}, "at least 1"),
    ],
)
def test_wrong_config(config: dict[str, str], told: str) -> None:
    """A wrong config is a ValueError that names the mistake and does not show a secret."""
    with pytest.raises(ValueError, match="gcs config") as caught:
        get_storage_client("gcs", config)
    assert told in str(caught.value)
    assert "ya29" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["gs", "gcs", "GS"])
def test_client_of_url(scheme: str) -> None:
    """A URL of each scheme makes the same client as a config."""
    client = storage_client_from_url(f"{scheme}://models/team-a", {"anonymous": "true"})
    assert isinstance(client, GCSStorageClient)
    assert client.url("v3/a.bin") == "gs://models/team-a/v3/a.bin"
    assert client == get_storage_client("gs", {"bucket_name": "models", "prefix": "team-a", "anonymous": "true"})


def test_storage_options() -> None:
    """The storage options are options of gcsfs."""
    config = {
        "bucket_name": "models",
        "project": "p",
        "anonymous": "true",
        "endpoint_url": "http://h:1/",
        "requester_pays": "1",
    }
    assert GCSStorageClient(config).storage_options == {
        "project": "p",
        "token": "anon",
        "endpoint_url": "http://h:1",
        "requester_pays": "p",
        "use_listings_cache": False,
    }


def test_damaged_key_file(tmp_path: Path) -> None:
    """A key file without a key is refused, by the verbs and the filesystem, and its content is not shown."""
    key = tmp_path / "key.json"
    key.write_text(json.dumps({"type": "nonsense", "private_key": "s3cret"}))
    client = GCSStorageClient({"bucket_name": "models", "token": str(key)})
    for use in (lambda: client.file_exists("a"), lambda: client.filesystem):
        with pytest.raises(AccessDeniedError) as caught:
            use()
        assert caught.value.remedy is Remedy.CHECK_CREDENTIALS
        assert "s3cret" not in str(caught.value)


def test_damaged_key_file_of_filesystem(tmp_path: Path) -> None:
    """The constructor of `GCSFileSystem` raises the exceptions of gcsfs for unreadable credentials."""
    key = tmp_path / "key.json"
    key.write_text("{}")
    for expected in (ValueError, GoogleAuthError):
        with pytest.raises(expected):
            GCSFileSystem(token=str(key), skip_instance_cache=True)


def test_config_keys() -> None:
    """The class knows the keys of its config."""
    assert {"bucket_name", "prefix", "token", "endpoint_url"} < set(GCSStorageClient.config_keys())
