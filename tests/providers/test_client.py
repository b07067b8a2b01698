"""Clients as values: the documented signatures, pickling, equality, and texts without secrets."""

from __future__ import annotations

import inspect
import pickle
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
)
from gllm_storage.folders import Plan
from tests.unit.test_registry import FourVerbs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECRET = "hunter2-very-secret"
CONFIGS: dict[type[CloudStorageClient], dict[str, str]] = {
    S3StorageClient: {
        "bucket_name": "models",
        "prefix": "team",
        "region_name": "us-east-1",
        "aws_access_key_id": "AKID" + SECRET,
        "aws_secret_access_key": SECRET,
        "aws_session_token": SECRET,
    },
    LocalStorageClient: {"root": "/data", "prefix": "team"},
    MemoryStorageClient: {"bucket_name": "models", "prefix": "team"},
    FsspecStorageClient: {"url": "memory://models", "password": SECRET},
    FourVerbs: {"host": "h", "password": SECRET},
}
all_classes = pytest.mark.parametrize("client_class", CONFIGS, ids=lambda each: each.__name__)
BUILT_IN = [each for each in CONFIGS if each is not FourVerbs]


@all_classes
def test_pickled_client(client_class: type[CloudStorageClient]) -> None:
    """A pickled client is equal to the original and keeps its configuration."""
    client = client_class(CONFIGS[client_class])
    copy = pickle.loads(pickle.dumps(client))
    assert type(copy) is client_class
    assert copy == client
    assert hash(copy) == hash(client)
    assert copy.config == CONFIGS[client_class]


@pytest.mark.parametrize("client_class", [LocalStorageClient, MemoryStorageClient, S3StorageClient])
def test_pickled_client_in_use(client_class: type[FsspecStorageClient]) -> None:
    """A client in use can be pickled; the copy makes a filesystem of its own."""
    client = client_class(CONFIGS[client_class])
    assert client.filesystem is client.filesystem
    copy = pickle.loads(pickle.dumps(client))
    assert copy == client
    assert copy.url("x") == client.url("x")
    assert copy.filesystem is not client.filesystem


@all_classes
def test_equal_configs(client_class: type[CloudStorageClient]) -> None:
    """Clients of equal configurations are equal, in any order of the settings."""
    config = CONFIGS[client_class]
    backwards = dict(reversed(config.items()))
    one, other = client_class(config), client_class(backwards)
    assert one == other
    assert len({one, other}) == 1


@all_classes
def test_other_configs(client_class: type[CloudStorageClient]) -> None:
    """Clients differ if one setting differs."""
    config = CONFIGS[client_class]
    for name in config:
        other = client_class({**config, name: config[name] + "x"})
        assert other != client_class(config), name


def test_equal_meaning() -> None:
    """Clients are equal if their settings have the same meaning, in spite of a different spelling."""
    same = {"bucket_name": "models", "part_size": "8 MiB", "prefix": "/"}
    assert S3StorageClient({"bucket_name": "models"}) == S3StorageClient(same)
    assert LocalStorageClient({"root": "/data/"}) == LocalStorageClient({"root": "/data/x/.."})


def test_other_classes() -> None:
    """Clients of different classes differ, and a client differs from values of other types."""

    class Mine(MemoryStorageClient):
        pass

    assert Mine({}) != MemoryStorageClient({})
    assert MemoryStorageClient({}) != "memory"
    assert MemoryStorageClient({}) is not None


@all_classes
def test_changed_dict(client_class: type[CloudStorageClient]) -> None:
    """A client does not change when the caller changes the dictionary of settings."""
    config = dict(CONFIGS[client_class])
    client = client_class(config)
    config.clear()
    assert client == client_class(CONFIGS[client_class])


@all_classes
def test_text_without_secret(client_class: type[CloudStorageClient]) -> None:
    """`repr`, `str` and the formatted text of a client begin with its class and show no secret."""
    client = client_class(CONFIGS[client_class])
    for shown in (repr(client), str(client), f"{client}"):
        assert SECRET not in shown
        assert shown.startswith(client_class.__name__)


@pytest.mark.parametrize("url", [f"ftp://user:{SECRET}@127.0.0.1/models", f"sftp://user:{SECRET}@127.0.0.1/models"])
def test_password_in_url(url: str) -> None:
    """The text of a client, or the error if its package is missing, does not show the password of the URL."""
    try:
        shown = repr(FsspecStorageClient({"url": url}))
    except ValueError as error:
        shown = str(error)
    assert SECRET not in shown


