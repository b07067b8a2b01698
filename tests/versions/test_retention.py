"""`retain`: which versions the rules keep."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest

from gllm_storage import LocalStorageClient
from gllm_storage.errors import IntegrityError
from gllm_storage.versions import deletion, retention
from gllm_storage.versions.aliases import set_alias
from gllm_storage.versions.catalog import list_versions, resolve
from gllm_storage.versions.collector import collect_garbage
from gllm_storage.versions.deletion import delete_version
from gllm_storage.versions.layout import model_of
from gllm_storage.versions.publisher import publish
from gllm_storage.versions.retention import retain
from gllm_storage.versions.verification import verify
from tests.versions.support import MODEL, keys_of, new_client, read_bytes, store_bytes, write_folder
from tests.versions.test_collector import Clock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gllm_storage.fsspec_client import FsspecStorageClient
    from gllm_storage.versions.entries import Aborted, Deleted, Manifest
    from gllm_storage.versions.layout import Model


@pytest.fixture(params=["memory", "file"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> FsspecStorageClient:
    return new_client() if request.param == "memory" else LocalStorageClient({"root": str(tmp_path / "store")})


@pytest.fixture
def clock(client: FsspecStorageClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The versions v0 to v9, one each day, the last one today; their names are not in that order."""
    clock = Clock(client.store, monkeypatch)
    for number in (3, 1, 2, 0, 7, 5, 6, 4, 9, 8):
        clock.pass_days(1)
        publish(client, write_folder(tmp_path / "out", {"f": b"%d" % number}), MODEL, version=f"v{number}")
    return clock


def names(client: FsspecStorageClient) -> set[str]:
    return {each.name for each in list_versions(client, MODEL)}


@pytest.mark.usefixtures("clock")
def test_rules(client: FsspecStorageClient) -> None:
    """A version stays if one rule keeps it, or an alias names it; a dry run tells so, and changes nothing."""
    set_alias(client, MODEL, "best", "v3")
    before = keys_of(model_of(client, MODEL))
    would = retain(client, MODEL, keep_last=2, keep_every=4)
    assert would.kept == {
        "v3": ("alias best",),
        "v0": ("every 4",),
        "v4": ("every 4",),
        "v9": ("last 2",),
        "v8": ("last 2",),
    }
    assert [each.name for each in would.deleted] == ["v1", "v2", "v7", "v5", "v6"]
    assert keys_of(model_of(client, MODEL)) == before
    assert retain(client, MODEL, keep_last=2, keep_every=4, dry_run=False) == would
    assert names(client) == {"v3", "v0", "v4", "v9", "v8"}
    again = retain(client, MODEL, keep_last=2, keep_every=4, dry_run=False)
    assert (again.kept, again.deleted) == (would.kept, ())


@pytest.mark.parametrize("dry_run", [True, False])
def test_younger(client: FsspecStorageClient, clock: Clock, dry_run: bool) -> None:
    """The clock of the store tells how old a version is."""
    del clock
    found = retain(client, MODEL, keep_younger=dt.timedelta(days=2, hours=12), dry_run=dry_run)
    assert list(found.kept) == ["v4", "v9", "v8"]
    assert len(names(client)) == (10 if dry_run else 3)


def test_published_again(client: FsspecStorageClient, clock: Clock, tmp_path: Path) -> None:
    """A version that was deleted and published again is as young as that, and keeps its number."""
    delete_version(client, MODEL, "v3")
    clock.pass_days(1)
    publish(client, tmp_path / "out", MODEL, version="v3")
    assert retain(client, MODEL, keep_last=1).kept == {"v3": ("last 1",)}
    assert list(retain(client, MODEL, keep_every=10).kept) == ["v8"]


