"""`publish`, on the stores of this machine."""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import mmap
import os
import re
import socket
import tempfile
import threading
from collections.abc import Callable  # noqa: TC003 - in a variable of the module
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gllm_storage import LocalStorageClient, MemoryStorageClient
from gllm_storage.errors import (
    AccessDeniedError,
    ConflictCheckUnsupportedError,
    IntegrityError,
    ObjectExistsError,
    Remedy,
    StorageError,
    StorageUnavailableError,
)
from gllm_storage.files.source import SourceChangedError
from gllm_storage.fsspec_client import FsspecStorageClient
from gllm_storage.memory.store import MemoryStore
from gllm_storage.store.checksums import encode, update
from gllm_storage.versions import publisher as publishing
from gllm_storage.versions.aliases import set_alias
from gllm_storage.versions.catalog import list_versions, resolve
from gllm_storage.versions.collector import collect_garbage
from gllm_storage.versions.copying import copy_version
from gllm_storage.versions.deletion import delete_version
from gllm_storage.versions.layout import model_of, place_of, slot_name
from gllm_storage.versions.local_tree import hashed_tree
from gllm_storage.versions.publisher import publish
from gllm_storage.versions.retention import retain
from gllm_storage.versions.verification import verify
from tests.promises.test_bad_input import as_nobody
from tests.versions.support import MODEL, digest_of, keys_of, new_client, read_bytes, store_bytes, write_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gllm_storage.concurrency.stop import Stop
    from gllm_storage.info import ObjectInfo, Stored
    from gllm_storage.store.port import UploadItem, UploadRequest
    from gllm_storage.versions.local_tree import LocalTree

FILES = {"config.json": b"{}", "weights/1.bin": b"\x01" * 70_000, "weights/2.bin": b"\x02" * 70_000, "weights.txt": b""}
OTHER_FILES = {**FILES, "config.json": b"[]"}


