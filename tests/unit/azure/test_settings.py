"""Configs of the provider ``azure``: accepted and refused values, and the account that they name."""

from __future__ import annotations

from typing import Any

import pytest

from gllm_storage import AzureStorageClient, StorageError, get_storage_client, storage_client_from_url
from gllm_storage.azure.account import AzureAccount

KEY = "c2VjcmV0LW9mLXRoaXMtdGVzdA=="
CONNECTION = f"DefaultEndpointsProtocol=https;AccountName=acc1;AccountKey={KEY};EndpointSuffix=core.windows.net"


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({}, "missing key 'container_name'"),
        ({"container_name": "models"}, "missing key 'account_name' or 'connection_string'"),
        ({"container_name": "M", "account_name": "acc"}, "container_name='M' is not a container name"),
        ({"container_name": "models", "account_name": "a.b"}, "account_name='a.b' is not an account name"),
        ({"container_name": "models", "acount_name": "acc"}, "did you mean 'account_name'"),
        ({"container_name": "models", "connection_string": "nonsense"}, "must be a connection string"),
        ({"container_name": "models", "connection_string": CONNECTION, "account_name": "acc"}, "leave out account_name"),
        ({"container_name": "models", "account_name": "acc", "account_key": KEY, "sas_token": "sig=x"}, "contradict"),
        (
            {"container_name": "models", "account_name": "acc", "account_key": KEY, "anonymous": "true"},
            "contradicts account_key",
        ),
        ({"container_name": "models", "account_name": "acc", "client_id": "x"}, "go together"),
        ({"container_name": "models", "account_name": "acc", "part_size": "5000MiB"}, "4000MiB"),
        ({"container_name": "models", "account_name": "acc", "multipart_threshold": "1GiB"}, "at most 256MiB"),
        ({"container_name": "models", "account_name": "acc", "access_tier": "lukewarm"}, "'hot', 'cool'"),
    ],
)
def test_wrong_config(config: dict[str, str], told: str) -> None:
    """A wrong config is a `ValueError` that names the mistake and does not show a secret."""
    with pytest.raises(ValueError, match="azure config") as caught:
        get_storage_client("azure", config)
    assert told in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("scheme", ["az", "abfs", "abfss", "azure"])
def test_url(scheme: str) -> None:
    """A URL of each scheme makes a client."""
    client = storage_client_from_url(f"{scheme}://models/team-a", {"account_name": "acc1", "anonymous": "true"})
    assert isinstance(client, AzureStorageClient)
    assert client.url("v3/a.bin") == "az://models/team-a/v3/a.bin"
    assert client._location.key("abfs://models/x") == "x"


def test_url_with_account() -> None:
    """A URL may name the account."""
    client = storage_client_from_url("abfss://models@acc1.dfs.core.windows.net/team-a", {"anonymous": "true"})
    assert client == get_storage_client(
        "az", {"container_name": "models", "account_name": "acc1", "prefix": "team-a", "anonymous": "true"}
    )
    with pytest.raises(ValueError, match="is not an account"):
        storage_client_from_url("abfss://models@example.com/team-a")


def test_account_of_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment may name the account."""
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", CONNECTION)
    client: Any = storage_client_from_url("az://models/team-a")
    assert client.settings.account() == AzureAccount("acc1", connection_string=CONNECTION)
    assert client.filesystem.account_url == "https://acc1.blob.core.windows.net/"


def test_config_before_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An account in the config takes precedence over the account of the environment."""
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", CONNECTION)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "dGhlIG90aGVy")
    client: Any = get_storage_client("az", {"container_name": "models", "account_name": "acc2", "sas_token": "?sig=x"})
    assert client.settings.account() == AzureAccount("acc2", "https://acc2.blob.core.windows.net", sas_token="?sig=x")
    assert client.filesystem.account_url.startswith("https://acc2.blob.core.windows.net/")
    assert "acc1" not in str(client.storage_options)


def test_repr() -> None:
    """The repr of a config, client or filesystem does not show a secret."""
    for config in (
        {"container_name": "models", "connection_string": CONNECTION},
        {"container_name": "models", "account_name": "acc1", "account_key": KEY},
        {"container_name": "models", "account_name": "acc1", "sas_token": f"sig={KEY}"},
    ):
        client: Any = get_storage_client("azure", config)
        assert KEY not in repr(client)
        assert KEY not in repr(client.settings)
        assert KEY not in repr(client.settings.account())


def test_backslash() -> None:
    """A backslash in a key is refused, because Azurite turns it into a slash."""
    client: Any = get_storage_client("az", {"container_name": "models", "account_name": "acc1", "anonymous": "true"})
    with pytest.raises(ValueError, match="does not keep"):
        client.url("a\\b")


def test_unreadable_string() -> None:
    """A connection string that the SDK cannot read is a `StorageError`."""
    client: Any = get_storage_client("az", {"container_name": "models", "connection_string": "AccountName=x;y"})
    with pytest.raises(StorageError, match="Check the account"):
        client.file_exists("a")
