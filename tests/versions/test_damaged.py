"""Damaged objects of a model: each error tells a way out, and the way leads out."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import LocalStorageClient, versions
from gllm_storage.errors import IntegrityError, Remedy
from gllm_storage.versions.layout import model_of
from tests.versions.support import MODEL, keys_of, new_client, read_bytes, store_bytes, write_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gllm_storage.fsspec_client import FsspecStorageClient
    from gllm_storage.versions.layout import Model

FILES = {"a": b"x" * 100, "b/c": b"y"}


@pytest.fixture(params=["memory", "file"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> FsspecStorageClient:
    """The store of a model with the versions v1 and v2, and the alias latest for v1."""
    client = new_client() if request.param == "memory" else LocalStorageClient({"root": str(tmp_path / "store")})
    versions.publish(client, write_folder(tmp_path / "out", FILES), MODEL, version="v1")
    versions.publish(client, write_folder(tmp_path / "other", {"a": b"z"}), MODEL, version="v2")
    versions.set_alias(client, MODEL, "latest", "v1")
    return client


@pytest.fixture
def model(client: FsspecStorageClient) -> Model:
    return model_of(client, MODEL)


def damage(model: Model, folder: str, data: bytes | None) -> None:
    """Replace the first object of a folder of the model, or remove it."""
    key = model.key(keys_of(model, folder)[0])
    if data is None:
        model.store.delete_many([key], model.store.transfer(key, "delete"))
    else:
        store_bytes(model.store, key, data)


def place(client: FsspecStorageClient) -> str:
    return versions.resolve(client, MODEL, "v1").url.rstrip("/").rpartition("/")[2]


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 100_000, b"\xff"])
def test_damaged_manifest(client: FsspecStorageClient, model: Model, tmp_path: Path, data: bytes) -> None:
    """A damaged manifest stops what needs all versions, until `delete_version` removes it."""
    calls: list[Callable[[], Any]] = [
        lambda: versions.resolve(client, MODEL, "v1"),
        lambda: list(versions.list_versions(client, MODEL)),
        lambda: versions.retain(client, MODEL, keep_last=1),
        lambda: versions.collect_garbage(client, MODEL),
    ]
    damage(model, "versions/v1/", data)
    for call in calls:
        with pytest.raises(IntegrityError, match=r"versions/v1/99999998\.json") as caught:
            call()
        assert caught.value.remedy is Remedy.DELETE_VERSION
    deletion = versions.delete_version(client, MODEL, "v1")
    assert (deletion.deleted, deletion.aliases) == (True, ("latest",))
    assert not versions.delete_version(client, MODEL, "v1")
    assert [each.name for each in versions.list_versions(client, MODEL)] == ["v2"]
    assert len(versions.collect_garbage(client, MODEL, grace=dt.timedelta())) == 1
    assert versions.publish(client, tmp_path / "out", MODEL, version="v1").name == "v1"
    assert versions.verify(client, MODEL, "v1").name == "v1"


@pytest.mark.parametrize("data", [b"{}", None])
@pytest.mark.parametrize("folder", ["trees", "data"])
def test_damaged_files(client: FsspecStorageClient, model: Model, tmp_path: Path, folder: str, data: bytes | None) -> None:
    """A damaged or missing file, or list of them, is right again when the version was deleted and published."""
    damage(model, f"{folder}/{place(client)}", data)
    for local_dir in (None, tmp_path / "local"):
        with pytest.raises(IntegrityError) as caught:
            versions.fetch(client, MODEL, "v1", local_dir) if local_dir else versions.verify(client, MODEL, "v1")
        assert caught.value.remedy is Remedy.DELETE_VERSION
    assert versions.delete_version(client, MODEL, "v1")
    versions.publish(client, tmp_path / "out", MODEL, version="v1")
    assert versions.fetch(client, MODEL, "v1", tmp_path / "local").files == 2


def test_damaged_alias(client: FsspecStorageClient, model: Model) -> None:
    """A damaged alias can be moved again. A deletion that cannot read it says that it was done."""
    damage(model, "aliases/latest/", b"{}")
    with pytest.raises(IntegrityError) as caught:
        versions.resolve(client, MODEL, "latest")
    assert caught.value.remedy is Remedy.MOVE_ALIAS
    with pytest.raises(IntegrityError, match=r"^v1: deleted, but .*aliases/latest/99999998\.json") as caught:
        versions.delete_version(client, MODEL, "v1")
    assert caught.value.remedy is Remedy.MOVE_ALIAS
    assert [each.name for each in versions.list_versions(client, MODEL)] == ["v2"]
    with pytest.raises(IntegrityError):
        versions.set_alias(client, MODEL, "latest", "v2", expected="v1")
    versions.set_alias(client, MODEL, "latest", "v2")
    assert versions.resolve(client, MODEL, "latest").name == "v2"


def test_swapped_alias(client: FsspecStorageClient, model: Model) -> None:
    """The move of another alias in the log of an alias is found: an alias never leads where another one was set to."""
    versions.set_alias(client, MODEL, "best", "v2")
    damage(model, "aliases/latest/", read_bytes(model.store, model.key("aliases", "best", "99999998.json")))
    calls: list[Callable[[], object]] = [
        lambda: versions.resolve(client, MODEL, "latest"),
        lambda: list(versions.alias_history(client, MODEL, "latest")),
        lambda: versions.list_aliases(client, MODEL),
        lambda: versions.retain(client, MODEL, keep_last=1),
    ]
    for call in calls:
        with pytest.raises(IntegrityError, match=r"aliases/latest/.*a move of the alias 'best'") as caught:
            call()
        assert caught.value.remedy is Remedy.MOVE_ALIAS
    versions.set_alias(client, MODEL, "latest", "v1")
    assert versions.resolve(client, MODEL, "latest").name == "v1"


def test_damaged_name(client: FsspecStorageClient, model: Model) -> None:
    """A damaged name can only be restored."""
    damage(model, "names/v1.json", b"{}")
    with pytest.raises(IntegrityError, match=r"names/v1\.json") as caught:
        versions.resolve(client, MODEL, "v1")
    assert caught.value.remedy is Remedy.RESTORE_BACKUP
