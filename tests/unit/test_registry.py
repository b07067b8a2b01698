"""Names, aliases, plug-ins and URLs, and the client classes that they lead to."""

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
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(CloudStorageRegistry, "_registered", dict(CloudStorageRegistry._registered))


class FourVerbs(CloudStorageClient):
    """What a third party writes who reads the documented interface, and nothing else."""

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
def test_a_provider_is_found_by_name_in_any_case(provider: str, spell: Callable[[str], str]) -> None:
    assert type(get_storage_client(spell(provider), CONFIGS[provider])) is CLASSES[provider]


@pytest.mark.parametrize(("alias", "provider"), [("local", "file"), ("LOCAL", "file"), ("s3a", "s3")])
def test_an_alias_means_its_provider(alias: str, provider: str) -> None:
    assert type(get_storage_client(alias, CONFIGS[provider])) is CLASSES[provider]


@pytest.mark.parametrize("provider", CONFIGS)
def test_all_ways_to_a_client_give_the_same_one(provider: str) -> None:
    ways = (get_storage_client, CloudStorageClient.get_storage_client, CloudStorageRegistry.get_client)
    clients = [way(provider, CONFIGS[provider]) for way in ways]
    assert clients[0] == clients[1] == clients[2]
    assert {type(client) for client in clients} == {CLASSES[provider]}


def test_built_in_providers_are_listed_in_order_without_aliases() -> None:
    listed = CloudStorageRegistry.list_available_providers()
    assert listed == sorted(listed)
    assert {"s3", "file", "memory", "fsspec"} <= set(listed)
    assert not {"local", "gs", "az"} & set(listed)


@pytest.mark.parametrize("way", [get_storage_client, CloudStorageClient.get_storage_client, CloudStorageRegistry.get_client])
def test_an_unknown_provider_is_refused_with_the_known_ones(way: Callable[[str, dict[str, str]], object]) -> None:
    CloudStorageRegistry.register("mine", FourVerbs)
    with pytest.raises(ValueError, match="'s4'") as caught:
        way("s4", {})
    for known in ("s3", "file (local)", "memory", "fsspec", "mine"):
        assert known in str(caught.value)


@pytest.mark.parametrize("provider", ["", "  ", None, 3, b"s3"], ids=repr)
def test_what_is_no_name_is_a_value_error(provider: Any) -> None:
    with pytest.raises(ValueError, match="named by a string"):
        get_storage_client(provider, {})
    with pytest.raises(ValueError, match="named by a string"):
        CloudStorageRegistry.register(provider, FourVerbs)


@pytest.mark.parametrize("client_class", [None, "FourVerbs", dict, FourVerbs({})], ids=repr)
def test_only_client_classes_can_be_registered(client_class: Any) -> None:
    with pytest.raises(TypeError, match="CloudStorageClient"):
        CloudStorageRegistry.register("mine", client_class)
    assert "mine" not in CloudStorageRegistry.list_available_providers()


def test_a_client_with_the_four_verbs_only_works_by_name() -> None:
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


def test_a_registered_class_comes_before_the_built_in_one_also_by_alias() -> None:
    CloudStorageRegistry.register("local", FourVerbs)
    assert type(get_storage_client("file", {})) is FourVerbs
    assert type(get_storage_client("local", {})) is FourVerbs


def test_the_last_registration_counts() -> None:
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
    """Installs a package that announces providers: pip would leave the same files."""

    def install(entry_points: str) -> None:
        (tmp_path / "plugged_in.py").write_text(PLUG_IN)
        (tmp_path / "broken_plug_in.py").write_text("raise RuntimeError('this plug-in is broken')\n")
        folder = tmp_path / "plugged_in-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged-in\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[gllm_storage.providers]\n{entry_points}\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    return install


