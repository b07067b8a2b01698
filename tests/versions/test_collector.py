"""`collect_garbage`: the files that no version names go, and no others."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import LocalStorageClient
from gllm_storage.errors import StorageUnavailableError, UnsupportedOperationError
from gllm_storage.versions.catalog import list_versions, resolve
from gllm_storage.versions.collector import collect_garbage, time_of_store
from gllm_storage.versions.deletion import delete_version
from gllm_storage.versions.entries import Aborted
from gllm_storage.versions.layout import LAST_SLOT, Model, model_of, place_of
from gllm_storage.versions.log import version_log
from gllm_storage.versions.publisher import publish
from gllm_storage.versions.verification import verify
from tests.versions.support import MODEL, digest_of, keys_of, new_client, store_bytes, write_folder

if TYPE_CHECKING:
    from pathlib import Path

    from gllm_storage.fsspec_client import FsspecStorageClient
    from gllm_storage.info import ObjectInfo
    from gllm_storage.store.port import ObjectStore

NO_TIME = dt.timedelta()
FILES = {"config.json": b"{}", "weights/1.bin": b"\x01" * 5000}
PLACE = place_of(digest_of(FILES), 0)


@pytest.fixture(params=["memory", "file"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> FsspecStorageClient:
    if request.param == "memory":
        return new_client()
    return LocalStorageClient({"root": str(tmp_path / "store")})


@pytest.fixture
def model(client: FsspecStorageClient, tmp_path: Path) -> Model:
    """A model with the versions v1 and v2 of equal content, and v3 of another one."""
    for version in ("v1", "v2"):
        publish(client, write_folder(tmp_path / "out", FILES), MODEL, version=version)
    publish(client, write_folder(tmp_path / "other", {"f": b"3"}), MODEL, version="v3")
    return model_of(client, MODEL)


def test_nothing_to_collect(client: FsspecStorageClient, model: Model) -> None:
    """Named directories are kept, and no key changes."""
    before = keys_of(model)
    assert collect_garbage(client, MODEL, grace=NO_TIME) == []
    assert keys_of(model) == before


def test_deleted_version(client: FsspecStorageClient, model: Model, tmp_path: Path) -> None:
    """The files of a deleted version go once no version names them; its name can be published again."""
    delete_version(client, MODEL, "v1")
    assert collect_garbage(client, MODEL, grace=NO_TIME) == []
    delete_version(client, MODEL, "v2")
    would = collect_garbage(client, MODEL, grace=NO_TIME, dry_run=True)
    assert [each.url for each in would] == [client.store.url(model.data(PLACE))]
    assert would[0].files == 3
    before = keys_of(model)
    assert collect_garbage(client, MODEL, grace=NO_TIME, dry_run=True) == would
    assert keys_of(model) == before
    assert collect_garbage(client, MODEL, grace=NO_TIME) == would
    assert set(before) - set(keys_of(model)) == {f"data/{PLACE}/{each}" for each in FILES} | {f"trees/{PLACE}.jsonl"}
    assert set(keys_of(model)) - set(before) == {f"tombs/{PLACE}"}
    assert collect_garbage(client, MODEL, grace=NO_TIME) == []
    assert publish(client, tmp_path / "out", MODEL, version="v1").url.endswith("-1/")
    assert verify(client, MODEL, "v1") == resolve(client, MODEL, "v1")


@pytest.mark.parametrize("version", ["v9", "v9-rc-1"])
def test_dead_publisher(client: FsspecStorageClient, model: Model, version: str) -> None:
    """The files and marks of a publisher that was killed go, and its slot is taken, so that it can never commit."""
    place = place_of("sha256:" + "ab" * 32, 0)
    store_bytes(client.store, f"{model.marks(place)}{version}/{LAST_SLOT - 1}-0f", b"")
    store_bytes(client.store, f"{model.data(place)}f", b"123")
    assert [each.size for each in collect_garbage(client, MODEL, grace=NO_TIME)] == [3]
    assert version_log(model, version, "test").newest() == (1, Aborted())
    assert not [each for each in keys_of(model) if place in each and not each.startswith("tombs/")]
    assert [each.name for each in list_versions(client, MODEL)] == ["v1", "v2", "v3"]


def test_foreign_mark(client: FsspecStorageClient, model: Model) -> None:
    """A directory with a mark of an unknown form is kept: it may be one of a later version of the library."""
    place = place_of("sha256:" + "ab" * 32, 0)
    store_bytes(client.store, f"{model.marks(place)}v9/x", b"")
    assert collect_garbage(client, MODEL, grace=NO_TIME) == []
    assert keys_of(model, f"marks/{place}") == [f"marks/{place}/v9/x"]


def test_late_files(client: FsspecStorageClient, model: Model) -> None:
    """Files that arrive in a collected directory go with the next collection."""
    delete_version(client, MODEL, "v3")
    (garbage,) = collect_garbage(client, MODEL, grace=NO_TIME)
    place = garbage.url.rstrip("/").rpartition("/")[2]
    store_bytes(client.store, f"{model.data(place)}f", b"3")
    assert [each.url for each in collect_garbage(client, MODEL, grace=NO_TIME)] == [garbage.url]
    assert keys_of(model, f"data/{place}") == []


def two_hours_later(model: Model, *, write: bool) -> dt.datetime:
    return time_of_store(model, write=write) + dt.timedelta(hours=2)


@pytest.mark.parametrize("young", ["file", "mark", "deletion", "nothing"])
def test_grace_period(client: FsspecStorageClient, model: Model, young: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A young file, mark, or deletion keeps a directory; the clock of the store decides."""
    place = place_of("sha256:" + "ab" * 32, 0)
    if young == "deletion":
        delete_version(client, MODEL, "v3")
        place = place_of(digest_of({"f": b"3"}), 0)
    else:
        store_bytes(client.store, f"{model.data(place)}f", b"")
        store_bytes(client.store, f"{model.marks(place)}v9/{LAST_SLOT - 1}-0f", b"")
    if young == "nothing":
        monkeypatch.setattr("gllm_storage.versions.collector.time_of_store", two_hours_later)
    found = collect_garbage(client, MODEL, grace=dt.timedelta(hours=1))
    assert len(found) == (1 if young == "nothing" else 0)
    assert bool(keys_of(model, f"data/{place}")) == (young != "nothing")
    assert not [each for each in keys_of(model, "tombs/") if "clock" in each]


