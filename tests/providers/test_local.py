"""The stores of a folder and of memory behind the port, and the filesystems that share them."""

from __future__ import annotations

import errno
import io
import os
import pickle
import threading
import time
from typing import TYPE_CHECKING, Any

import fsspec
import pytest
from fsspec.callbacks import Callback

from gllm_storage import (
    AccessDeniedError,
    LocalStorageClient,
    MemoryStorageClient,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
)
from gllm_storage.concurrency.stop import Stop, TransferStopped
from gllm_storage.errors import ErrorDetails, Remedy
from gllm_storage.files.source import CHUNK, LocalSource, MemorySource, local_errors, open_source
from gllm_storage.files.target import is_temporary
from gllm_storage.info import Stored
from gllm_storage.local.store import LocalStore
from gllm_storage.memory.filesystem import MemoryFileSystem
from gllm_storage.memory.store import MemoryStore
from gllm_storage.store.port import UploadRequest, nothing
from gllm_storage.store.ranges import ObjectSlices, read_into, read_slice
from gllm_storage.store.reader import ObjectChangedError
from gllm_storage.store.retry import RESTART, RetryEvent, no_waits, subscribe
from tests.unit.test_writing import ends_well_in_child

if TYPE_CHECKING:
    from pathlib import Path

    from gllm_storage.store.port import ObjectStore, ObjectWriter

CONTENT = os.urandom(3 * CHUNK + 17)


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path / "store"))


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore(
        fsspec.implementations.memory.MemoryFileSystem(global_store=False, skip_instance_cache=True), "models"
    )


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    found: ObjectStore = request.getfixturevalue(request.param)
    return found


def put(
    store: ObjectStore, key: str, content: bytes = CONTENT, *, exclusive: bool = False, stop: Stop | None = None
) -> Stored:
    transfer = store.transfer(key, "upload", stop=stop)
    return store.upload(UploadRequest(key, MemorySource(content, transfer.details), transfer, exclusive))


def get(store: ObjectStore, key: str) -> bytes:
    return store.read(key, store.transfer(key, "read"))


def writer_of(store: ObjectStore, key: str, *, exclusive: bool = False) -> ObjectWriter:
    transfer = store.transfer(key, "upload")
    return store.open_writer(UploadRequest(key, nothing(transfer.details), transfer, exclusive))


def keys_of(store: ObjectStore) -> list[str]:
    return [each.url.removeprefix(store.url("")) for each in store.list()]


def files_in(folder: Path) -> list[str]:
    return sorted(str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file())


# Uploads


def test_stored(store: ObjectStore) -> None:
    """An upload returns the facts that `info` has, and so does a writer."""
    assert put(store, "v3/a") == Stored.of(store.info("v3/a"))
    writer = writer_of(store, "v3/b")
    writer.write(CONTENT)
    assert writer.commit() == Stored.of(store.info("v3/b"))
    assert get(store, "v3/a") == get(store, "v3/b") == CONTENT
    assert keys_of(store) == ["v3/a", "v3/b"]


def test_exclusive(store: ObjectStore) -> None:
    """An exclusive upload or writer fails if the object exists, which stays as it is."""
    put(store, "a", b"first", exclusive=True)
    late = writer_of(store, "b", exclusive=True)
    late.write(b"late")
    put(store, "b", b"first")
    with pytest.raises(ObjectExistsError) as caught:
        put(store, "a", b"second", exclusive=True)
    assert (caught.value.remedy, caught.value.url) == (Remedy.ALLOW_OVERWRITE, store.url("a"))
    with pytest.raises(ObjectExistsError):
        store.require_create("a")
    with pytest.raises(ObjectExistsError):
        late.commit()
    assert [get(store, key) for key in keys_of(store)] == [b"first", b"first"]
    store.require_create("c")


@pytest.mark.parametrize("there", ["folder", "link"])
def test_exclusive_name(there: str, local: LocalStore, tmp_path: Path) -> None:
    """A name of a folder or of a dangling link is taken."""
    (tmp_path / "store").mkdir()
    path = tmp_path / "store" / "a"
    path.mkdir() if there == "folder" else path.symlink_to("missing")
    with pytest.raises(ObjectExistsError):
        local.require_create("a")
    with pytest.raises(ObjectExistsError):
        put(local, "a", exclusive=True)
    assert os.listdir(tmp_path / "store") == ["a"]


