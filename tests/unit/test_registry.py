"""Names, aliases, plug-ins and URLs, and the client class of each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import (
    CloudStorageClient,
    CloudStorageRegistry,
    FsspecStorageClient,
    LocalStorageClient,
    MemoryStorageClient,
    S3StorageClient,
    get_storage_client,
    storage_client_from_url,
)

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("own_registry")


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the registrations of a test after it."""
    monkeypatch.setattr(CloudStorageRegistry, "_registered", dict(CloudStorageRegistry._registered))


class FourVerbs(CloudStorageClient):
    """A third party's client with the four methods of the documented interface, and nothing else."""

    def upload_file(self, local_path: str | Path, remote_path: str, check_conflict: bool = False) -> str:
        return f"four://{remote_path}?from={local_path}&check={check_conflict}"

    def download_file(self, remote_path: str, local_path: str | Path) -> Path:
        return Path(local_path) / remote_path

    def file_exists(self, remote_path: str) -> bool:
        return remote_path == "there"

    def delete_file(self, remote_path: str) -> bool:
        return remote_path == "there"


CONFIGS = {"s3": {"bucket_name": "models"}, "file": {"root": "/data"}, "memory": {}, "fsspec": {"url": "memory://models"}}
CLASSES = {"s3": S3StorageClient, "file": LocalStorageClient, "memory": MemoryStorageClient, "fsspec": FsspecStorageClient}


@pytest.mark.parametrize("provider", CONFIGS)
@pytest.mark.parametrize("spell", [str, str.upper, str.title, "  {}\n".format], ids=["as is", "upper", "title", "spaces"])
def test_provider_name(provider: str, spell: Callable[[str], str]) -> None:
    """A provider is found by its name in any case."""
    assert type(get_storage_client(spell(provider), CONFIGS[provider])) is CLASSES[provider]


@pytest.mark.parametrize(("alias", "provider"), [("local", "file"), ("LOCAL", "file"), ("s3a", "s3")])
def test_alias(alias: str, provider: str) -> None:
    """An alias names its provider."""
    assert type(get_storage_client(alias, CONFIGS[provider])) is CLASSES[provider]


@pytest.mark.parametrize("provider", CONFIGS)
def test_factories(provider: str) -> None:
    """All factories return equal clients."""
    factories = (get_storage_client, CloudStorageClient.get_storage_client, CloudStorageRegistry.get_client)
    clients = [factory(provider, CONFIGS[provider]) for factory in factories]
    assert clients[0] == clients[1] == clients[2]
    assert {type(client) for client in clients} == {CLASSES[provider]}


def test_list_of_providers() -> None:
    """The built-in providers are listed in order, without aliases."""
    listed = CloudStorageRegistry.list_available_providers()
    assert listed == sorted(listed)
    assert {"s3", "file", "memory", "fsspec"} <= set(listed)
    assert not {"local", "gs", "az"} & set(listed)


@pytest.mark.parametrize(
    "factory", [get_storage_client, CloudStorageClient.get_storage_client, CloudStorageRegistry.get_client]
)
def test_unknown_provider(factory: Callable[[str, dict[str, str]], object]) -> None:
    """An unknown provider is refused, and the error lists the known ones."""
    CloudStorageRegistry.register("mine", FourVerbs)
    with pytest.raises(ValueError, match="'s4'") as caught:
        factory("s4", {})
    for known in ("s3", "file (local)", "memory", "fsspec", "mine"):
        assert known in str(caught.value)


@pytest.mark.parametrize("provider", ["", "  ", None, 3, b"s3"], ids=repr)
def test_invalid_name(provider: Any) -> None:
    """A provider name that is empty or not a string raises ValueError."""
    with pytest.raises(ValueError, match="named by a string"):
        get_storage_client(provider, {})
    with pytest.raises(ValueError, match="named by a string"):
        CloudStorageRegistry.register(provider, FourVerbs)


@pytest.mark.parametrize("client_class", [None, "FourVerbs", dict, FourVerbs({})], ids=repr)
def test_invalid_class(client_class: Any) -> None:
    """Only client classes can be registered."""
    with pytest.raises(TypeError, match="CloudStorageClient"):
        CloudStorageRegistry.register("mine", client_class)
    assert "mine" not in CloudStorageRegistry.list_available_providers()


