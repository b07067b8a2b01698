"""A file object that publishes its content at the close, or never."""

from __future__ import annotations

import gc
import io
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

import gllm_storage.local.store
from gllm_storage import LocalStorageClient, MemoryStorageClient
from gllm_storage.errors import StorageError
from gllm_storage.files import spool
from gllm_storage.filesystem.writing import AtomicWriter
from gllm_storage.info import Stored
from gllm_storage.settings import TransferSettings
from tests.shelf import Shelf, ShelfFileSystem
from tests.threads import in_threads, switches_at_calls

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Store:
    """A store that records the published contents, and counts the discarded writes."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.published: list[bytes] = []
        self.discarded = 0

    def file(self) -> Writer:
        return Writer(self)


class Writer(io.BytesIO):
    """An `ObjectWriter` in memory."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    def commit(self) -> Stored:
        if self._store.failure:
            raise self._store.failure
        self._store.published.append(self.getvalue())
        return Stored("fake://a", len(self.getvalue()))

    def discard(self) -> None:
        self._store.discarded += 1


@pytest.fixture
def store() -> Store:
    return Store()


def test_close(store: Store) -> None:
    """The content is published at the close, and not before."""
    writer = AtomicWriter(store.file())
    assert writer.write(b"some") == 4
    writer.flush()
    assert store.published == []
    assert getattr(writer, "stored", ()) is None
    writer.close()
    assert store.published == [b"some"]
    assert writer.stored == Stored("fake://a", 4)
    assert writer.closed


def test_end_of_a_block(store: Store) -> None:
    """The content is published at the end of a block."""
    with AtomicWriter(store.file()) as writer:
        writer.write(b"some")
        writer.write(memoryview(b" bytes"))
    assert store.published == [b"some bytes"]


def test_empty_file(store: Store) -> None:
    """An empty file is published too."""
    AtomicWriter(store.file()).close()
    assert store.published == [b""]


def test_second_close(store: Store) -> None:
    """A second close does nothing."""
    with AtomicWriter(store.file()) as writer:
        writer.close()
        writer.close()
    assert store.published == [b""]