def test_race(store: ObjectStore) -> None:
    """Of sixteen threads, one creates the object, and all others learn that it exists."""
    barrier = threading.Barrier(16)
    outcomes: list[bytes | None] = []

    def create(content: bytes) -> None:
        writer = writer_of(store, "a", exclusive=True)
        writer.write(content)
        barrier.wait()
        try:
            writer.commit()
        except ObjectExistsError:
            outcomes.append(None)
        else:
            outcomes.append(content)

    threads = [threading.Thread(target=create, args=[b"%02d" % number]) for number in range(16)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(outcomes) == 16
    assert [each for each in outcomes if each] == [get(store, "a")]


class StoppingSource(MemorySource):
    """Sets a stop when its second piece is read."""

    stop = Stop()

    def read_at(self, offset: int, length: int) -> bytes:
        if offset:
            self.stop.set()
        return super().read_at(offset, length)


def test_stop_upload(store: ObjectStore) -> None:
    """A cancelled upload ends between two pieces, and leaves nothing."""
    put(store, "a", b"before")
    transfer = store.transfer("a", "upload", callback := Callback(), Stop())
    source = StoppingSource(CONTENT, transfer.details)
    source.stop = transfer.stop
    transfer.progress.expect(source.size)
    with pytest.raises(TransferStopped):
        store.upload(UploadRequest("a", source, transfer))
    assert callback.value < 3 * CHUNK
    assert get(store, "a") == b"before"
    assert keys_of(store) == ["a"]


def test_stop_download(store: ObjectStore, tmp_path: Path) -> None:
    """A cancelled download ends between two pieces; the local file stays as it was."""
    put(store, "a")
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "copy").write_bytes(b"before")
    stop = Stop()

    class Stopping(Callback):  # type: ignore[misc]  # fsspec publishes no types
        def relative_update(self, inc: int = 1) -> None:
            super().relative_update(inc)
            stop.set()

    transfer = store.transfer("a", "download", Stopping(), stop)
    if isinstance(store, MemoryStore):
        stop.set()  # memory is read in one piece
    with pytest.raises(TransferStopped):
        store.download("a", str(tmp_path / "to" / "copy"), transfer)
    assert (tmp_path / "to" / "copy").read_bytes() == b"before"
    assert os.listdir(tmp_path / "to") == ["copy"]


# Writers


def test_writer_seeks(store: ObjectStore) -> None:
    """A writer changes earlier bytes; a gap becomes zeros."""
    wanted = io.BytesIO()
    writer = writer_of(store, "a")
    for file in (wanted, writer):
        file.write(b"0123456789" * 20_000)
        assert file.tell() == 200_000
        assert file.seek(5) == 5
        file.write(memoryview(b"abc"))
        assert file.seek(-2, os.SEEK_END) == 199_998
        file.write(b"xyz")
        assert file.seek(10, os.SEEK_CUR) == 200_011
        file.write(b"end")
        assert file.seek(0, os.SEEK_END) == 200_014
        with pytest.raises(ValueError, match="negative"):
            file.seek(-1)
    writer.commit()
    assert get(store, "a") == wanted.getvalue()


def test_writer_discards(store: ObjectStore) -> None:
    """A discarded writer leaves nothing, and may be discarded again, by any thread."""
    writer = writer_of(store, "a")
    writer.write(CONTENT)
    thread = threading.Thread(target=writer.discard)
    thread.start()
    thread.join()
    writer.discard()
    assert keys_of(store) == []


