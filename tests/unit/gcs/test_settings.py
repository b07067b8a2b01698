"""Configs of the provider ``gcs``, and what becomes of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from gllm_storage import AccessDeniedError, GCSStorageClient, get_storage_client, storage_client_from_url

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({}, "missing key 'bucket_name'"),
        ({"bucket_name": "B"}, "bucket_name='B' is no bucket name"),
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
def test_a_wrong_config_is_a_value_error_that_says_what_is_wrong(config: dict[str, str], told: str) -> None:
    with pytest.raises(ValueError, match="gcs config") as caught:
        get_storage_client("gcs", config)
    assert told in str(caught.value)
    assert "ya29" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["gs", "gcs", "GS"])
def test_a_url_makes_a_client(scheme: str) -> None:
    client = storage_client_from_url(f"{scheme}://models/team-a", {"anonymous": "true"})
    assert isinstance(client, GCSStorageClient)
    assert client.url("v3/a.bin") == "gs://models/team-a/v3/a.bin"
    assert client == get_storage_client("gs", {"bucket_name": "models", "prefix": "team-a", "anonymous": "true"})


def test_options_are_those_of_gcsfs() -> None:
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


def test_a_key_file_that_is_none_is_refused_without_its_content(tmp_path: Path) -> None:
    key = tmp_path / "key.json"
    key.write_text(json.dumps({"type": "nonsense", "private_key": "s3cret"}))
    client = GCSStorageClient({"bucket_name": "models", "token": str(key)})
    with pytest.raises(AccessDeniedError, match="Check token") as caught:
        client.file_exists("a")
    assert "s3cret" not in str(caught.value)


def test_the_config_keys_are_known() -> None:
    assert {"bucket_name", "prefix", "token", "endpoint_url"} < set(GCSStorageClient.config_keys())