def test_first_entry_removed(client: FsspecStorageClient, clock: Clock, tmp_path: Path) -> None:
    """A version whose first entry another program has removed is numbered by its oldest one."""
    delete_version(client, MODEL, "v0")
    clock.pass_days(1)
    publish(client, tmp_path / "out", MODEL, version="v0")
    client.delete_file(f"{MODEL}/versions/v0/99999998.json")
    assert list(retain(client, MODEL, keep_every=9).kept) == ["v8"]


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.usefixtures("clock")
def test_longest_time(client: FsspecStorageClient, dry_run: bool) -> None:
    """A time before the year 1 is before all versions."""
    assert retain(client, MODEL, keep_younger=dt.timedelta.max, dry_run=dry_run).deleted == ()


@pytest.mark.parametrize("rule", ["keep_last", "keep_every", "keep_younger"])
def test_wrong_type(client: FsspecStorageClient, rule: str) -> None:
    """A rule of another type is refused."""
    with pytest.raises(ValueError, match=f"{rule}='3'"):
        retain(client, MODEL, **{rule: "3"})  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("rules", [{}, {"keep_last": 0}, {"keep_last": -1}, {"keep_every": -1}, {"keep_younger": -1}])
def test_wrong_rules(client: FsspecStorageClient, rules: dict[str, int]) -> None:
    """No rule at all would delete everything: it is refused, as a negative one."""
    given = {name: dt.timedelta(value) if name == "keep_younger" else value for name, value in rules.items()}
    with pytest.raises(ValueError, match="rule of retention"):
        retain(client, MODEL, **given, dry_run=False)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.usefixtures("clock")
def test_swapped_manifest(client: FsspecStorageClient, tmp_path: Path) -> None:
    """A manifest in the log of another version is found before anything is deleted; to delete the version is the way out."""
    model, slot = model_of(client, MODEL), "99999998.json"
    store_bytes(client.store, model.key("versions", "v3", slot), read_bytes(client.store, model.key("versions", "v8", slot)))
    before = keys_of(model)
    calls: list[Callable[[], object]] = [
        lambda: list(list_versions(client, MODEL)),
        lambda: resolve(client, MODEL, "v3"),
        lambda: resolve(client, MODEL, "sha256:" + "0" * 64),
        lambda: retain(client, MODEL, keep_last=1),
        lambda: retain(client, MODEL, keep_last=1, dry_run=False),
        lambda: collect_garbage(client, MODEL),
        lambda: publish(client, tmp_path / "out", MODEL, version="v3"),  # the files of v8
        lambda: set_alias(client, MODEL, "best", "v3"),
    ]
    for call in calls:
        with pytest.raises(IntegrityError, match=r"/versions/v3 has the manifest of .*'v8'.*Delete the version"):
            call()
    assert keys_of(model) == before
    delete_version(client, MODEL, "v3")
    assert list(retain(client, MODEL, keep_last=1, dry_run=False).kept) == ["v8"]
    assert verify(client, MODEL, "v8").name == "v8"


@pytest.mark.usefixtures("clock")
def test_race_with_mover(client: FsspecStorageClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """An alias that is moved to a version that is about to be deleted is reported."""

    def moved_first(model: Model, version: str, *, only: Manifest | None = None) -> Aborted | Deleted | None:
        if version == "v3":
            set_alias(client, MODEL, "best", "v3")
        return deletion.mark_deleted(model, version, only=only)

    monkeypatch.setattr(retention, "mark_deleted", moved_first)
    assert retain(client, MODEL, keep_last=1, dry_run=False).aliases == ("best",)


@pytest.mark.usefixtures("clock")
def test_replaced_meanwhile(client: FsspecStorageClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that was deleted and published again meanwhile is not the old one: it stays."""

    def replaced_first(model: Model, version: str, *, only: Manifest | None = None) -> Aborted | Deleted | None:
        if version == "v3":
            delete_version(client, MODEL, "v3")
            publish(client, tmp_path / "out", MODEL, version="v3")
        return deletion.mark_deleted(model, version, only=only)

    monkeypatch.setattr(retention, "mark_deleted", replaced_first)
    found = retain(client, MODEL, keep_last=1, dry_run=False)
    assert "v3" not in [each.name for each in found.deleted]
    assert names(client) == {"v3", "v8"}