@pytest.mark.parametrize(
    "use",
    [
        lambda client: client.url("x"),
        lambda client: client.open("x"),
        lambda client: client.info("x"),
        lambda client: list(client.list_files()),
        lambda client: list(client.list_folder()),
        lambda client: client.filesystem,
        lambda client: client.storage_options,
        lambda client: client.upload_dir("out", "v1"),
        lambda client: client.download_dir("v1", "out"),
        lambda client: client.sync_dir("out", "memory://b/v1"),
        lambda client: client.copy_dir("v1", "v2"),
        lambda client: client.delete_dir("v1"),
        lambda client: client.check_dir("out", "memory://b/v1"),
        lambda client: client.apply_plan(Plan("", "", ("", ""))),
    ],
    ids=[
        "url",
        "open",
        "info",
        "list_files",
        "list_folder",
        "filesystem",
        "storage_options",
        "upload_dir",
        "download_dir",
        "sync_dir",
        "copy_dir",
        "delete_dir",
        "check_dir",
        "apply_plan",
    ],
)
def test_missing_method(use: Callable[[CloudStorageClient], object], request: pytest.FixtureRequest) -> None:
    """A class with the four verbs alone raises NotImplementedError, with the names of class and method."""
    with pytest.raises(NotImplementedError, match=f"FourVerbs.*{request.node.callspec.id}"):
        use(FourVerbs({}))


def test_abstract_methods() -> None:
    """The abstract methods of the base class are the four documented verbs."""
    assert CloudStorageClient.__abstractmethods__ == {"upload_file", "download_file", "file_exists", "delete_file"}
    abstract: Any = CloudStorageClient
    with pytest.raises(TypeError, match="abstract"):
        abstract({})


VERBS: dict[str, list[tuple[str, Any]]] = {
    "__init__": [("config", None)],
    "upload_file": [("local_path", None), ("remote_path", None), ("check_conflict", False)],
    "download_file": [("remote_path", None), ("local_path", None)],
    "file_exists": [("remote_path", None)],
    "delete_file": [("remote_path", None)],
}
FUNCTIONS: dict[str, tuple[Callable[..., Any], list[str]]] = {
    "CloudStorageClient.get_storage_client": (CloudStorageClient.get_storage_client, ["provider", "config"]),
    "CloudStorageRegistry.get_client": (CloudStorageRegistry.get_client, ["provider", "config"]),
    "CloudStorageRegistry.list_available_providers": (CloudStorageRegistry.list_available_providers, []),
    "CloudStorageRegistry.register": (CloudStorageRegistry.register, ["provider", "client_class"]),
    "get_storage_client": (get_storage_client, ["provider", "config"]),
}


def parameters_of(function: Callable[..., Any]) -> list[tuple[str, Any]]:
    """Return names and defaults, None for no default; every parameter may be given by position and by name."""
    parameters = list(inspect.signature(function).parameters.values())
    assert {each.kind for each in parameters} <= {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    return [(each.name, None if each.default is each.empty else each.default) for each in parameters]


@pytest.mark.parametrize("client_class", [CloudStorageClient, *BUILT_IN], ids=lambda each: each.__name__)
@pytest.mark.parametrize("verb", VERBS)
def test_verb_signature(client_class: type[CloudStorageClient], verb: str) -> None:
    """A verb has the documented signature."""
    assert parameters_of(getattr(client_class, verb)) == [("self", None), *VERBS[verb]]


@pytest.mark.parametrize(("function", "names"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_function_signature(function: Callable[..., Any], names: list[str]) -> None:
    """A function of the interface has the documented signature."""
    assert parameters_of(function) == [(name, None) for name in names]


def test_static_and_class_methods() -> None:
    """The factory is a static method, and the methods of the registry are class methods."""
    assert isinstance(inspect.getattr_static(CloudStorageClient, "get_storage_client"), staticmethod)
    for name in ("get_client", "list_available_providers", "register"):
        assert isinstance(inspect.getattr_static(CloudStorageRegistry, name), classmethod)


@pytest.mark.parametrize("client_class", [CloudStorageClient, *BUILT_IN], ids=lambda each: each.__name__)
def test_public_docstrings(client_class: type[CloudStorageClient]) -> None:
    """Every public method has a docstring."""
    public = [name for name in dir(client_class) if not name.startswith("_") and name not in {"provider", "settings_class"}]
    assert [name for name in public if not inspect.getdoc(inspect.getattr_static(client_class, name))] == []


@all_classes
def test_path_types(client_class: type[CloudStorageClient], tmp_path: Path) -> None:
    """Local paths may be strings or Path objects."""
    if client_class is not MemoryStorageClient:
        assert "str | Path" in str(inspect.signature(client_class.upload_file))
        return
    client = client_class(CONFIGS[client_class])
    source = tmp_path / "a"
    source.write_bytes(b"x")
    client.upload_file(source, "as-path")
    client.upload_file(str(source), "as-str")
    assert client.download_file("as-path", tmp_path / "b") == tmp_path / "b"
    assert client.download_file("as-str", str(tmp_path / "c")) == tmp_path / "c"