@pytest.fixture(params=["memory", "file"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> FsspecStorageClient:
    if request.param == "memory":
        return new_client()
    return LocalStorageClient({"root": str(tmp_path / "store")})


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "out", FILES)


def stored_files(client: FsspecStorageClient, url: str) -> dict[str, bytes]:
    key = url.removeprefix(client.store.url(""))
    return {each.removeprefix(key): read_bytes(client.store, each) for each in client.store.list_keys(key)}


def test_published_directory(client: FsspecStorageClient, out: Path) -> None:
    """A version has its files under their own names, its digest, and its metadata; no mark is left."""
    version = publish(client, out, MODEL, version="v3", metadata={"loss": 0.5})
    assert (version.name, version.digest, version.files) == ("v3", digest_of(FILES), 4)
    assert version.size == sum(map(len, FILES.values()))
    assert stored_files(client, version.url) == FILES
    assert resolve(client, MODEL, "v3") == version
    assert resolve(client, MODEL, version.digest) == version
    assert list(list_versions(client, MODEL)) == [version]
    assert version.metadata == {"loss": 0.5}
    assert keys_of(model_of(client, MODEL), "marks/") == []


def test_second_publisher(client: FsspecStorageClient, out: Path, tmp_path: Path) -> None:
    """The same files and metadata are a success; other files or other metadata are a conflict that changes nothing."""
    version = publish(client, out, MODEL, version="v3", metadata={"a": 1})
    assert publish(client, str(out), MODEL, version="v3", metadata={"a": 1}) == version
    before = keys_of(model_of(client, MODEL))
    other = write_folder(tmp_path / "other", OTHER_FILES)
    with pytest.raises(ObjectExistsError, match="is published with other files"):
        publish(client, other, MODEL, version="v3", metadata={"a": 1})
    other_metadata: tuple[dict[str, Any], ...] = ({}, {"a": True}, {"a": "1"}, {"a": 1, "b": None})
    for each in other_metadata:
        with pytest.raises(ObjectExistsError, match=r"with other metadata.*Publish under another name"):
            publish(client, out, MODEL, version="v3", metadata=each)
    assert keys_of(model_of(client, MODEL)) == before


@pytest.mark.parametrize("name", [(1, 2), b"a"])
def test_metadata_names(client: FsspecStorageClient, out: Path, name: Any) -> None:
    """A name that JSON cannot hold is the fault that the error tells, not its value."""
    with pytest.raises(ValueError, match="only texts as names, not"):
        publish(client, out, MODEL, version="v3", metadata={name: 1})


def test_metadata_as_json(client: FsspecStorageClient, out: Path) -> None:
    """Metadata is kept as JSON keeps it, and a second publisher with the same values succeeds."""
    metadata: Any = {"shape": (1, 2), 3: None, "nested": {"a": [True, 0.5, "ä"]}}
    version = publish(client, out, MODEL, version="v3", metadata=metadata)
    assert version.metadata == {"shape": [1, 2], "3": None, "nested": {"a": [True, 0.5, "ä"]}}
    assert publish(client, out, MODEL, version="v3", metadata=metadata) == version


def test_equal_versions_share_files(client: FsspecStorageClient, out: Path) -> None:
    """Two versions of equal content have one directory."""
    one, two = (publish(client, out, MODEL, version=each) for each in ("v1", "v2"))
    assert one.url == two.url
    assert [each.name for each in list_versions(client, MODEL)] == ["v1", "v2"]


def test_progress(client: FsspecStorageClient, out: Path) -> None:
    """The callback receives all bytes once, also if they are there already."""

    class Counted:
        size = moved = 0

        def set_size(self, size: int) -> None:
            self.size = size

        def relative_update(self, moved: int) -> None:
            self.moved += moved

    for version in ("v1", "v1", "v2"):
        counted: Any = Counted()
        publish(client, out, MODEL, version=version, callback=counted)
        assert counted.moved == counted.size == sum(map(len, FILES.values()))


class StatingStore(MemoryStore):
    """States a checksum of each object, as clouds do."""

    algorithm = "crc64nvme"

    def info(self, key: str, operation: str = "info") -> ObjectInfo:
        content = self.content(key, self.details(key, operation)).getbuffer()
        crc = encode(update(content, 0, self.algorithm), self.algorithm)
        return replace(super().info(key, operation), checksum=f"{self.algorithm}:{crc}")


class RecordingStore(StatingStore):
    """Remembers the keys of files that were sent and copied, and can fail."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.sent: list[str] = []
        self.copied: list[str] = []
        self.fail_at: str | None = None
        self._own = threading.local()

    def upload(self, request: UploadRequest) -> Stored:
        if self.fail_at is not None and request.key.endswith(self.fail_at):
            raise StorageUnavailableError("down", request.details)
        stored = super().upload(request)
        if "/data/" in request.key and not getattr(self._own, "is_copying", False):
            self.sent.append(request.key.partition("/data/")[2].partition("/")[2])
        return stored

    def copy_version(self, key: str, target_key: str, *args: Any, **options: Any) -> None:
        self._own.is_copying = True
        try:
            super().copy_version(key, target_key, *args, **options)
        finally:
            self._own.is_copying = False
        self.copied.append(target_key)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> tuple[FsspecStorageClient, RecordingStore]:
    client = new_client()
    store = client.store
    assert isinstance(store, MemoryStore)
    recording = RecordingStore(store._filesystem, store._base.strip("/"), store.settings)
    monkeypatch.setattr(FsspecStorageClient, "store", property(lambda _: recording))
    return client, recording


def test_resumed_publisher(recorded: tuple[FsspecStorageClient, RecordingStore], out: Path) -> None:
    """After a failure nothing is visible; running it again sends only what is missing."""
    client, store = recorded
    store.fail_at = "2.bin"
    with pytest.raises(StorageUnavailableError):
        publish(client, out, MODEL, version="v3")
    with pytest.raises(FileNotFoundError):
        resolve(client, MODEL, "v3")
    store.fail_at, first = None, list(store.sent)
    store.sent.clear()
    version = publish(client, out, MODEL, version="v3")
    assert sorted(first + store.sent) == sorted(FILES)
    assert stored_files(client, version.url) == FILES


@pytest.mark.parametrize("lives", [True, False])
def test_shared_work(
    recorded: tuple[FsspecStorageClient, RecordingStore], out: Path, monkeypatch: pytest.MonkeyPatch, lives: bool
) -> None:
    """Another publisher of the same content sends its half of the files; if it was killed, we send them, after one wait."""
    client, store = recorded
    model, place = model_of(client, MODEL), place_of(digest_of(FILES), 0)
    store_bytes(store, f"{model.marks(place)}v3/{slot_name(1)}-z", b"")  # behind our mark: we are the first of two
    monkeypatch.setattr(publishing, "_PATIENCE", 10.0 if lives else 0.2)
    theirs = sorted(FILES)[2:]

    def send() -> None:
        for name in theirs:
            store_bytes(store, model.data(place) + name, FILES[name])

    other = threading.Timer(0.1, send)
    if lives:
        other.start()
    version = publish(client, out, MODEL, version="v3")
    assert sorted(store.sent) == sorted(FILES)
    assert store.sent[2:] == theirs or not lives
    assert stored_files(client, version.url) == FILES


def test_shared_files_are_copied(recorded: tuple[FsspecStorageClient, RecordingStore], tmp_path: Path) -> None:
    """A version that shares all but one of its large files with an earlier one sends one, and copies the others."""
    client, store = recorded
    files = {f"{number}.bin": os.urandom(2**16) for number in range(40)}
    publish(client, write_folder(tmp_path / "v1", files), MODEL, version="v1")
    store.sent.clear()
    files["17.bin"] = os.urandom(2**16)
    files["renamed.bin"] = files.pop("3.bin")
    version = publish(client, write_folder(tmp_path / "v2", files), MODEL, version="v2")
    assert store.sent == ["17.bin"]
    assert len(store.copied) == 39
    assert stored_files(client, version.url) == files


def test_small_files_are_sent(recorded: tuple[FsspecStorageClient, RecordingStore], tmp_path: Path) -> None:
    """A file of 64 KiB is copied from an earlier version; a smaller one is sent."""
    client, store = recorded
    files = {"large": os.urandom(2**16), "small": os.urandom(2**16 - 1)}
    publish(client, write_folder(tmp_path / "v1", files), MODEL, version="v1")
    store.sent.clear()
    publish(client, write_folder(tmp_path / "v2", {**files, "new": b""}), MODEL, version="v2")
    assert (sorted(store.sent), len(store.copied)) == (["new", "small"], 1)


def test_three_versions(recorded: tuple[FsspecStorageClient, RecordingStore], tmp_path: Path) -> None:
    """The files of the three latest versions are copied, not those of earlier ones."""
    client, store = recorded
    files = {f"{number}.bin": os.urandom(2**16) for number in range(1, 5)}
    for number, (name, data) in enumerate(files.items(), 1):
        publish(client, write_folder(tmp_path / f"v{number}", {name: data}), MODEL, version=f"v{number}")
    store.sent.clear()
    publish(client, write_folder(tmp_path / "all", files), MODEL, version="v5")
    assert (store.sent, len(store.copied)) == (["1.bin"], 3)


@pytest.mark.parametrize("algorithm", ["crc64nvme", "crc32c"])
def test_damaged_earlier_file(recorded: tuple[FsspecStorageClient, RecordingStore], tmp_path: Path, algorithm: str) -> None:
    """A damaged file of an earlier version is not copied: the new version has the right bytes, in its first directory."""
    client, store = recorded
    store.algorithm = algorithm
    files = {f"{number}.bin": os.urandom(2**16) for number in range(3)}
    old = publish(client, write_folder(tmp_path / "v1", files), MODEL, version="v1")
    damaged = old.url.removeprefix(store.url("")) + "1.bin"
    store_bytes(store, damaged, b"\x01" * 2**16)
    store.sent.clear()
    store.copied.clear()
    files["new.bin"] = b"new"
    version = publish(client, write_folder(tmp_path / "v2", files), MODEL, version="v2")
    assert version.url.endswith("-0/")
    assert stored_files(client, version.url) == files
    assert sorted(store.sent) == ["1.bin", "new.bin"]
    assert len(store.copied) == 2


def remove_keys(client: FsspecStorageClient, folder: str) -> None:
    model = model_of(client, MODEL)
    for key in [*model.store.list_keys(f"{model.prefix}/{folder}")]:
        model.store.delete(key)


@pytest.mark.parametrize("folder", ["data", "trees", "data/*/weights/1.bin", ""])
def test_repair(client: FsspecStorageClient, out: Path, folder: str) -> None:
    """A publisher of equal files stores those again that another tool has deleted."""
    published = publish(client, out, MODEL, version="v3")
    remove_keys(client, folder.replace("*", place_of(published.digest, 0)))
    assert publish(client, out, MODEL, version="v3").digest == published.digest
    assert verify(client, MODEL, "v3").digest == published.digest
    assert not keys_of(model_of(client, MODEL), "marks")


@pytest.mark.parametrize("folder", ["data", "", "trees"])
def test_deleted_meanwhile(client: FsspecStorageClient, out: Path, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that another tool deletes just before the commit are stored by the next publisher."""
    store_files = publishing.Publisher._store_files

    def delete_afterwards(self: publishing.Publisher, *args: Any) -> bool:
        found = store_files(self, *args)
        remove_keys(client, folder)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(publishing.Publisher, "_store_files", delete_afterwards)
        publish(client, out, MODEL, version="v3")
    version = publish(client, out, MODEL, version="v3")
    assert verify(client, MODEL, "v3") == version


@pytest.mark.parametrize("folder", ["data", "", "data/*/weights/1.bin"])
def test_deleted_during_upload(client: FsspecStorageClient, out: Path, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that another tool deletes while others are sent are stored again before the first commit."""
    store_tree, times = publishing.Publisher._store_tree, itertools.count()

    def delete_once(self: publishing.Publisher, *args: Any, **kwargs: Any) -> bool:
        found = store_tree(self, *args, **kwargs)
        if not next(times):
            remove_keys(client, folder.replace("*", place_of(digest_of(FILES), 0)))
        return found

    monkeypatch.setattr(publishing.Publisher, "_store_tree", delete_once)
    version = publish(client, out, MODEL, version="v3")
    assert version.url.endswith("-0/")
    assert verify(client, MODEL, "v3") == version
    assert next(times) == 2


def test_deleted_again_and_again(client: FsspecStorageClient, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If another tool deletes files as long as the publisher works, nothing is published, and the error says so."""
    store_tree = publishing.Publisher._store_tree

    def delete(self: publishing.Publisher, *args: Any, **kwargs: Any) -> bool:
        found = store_tree(self, *args, **kwargs)
        remove_keys(client, "data")
        return found

    monkeypatch.setattr(publishing.Publisher, "_store_tree", delete)
    with pytest.raises(IntegrityError, match=r"each of 8 directories.*or lost files meanwhile"):
        publish(client, out, MODEL, version="v3")
    assert keys_of(model_of(client, MODEL), "versions/") == []


@pytest.mark.parametrize("damage", ["lacks", "renamed", "added", "size", "list"])
def test_not_repaired(client: FsspecStorageClient, out: Path, damage: str) -> None:
    """A version in which another tool has put something else is not a success; the error names the way out, which works."""
    version = publish(client, out, MODEL, version="v3")
    model, place = model_of(client, MODEL), place_of(version.digest, 0)
    data = model.data(place)
    if damage in {"lacks", "renamed"}:
        client.store.delete(f"{data}config.json")
    key = {"renamed": f"{data}zz", "added": f"{data}zz", "list": model.tree(place)}.get(damage, f"{data}weights.txt")
    store_bytes(client.store, key, b"foreign")
    with pytest.raises(IntegrityError, match="other files than"):
        publish(client, out, MODEL, version="v3")
    with pytest.raises(IntegrityError, match=r"other files than.*Delete the version, and publish it again"):
        copy_version(memory_copy(out), "other", "v3", client, MODEL)
    delete_version(client, MODEL, "v3")
    assert publish(client, out, MODEL, version="v3").digest == version.digest
    assert verify(client, MODEL, "v3").digest == version.digest


def test_long_paths(client: FsspecStorageClient, tmp_path: Path) -> None:
    """A path that gives a key above 1024 bytes in the store is refused before anything is written, also by a copy."""
    path = "/".join(["a" * 234] * 4)  # 939 bytes
    out = write_folder(tmp_path / "out", {path: b"a", "b": b"b"})
    with pytest.raises(ValueError, match="bytes long in UTF-8; the limit is 1024"):
        publish(client, out, MODEL, version="v1")
    version = publish(client, out, "m", version="v1")
    assert client.info(f"{version.url}{path}").size == 1
    with pytest.raises(ValueError, match="bytes long in UTF-8; the limit is 1024"):
        copy_version(client, "m", "v1", client, MODEL)
    with pytest.raises(ValueError, match="bytes long in UTF-8; the limit is 1024"):
        publish(client, write_folder(tmp_path / "b", {"b": b""}), "/".join(["m" * 200] * 4), version="v" * 120)
    assert keys_of(model_of(client, MODEL)) == []
    assert not [each for each in client.list_files() if "/m/" not in each.url]


def memory_copy(out: Path) -> FsspecStorageClient:
    """A client with a model `other`, which has the directory as v3."""
    client = MemoryStorageClient({"bucket_name": "copy"})
    publish(client, out, "other", version="v3")
    return client


def test_foreign_directories(client: FsspecStorageClient, out: Path) -> None:
    """A publisher that finds something else in each directory ends with an error, and does not fill the bucket."""
    model = model_of(client, MODEL)
    for number in range(20):
        store_bytes(client.store, f"{model.data(place_of(digest_of(FILES), number))}config.json", b"??")
    with pytest.raises(IntegrityError, match=r"each of 8 directories.*-7/.*Collect the garbage"):
        publish(client, out, MODEL, version="v3")
    assert len(keys_of(model, "trees/")) == 8
    assert keys_of(model, "marks/") == []


def test_many_tombstones(client: FsspecStorageClient, out: Path) -> None:
    """Directories with tombstones, of which there is one for each collected version, do not count."""
    model = model_of(client, MODEL)
    for number in range(10):
        store_bytes(client.store, model.tomb(place_of(digest_of(FILES), number)), b"")
    assert publish(client, out, MODEL, version="v3").url.endswith("-10/")


@pytest.mark.parametrize("damage", ["content", "size", "extra", "list"])
def test_directory_with_something_else(client: FsspecStorageClient, out: Path, damage: str) -> None:
    """What is not ours in a directory is not overwritten: the files go to the next one."""
    model = model_of(client, MODEL)
    place = place_of(digest_of(FILES), 0)
    key, data = {
        "content": (f"{model.data(place)}config.json", b"[]"),
        "size": (f"{model.data(place)}weights/1.bin", b""),
        "extra": (f"{model.data(place)}more.txt", b""),
        "list": (model.tree(place), b"x"),
    }[damage]
    store_bytes(client.store, key, data)
    version = publish(client, out, MODEL, version="v3")
    assert version.url.endswith("-1/")
    assert stored_files(client, version.url) == FILES
    assert read_bytes(client.store, key) == data
    assert keys_of(model, "marks/") == []


def test_tombstone(client: FsspecStorageClient, out: Path) -> None:
    """A directory with a tombstone is not used."""
    model = model_of(client, MODEL)
    for number in range(2):
        store_bytes(client.store, model.tomb(place_of(digest_of(FILES), number)), b"")
    version = publish(client, out, MODEL, version="v3")
    assert version.url.endswith("-2/")
    assert keys_of(model, "marks/") == []


@pytest.mark.parametrize("equal", [True, False])
def test_race_of_threads(client: FsspecStorageClient, tmp_path: Path, equal: bool) -> None:
    """Of 16 publishers with different content one wins, with all its bytes; with equal content all do."""
    folders = [write_folder(tmp_path / str(n), {**FILES, "config.json": b"0" if equal else b"%d" % n}) for n in range(16)]
    results: list[object] = []
    barrier = threading.Barrier(16)

    def run(folder: Path) -> None:
        barrier.wait()
        try:
            results.append(publish(client, folder, MODEL, version="v3"))
        except ObjectExistsError as error:
            results.append(error)

    threads = [threading.Thread(target=run, args=[each]) for each in folders]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    errors = [each for each in results if isinstance(each, Exception)]
    assert len(results) == 16
    assert len(errors) == (0 if equal else 15)
    version = resolve(client, MODEL, "v3")
    found = stored_files(client, version.url)
    assert digest_of(found) == version.digest
    assert keys_of(model_of(client, MODEL), "marks/") == []


def test_heartbeat(recorded: tuple[FsspecStorageClient, RecordingStore], out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long publish writes further marks of the same slot, and removes none before its end."""
    client, store = recorded
    monkeypatch.setattr(publishing, "_HEARTBEAT_SECONDS", 0)
    monkeypatch.setattr(publishing, "_BATCH", 1)
    model, seen = model_of(client, MODEL), []
    upload_many = store.upload_many

    def watch(items: Sequence[UploadItem], stop: Stop, workers: int = 0) -> Sequence[Stored]:
        seen.append(keys_of(model, "marks/"))
        return upload_many(items, stop, workers)

    monkeypatch.setattr(store, "upload_many", watch)
    publish(client, out, MODEL, version="v3")
    assert [len(each) for each in seen] == [2, 3, 4, 5]
    assert all(f"/v3/{slot_name(1)}-" in mark for mark in seen[-1])
    assert keys_of(model, "marks/") == []


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize("version", ["", "a/b", "../v3", ".", None])
def test_bad_version(client: FsspecStorageClient, out: Path, version: str) -> None:
    """A name that is not one is a ValueError, and nothing is stored."""
    with pytest.raises(ValueError, match="cannot be the name"):
        publish(client, out, MODEL, version=version)
    assert list(client.store.list_keys()) == []


def test_twin_by_case(client: FsspecStorageClient, out: Path) -> None:
    """A name that differs from another one only in case is refused."""
    publish(client, out, MODEL, version="v3")
    with pytest.raises(ObjectExistsError, match="differs only in case"):
        publish(client, out, MODEL, version="V3")
    with pytest.raises(FileNotFoundError, match="there is 'v3', which differs in case"):
        resolve(client, MODEL, "V3")


def test_model_inside_a_model(client: FsspecStorageClient, out: Path) -> None:
    """A model inside the folders of another one is refused."""
    publish(client, out, MODEL, version="v3")
    with pytest.raises(ValueError, match="lies inside the model"):
        publish(client, out, f"{MODEL}/data/inner", version="v1")
    store_bytes(client.store, f"{MODEL}/versions/.notes", b"")
    with pytest.raises(ValueError, match="lies inside the model"):
        publish(client, out, f"{MODEL}/data/inner", version="v1")
    publish(client, out, f"{MODEL}/inner", version="v1")


def test_missing_directory(client: FsspecStorageClient, tmp_path: Path) -> None:
    """A directory that is missing, a file, or empty is refused, and nothing is stored."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "empty" / "folder").mkdir(parents=True)
    for name, kind in (("missing", FileNotFoundError), ("file", NotADirectoryError), ("empty", ValueError)):
        with pytest.raises(kind, match=name):
            publish(client, tmp_path / name, MODEL, version="v3")
    assert list(client.store.list_keys()) == []


def test_impossible_files(client: FsspecStorageClient, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket, a link to a folder, and a name that is not a key are refused before anything is stored."""
    with socket.socket(socket.AF_UNIX) as server, monkeypatch.context() as patched:
        patched.chdir(out)  # the path of a socket may have 107 bytes
        server.bind("socket")
        with pytest.raises(StorageError, match="socket"):
            publish(client, out, MODEL, version="v3")
    (out / "socket").unlink()
    (out / "loop").symlink_to(out)
    with pytest.raises(StorageError, match=r"loop.*symbolic link to a directory"):
        publish(client, out, MODEL, version="v3")
    (out / "loop").unlink()
    for name in (b"bad\xff", b"new\nline", b"back\\slash"):
        path = os.path.join(os.fsencode(out), name)
        with open(path, "wb"):
            pass
        message = rf"local file '{re.escape(str(out))}/.*(UTF-8|control character|backslash).*Rename it, or leave it out"
        with pytest.raises(ValueError, match=message):
            publish(client, out, MODEL, version="v3")
        os.unlink(path)
    (out / "link.txt").symlink_to(out / "config.json")
    publish(client, out, MODEL, version="v3")


@pytest.mark.parametrize("denied", ["weights.txt", "weights"])
def test_unreadable(denied: str) -> None:
    """A file or a directory without read permission is an error that names it, and nothing is stored."""
    client = new_client()
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folder is closed to other users
        os.chmod(folder, 0o755)  # noqa: S103 - other users must enter
        out = write_folder(Path(folder), FILES)
        (out / denied).chmod(0)
        with as_nobody(), pytest.raises(AccessDeniedError, match=f"{denied}.*Permission denied"):
            publish(client, out, MODEL, version="v3")
        assert list(client.store.list_keys()) == []
        (out / denied).chmod(0o755)
        with as_nobody():
            assert publish(client, out, MODEL, version="v3").digest == digest_of(FILES)


def test_file_that_changes(client: FsspecStorageClient, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that no longer has its hash is an error, although its size and its modification time are the same."""
    before = os.stat(out / "config.json")

    class Changing:
        def __init__(self, *args: Any) -> None:
            self._tree = hashed_tree(*args)

        def __enter__(self) -> Any:
            tree = self._tree.__enter__()
            (out / "config.json").write_bytes(b"[]")
            os.utime(out / "config.json", ns=(before.st_atime_ns, before.st_mtime_ns))
            return tree

        def __exit__(self, *error: object) -> None:
            self._tree.__exit__(None, None, None)

    monkeypatch.setattr(publishing, "hashed_tree", Changing)
    with pytest.raises(SourceChangedError, match=r"config\.json"):
        publish(client, out, MODEL, version="v3")
    with pytest.raises(FileNotFoundError):
        resolve(client, MODEL, "v3")


class HiddenChange:
    """Changes a file by `mmap` after it was hashed. The page is dirty already, so neither size nor times change."""

    def __init__(self, path: Path, at: int) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._at = at
        self._map[at] = 1  # makes the page dirty

    @contextlib.contextmanager
    def after_hash(self, *args: Any) -> Iterator[LocalTree]:
        with hashed_tree(*args) as tree:
            self._map[self._at] = 2
            yield tree


@pytest.mark.parametrize("stated", ["nothing", "crc64nvme", "crc32c"])
@pytest.mark.parametrize("is_first", [True, False])
def test_hidden_change(
    client: FsspecStorageClient, out: Path, monkeypatch: pytest.MonkeyPatch, stated: str, is_first: bool
) -> None:
    """Bytes that change after the hash, unseen by the times of the file, are never published."""
    big = b"\0" * (2**20 + 5) + b"\1" + bytes(2**20)
    (out / "big").write_bytes(big)
    if not is_first:  # in a directory with files, each one is stored on its own
        place = place_of(digest_of({**FILES, "big": big}), 0)
        store_bytes(client.store, f"{model_of(client, MODEL).data(place)}config.json", FILES["config.json"])
    if stated != "nothing" and isinstance(client.store, MemoryStore):
        memory = client.store
        stating = StatingStore(memory._filesystem, memory._base.strip("/"), memory.settings)
        stating.algorithm = stated
        monkeypatch.setattr(FsspecStorageClient, "store", property(lambda _: stating))
    change = HiddenChange(out / "big", 2**20 + 5)
    monkeypatch.setattr(publishing, "hashed_tree", change.after_hash)
    with pytest.raises(SourceChangedError, match="big"):
        publish(client, out, MODEL, version="v3")
    with pytest.raises(FileNotFoundError):
        resolve(client, MODEL, "v3")
    model = model_of(client, MODEL)
    assert [each for each in keys_of(model, "data/") if each.endswith("/big")] == []
    monkeypatch.undo()
    version = publish(client, out, MODEL, version="v3")
    assert stored_files(client, version.url)["big"][2**20 + 5] == 2


def test_bad_metadata(client: FsspecStorageClient, out: Path) -> None:
    """Metadata that is not JSON, or too large, is a ValueError, and nothing is stored."""
    for metadata in ({"a": object()}, {"a": "x" * 2**20}):
        with pytest.raises(ValueError, match=r"must be JSON|the limit is"):
            publish(client, out, MODEL, version="v3", metadata=metadata)
    wrong: list[tuple[Any, str]] = [
        ({"epoch": 1, "loss": float("nan")}, "'loss' is not: JSON has no nan"),
        ({"epoch": 1, "loss": np.float32(1)}, r"'loss' is not: .*float32; convert it with float\(\)"),
        ({"epoch": 1, "note": "\ud800"}, "'note' is not: .*surrogates not allowed"),
        ({"epoch": 1, "big": 10**5000}, "'big' is not: .*limit"),
        ({"a": 1, 1: 2, "1": 3}, "two of its names are '1' in JSON"),
        ({"a": {"b": {1: 2, "1": 3}}}, "'a' is not: two of its names are '1' in JSON"),
        (7, "not 7"),
    ]
    for given, told in wrong:
        with pytest.raises(ValueError, match=told):
            publish(client, out, MODEL, version="v3", metadata=given)
    assert list(client.store.list_keys()) == []


ON_PLAIN: dict[str, Callable[[FsspecStorageClient, Path], object]] = {
    "publish": lambda plain, out: publish(plain, out, MODEL, version="v3"),
    "set_alias": lambda plain, _: set_alias(plain, MODEL, "latest", "v1"),
    "delete_version": lambda plain, _: delete_version(plain, MODEL, "v1"),
    "retain": lambda plain, _: retain(plain, MODEL, keep_last=1, dry_run=False),
    "collect_garbage": lambda plain, _: collect_garbage(plain, MODEL, grace=dt.timedelta()),
    "copy_version": lambda plain, _: copy_version(plain, MODEL, "v1", plain, "released/llama"),
}


@pytest.mark.parametrize("function", ON_PLAIN)
def test_store_without_exclusive_create(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    """A store that cannot create exclusively is refused before a request that writes or deletes, also if it is empty."""
    plain = FsspecStorageClient({"url": "memory://plain"})
    if function != "copy_version":  # which has nothing to copy
        with pytest.raises(ConflictCheckUnsupportedError):
            ON_PLAIN[function](plain, out)
    client = MemoryStorageClient({"bucket_name": "plain"})
    for number in (1, 2):
        publish(client, write_folder(tmp_path / f"v{number}", {"f": b"%d" % number}), MODEL, version=f"v{number}")
    store_bytes(client.store, f"{MODEL}/data/{'0' * 64}-0/garbage", b"")
    before = {key: read_bytes(client.store, key) for key in client.store.list_keys()}
    assert [each.name for each in list_versions(plain, MODEL)] == ["v1", "v2"]
    for request in ("upload", "delete"):
        monkeypatch.setattr(type(plain.store), request, None)
    with pytest.raises(ConflictCheckUnsupportedError, match="Use another store") as caught:
        ON_PLAIN[function](plain, out)
    assert MODEL in caught.value.url or "released/llama" in caught.value.url
    monkeypatch.undo()
    assert {key: read_bytes(client.store, key) for key in client.store.list_keys()} == before


def test_wrong_types(client: FsspecStorageClient, out: Path) -> None:
    """A number instead of a length of time, or a `Version` instead of its name, is an error that says what is needed."""
    version = publish(client, out, MODEL, version="v3")
    for call in (
        lambda: collect_garbage(client, MODEL, grace=0),  # type: ignore[arg-type]  # wrong on purpose
        lambda: retain(client, MODEL, keep_younger=30),  # type: ignore[arg-type]  # wrong on purpose
    ):
        with pytest.raises(ValueError, match=r"is not a datetime\.timedelta"):
            call()
    with pytest.raises(ValueError, match="give a text"):
        resolve(client, MODEL, version)  # type: ignore[arg-type]  # wrong on purpose


def test_disk_without_links(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that turns out not to create exclusively gives the same advice."""
    client = LocalStorageClient({"root": str(tmp_path / "store")})

    def upload(_: object) -> None:
        raise ConflictCheckUnsupportedError("no hard links", remedy=Remedy.USE_OTHER_FOLDER)

    monkeypatch.setattr(client.store, "upload", upload)
    with pytest.raises(ConflictCheckUnsupportedError, match="Use another store"):
        publish(client, out, MODEL, version="v3")
