"""Each kind of credentials, on a server that verifies signatures."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import fsspec
import pytest
from azure.core.credentials import AccessToken, AzureNamedKeyCredential, AzureSasCredential
from azure.storage.blob import (
    AccountSasPermissions,
    ContainerSasPermissions,
    ResourceTypes,
    generate_account_sas,
    generate_container_sas,
)

from gllm_storage import AccessDeniedError, AzureStorageClient, ObjectExistsError, get_storage_client
from gllm_storage.azure.filesystem import AzureBlobFileSystem
from tests.rig import BUCKET, new_prefix
from tests.servers import AzureServer
from tests.unit.azure.recorder import recording

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Servers


@pytest.fixture
def server(servers: Servers) -> AzureServer:
    found = servers.get("azurite")
    assert isinstance(found, AzureServer)
    return found


def account_sas(server: AzureServer, expires: timedelta = timedelta(hours=1)) -> str:
    everything = AccountSasPermissions(read=True, write=True, delete=True, list=True, add=True, create=True)
    of = ResourceTypes(service=True, container=True, object=True)
    return generate_account_sas(server.account_name, server.account_key, of, everything, datetime.now(UTC) + expires)


def container_sas(server: AzureServer, **permissions: bool) -> str:
    may = ContainerSasPermissions(**permissions)
    expiry = datetime.now(UTC) + timedelta(hours=1)
    return generate_container_sas(server.account_name, BUCKET, server.account_key, permission=may, expiry=expiry)


def client(server: AzureServer, **config: str) -> Any:
    account = {} if "connection_string" in config else {"account_name": server.account_name}
    place = {} if "connection_string" in config else {"endpoint_url": server.endpoint_url}
    return get_storage_client("azure", {"container_name": BUCKET, "prefix": new_prefix(), **account, **place, **config})


@pytest.mark.parametrize("way", ["account_key", "connection_string", "sas_token", "sas_token with ?"])
def test_credentials(way: str, server: AzureServer, tmp_path: Path) -> None:
    """Each kind of credential works for the verbs and by fsspec URL."""
    (tmp_path / "a").write_bytes(b"content")
    ways = {
        "account_key": {"account_key": server.account_key},
        "connection_string": {"connection_string": server.connection_string},
        "sas_token": {"sas_token": account_sas(server)},
        "sas_token with ?": {"sas_token": f"?{account_sas(server)}"},
    }
    mine = client(server, **ways[way])
    url = mine.upload_file(tmp_path / "a", "a", check_conflict=True)
    with pytest.raises(ObjectExistsError):
        mine.upload_file(tmp_path / "a", "a", check_conflict=True)
    with fsspec.open(url, **mine.storage_options) as file:
        assert file.read() == b"content"
    assert mine.download_file("a", tmp_path / "b").read_bytes() == b"content"
    assert [each.url for each in mine.list_files()] == [url]
    assert mine.filesystem.ls(url.rpartition("/")[0], detail=False) == [url.removeprefix("az://")]
    assert mine.delete_file("a")


def test_create_only_token(server: AzureServer, tmp_path: Path) -> None:
    """A token without read permission creates, and a conflict is reported."""
    (tmp_path / "a").write_bytes(b"content")
    mine = client(server, sas_token=container_sas(server, create=True, write=True))
    mine.upload_file(tmp_path / "a", "a", check_conflict=True)
    with pytest.raises(ObjectExistsError):
        mine.upload_file(tmp_path / "a", "a", check_conflict=True)
    with pytest.raises(AccessDeniedError):
        mine.file_exists("a")


@pytest.mark.parametrize("verb", ["file_exists", "info", "delete_file"])
def test_expired_token(verb: str, server: AzureServer) -> None:
    """An expired token is an error, not a missing object."""
    mine = client(server, sas_token=account_sas(server, -timedelta(hours=1)))
    with pytest.raises(AccessDeniedError) as caught:
        getattr(mine, verb)("a")
    assert "sig=" not in str(caught.value)


def test_anonymous_denied(server: AzureServer) -> None:
    """Requests without credentials to a private container are denied."""
    with pytest.raises(AccessDeniedError):
        client(server, anonymous="true").file_exists("a")


class Token:
    """A token credential of a caller."""

    def __init__(self) -> None:
        self.asked = 0

    def get_token(self, *_: str, **__: Any) -> AccessToken:
        self.asked += 1
        return AccessToken("a-token", 2**31)


class AsyncToken(Token):
    """As adlfs's users pass it."""

    async def get_token(self, *_: str, **__: Any) -> AccessToken:  # type: ignore[override]  # the arguments do not matter here
        self.asked += 1
        return AccessToken("a-token", 2**31)


@pytest.mark.parametrize("kind", ["named key", "SAS", "key as text", "SAS as text"])
def test_credential_objects(kind: str, server: AzureServer) -> None:
    """A filesystem takes the credential objects of the SDK, as adlfs does, for its methods and for those of adlfs."""
    name, key, sas = server.account_name, server.account_key, account_sas(server)
    credential: Any = {
        "named key": AzureNamedKeyCredential(name, key),
        "SAS": AzureSasCredential(sas),
        "key as text": key,
        "SAS as text": sas,
    }[kind]
    filesystem: Any = AzureBlobFileSystem(
        account_name=name, credential=credential, endpoint_url=server.endpoint_url, skip_instance_cache=True
    )
    path = f"{BUCKET}/{new_prefix()}/a"
    filesystem.pipe_file(path, b"content")
    assert filesystem.cat_file(path) == b"content"
    assert filesystem.find(path) == [path]
    assert key not in repr(filesystem.connection)


@pytest.mark.parametrize("kind", [Token, AsyncToken])
def test_token_credential(kind: type[Token], tmp_path: Path) -> None:
    """A token credential of either kind is used by the verbs' requests and by those of adlfs."""
    with recording(tmp_path) as found:
        credential = kind()
        filesystem: Any = AzureBlobFileSystem(
            account_name="acc1",
            credential=credential,
            endpoint_url=f"{found.url}/acc1",
            ca_bundle=found.ca_bundle,
            max_attempts=1,
            skip_instance_cache=True,
        )
        with contextlib.suppress(Exception):
            filesystem.cat_file("models/a")
        with contextlib.suppress(Exception):
            filesystem.find("models/a")
        assert {each.credential() for each in found.requests} == {"Bearer a-token"}
    assert credential.asked


@pytest.mark.parametrize("host", ["dfs", "blob"])
def test_urls_with_account(host: str, server: AzureServer) -> None:
    """Both forms of URLs with an account, which adlfs takes, name the blob."""
    name = server.account_name
    filesystem: Any = AzureBlobFileSystem(
        account_name=name, account_key=server.account_key, endpoint_url=server.endpoint_url, skip_instance_cache=True
    )
    key = f"{new_prefix()}/a"
    filesystem.pipe_file(f"{BUCKET}/{key}", b"content")
    for url in (
        f"abfs://{BUCKET}@{name}.{host}.core.windows.net/{key}",
        f"abfss://{name}.{host}.core.windows.net/{BUCKET}/{key}",
    ):
        assert filesystem.cat_file(url) == b"content"
        assert filesystem.exists(url)
        assert filesystem.find(url) == [f"{BUCKET}/{key}"]
        with filesystem.open(url) as file:
            assert file.read() == b"content"
        assert AzureStorageClient.config_from_url(url) == {
            "account_name": name, "container_name": BUCKET, "prefix": key,
        }  # fmt: skip
    with pytest.raises(ValueError, match="account"):
        filesystem.cat_file(f"abfs://other.{host}.core.windows.net/{BUCKET}/{key}")