def test_four_verbs_by_name() -> None:
    """A client that has only the four verbs works by name."""
    CloudStorageRegistry.register("Mine", FourVerbs)
    config = {"any": "thing"}
    client = get_storage_client("mINE", config)
    assert type(client) is FourVerbs
    assert client.config == config
    assert "mine" in CloudStorageRegistry.list_available_providers()
    assert client.upload_file("a", "b", check_conflict=True) == "four://b?from=a&check=True"
    assert client.download_file("there", "folder") == Path("folder/there")
    assert client.file_exists("there")
    assert not client.delete_file("elsewhere")


def test_registered_alias() -> None:
    """A registered class takes precedence over the built-in class, also by alias."""
    CloudStorageRegistry.register("local", FourVerbs)
    assert type(get_storage_client("file", {})) is FourVerbs
    assert type(get_storage_client("local", {})) is FourVerbs


def test_second_registration() -> None:
    """The last registration of a name counts."""
    CloudStorageRegistry.register("mine", FourVerbs)
    CloudStorageRegistry.register("MINE", MemoryStorageClient)
    assert type(get_storage_client("mine", {})) is MemoryStorageClient


PLUG_IN = """
from tests.unit.test_registry import FourVerbs
class Client(FourVerbs):
    pass
no_class = "text"
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Write the files of an installed package that announces providers, as pip does."""

    def install(entry_points: str) -> None:
        (tmp_path / "plugged_in.py").write_text(PLUG_IN)
        (tmp_path / "broken_plug_in.py").write_text("raise RuntimeError('this plug-in is broken')\n")
        folder = tmp_path / "plugged_in-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged-in\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[gllm_storage.providers]\n{entry_points}\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    return install


def test_plug_in(installed: Callable[[str], None]) -> None:
    """An installed package announces a provider."""
    installed("Tape-Robot = plugged_in:Client")
    client = get_storage_client("tape-robot", {"drive": "3"})
    assert type(client).__name__ == "Client"
    assert isinstance(client, FourVerbs)
    assert "tape-robot" in CloudStorageRegistry.list_available_providers()
    with pytest.raises(ValueError, match="tape-robot"):
        get_storage_client("other", {})


def test_registered_plug_in(installed: Callable[[str], None]) -> None:
    """A registered class takes precedence over an announced class."""
    installed("tape = plugged_in:Client")
    CloudStorageRegistry.register("tape", MemoryStorageClient)
    assert type(get_storage_client("tape", {})) is MemoryStorageClient


def test_plug_in_with_built_in_name(installed: Callable[[str], None]) -> None:
    """An installed package cannot replace a built-in provider."""
    installed("s3 = plugged_in:Client")
    assert type(get_storage_client("s3", CONFIGS["s3"])) is S3StorageClient


BROKEN = ["no_such_module:Client", "plugged_in:NoSuchName", "broken_plug_in:Client", "plugged_in:no_class"]


@pytest.mark.parametrize("target", BROKEN)
def test_broken_plug_in(target: str, installed: Callable[[str], None]) -> None:
    """A broken plug-in raises a ValueError that names it."""
    installed(f"tape = {target}")
    with pytest.raises(ValueError, match="tape"):
        get_storage_client("tape", {})


@pytest.mark.parametrize("target", BROKEN)
def test_beside_a_broken_plug_in(target: str, installed: Callable[[str], None]) -> None:
    """A broken plug-in does not affect other providers."""
    installed(f"tape = {target}\ngood = plugged_in:Client")
    assert "tape" in CloudStorageRegistry.list_available_providers()
    assert type(get_storage_client("s3", CONFIGS["s3"])) is S3StorageClient
    assert isinstance(get_storage_client("good", {}), FourVerbs)
    with pytest.raises(ValueError, match="unknown storage provider"):
        get_storage_client("other", {})


