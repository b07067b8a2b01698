"""Aliases, and versions that are deleted or replaced behind them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import LocalStorageClient
from gllm_storage.errors import ObjectExistsError, ObjectNotFoundError
from gllm_storage.versions.aliases import alias_history, set_alias
from gllm_storage.versions.catalog import list_versions, resolve
from gllm_storage.versions.deletion import Deletion, delete_version
from gllm_storage.versions.entries import Aborted
from gllm_storage.versions.layout import model_of
from gllm_storage.versions.log import alias_log
from gllm_storage.versions.publisher import publish
from gllm_storage.versions.register import enter
from tests.versions.support import MODEL, keys_of, new_client, write_folder

if TYPE_CHECKING:
    from pathlib import Path

    from gllm_storage.fsspec_client import FsspecStorageClient


@pytest.fixture(params=["memory", "file"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> FsspecStorageClient:
    """A model with the versions v1, v2 and v3."""
    memory = request.param == "memory"
    client: FsspecStorageClient = new_client() if memory else LocalStorageClient({"root": str(tmp_path / "store")})
    for number in (1, 2, 3):
        publish_number(client, tmp_path, number, f"v{number}")
    return client


def publish_number(client: FsspecStorageClient, tmp_path: Path, number: int, version: str) -> None:
    publish(client, write_folder(tmp_path / f"out{number}", {"f": b"%d" % number}), MODEL, version=version)


def moves(client: FsspecStorageClient, alias: str = "latest") -> list[str]:
    return [each.version for each in alias_history(client, MODEL, alias)]


def test_moves_and_history(client: FsspecStorageClient) -> None:
    """An alias points to its last version; to roll back is a move; the history has all moves."""
    assert moves(client) == []
    for version in ("v1", "v2", "v1"):
        assert set_alias(client, MODEL, "latest", version).name == version
        assert resolve(client, MODEL, "latest") == resolve(client, MODEL, version)
    assert moves(client) == ["v1", "v2", "v1"]


def test_expected_version(client: FsspecStorageClient) -> None:
    """A move that expects another version is refused, names both, and changes nothing."""
    before = keys_of(model_of(client, MODEL))
    with pytest.raises(ObjectExistsError, match="points to nothing, and not to 'v1'"):
        set_alias(client, MODEL, "latest", "v2", expected="v1")
    with pytest.raises(ObjectExistsError, match="has a version 'v3', so 'v3' cannot be an alias"):
        set_alias(client, MODEL, "v3", "v2", expected="v1")
    assert keys_of(model_of(client, MODEL)) == before
    set_alias(client, MODEL, "latest", "v1")
    set_alias(client, MODEL, "latest", "v2", expected="v1")
    with pytest.raises(ObjectExistsError, match="points to 'v2', and not to 'v1'"):
        set_alias(client, MODEL, "latest", "v3", expected="v1")
    assert moves(client) == ["v2", "v1"]


def test_many_movers(client: FsspecStorageClient) -> None:
    """Of 16 movers at once, those that succeed are in the history, and no other."""
    set_alias(client, MODEL, "latest", "v1")
    done: list[str] = []
    refused: list[Exception] = []
    barrier = threading.Barrier(16)

    def run(version: str) -> None:
        barrier.wait()
        try:
            set_alias(client, MODEL, "latest", version)
        except ObjectExistsError as error:
            refused.append(error)
        else:
            done.append(version)

    threads = [threading.Thread(target=run, args=[f"v{number % 3 + 1}"]) for number in range(16)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(done) + len(refused) == 16
    assert done
    assert sorted(moves(client)) == sorted(["v1", *done])


def test_one_of_many_expects(client: FsspecStorageClient) -> None:
    """Of 16 movers that expect the same version, exactly one succeeds."""
    set_alias(client, MODEL, "latest", "v1")
    done: list[int] = []
    barrier = threading.Barrier(16)

    def run(number: int) -> None:
        barrier.wait()
        try:
            set_alias(client, MODEL, "latest", "v2", expected="v1")
        except ObjectExistsError:
            return
        done.append(number)

    threads = [threading.Thread(target=run, args=[each]) for each in range(16)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(done) == 1
    assert moves(client) == ["v2", "v1"]


def test_aborted_move(client: FsspecStorageClient) -> None:
    """A move that was aborted does not hide the one before it."""
    set_alias(client, MODEL, "latest", "v1")
    log = alias_log(model_of(client, MODEL), "latest", "alias")
    log.create(2, Aborted())
    assert resolve(client, MODEL, "latest").name == "v1"
    assert set_alias(client, MODEL, "latest", "v2", expected="v1").name == "v2"
    assert moves(client) == ["v2", "v1"]


def test_alias_to_nothing(client: FsspecStorageClient) -> None:
    """An alias to a version that does not exist, or to an alias, is refused, and none is made."""
    set_alias(client, MODEL, "prod", "v1")
    for version in ("v9", "prod"):
        with pytest.raises(ObjectNotFoundError, match=f"'{version}'"):
            set_alias(client, MODEL, "latest", version)
    with pytest.raises(ObjectNotFoundError, match="no version or alias 'latest'"):
        resolve(client, MODEL, "latest")


def test_one_namespace(client: FsspecStorageClient, tmp_path: Path) -> None:
    """A version and an alias cannot have one name, nor names that differ only in case."""
    set_alias(client, MODEL, "latest", "v1")
    for name in ("v2", "V2", "Latest"):
        with pytest.raises(ObjectExistsError, match="cannot be an alias"):
            set_alias(client, MODEL, name, "v1")
    for name in ("latest", "LATEST"):
        with pytest.raises(ObjectExistsError, match="cannot be a version"):
            publish_number(client, tmp_path, 1, name)


def test_deleted_version(client: FsspecStorageClient, tmp_path: Path) -> None:
    """A deleted version is refused by name, digest and alias; another content under its name is not what the alias meant."""
    version = set_alias(client, MODEL, "latest", "v2")
    assert delete_version(client, MODEL, "v2") == Deletion(deleted=True, aliases=("latest",))
    assert not delete_version(client, MODEL, "v2")
    assert not delete_version(client, MODEL, "v9")
    assert [each.name for each in list_versions(client, MODEL)] == ["v1", "v3"]
    with pytest.raises(ObjectNotFoundError, match="'v2' that was deleted"):
        resolve(client, MODEL, "v2")
    with pytest.raises(ObjectNotFoundError, match="no version with digest"):
        resolve(client, MODEL, version.digest)
    with pytest.raises(ObjectNotFoundError, match=r"'v2', which does not exist any more.*Move the alias"):
        resolve(client, MODEL, "latest")
    publish_number(client, tmp_path, 7, "v2")
    with pytest.raises(ObjectNotFoundError, match="was replaced by"):
        resolve(client, MODEL, "latest")
    delete_version(client, MODEL, "v2")
    publish_number(client, tmp_path, 2, "v2")
    assert resolve(client, MODEL, "latest") == resolve(client, MODEL, "v2")


def test_version_that_is_deleted_at_once(client: FsspecStorageClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mover whose version is deleted before its move is told so."""

    def delete_first(*arguments: Any) -> None:
        delete_version(client, MODEL, "v2")
        enter(*arguments)

    monkeypatch.setattr("gllm_storage.versions.aliases.enter", delete_first)
    with pytest.raises(ObjectNotFoundError, match="does not exist any more"):
        set_alias(client, MODEL, "latest", "v2")
