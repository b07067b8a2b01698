"""The sources of account and credentials: the verbs and the filesystem send the same ones, to the same server."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import fsspec.config
import pytest
from azure.core.credentials import AzureSasCredential

from gllm_storage import get_storage_client
from gllm_storage.azure.connection import connection_of
from tests.unit.azure.recorder import Recorder, recording
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY, OTHER_KEY = "a2V5", "b3RoZXIta2V5"
SAS, OTHER_SAS = "sv=2024-01-01&sig=one", "sv=2024-01-01&sig=two"
PRINCIPAL = {"tenant_id": "tenant", "client_id": "client", "client_secret": "secret"}


@dataclass(frozen=True)
class Source:
    """Settings of account and credentials, and the expected account and credential of requests. ``URL`` is the server.

    Attributes:
        name: Id of the test.
        credential: The credential of the requests, as `Request.credential` names it.
        config: The client's config, beside the container.
        env: Environment variables.
        env_fsspec: Environment variables of fsspec.
        files: fsspec's configuration files, by name.
        account: The account of the requests.
    """

    name: str
    credential: str
    config: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    env_fsspec: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    account: str = "acc"

    def __str__(self) -> str:
        return self.name


def string_of(account: str, credential: str) -> str:
    """A connection string."""
    return f"DefaultEndpointsProtocol=http;AccountName={account};{credential};BlobEndpoint=URL/{account}"


ACCOUNT = {"account_name": "acc", "endpoint_url": "URL/acc"}
OTHER = {"AZURE_STORAGE_CONNECTION_STRING": string_of("other", f"AccountKey={OTHER_KEY}")}
ENV_KEY = {"AZURE_STORAGE_ACCOUNT_KEY": OTHER_KEY}
ENV_SAS = {"AZURE_STORAGE_SAS_TOKEN": OTHER_SAS}
SOURCES = [
    # the config
    Source("config: key", KEY, {**ACCOUNT, "account_key": KEY}),
    Source("config: SAS", "sas one", {**ACCOUNT, "sas_token": SAS}),
    Source("config: SAS with ?", "sas one", {**ACCOUNT, "sas_token": f"?{SAS}"}),
    Source("config: connection string with key", KEY, {"connection_string": string_of("acc", f"AccountKey={KEY}")}),
    Source(
        "config: connection string with SAS",
        "sas one",
        {"connection_string": string_of("acc", f"SharedAccessSignature={SAS}")},
    ),
    Source("config: service principal", "Bearer tenant client secret", {**ACCOUNT, **PRINCIPAL}),
    Source("config: anonymous", "anonymous", {**ACCOUNT, "anonymous": "true"}),
    Source("config: account only", "Bearer default", ACCOUNT),
    # the environment
    Source("env: connection string", OTHER_KEY, env=OTHER, account="other"),
    Source(
        "env: account and key",
        OTHER_KEY,
        {"endpoint_url": "URL/acc"},
        {"AZURE_STORAGE_ACCOUNT_NAME": "acc", **ENV_KEY},
    ),
    Source("env: key", OTHER_KEY, ACCOUNT, ENV_KEY),
    Source("env: SAS", "sas two", ACCOUNT, ENV_SAS),
    Source("env: key before SAS", OTHER_KEY, ACCOUNT, ENV_KEY | ENV_SAS),
    # the config takes precedence over the environment
    Source("config: key before env: key", KEY, {**ACCOUNT, "account_key": KEY}, ENV_KEY | ENV_SAS | OTHER),
    Source("config: SAS before env: key", "sas one", {**ACCOUNT, "sas_token": SAS}, ENV_KEY | OTHER),
    Source("config: anonymous before env", "anonymous", {**ACCOUNT, "anonymous": "true"}, ENV_KEY | ENV_SAS | OTHER),
    Source("config: principal before env", "Bearer tenant client secret", {**ACCOUNT, **PRINCIPAL}, ENV_KEY | OTHER),
    Source(
        "config: connection string before env",
        KEY,
        {"connection_string": string_of("acc", f"AccountKey={KEY}")},
        ENV_KEY | OTHER,
    ),
    # fsspec's configuration
    Source("fsspec env: key", OTHER_KEY, ACCOUNT, env_fsspec={"FSSPEC_ABFS_ACCOUNT_KEY": f'"{OTHER_KEY}"'}),
    Source("fsspec env: SAS", "sas two", ACCOUNT, env_fsspec={"FSSPEC_AZ_SAS_TOKEN": OTHER_SAS}),
    Source("fsspec env: JSON", OTHER_KEY, ACCOUNT, env_fsspec={"FSSPEC_ABFSS": json.dumps({"account_key": OTHER_KEY})}),
    Source(
        "fsspec env: principal",
        "Bearer tenant client secret",
        ACCOUNT,
        env_fsspec={f"FSSPEC_ABFS_{name.upper()}": value for name, value in PRINCIPAL.items()},
    ),
    Source(
        "fsspec env: endpoint",
        "Bearer default",
        {"account_name": "acc"},
        env_fsspec={"FSSPEC_ABFS_ENDPOINT_URL": "URL/acc"},
    ),
    Source(
        "fsspec env: az after abfs",
        "sas two",
        ACCOUNT,
        env_fsspec={"FSSPEC_ABFS_SAS_TOKEN": SAS, "FSSPEC_AZ_SAS_TOKEN": OTHER_SAS},
    ),
    Source("fsspec file: ini", OTHER_KEY, ACCOUNT, files={"a.ini": f"[abfs]\naccount_key = {OTHER_KEY}\n"}),
    Source("fsspec file: json", "sas two", ACCOUNT, files={"a.json": json.dumps({"az": {"sas_token": OTHER_SAS}})}),
    Source(
        "config: key before fsspec",
        KEY,
        {**ACCOUNT, "account_key": KEY},
        env_fsspec={"FSSPEC_ABFS_ACCOUNT_KEY": f'"{OTHER_KEY}"', "FSSPEC_AZ_SAS_TOKEN": OTHER_SAS},
    ),
    Source("env: key before fsspec", OTHER_KEY, ACCOUNT, ENV_KEY, {"FSSPEC_ABFS_SAS_TOKEN": SAS}),
]


class _Token:
    """Replaces a credential of azure-identity. Its token contains the arguments."""

    def __init__(self, *arguments: str) -> None:
        self._token = " ".join(arguments) or "default"

    def get_token(self, *_: str, **__: Any) -> Any:
        from azure.core.credentials import AccessToken

        return AccessToken(self._token, 2**40)

    def close(self) -> None:
        """Nothing to do."""


class _AsyncToken(_Token):
    async def get_token(self, *_: str, **__: Any) -> Any:
        return super().get_token()

    async def close(self) -> None:  # type: ignore[override]  # a coroutine here
        """Nothing to do."""


@pytest.fixture(autouse=True)
def _identities(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ClientSecretCredential", "DefaultAzureCredential"):
        monkeypatch.setattr(f"azure.identity.{name}", _Token)
        monkeypatch.setattr(f"azure.identity.aio.{name}", _AsyncToken)


@pytest.fixture(params=SOURCES, ids=str)
def source(request: pytest.FixtureRequest) -> Source:
    """Each source."""
    found: Source = request.param
    return found


@pytest.fixture
def recorder(source: Source, tmp_path: Path) -> Iterator[Recorder]:
    """A recorder, over https for tokens, because the SDK does not send tokens over http."""
    with recording(tmp_path if source.credential.startswith("Bearer") else None) as found:
        yield found


def at(recorder: Recorder, values: dict[str, str]) -> dict[str, str]:
    """The values with the URL of the server."""
    return {name: value.replace("URL", recorder.url) for name, value in values.items()}


def configure_fsspec(recorder: Recorder, source: Source, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read fsspec's configuration again, as fsspec does when it is imported."""
    found: dict[str, dict[str, Any]] = {}
    for name, content in source.files.items():
        (folder / name).write_text(content)
    fsspec.config.set_conf_files(str(folder), found)
    fsspec.config.set_conf_env(found, at(recorder, source.env_fsspec))
    for protocol, options in found.items():
        monkeypatch.setitem(fsspec.config.conf, protocol, options)