@pytest.mark.parametrize("failure", [RuntimeError("x"), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_exception_in_a_block(failure: BaseException, store: Store) -> None:
    """An exception inside the block discards the content."""
    writer = AtomicWriter(store.file())

    def fail_halfway() -> None:
        with writer:
            writer.write(b"half")
            raise failure

    with pytest.raises(type(failure)) as caught:
        fail_halfway()
    assert caught.value is failure
    assert store.published == []
    assert store.discarded == 1
    assert writer.closed
    writer.close()
    assert store.published == []


def test_dropped_writer(store: Store) -> None:
    """A dropped writer discards its content."""
    writer = AtomicWriter(store.file())
    writer.write(b"half")
    del writer
    gc.collect()
    assert store.published == []
    assert store.discarded == 1


def test_failed_commit() -> None:
    """The caller of `close` gets the error of a failed commit."""
    failure = FileExistsError("somebody was faster")
    store = Store(failure)
    writer = AtomicWriter(store.file())
    with pytest.raises(FileExistsError) as caught:
        writer.close()
    assert caught.value is failure
    assert writer.closed
    writer.close()


def test_failed_commit_of_a_block() -> None:
    """The end of a block raises the error of a failed commit."""
    with pytest.raises(FileExistsError), AtomicWriter(Store(FileExistsError("x")).file()):
        pass


def test_seek(store: Store) -> None:
    """Written content can be changed before the close."""
    with AtomicWriter(store.file()) as writer:
        assert writer.writable()
        assert writer.seekable()
        assert not writer.readable()
        writer.write(b"0123456789")
        assert writer.tell() == 10
        assert writer.seek(2) == 2
        writer.write(b"xx")
        assert writer.seek(0, io.SEEK_END) == 10
    assert store.published == [b"01xx456789"]


def test_text(store: Store) -> None:
    """A text wrapper can write through the file."""
    binary: Any = AtomicWriter(store.file())
    with io.TextIOWrapper(binary, encoding="utf-8") as text:
        text.write("größe")
    assert store.published == ["größe".encode()]


def test_write_after_close(store: Store) -> None:
    """A write after the close is refused."""
    writer = AtomicWriter(store.file())
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.write(b"more")


def test_stored_object() -> None:
    """A closed file cannot change the stored object."""
    client = MemoryStorageClient({"bucket_name": "writer"})
    file = client.open("a", "wb")
    file.write(b"whole")
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.write(b" and more")
    assert client.open("a").read() == b"whole"
    client.delete_file("a")


def test_forked_child(store: Store) -> None:
    """A forked child neither publishes nor discards its parent's content."""
    writer = AtomicWriter(store.file(), "fake://a")
    writer.write(b"whole")

    def in_child() -> None:
        with pytest.raises(StorageError, match="was forked"):
            writer.write(b"x")
        with pytest.raises(StorageError, match="was forked"):
            writer.close()
        writer.discard()
        with pytest.raises(ZeroDivisionError), writer:
            raise ZeroDivisionError
        writer.drop()
        assert store.discarded == 0

    assert ends_well_in_child(in_child)
    writer.close()
    assert store.published == [b"whole"]


def test_local_file_in_a_child(tmp_path: Path) -> None:
    """A forked child that drops a local file leaves it to its parent."""
    kept = [LocalStorageClient({"root": str(tmp_path)}).open("a", "wb")]
    kept[0].write(b"whole")

    def in_child() -> None:
        kept.clear()
        gc.collect()

    assert ends_well_in_child(in_child)
    kept[0].close()
    assert (tmp_path / "a").read_bytes() == b"whole"


def ends_well_in_child(work: Callable[[], None]) -> bool:
    """Return whether a function ends without an exception in a forked child."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("seeks", [True, False], ids=["seek", "append"])
@pytest.mark.parametrize("scheme", ["file", "memory", "spool"])
def test_threads_share_writer(scheme: str, seeks: bool, tmp_path: Path) -> None:
    """Threads that share a file that is open for writing lose no bytes, and write where they have sought."""
    shelf = Shelf(TransferSettings(part_size=2**18, multipart_threshold=2**18, memory_limit=2**20))
    filesystem: Any = ShelfFileSystem(shelf)
    if scheme == "file":
        filesystem = LocalStorageClient({"root": str(tmp_path)}).filesystem
    elif scheme == "memory":
        filesystem = MemoryStorageClient({"bucket_name": "writer"}).filesystem
    path = str(tmp_path / "a") if scheme == "file" else "threads/a"
    size, pieces = 30_000, 10
    with filesystem.open(path, "wb") as file:

        def work(number: int) -> None:
            for piece in range(pieces):
                if seeks:
                    file.seek((number * pieces + piece) * size)
                file.write(bytes([number]) * size)

        in_threads(8, work)
    found = filesystem.cat_file(path)
    assert len(found) == 8 * pieces * size
    written = [found[start : start + size] for start in range(0, len(found), size)]
    assert (written if seeks else sorted(written)) == [bytes([number]) * size for number in range(8) for _ in range(pieces)]


@pytest.mark.parametrize("scheme", ["file", "spool"])
def test_threads_switched(scheme: str, tmp_path: Path) -> None:
    """Threads that share a file lose no bytes, wherever the interpreter switches between them."""
    local = scheme == "file"
    shelf = Shelf(TransferSettings(part_size=2**18, multipart_threshold=2**18, memory_limit=2**20))
    filesystem: Any = LocalStorageClient({"root": str(tmp_path)}).filesystem if local else ShelfFileSystem(shelf)
    path = str(tmp_path / "a") if local else "threads/a"
    source = gllm_storage.local.store.__file__ if local else spool.__file__
    with filesystem.open(path, "wb") as file, switches_at_calls(source):

        def work(number: int) -> None:
            for _ in range(300):
                file.write(b"%06d\n" % number)

        threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = filesystem.cat_file(path).splitlines(keepends=True)
    assert sorted(lines) == [b"%06d\n" % number for number in range(4) for _ in range(300)]