def test_an_installed_package_announces_a_provider(installed: Callable[[str], None]) -> None:
    installed("Tape-Robot = plugged_in:Client")
    client = get_storage_client("tape-robot", {"drive": "3"})
    assert type(client).__name__ == "Client"
    assert isinstance(client, FourVerbs)
    assert "tape-robot" in CloudStorageRegistry.list_available_providers()
    with pytest.raises(ValueError, match="tape-robot"):
        get_storage_client("other", {})


def test_a_registered_class_comes_before_an_announced_one(installed: Callable[[str], None]) -> None:
    installed("tape = plugged_in:Client")
    CloudStorageRegistry.register("tape", MemoryStorageClient)
    assert type(get_storage_client("tape", {})) is MemoryStorageClient


def test_an_installed_package_cannot_take_a_built_in_name(installed: Callable[[str], None]) -> None:
    installed("s3 = plugged_in:Client")
    assert type(get_storage_client("s3", CONFIGS["s3"])) is S3StorageClient


BROKEN = ["no_such_module:Client", "plugged_in:NoSuchName", "broken_plug_in:Client", "plugged_in:no_class"]


@pytest.mark.parametrize("target", BROKEN)
def test_a_broken_plug_in_is_a_value_error_that_names_it(target: str, installed: Callable[[str], None]) -> None:
    installed(f"tape = {target}")
    with pytest.raises(ValueError, match="tape"):
        get_storage_client("tape", {})


@pytest.mark.parametrize("target", BROKEN)
def test_a_broken_plug_in_does_not_harm_the_others(target: str, installed: Callable[[str], None]) -> None:
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
def test_a_url_leads_to_a_client_that_stores_below_it(
    url: str, client_class: type[CloudStorageClient], object_url: str
) -> None:
    client = storage_client_from_url(url)
    assert type(client) is client_class
    assert client.url("x") == object_url


def test_a_config_goes_with_the_url() -> None:
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
def test_a_config_that_contradicts_the_url_is_refused(url: str, config: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=f"{named}=.*contradicts") as caught:
        storage_client_from_url(url, config)
    assert url in str(caught.value)


def test_a_wrong_config_is_refused_as_ever() -> None:
    with pytest.raises(ValueError, match="endpoint_url"):
        storage_client_from_url("s3://models", {"endpont_url": "http://minio"})


@pytest.mark.parametrize(
    "url", ["bucket/key", "/data", "", "s3", "s3:models", "C:\\models", None, 3, Path("/data")], ids=repr
)
def test_what_is_no_url_is_a_value_error(url: Any) -> None:
    with pytest.raises(ValueError, match="storage URL"):
        storage_client_from_url(url)


@pytest.mark.parametrize("url", ["s4://models/team", "unheard-of://x"])
def test_an_unknown_scheme_is_refused_with_the_known_ones(url: str) -> None:
    with pytest.raises(ValueError, match=url.split(":", maxsplit=1)[0]) as caught:
        storage_client_from_url(url)
    for known in ("s3", "file", "memory"):
        assert known in str(caught.value)


@pytest.mark.parametrize("url", ["s3://", "s3:///team", "file://", "file://data", "memory://a/../b", "s3://models/../x"])
def test_a_url_that_names_no_place_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        storage_client_from_url(url)


def test_a_class_with_the_four_verbs_only_is_not_made_from_a_url() -> None:
    CloudStorageRegistry.register("mine", FourVerbs)
    with pytest.raises(ValueError, match=r"'mine'.*get_storage_client"):
        storage_client_from_url("mine://x")


def test_a_registered_subclass_is_made_from_its_url() -> None:
    class Mine(S3StorageClient):
        pass

    CloudStorageRegistry.register("mine", Mine)
    assert type(storage_client_from_url("mine://models/team")) is Mine


def test_aliases_are_told() -> None:
    assert CloudStorageRegistry.aliases("azure") == ("abfs", "abfss", "az")
    assert CloudStorageRegistry.aliases("GS") == ("gs",)
    assert CloudStorageRegistry.aliases("memory") == ()