@pytest.mark.parametrize("unnamed", [True, False], ids=["unnamed", "named"])
def test_writer_files(unnamed: bool, local: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer has at most one temporary file beside its target; a discard removes it, and the folders made for it."""
    if not unnamed:
        monkeypatch.setattr("gllm_storage.files.target._open_unnamed", lambda *_, **__: -1)
    writer = writer_of(local, "v3/a")
    writer.write(CONTENT)
    temporary = files_in(tmp_path)
    assert [os.path.dirname(each) for each in temporary] == ([] if unnamed else ["store/v3"])
    assert all(is_temporary(os.path.basename(each)) for each in temporary)
    assert keys_of(local) == []
    assert list(local.list_folder("v3/")) == []
    writer.discard()
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("size", [10, 10**6])
def test_writer_disk_full(size: int, local: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a write that failed nothing is published, although later writes would succeed."""
    put(local, "a", b"before")
    writer = writer_of(local, "a")
    writer.write(b"half")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("gllm_storage.files.target.os.pwrite", full)
        with pytest.raises(StorageError, match=os.strerror(errno.ENOSPC)):
            writer.write(bytes(size)) and writer.seek(0)
    for again in (lambda: writer.write(CONTENT), writer.commit):
        with pytest.raises(StorageError, match=os.strerror(errno.ENOSPC)):
            again()
    assert files_in(tmp_path / "store") == ["a"]
    assert get(local, "a") == b"before"


def test_writer_fork(store: ObjectStore) -> None:
    """A forked child that drops or discards its copy leaves the writer to its parent."""
    kept = [writer_of(store, "a")]
    kept[0].write(b"some")

    def in_child() -> None:
        kept[0].discard()
        kept.clear()

    assert ends_well_in_child(in_child)
    kept[0].write(b" more")
    kept[0].commit()
    assert get(store, "a") == b"some more"


# Reads


@pytest.mark.parametrize(("start", "end"), [(0, 10), (CHUNK - 5, CHUNK + 5), (-7, None), (5, None), (0, 10**9), (9, 9)])
def test_ranges(start: int, end: int | None, store: ObjectStore) -> None:
    """A range is the slice of the content."""
    put(store, "a")
    transfer = store.transfer("a", "read")
    assert read_slice(ObjectSlices(store.open_reader("a"), transfer, [(start, end)])) == CONTENT[start:end]


def test_pinned(store: ObjectStore) -> None:
    """A reader returns bytes of the version that it is asked for, and of no other."""
    put(store, "a")
    reader, transfer = store.open_reader("a"), store.transfer("a", "read")
    version = reader.head()
    target = memoryview(bytearray(10))
    read_into(reader, version, 5, target, transfer)
    assert target == CONTENT[5:15]
    put(store, "a", bytes(len(CONTENT)))
    with pytest.raises(ObjectChangedError):
        read_into(reader, version, 5, target, transfer)
    store.delete("a")
    with pytest.raises(ObjectNotFoundError):
        read_into(reader, version, 5, target, transfer)


def test_pinned_in_place(store: ObjectStore, tmp_path: Path) -> None:
    """A file that another program extends in place is another version."""
    put(store, "a")
    reader = store.open_reader("a")
    version = reader.head()
    if isinstance(store, LocalStore):
        with (tmp_path / "store" / "a").open("ab") as file:
            file.write(b"more")
    else:
        assert isinstance(store, MemoryStore)
        store.content("a", store.details("a", "read")).write(CONTENT + b"more")
    with pytest.raises(ObjectChangedError):
        read_into(reader, version, 0, memoryview(bytearray(10)), store.transfer("a", "read"))


def change_while_read(monkeypatch: pytest.MonkeyPatch, path: Path, times: int) -> None:
    """Let another program write to a file in place, during so many reads of it."""
    real, left = LocalSource.read_at, [times]

    def read_at(self: LocalSource, offset: int, length: int) -> bytes:
        data = real(self, offset, length)
        if left[0] and self.path == str(path):
            left[0] -= 1
            with path.open("ab") as file:
                file.write(b"x")
        return data

    monkeypatch.setattr(LocalSource, "read_at", read_at)


@pytest.mark.parametrize("call", ["download", "copy"])
def test_restart(
    call: str, local: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: list[RetryEvent]
) -> None:
    """A file that changes in place while it is read is read again, which is reported."""
    put(local, "a", b"content")
    change_while_read(monkeypatch, tmp_path / "store" / "a", 2)
    transfer = local.transfer("a", call, callback := Callback())
    with no_waits():
        if call == "download":
            local.download("a", str(tmp_path / "copy"), transfer)
            assert callback.value == 9
        else:
            local.copy("a", LocalStore(str(tmp_path)), "copy", transfer)
    assert (tmp_path / "copy").read_bytes() == b"contentxx"
    told = [(each.kind, each.operation, each.url, each.attempt, each.limit) for each in events]
    assert told == [("restart", call, local.url("a"), attempt, RESTART.limit) for attempt in (1, 2)]


def test_restart_limit(local: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that changes during every attempt is an error, and the local file stays as it was."""
    put(local, "a", b"content")
    (tmp_path / "copy").write_bytes(b"before")
    change_while_read(monkeypatch, tmp_path / "store" / "a", 100)
    with no_waits(), pytest.raises(StorageUnavailableError) as caught:
        local.download("a", str(tmp_path / "copy"), local.transfer("a", "download"))
    assert caught.value.remedy is Remedy.REPEAT
    assert (tmp_path / "copy").read_bytes() == b"before"
    assert len((tmp_path / "store" / "a").read_bytes()) == len(b"content") + RESTART.limit


def test_restart_stop(local: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait before a restart ends at once when the transfer is cancelled."""
    put(local, "a", b"content")
    change_while_read(monkeypatch, tmp_path / "store" / "a", 100)
    stop = Stop()
    unsubscribe = subscribe(lambda event: stop.set() if event.attempt == 5 else None)
    began = time.monotonic()
    try:
        with pytest.raises(TransferStopped):
            local.download("a", str(tmp_path / "copy"), local.transfer("a", "download", stop=stop))
    finally:
        unsubscribe()
    assert time.monotonic() - began < 3.5  # the waits before: at most 0.1, 0.2, 0.4 and 0.8 s
    assert not (tmp_path / "copy").exists()


def test_copy(store: ObjectStore, memory: MemoryStore, tmp_path: Path) -> None:
    """A copy goes to any other store; a missing source is an error."""
    target = LocalStore(str(tmp_path / "other"))
    put(store, "a")
    store.copy("a", target, "x/b", store.transfer("a", "copy"))
    target.copy("x/b", memory, "c", target.transfer("x/b", "copy"))
    assert get(target, "x/b") == get(memory, "c") == CONTENT
    with pytest.raises(ObjectNotFoundError):
        store.copy("missing", target, "d", store.transfer("missing", "copy"))
    assert keys_of(target) == ["x/b"]


def test_named_pipe(local: LocalStore, tmp_path: Path) -> None:
    """A named pipe is not an object, and is never waited for."""
    (tmp_path / "store").mkdir()
    os.mkfifo(tmp_path / "store" / "pipe")
    for call in (
        lambda: local.info("pipe"),
        lambda: get(local, "pipe"),
        lambda: local.download("pipe", str(tmp_path / "copy"), local.transfer("pipe", "download")),
        lambda: local.delete("pipe"),
    ):
        with pytest.raises(ObjectNotFoundError):
            call()
    assert keys_of(local) == []
    assert list(local.list_folder()) == []
    assert files_in(tmp_path) == []


def test_denied(local: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that may not be opened is an `AccessDeniedError` that names it, its operation and the advice."""
    put(local, "a")

    def deny(*_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("gllm_storage.local.store.os.open", deny)
    with pytest.raises(AccessDeniedError) as caught:
        local.copy("a", local, "b", local.transfer("a", "copy"))
    assert (caught.value.url, caught.value.operation) == (local.url("a"), "copy")
    assert caught.value.remedy is Remedy.CHECK_FOLDER
    assert files_in(tmp_path / "store") == ["a"]


# Listings


def test_listings(store: ObjectStore) -> None:
    """A listing is in key order, and a prefix may end within a name."""
    keys = sorted(["v3-old", "v3.bin", "v3/a", "v3/b/c", "v30/x", "w"])
    for key in reversed(keys):
        put(store, key, key.encode())
    assert keys_of(store) == keys
    root = store.url("")

    def folder(prefix: str) -> list[str]:
        return [(each if isinstance(each, str) else each.url).removeprefix(root) for each in store.list_folder(prefix)]

    assert folder("") == ["v3-old", "v3.bin", "v3/", "v30/", "w"]
    assert folder("v3") == ["v3-old", "v3.bin", "v3/", "v30/"]
    assert folder("v3/") == ["v3/a", "v3/b/"]
    assert folder("none/") == []
    assert store.is_prefix("v3/b")
    assert not store.is_prefix("v4")
    store.delete_many(keys, store.transfer("", "delete"))
    assert keys_of(store) == []


# Filesystems


def test_shared(tmp_path: Path) -> None:
    """A client and its filesystem have one store; other paths go to the store of all paths."""
    of_file = LocalStorageClient({"root": str(tmp_path / "store")})
    of_memory = MemoryStorageClient({"bucket_name": "models"})
    for client, inside, outside in (
        (of_file, f"{tmp_path}/store/v3/a", f"{tmp_path}/storehouse/a"),
        (of_memory, "models/v3/a", "models2/a"),
    ):
        filesystem: Any = client.filesystem
        store, key = filesystem.place(inside)
        assert store is client.store
        assert key == "v3/a"
        assert store.url(key) == client.url("v3/a")
        other, key = filesystem.place(outside)
        assert other is not store
        assert other.url(key) == f"{store.url('').partition('://')[0]}://{outside}"
        copy = pickle.loads(pickle.dumps(filesystem))
        assert copy.place(inside)[0].url(copy.place(inside)[1]) == client.url("v3/a")


def test_own_memory() -> None:
    """A memory filesystem with a dictionary of its own writes there."""
    own = MemoryFileSystem(global_store=False, skip_instance_cache=True)
    own.pipe_file("/models/a", b"own")
    assert own.cat_file("/models/a") == b"own"
    assert not MemoryFileSystem().exists("/models/a")


def test_memory_data() -> None:
    """The argument `data` of fsspec's memory filesystem is the complete content."""
    filesystem = MemoryFileSystem(global_store=False, skip_instance_cache=True)
    filesystem.open("/models/a", "wb", data=b"content")
    assert filesystem.cat_file("/models/a") == b"content"


def test_file_attributes(tmp_path: Path) -> None:
    """A file that is open for writing has the attributes that other files of fsspec have, and then the stored object."""
    client = LocalStorageClient({"root": str(tmp_path)})
    with client.open("a", "wb") as file:
        file.write(b"content")
        assert (file.mode, file.fs, file.path) == ("wb", client.filesystem, client.url("a"))
        assert file.stored is None
    assert file.stored == Stored.of(client.info("a"))


def test_file_like_target(tmp_path: Path) -> None:
    """`get_file` writes to a file object, and a put of a folder makes the folder."""
    for client in (LocalStorageClient({"root": str(tmp_path / "store")}), MemoryStorageClient({"bucket_name": "like"})):
        filesystem: Any = client.filesystem
        with client.open("a", "wb") as file:
            file.write(CONTENT)
        path = client.url("a")
        target = io.BytesIO()
        filesystem.get_file(path, target)
        assert target.getvalue() == CONTENT
        filesystem.put_file(str(tmp_path), client.url("folder"))
        assert filesystem.isdir(client.url("folder"))
        filesystem.get_file(client.url("folder"), str(tmp_path / "made"))
        assert (tmp_path / "made").is_dir()
        filesystem.rm_file(path)
        assert not client.file_exists("a")


def test_source_changes(local: LocalStore, tmp_path: Path) -> None:
    """A local file that changes while it is uploaded is an error, and nothing is stored."""
    (tmp_path / "source").write_bytes(CONTENT)
    transfer = local.transfer("a", "upload")
    with open_source(str(tmp_path / "source"), transfer.details) as source:
        with (tmp_path / "source").open("ab") as file:
            file.write(b"x")
        with pytest.raises(StorageError) as caught:
            local.upload(UploadRequest("a", source, transfer))
    assert caught.value.remedy is Remedy.FINISH_WRITING
    assert not (tmp_path / "store").exists()


def test_permission_errors(tmp_path: Path) -> None:
    """A forbidden file or folder raises one class, which is a PermissionError and a StorageError."""
    source = tmp_path / "source"
    source.write_bytes(b"content")
    details = ErrorDetails("file", "file:///x", "upload")
    for action in ("read", "write"):
        with pytest.raises(AccessDeniedError) as raised, local_errors(action, str(source), details):
            raise PermissionError(13, "Permission denied", str(source))
        assert isinstance(raised.value, PermissionError)
        assert isinstance(raised.value, StorageError)
        assert "Permission denied" in str(raised.value)


def test_listing_is_lazy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing reads a folder when it comes to it, so it has one in memory; links to folders are left out."""
    for name in ("a.txt", "a/b", "a0", "c/d"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b").symlink_to("a")
    scandir, read = os.scandir, []

    def counted(path: str) -> Any:
        read.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counted)
    store = LocalStore(str(tmp_path))
    found = [(info.url, len(read)) for info in store.list()]
    assert found == [(store.url(key), number) for key, number in (("a.txt", 1), ("a/b", 2), ("a0", 2), ("c/d", 3))]
    read.clear()
    assert [info.url for info in store.list("a")] == [store.url(key) for key in ("a.txt", "a/b", "a0")]
    assert len(read) == 2