@pytest.mark.parametrize(
    ("url", "client_class", "object_url"),
    [
        ("s3://models", S3StorageClient, "s3://models/x"),
        ("s3://models/", S3StorageClient, "s3://models/x"),
        ("s3://models/team/v3", S3StorageClient, "s3://models/team/v3/x"),
        ("s3://models/team/v3/", S3StorageClient, "s3://models/team/v3/x"),
        ("S3://models/Team", S3StorageClient, "s3://models/Team/x"),
        ("s3a://models/team", S3StorageClient, "s3://models/team/x"),
        ("file:///data/models", LocalStorageClient, "file:///data/models/x"),
        ("file:///data/models/", LocalStorageClient, "file:///data/models/x"),
        ("local:///data", LocalStorageClient, "file:///data/x"),
        ("file:///", LocalStorageClient, "file:///x"),
        ("memory://models/team", MemoryStorageClient, "memory://models/team/x"),
        ("memory://", MemoryStorageClient, "memory://x"),
        ("memory:///models", MemoryStorageClient, "memory://models/x"),
        ("dir:///data", FsspecStorageClient, "dir:///data/x"),
    ],
)
def test_client_of_a_url(url: str, client_class: type[CloudStorageClient], object_url: str) -> None:
    """A URL leads to a client that stores objects below the URL."""
    client = storage_client_from_url(url)
    assert type(client) is client_class
    assert client.url("x") == object_url


def test_config_beside_the_url() -> None:
    """A config completes the URL."""
    client = storage_client_from_url("s3://models/team", {"region_name": "eu-west-1", "bucket_name": "models"})
    assert client == S3StorageClient({"bucket_name": "models", "prefix": "team", "region_name": "eu-west-1"})
    assert storage_client_from_url("s3://models", {"prefix": "team"}).url("x") == "s3://models/team/x"


@pytest.mark.parametrize(
    ("url", "config", "named"),
    [
        ("s3://models", {"bucket_name": "others"}, "bucket_name"),
        ("s3://models/a", {"prefix": "b"}, "prefix"),
        ("file:///data", {"root": "/other"}, "root"),
        ("memory://models", {"bucket_name": "others"}, "bucket_name"),
    ],
)
def test_contradictory_config(url: str, config: dict[str, str], named: str) -> None:
    """A config that contradicts the URL is refused."""
    with pytest.raises(ValueError, match=f"{named}=.*contradicts") as caught:
        storage_client_from_url(url, config)
    assert url in str(caught.value)


def test_wrong_config() -> None:
    """An unknown config key beside a URL is refused with the nearest known key."""
    with pytest.raises(ValueError, match="endpoint_url"):
        storage_client_from_url("s3://models", {"endpont_url": "http://minio"})


@pytest.mark.parametrize(
    "url", ["bucket/key", "/data", "", "s3", "s3:models", "C:\\models", None, 3, Path("/data")], ids=repr
)
def test_not_a_url(url: Any) -> None:
    """A value that is not a storage URL raises ValueError."""
    with pytest.raises(ValueError, match="storage URL"):
        storage_client_from_url(url)


@pytest.mark.parametrize("url", ["s4://models/team", "unheard-of://x"])
def test_unknown_scheme(url: str) -> None:
    """An unknown scheme is refused, and the error lists the known ones."""
    scheme = url.split(":", maxsplit=1)[0]
    with pytest.raises(ValueError, match=f"unknown URL scheme '{scheme}': .* nor a protocol that fsspec knows") as caught:
        storage_client_from_url(url)
    for known in ("s3", "file", "memory"):
        assert known in str(caught.value)


@pytest.mark.parametrize("url", ["s3://", "s3:///team", "file://", "file://data", "memory://a/../b", "s3://models/../x"])
def test_url_without_location(url: str) -> None:
    """A URL without a valid location is refused."""
    with pytest.raises(ValueError, match=r"."):
        storage_client_from_url(url)


def test_four_verbs_by_url() -> None:
    """A client that has only the four verbs is not made from a URL."""
    CloudStorageRegistry.register("mine", FourVerbs)
    with pytest.raises(ValueError, match=r"'mine'.*get_storage_client"):
        storage_client_from_url("mine://x")


def test_subclass_by_url() -> None:
    """A registered subclass of a built-in client is made from its URL."""

    class Mine(S3StorageClient):
        pass

    CloudStorageRegistry.register("mine", Mine)
    assert type(storage_client_from_url("mine://models/team")) is Mine


def test_list_of_aliases() -> None:
    """The registry lists the aliases of a provider."""
    assert CloudStorageRegistry.aliases("azure") == ("abfs", "abfss", "az")
    assert CloudStorageRegistry.aliases("GS") == ("gs",)
    assert CloudStorageRegistry.aliases("memory") == ()
