"""A file object whose content appears at its close, or never."""

from __future__ import annotations

import gc
import io
import os
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import LocalStorageClient, MemoryStorageClient
from gllm_storage.errors import StorageError
from gllm_storage.filesystem.writing import AtomicWriter
from gllm_storage.info import Stored

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Store:
    """Counts the published contents, and the discarded writes."""

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


def test_nothing_is_published_before_the_close(store: Store) -> None:
    writer = AtomicWriter(store.file())
    assert writer.write(b"some") == 4
    writer.flush()
    assert store.published == []
    assert getattr(writer, "stored", ()) is None
    writer.close()
    assert store.published == [b"some"]
    assert writer.stored == Stored("fake://a", 4)
    assert writer.closed


def test_a_block_publishes_at_its_end(store: Store) -> None:
    with AtomicWriter(store.file()) as writer:
        writer.write(b"some")
        writer.write(memoryview(b" bytes"))
    assert store.published == [b"some bytes"]


def test_an_empty_file_is_published_too(store: Store) -> None:
    AtomicWriter(store.file()).close()
    assert store.published == [b""]


def test_closing_again_does_nothing(store: Store) -> None:
    with AtomicWriter(store.file()) as writer:
        writer.close()
        writer.close()
    assert store.published == [b""]


@pytest.mark.parametrize("failure", [RuntimeError("x"), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_an_exception_discards(failure: BaseException, store: Store) -> None:
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


def test_a_dropped_writer_discards(store: Store) -> None:
    writer = AtomicWriter(store.file())
    writer.write(b"half")
    del writer
    gc.collect()
    assert store.published == []
    assert store.discarded == 1


def test_a_failure_to_publish_is_the_callers() -> None:
    failure = FileExistsError("somebody was faster")
    store = Store(failure)
    writer = AtomicWriter(store.file())
    with pytest.raises(FileExistsError) as caught:
        writer.close()
    assert caught.value is failure
    assert writer.closed
    writer.close()


def test_a_failure_to_publish_leaves_the_block() -> None:
    with pytest.raises(FileExistsError), AtomicWriter(Store(FileExistsError("x")).file()):
        pass


def test_what_was_written_can_be_changed_before_the_close(store: Store) -> None:
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


def test_text_can_be_written_through_it(store: Store) -> None:
    binary: Any = AtomicWriter(store.file())
    with io.TextIOWrapper(binary, encoding="utf-8") as text:
        text.write("größe")
    assert store.published == ["größe".encode()]


def test_writing_after_the_close_is_refused(store: Store) -> None:
    writer = AtomicWriter(store.file())
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.write(b"more")


def test_a_closed_writer_cannot_change_the_stored_object() -> None:
    client = MemoryStorageClient({"bucket_name": "writer"})
    file = client.open("a", "wb")
    file.write(b"whole")
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.write(b" and more")
    assert client.open("a").read() == b"whole"
    client.delete_file("a")


def test_a_forked_child_neither_publishes_nor_discards(store: Store) -> None:
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


def test_a_forked_child_that_drops_a_local_file_leaves_it_to_its_parent(tmp_path: Path) -> None:
    kept = [LocalStorageClient({"root": str(tmp_path)}).open("a", "wb")]
    kept[0].write(b"whole")

    def in_child() -> None:
        kept.clear()
        gc.collect()

    assert ends_well_in_child(in_child)
    kept[0].close()
    assert (tmp_path / "a").read_bytes() == b"whole"


def ends_well_in_child(work: Callable[[], None]) -> bool:
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0