def client_of(recorder: Recorder, source: Source) -> Any:
    """The client."""
    trusted = {"ca_bundle": recorder.ca_bundle} if recorder.ca_bundle else {}
    return get_storage_client("azure", {"container_name": "models", **at(recorder, source.config), **trusted})


def test_sources(recorder: Recorder, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verb, a method of the filesystem and a method of adlfs send the credential to the server of the source."""
    for name, value in at(recorder, source.env).items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "fsspec"
    folder.mkdir()
    configure_fsspec(recorder, source, folder, monkeypatch)
    client = client_of(recorder, source)

    def adlfs_lists() -> None:
        with contextlib.suppress(FileNotFoundError):  # the account is empty
            client.filesystem.ls("models/a")

    for call in (
        lambda: client.file_exists("a"),
        lambda: client.filesystem.exists("models/a"),
        adlfs_lists,
    ):
        call()
        sent = recorder.take()
        assert sent
        assert {each.account for each in sent} == {source.account}
        assert {each.credential(KEY, OTHER_KEY) for each in sent} == {source.credential}


def test_anonymous_filesystem(monkeypatch: pytest.MonkeyPatch) -> None:
    """A filesystem that is made by its class also reads fsspec's configuration."""
    from gllm_storage.azure import AzureBlobFileSystem  # imports adlfs

    monkeypatch.setitem(fsspec.config.conf, "abfs", {"anon": "true"})
    with recording() as recorder:
        filesystem = AzureBlobFileSystem("acc", endpoint_url=f"{recorder.url}/acc", skip_instance_cache=True)
        assert not filesystem.exists("models/a")
        assert {each.credential() for each in recorder.requests} == {"anonymous"}


def test_one_connection() -> None:
    """The verbs and the filesystem use the same connection, and so the same SDK client."""
    client: Any = get_storage_client("azure", {"container_name": "models", **ACCOUNT_ANYWHERE, "anonymous": "true"})
    assert client.filesystem.connection is client.store.requests.connection
    assert client.filesystem.bucket_store("other").requests.connection is client.store.requests.connection
    assert "connection" not in client.filesystem.storage_options


ACCOUNT_ANYWHERE = {"account_name": "acc", "endpoint_url": "http://127.0.0.1:1/acc"}


def test_options_of_files() -> None:
    """Numbers and booleans may be strings, as in fsspec's configuration files."""
    options = {"part_size": "1MiB", "max_attempts": "2", "read_timeout": "1.5", "anon": "false", "account_key": KEY}
    found = connection_of({**ACCOUNT_ANYWHERE, **options})
    assert (found.settings.part_size, found.settings.max_attempts, found.read_timeout) == (2**20, 2, 1.5)
    assert not found.account.anonymous
    with pytest.raises(ValueError, match="max_attempts='many'"):
        connection_of({**ACCOUNT_ANYWHERE, "max_attempts": "many"})


def test_credential_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """A credential object in fsspec's configuration reaches verbs and filesystem; the keys of the config come first."""
    credential = AzureSasCredential("sig=abc")
    monkeypatch.setitem(fsspec.config.conf, "abfs", {"credential": credential})
    client: Any = get_storage_client("azure", {"container_name": "models", **ACCOUNT_ANYWHERE})
    assert client.store.requests.connection.account.credential is credential
    assert client.filesystem.connection.account.credential is credential
    client = get_storage_client("azure", {"container_name": "models", **ACCOUNT_ANYWHERE, "anonymous": "true"})
    assert client.store.requests.connection.account.credential is None


VERBS = """
import json, sys
from gllm_storage import get_storage_client
client = get_storage_client("azure", json.loads(sys.argv[1]))
client.file_exists("a")
list(client.list_files())
list(client.list_folder())
client.upload_file(sys.argv[2], "a", check_conflict=True)
assert client.delete_file("b")
print(sorted({name.partition(".")[0] for name in sys.modules} & {"adlfs", "fsspec"}))
"""
REQUESTS = """
import json, sys
from gllm_storage import ObjectNotFoundError, get_storage_client
client = get_storage_client("azure", json.loads(sys.argv[1]))
assert not client.file_exists("a")
client.upload_file(sys.argv[2], "a")
client.upload_file(sys.argv[2], "a", check_conflict=True)
assert client.delete_file("b")
try:
    client.download_file("a", sys.argv[2] + ".copy")
except ObjectNotFoundError:
    pass
print("azure.storage.blob" in sys.modules)
list(client.list_files())
print("azure.storage.blob" in sys.modules)
"""


def run(script: str, config: dict[str, str], file: str, **environment: str) -> str:
    """Run a script in a new process; its output."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, json.dumps(config), file],
        env={**environment, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_sdk_on_need(tmp_path: Path) -> None:
    """Checks, uploads, downloads and deletes do not import the SDK, which takes 0.2 s; a listing does."""
    (tmp_path / "a").write_bytes(b"content")
    with recording() as recorder:
        config = {"container_name": "models", **at(recorder, ACCOUNT), "account_key": KEY}
        assert run(REQUESTS, config, str(tmp_path / "a"), HOME=str(tmp_path)).split() == ["False", "True"]


@pytest.mark.parametrize(
    ("variables", "imported", "credential"),
    [
        ({}, "[]", "anonymous"),
        ({"FSSPEC_ABFS_SAS_TOKEN": OTHER_SAS}, "['fsspec']", "sas two"),
        ({"FSSPEC_CONFIG_DIR": "FOLDER"}, "['fsspec']", "sas one"),
    ],
    ids=["none", "environment", "file"],
)
def test_imports(variables: dict[str, str], imported: str, credential: str, tmp_path: Path) -> None:
    """The verbs do not import adlfs. They import and apply fsspec only if there may be a configuration of it."""
    (tmp_path / "a.json").write_text(json.dumps({"az": {"sas_token": SAS}}))
    (tmp_path / "empty").mkdir()
    given = {"HOME": str(tmp_path / "empty"), **variables}
    environment = {name: value.replace("FOLDER", str(tmp_path)) for name, value in given.items()}
    with recording() as recorder:
        config = {"container_name": "models", **at(recorder, ACCOUNT)}
        if not variables:
            config["anonymous"] = "true"
        assert run(VERBS, config, str(tmp_path / "a.json"), **environment) == imported
        assert {each.credential(KEY) for each in recorder.requests} == {credential}
        assert {each.method for each in recorder.requests} == {"HEAD", "GET", "PUT", "DELETE"}