def test_foreign_keys(client: FsspecStorageClient, model: Model) -> None:
    """What is not a directory of a version is left alone."""
    others = ["README.md", "data/notes.txt", "data/abc-0/f", f"data/{'ab' * 32}-00/f", "trees/x.jsonl", "inner/data/f"]
    for each in others:
        store_bytes(client.store, model.key(each), b"")
    assert collect_garbage(client, MODEL, grace=NO_TIME) == []
    assert set(others) <= set(keys_of(model))


def test_failed_collector(client: FsspecStorageClient, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection that fails midway leaves the versions complete, and a second one completes it."""
    delete_version(client, MODEL, "v3")
    delete_many = client.store.delete_many

    def fail(*_: object) -> None:
        raise StorageUnavailableError("down")

    monkeypatch.setattr(client.store, "delete_many", fail)
    with pytest.raises(StorageUnavailableError):
        collect_garbage(client, MODEL, grace=NO_TIME)
    monkeypatch.setattr(client.store, "delete_many", delete_many)
    assert verify(client, MODEL, "v1").name == "v1"
    assert len(collect_garbage(client, MODEL, grace=NO_TIME)) == 1
    assert [each.name for each in list_versions(client, MODEL)] == ["v1", "v2"]
    assert len(keys_of(model, "tombs/")) == 1


@pytest.mark.parametrize("dry_run", [True, False])
def test_longest_grace(client: FsspecStorageClient, tmp_path: Path, dry_run: bool) -> None:
    """A grace period that began before the year 1 spares all files."""
    publish(client, write_folder(tmp_path / "out", {"f": b"x"}), MODEL, version="v1")
    delete_version(client, MODEL, "v1")
    assert collect_garbage(client, MODEL, grace=dt.timedelta.max, dry_run=dry_run) == []
    assert len(collect_garbage(client, MODEL, grace=dt.timedelta(), dry_run=True)) == 1


def test_negative_grace(client: FsspecStorageClient) -> None:
    """A negative grace period is refused."""
    with pytest.raises(ValueError, match="must not be negative"):
        collect_garbage(client, MODEL, grace=dt.timedelta(hours=-1))


class Clock:
    """A store whose objects have given ages, by its own clock."""

    def __init__(self, store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self._list = store.list
        self._ages: dict[str, dt.timedelta] = {}
        monkeypatch.setattr(store, "list", lambda prefix="": map(self._aged, self._list(prefix)))
        self._store = store

    def pass_days(self, days: float) -> None:
        """Make all objects that exist older."""
        for each in self._list(""):
            self._ages[each.url] = self._ages.get(each.url, dt.timedelta()) + dt.timedelta(days=days)

    def _aged(self, info: ObjectInfo) -> ObjectInfo:
        assert info.last_modified is not None
        return replace(info, last_modified=info.last_modified - self._ages.get(info.url, dt.timedelta()))


def test_grace_of_replaced(
    client: FsspecStorageClient, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of a version that was just deleted are spared, although its name was published again with other files."""
    clock = Clock(client.store, monkeypatch)
    clock.pass_days(10)
    delete_version(client, MODEL, "v3")
    publish(client, write_folder(tmp_path / "again", {"f": b"again"}), MODEL, version="v3")
    assert collect_garbage(client, MODEL) == []
    assert collect_garbage(client, MODEL, dry_run=True) == []
    clock.pass_days(2)
    assert len(collect_garbage(client, MODEL, dry_run=True)) == 1
    assert len(collect_garbage(client, MODEL)) == 1
    assert [each.name for each in list_versions(client, MODEL)] == ["v1", "v2", "v3"]
    assert keys_of(model, f"data/{place_of(digest_of({'f': b'again'}), 0)}") != []


@pytest.mark.parametrize("first", ["v1", "v2"])
def test_grace_of_shared(client: FsspecStorageClient, model: Model, monkeypatch: pytest.MonkeyPatch, first: str) -> None:
    """Of two deletions of versions with the same directory, the later one counts."""
    clock = Clock(client.store, monkeypatch)
    delete_version(client, MODEL, first)
    clock.pass_days(9)
    delete_version(client, MODEL, "v2" if first == "v1" else "v1")
    assert collect_garbage(client, MODEL) == []
    assert keys_of(model, f"data/{PLACE}") != []
    clock.pass_days(2)
    assert len(collect_garbage(client, MODEL)) == 1


def test_one_pass(client: FsspecStorageClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many versions cost listings of all logs, and reads many at a time, not requests one after the other."""
    folders = [write_folder(tmp_path / str(number), {"f": b"%d" % number}) for number in range(3)]
    for number in range(60):
        publish(client, folders[number % 2], MODEL, version=f"v{number}")
    publish(client, folders[2], MODEL, version="old")
    delete_version(client, MODEL, "old")
    asked = Calls()
    names = ("info", "read", "list", "first", "list_folder", "read_many", "list_keys")
    for name in names:
        monkeypatch.setattr(client.store, name, counted(asked, name, getattr(client.store, name)))
    assert len(collect_garbage(client, MODEL, grace=NO_TIME)) == 1
    assert len(asked) < 30
    asked.clear()
    assert len(list(list_versions(client, MODEL))) == 60
    assert list(asked) == ["list", "read_many"]


class Calls(list[str]):
    """The names of the called methods."""

    inside = False


def counted(asked: Calls, name: str, method: Any) -> Any:
    """Count the calls of a method of the store that are not made by another one."""

    def call(*args: Any, **options: Any) -> Any:
        if asked.inside or threading.current_thread() is not threading.main_thread():
            return method(*args, **options)
        asked.append(name)
        asked.inside = True
        try:
            found = method(*args, **options)
            return iter(list(found)) if isinstance(found, Iterator) else found
        finally:
            asked.inside = False

    return call


def test_shared_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk such as NFS nothing is deleted, unless the caller says that no other machine writes."""
    client = LocalStorageClient({"root": str(tmp_path / "store")})
    publish(client, write_folder(tmp_path / "out", FILES), MODEL, version="v1")
    delete_version(client, MODEL, "v1")
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"27 1 254:0 / / rw - ext4 /dev/vda rw\n28 27 0:50 / {tmp_path} rw shared:1 - nfs4 host:/x rw\n")
    monkeypatch.setattr("gllm_storage.local.mounts._MOUNTS", str(mounts))
    before = keys_of(model_of(client, MODEL))
    with pytest.raises(UnsupportedOperationError, match=r"writes of another machine.*one_machine=True"):
        collect_garbage(client, MODEL, grace=NO_TIME)
    assert keys_of(model_of(client, MODEL)) == before
    assert len(collect_garbage(client, MODEL, grace=NO_TIME, dry_run=True)) == 1
    assert len(collect_garbage(client, MODEL, grace=NO_TIME, one_machine=True)) == 1
