"""Objects that are open for reading, on a store in a dictionary: the content, the requests and the memory."""

from __future__ import annotations

import gc
import io
import os
import random
import signal
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from fsspec.caching import ReadAheadCache
from hypothesis import given, settings
from hypothesis import strategies as st

from gllm_storage.concurrency import budget as memory_budget
from gllm_storage.concurrency import width, workers
from gllm_storage.errors import ObjectNotFoundError, StorageError, StorageUnavailableError
from gllm_storage.filesystem import read_ahead, reading
from gllm_storage.settings import TransferSettings
from gllm_storage.store.retry import no_waits
from tests.shelf import KIB, MIB, Shelf, ShelfFileSystem, ShelfReader
from tests.threads import in_threads, read_in, switches_at_calls
from tests.waiting import eventually, main_waits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

NAME = "models/a"
PART = 256 * KIB
SETTINGS = TransferSettings(part_size=PART, max_concurrency=4, memory_limit=16 * MIB)


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Check after each test that its files left no thread running and no memory acquired."""
    before = set(threading.enumerate())
    yield
    gc.collect()
    eventually(lambda: not [each for each in threading.enumerate() if each not in before and "ahead" in each.name])
    eventually(lambda: memory_taken() == 0)


@pytest.fixture(autouse=True)
def _no_waits() -> Iterator[None]:
    with no_waits():
        yield


def memory_taken() -> int:
    return memory_budget.memory_budget().taken


def content_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def read_rest(file: Any, size: int, read: bytearray) -> None:
    while piece := file.read(size):
        read += piece


def shelf_of(content: bytes, transfer: TransferSettings = SETTINGS) -> tuple[Shelf, ShelfFileSystem]:
    shelf = Shelf(transfer, {NAME: content})
    return shelf, ShelfFileSystem(shelf)


# ---- content

SIZE = 3 * PART + 1234
LINES = b"".join(b"%d\n" % (number**3) for number in range(60_000))[:SIZE]
offsets = st.integers(-10, SIZE + 10)
lengths = st.one_of(st.integers(0, 300), st.integers(0, 2 * PART), st.just(-1))
operations = st.one_of(
    st.tuples(st.just("read"), lengths),
    st.tuples(st.just("readinto"), st.integers(0, 2 * PART)),
    st.tuples(st.just("readline"), st.one_of(st.just(-1), st.integers(0, 100))),
    st.tuples(st.just("seek"), offsets, st.integers(0, 3)),
    st.tuples(st.just("run"), st.integers(1, 50_000), st.integers(1, 12)),
    st.tuples(st.just("next")),
    st.tuples(st.just("tell")),
)


def outcome(file: Any, name: str, *arguments: int) -> object:
    if name == "readinto":
        target = bytearray(arguments[0])
        return file.readinto(target), bytes(target)
    if name == "run":
        size, times = arguments
        return [file.read(size) for _ in range(times)]
    if name == "next":
        return next(file, b"")
    try:
        return getattr(file, name)(*arguments)
    except ValueError:
        return ValueError


@settings(max_examples=120, deadline=None)
@given(
    st.lists(operations, max_size=25),
    st.sampled_from([None, 1000, 40_000, PART]),
    st.sampled_from([2 * PART, 6 * PART, 128 * MIB]),
)
def test_any_operations(todo: list[Any], block_size: int | None, memory_limit: int) -> None:
    """A file behaves like `io.BytesIO`, and stays within the memory limit."""
    _, filesystem = shelf_of(LINES, TransferSettings(part_size=PART, max_concurrency=3, memory_limit=memory_limit))
    expected = io.BytesIO(LINES)
    with filesystem.open(NAME, block_size=block_size) as file:
        for each in todo:
            if each[0] == "seek" and min(each[1], each[1] + expected.tell()) < 0 and each[2]:
                continue  # BytesIO stops at the start; the files of fsspec and of the operating system raise an error
            assert outcome(file, *each) == outcome(expected, *each), each
            assert file.tell() == expected.tell()
            assert memory_taken() <= memory_limit
    eventually(lambda: memory_taken() == 0)


def test_lines_and_text() -> None:
    """Lines and text are read as from any other file."""
    text = "".join(f"{number} zwölf\r\n" for number in range(5000))
    _, filesystem = shelf_of(text.encode())
    with filesystem.open(NAME) as file:
        assert list(file) == text.encode().splitlines(keepends=True)
    with filesystem.open(NAME) as file:
        assert file.readline(3) == b"0 z"
        assert file.readlines(20) == ["wölf\r\n".encode(), "1 zwölf\r\n".encode(), "2 zwölf\r\n".encode()]
        assert len(file.readlines()) == 4997
        assert file.readlines() == []
    with filesystem.open(NAME, "r", encoding="utf-8", newline="") as file:
        assert file.read() == text
    with filesystem.open(NAME) as file:
        assert file.readuntil(b"\r\n3") == b"0 zw\xc3\xb6lf\r\n1 zw\xc3\xb6lf\r\n2 zw\xc3\xb6lf\r\n3"
        behind = file.tell()
        assert file.readuntil(b"no such thing") == text.encode()[behind:]
    with filesystem.open(NAME) as file, io.BufferedReader(file) as buffered:
        assert buffered.readlines() == text.encode().splitlines(keepends=True)


def test_read_ahead_of_lines() -> None:
    """A loop over lines reads ahead in few requests."""
    shelf, filesystem = shelf_of(LINES)
    with filesystem.open(NAME) as file:
        assert b"".join(file) == LINES
    assert shelf.bytes_read <= 1.3 * len(LINES)
    assert len(shelf.reads) <= 12


def test_empty_object() -> None:
    """An empty object is read without a request."""
    shelf, filesystem = shelf_of(b"")
    with filesystem.open(NAME) as file:
        assert (file.read(), file.read(10), file.readline(), file.readinto(bytearray(3)), list(file)) == (
            b"",
            b"",
            b"",
            0,
            [],
        )
    assert shelf.reads == []


def test_buffers_of_readinto() -> None:
    """`readinto` accepts buffers of any kind."""
    import array

    content = content_of(1000)
    _, filesystem = shelf_of(content)
    target = array.array("I", [0] * 100)
    with filesystem.open(NAME) as file:
        assert file.readinto(target) == 400
        assert file.readinto1(memoryview(bytearray(10))[3:]) == 7
        assert file.tell() == 407
    assert target.tobytes() == content[:400]


def test_fsspec_attributes() -> None:
    """A file has the attributes of fsspec's files."""
    _, filesystem = shelf_of(b"abc")
    with filesystem.open(NAME) as file:
        assert (file.size, file.path, file.fs, file.mode, file.loc) == (3, NAME, filesystem, "rb", 0)
        assert (file.readable(), file.seekable(), file.writable(), file.closed) == (True, True, False, False)
        assert file.full_name == f"shelf://{NAME}"
        assert file.blocksize > 0
        assert file.cache.name == "parallel"
        assert file.cache._fetch(1, None) == b"bc"
        assert file.seek(0, 2) == 3
        assert file.flush() is None


def test_closed_file() -> None:
    """A closed file refuses every read."""
    _, filesystem = shelf_of(b"abc")
    file = filesystem.open(NAME)
    file.close()
    file.close()
    assert file.closed
    for call in (
        file.read,
        file.readline,
        file.tell,
        file.readlines,
        lambda: file.seek(0),
        lambda: file.readinto(bytearray(1)),
    ):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_refused_calls() -> None:
    """A file refuses writes, impossible positions and impossible block sizes."""
    _, filesystem = shelf_of(b"abc")
    with filesystem.open(NAME) as file:
        with pytest.raises(ValueError, match="start of file"):
            file.seek(-1)
        with pytest.raises(ValueError, match="start of file"):
            file.seek(-4, 2)
        with pytest.raises(ValueError, match="whence"):
            file.seek(0, 3)
        for call in (lambda: file.write(b"x"), file.truncate, file.fileno):
            with pytest.raises(io.UnsupportedOperation):
                call()
        with pytest.raises(TypeError):
            file.readinto(b"bytes")
        with pytest.raises(ValueError, match="-5"):
            filesystem.open(NAME, block_size=-5)
        assert file.seek(100) == 100
        assert file.read() == b""


@pytest.mark.parametrize("options", [{"cache_type": "readahead"}, {"cache_options": {}, "cache_type": "none"}], ids=str)
def test_fsspec_caches(options: dict[str, Any]) -> None:
    """The caller can choose one of fsspec's own caches."""
    content = content_of(500_000)
    shelf, filesystem = shelf_of(content)
    with filesystem.open(NAME, block_size=1000, **options) as file:
        assert isinstance(file.cache, ReadAheadCache) == (options["cache_type"] == "readahead")
        assert file.blocksize == 1000
        assert file.read(10) == content[:10]
        assert shelf.reads == [(0, 1010 if options["cache_type"] == "readahead" else 10)]
        assert file.read() == content[10:]
        shelf.objects[NAME] = b"another"
        file.seek(300)
        with pytest.raises(StorageUnavailableError, match="replaced"):
            file.read(10)


# ---- threads


def slow_shelf(content: bytes) -> tuple[Shelf, ShelfFileSystem]:
    shelf, filesystem = shelf_of(content)
    shelf.before_read = lambda _: time.sleep(0.002)
    return shelf, filesystem


@pytest.mark.parametrize("options", [{}, {"cache_type": "readahead"}, {"cache_type": "bytes"}], ids=str)
@pytest.mark.parametrize("method", ["read", "readinto", "readline", "next"])
def test_threads_seek(method: str, options: dict[str, Any]) -> None:
    """Threads that share a file, and seek before each read, get the bytes of their own positions."""
    _, filesystem = slow_shelf(LINES)
    with filesystem.open(NAME, block_size=20_000, **options) as file:

        def work(number: int) -> None:
            chance = random.Random(number)
            for _ in range(20):
                found, expected = read_in(file, method, chance.randrange(SIZE - 50_000), chance.choice([10, 50_000]), LINES)
                assert found == expected

        in_threads(8, work)


@pytest.mark.parametrize("method", ["read", "readline", "mixed"])
def test_threads_without_seek(method: str) -> None:
    """Threads that share a file and do not seek get each byte once."""
    content = LINES[:200_000]
    _, filesystem = slow_shelf(content)
    found: list[bytes] = []
    with filesystem.open(NAME, block_size=3000) as file:

        def work(number: int) -> None:
            reads_lines = method == "readline" or (method == "mixed" and number % 2)
            while piece := file.readline() if reads_lines else file.read(700):
                found.append(piece)

        in_threads(4, work)
    assert sum(map(len, found)) == len(content)
    assert sorted(b"".join(found)) == sorted(content)
    if method == "readline":
        assert sorted(found) == sorted(content.splitlines(keepends=True))


@pytest.mark.parametrize("method", ["read", "readinto", "readline"])
def test_threads_switched(method: str) -> None:
    """Threads that share a file get each line once, wherever the interpreter switches between them."""
    content = b"".join(b"%06d\n" % number for number in range(500))
    _, filesystem = shelf_of(content)
    found: list[bytes] = []

    def work() -> None:
        target = bytearray(7)
        while True:
            piece = bytes(target[: file.readinto(target)]) if method == "readinto" else getattr(file, method)(7)
            if not piece:
                return
            found.append(piece)

    with filesystem.open(NAME) as file, switches_at_calls(reading.__file__):
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(found) == content.splitlines(keepends=True)


def test_failed_read_among_threads() -> None:
    """A failed read moves the position back, unless another thread has moved it since."""
    shelf, filesystem = shelf_of(LINES)
    with filesystem.open(NAME) as file:

        def seek_and_fail(_: int) -> None:
            mover = threading.Thread(target=file.seek, args=(7,))
            mover.start()
            mover.join()
            raise StorageError("the disk of the store is on fire")

        for read in (lambda: file.read(PART), lambda: file.readinto(bytearray(PART)), file.readline):
            file.seek(PART)
            shelf.before_read = seek_and_fail
            with pytest.raises(StorageError, match="on fire"):
                read()
            assert file.tell() == 7
            file.seek(PART)
            fail_behind(shelf, 0)
            with pytest.raises(StorageError, match="on fire"):
                read()
            assert file.tell() == PART
        shelf.before_read = None
        assert file.read(10) == LINES[PART : PART + 10]


def test_seek_during_line() -> None:
    """A thread that seeks while another one reads a line neither waits for the line nor loses its position."""
    shelf, filesystem = shelf_of(LINES)
    shelf.held_up = threading.Event()
    lines: list[bytes] = []
    with filesystem.open(NAME) as file:
        reading = threading.Thread(target=lambda: lines.append(file.readline()))
        reading.start()
        eventually(lambda: shelf.under_way > 0)
        assert file.seek(SIZE - 5) == SIZE - 5
        assert file.tell() == SIZE - 5
        shelf.held_up.set()
        reading.join()
        assert lines == [b"0\n"]
        assert file.read() == LINES[-5:]


# ---- requests


@pytest.mark.parametrize("size", [10_000, 200_000, MIB])
def test_near_store(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that answers at once is read by one connection, in the thread that reads, and with little memory."""
    clock = SimpleNamespace(perf_counter=time.thread_time, thread_time=time.thread_time)
    monkeypatch.setattr(read_ahead, "time", clock)  # other processes on the machine must not look like a distant store
    monkeypatch.setattr(width, "time", clock)
    content = content_of(20 * MIB)
    shelf, filesystem = shelf_of(content, TransferSettings(part_size=MIB, max_concurrency=4))
    threads = set()
    shelf.before_read = lambda _: threads.add(threading.current_thread())
    with filesystem.open(NAME) as file:
        assert b"".join(iter(lambda: file.read(size), b"")) == content
        assert memory_taken() <= 5 * MIB
    assert shelf.bytes_read == len(content)
    assert len(shelf.reads) <= 12
    assert threads == {threading.main_thread()}


def test_distant_store() -> None:
    """Of a store that lets the reader wait, each byte is fetched once, and several blocks at a time."""
    content = content_of(20 * MIB)
    shelf, filesystem = shelf_of(content, TransferSettings(part_size=MIB, max_concurrency=4))
    shelf.delay = 0.001
    most = 0

    def watch(start: int) -> None:
        nonlocal most
        most = max(most, shelf.under_way)
        if start >= 10 * MIB:  # the blocks grow until then
            eventually(lambda: most >= 4)
        time.sleep(0.01)  # most likely long enough for one read too many to begin

    shelf.before_read = watch
    with filesystem.open(NAME) as file:
        assert b"".join(iter(lambda: file.read(200_000), b"")) == content
    assert shelf.heads == 1
    assert shelf.bytes_read == len(content)
    assert len(shelf.reads) <= 20 + 14
    assert most == 4


@pytest.mark.parametrize("asks", [True, False])
def test_buffer_is_free(asks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `readinto` nothing refers to the caller's buffer, which can be resized: threads that end late do not either."""
    end = workers._TaskQueue._end

    def late(queue: Any, worker: int) -> None:
        time.sleep(0.02)
        end(queue, worker)

    monkeypatch.setattr(workers._TaskQueue, "_end", late)
    content = content_of(4 * MIB)
    monkeypatch.setattr(ShelfReader, "asks_for_places", asks)
    _, filesystem = shelf_of(content)
    target = bytearray(MIB // 2)
    with filesystem.open(NAME) as file:
        for start in range(0, 4 * MIB, MIB // 2):
            assert file.readinto(target) == MIB // 2
            assert target == content[start : start + MIB // 2]
            target.append(0)
            target.pop()


@pytest.mark.parametrize("times", [1, 99])
def test_broken_stream(times: int) -> None:
    """An answer that ends in the middle is continued by another request, as often as the settings allow."""
    content = content_of(8 * MIB)
    shelf, filesystem = shelf_of(content, TransferSettings(part_size=MIB, max_attempts=3))
    shelf.breaks = [3 * MIB + 17] * times
    with filesystem.open(NAME) as file:
        read = bytearray()
        if times > 1:
            with pytest.raises(StorageUnavailableError, match="ended after"):
                read_rest(file, MIB // 2, read)
            assert file.tell() == len(read) == 3 * MIB
            assert len(shelf.breaks) == times - 4, "the first answer delivered bytes, three others none"
            shelf.breaks.clear()
        read_rest(file, MIB // 2, read)
    assert read == content


def test_slow_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a long pause, an answer is not used any more, and only the bytes of the read are requested."""
    content = content_of(12 * MIB)
    shelf, filesystem = shelf_of(content, TransferSettings(part_size=MIB, max_attempts=1))
    with filesystem.open(NAME) as file:
        read = bytearray(file.read(MIB) + file.read(MIB) + file.read(MIB))
        before = len(shelf.reads)
        monkeypatch.setattr("gllm_storage.filesystem.read_ahead._IDLE_SECONDS", -1.0)
        read += file.read(MIB) + file.read(MIB)
        assert shelf.reads[before:] == [(3 * MIB, MIB), (4 * MIB, MIB)]
        assert shelf.under_way == 0
        monkeypatch.undo()
        read_rest(file, MIB, read)
        assert len(shelf.reads) <= before + 6, "it reads ahead again"
        assert read == content


def test_interrupted_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that Ctrl-C interrupted between two pieces continues at its position, if it was not discarded."""
    content = content_of(8 * MIB)
    _, filesystem = shelf_of(content, TransferSettings(part_size=MIB))
    with filesystem.open(NAME) as file:
        for _ in range(3):
            file.read(MIB)
        stream = file._ahead.get()._runs[-1].stream
        start, receive = stream.position, stream._next_piece

        def interrupt() -> None:
            receive()
            raise KeyboardInterrupt

        monkeypatch.setattr(stream, "_next_piece", interrupt)
        target = bytearray(MIB)
        with pytest.raises(KeyboardInterrupt):
            stream.fill(memoryview(target))
        monkeypatch.undo()
        stream.fill(memoryview(target))
        assert target == content[start : start + MIB]


def test_read_of_dropped_run() -> None:
    """A read that makes the file drop its oldest run, and lies in a block of that run, fetches the bytes again."""
    content = content_of(20 * MIB)
    shelf, filesystem = shelf_of(content, TransferSettings(part_size=PART, max_concurrency=8))
    file = filesystem.open(NAME)
    ahead = file._ahead.get()
    ahead._width = SimpleNamespace(width=8, ended=lambda *_: None, observe=lambda *_: None)  # as of a distant store
    for start, times in ((0, 12), (8 * MIB, 6), (13 * MIB, 6), (17 * MIB, 6)):
        file.seek(start)
        for _ in range(times):
            file.read(PART)
    eventually(lambda: shelf.under_way == 0)
    start = 12 * PART + 2 * PART  # behind the first run
    assert ahead._block_at(start) is not None, "it was fetched ahead"
    file.seek(start)
    read: list[bytes] = []
    thread = threading.Thread(target=lambda: read.extend(file.read(100 * KIB) for _ in range(5)), daemon=True)
    thread.start()
    thread.join(10)
    hangs = thread.is_alive()
    for each in ahead._blocks:
        each.done.set()  # lets the thread end
    assert not hangs, "a read waits for a block that no thread fetches"
    assert b"".join(read) == content[start : start + 500 * KIB]
    file.close()


def test_read_ahead_limit() -> None:
    """A file never fetches more bytes ahead than were read in sequence."""
    content = content_of(20 * MIB)
    shelf, filesystem = shelf_of(content, TransferSettings(part_size=MIB))
    with filesystem.open(NAME) as file:
        for read in range(1, 60):
            file.read(150_000)
            assert shelf.bytes_read <= 2 * read * 150_000 + 128 * KIB


def test_first_two_reads() -> None:
    """The first two sequential reads fetch only the requested bytes."""
    shelf, filesystem = shelf_of(content_of(20 * MIB), TransferSettings())
    with filesystem.open(NAME) as file:
        file.seek(MIB)
        file.read(MIB)
        file.read(MIB)
        assert shelf.reads == [(MIB, MIB), (2 * MIB, MIB)]


@pytest.mark.parametrize("size", [64 * KIB, 100_000, MIB, 3 * MIB])
def test_random_reads(size: int) -> None:
    """Random reads fetch only the requested bytes."""
    content = content_of(16 * MIB)
    shelf, filesystem = shelf_of(content, TransferSettings())
    chance = random.Random(1)
    with filesystem.open(NAME) as file:
        for _ in range(50):
            offset = chance.randrange(len(content) - size)
            file.seek(offset)
            assert file.read(size) == content[offset : offset + size]
    assert shelf.bytes_read == 50 * size


def test_small_random_reads() -> None:
    """Small random reads fetch at most twice the requested bytes."""
    content = content_of(16 * MIB)
    shelf, filesystem = shelf_of(content, TransferSettings())
    chance = random.Random(1)
    with filesystem.open(NAME) as file:
        for _ in range(1000):
            offset = chance.randrange(len(content) - 4 * KIB)
            file.seek(offset)
            assert file.read(4 * KIB) == content[offset : offset + 4 * KIB]
        assert memory_taken() <= MIB
    assert shelf.bytes_read <= 1000 * 4 * KIB * 2


def read_member(file: Any, content: bytes, start: int, end: int) -> None:
    """Read a member of an archive as torch does: its end, its header, and its content behind a gap."""
    for first, size in ((end - 4096, 4096), (end - 22, 22), (start, 30), (start + 48, end - start - 1000)):
        file.seek(first)
        target = bytearray(size)
        assert file.readinto(target) == size
        assert target == content[first : first + size]


@pytest.mark.parametrize(
    ("order", "most_reads", "most_bytes"),
    [
        (range(40), 34, 1.05),
        ([0, 1, *range(10, 20), 2, *range(20, 30), 3, *range(30, 40), *range(4, 10)], 40, 1.05),
        (range(0, 40, 5), 25, 0.26),
    ],
    ids=["in order", "by name", "some"],
)
def test_archive(order: Sequence[int], most_reads: int, most_bytes: float) -> None:
    """The members of an archive are read with few requests, in their order or back and forth, and few bytes in vain."""
    size = 512 * KIB
    content = content_of(40 * size)
    shelf, filesystem = shelf_of(content, TransferSettings(part_size=MIB))
    with filesystem.open(NAME) as file:
        for number in order:
            read_member(file, content, number * size, (number + 1) * size)
    assert len(shelf.reads) <= most_reads
    assert shelf.bytes_read <= most_bytes * len(content)


def test_bounded_gaps() -> None:
    """Reads that skip as much as they read are not taken for a sequence."""
    content = content_of(16 * MIB)
    shelf, filesystem = shelf_of(content, TransferSettings())
    with filesystem.open(NAME) as file:
        for start in range(0, 16 * MIB, 128 * KIB):
            file.seek(start)
            assert file.read(70 * KIB) == content[start : start + 70 * KIB]
    assert shelf.bytes_read <= 1.1 * 128 * 70 * KIB


def test_header_and_footer() -> None:
    """Many tiny reads of a header and a footer cost few requests."""
    content = content_of(16 * MIB)
    shelf, filesystem = shelf_of(content, TransferSettings())
    chance = random.Random(1)
    with filesystem.open(NAME) as file:
        for start in (0, len(content) - 60 * KIB):
            for _ in range(300):
                offset = start + chance.randrange(59 * KIB)
                file.seek(offset)
                assert file.read(20) == content[offset : offset + 20]
    assert len(shelf.reads) <= 3
    assert shelf.bytes_read <= 3 * 128 * KIB


def test_complete_read() -> None:
    """A read of the complete object is split into parts."""
    content = content_of(5 * PART + 17)
    shelf, filesystem = shelf_of(content)
    with filesystem.open(NAME) as file:
        assert file.read() == content
    assert sorted(shelf.reads) == [*((number * PART, PART) for number in range(5)), (5 * PART, 17)]


def test_block_size() -> None:
    """A request fetches at most the explicit block size, unless a read asks for more."""
    content = content_of(5 * PART)
    shelf, filesystem = shelf_of(content)
    with filesystem.open(NAME, block_size=10_000) as file:
        assert file.read(10) == content[:10]
        assert shelf.reads == [(0, 10_000)]
        for position in range(10, 100_010, 1000):
            assert file.read(1000) == content[position : position + 1000]
        assert max(length for _, length in shelf.reads) == 10_000
        assert file.read() == content[100_010:]
        assert max(length for _, length in shelf.reads) == PART


# ---- memory


def test_full_budget() -> None:
    """A file is read completely when the memory budget is full."""
    content = content_of(4 * MIB)
    shelf, filesystem = shelf_of(content)
    budget = memory_budget.memory_budget()
    everything = SETTINGS.memory_limit - PART
    assert budget.try_hold(everything, SETTINGS.memory_limit, PART)
    with filesystem.open(NAME) as file:
        assert b"".join(iter(lambda: file.read(10_000), b"")) == content
        assert budget.taken == everything
    assert len(shelf.reads) <= 4 * MIB / (64 * KIB) + 1, "a buffer is left to each file"
    budget.let_go(everything)


def test_fifty_files() -> None:
    """Fifty files that are read at once stay within the memory limit."""
    content = content_of(MIB)
    transfer = TransferSettings(part_size=PART, memory_limit=4 * MIB)
    _, filesystem = shelf_of(content, transfer)
    files = [filesystem.open(NAME) for _ in range(50)]
    found = [bytearray() for _ in files]
    for _ in range(MIB // (32 * KIB)):
        for file, read in zip(files, found, strict=True):
            read.extend(file.read(32 * KIB))
            assert memory_taken() <= transfer.memory_limit
    assert all(read == content for read in found)
    for file in files:
        file.close()


def test_dropped_file() -> None:
    """A dropped file releases its memory at once."""
    shelf, filesystem = shelf_of(content_of(20 * MIB), TransferSettings(part_size=MIB))
    file = filesystem.open(NAME)
    for _ in range(40):
        file.read(100_000)
    assert memory_taken() > 0
    gc.disable()
    try:
        del file  # it is not part of a reference cycle
        eventually(lambda: memory_taken() == 0 and shelf.under_way == 0)
    finally:
        gc.enable()


def test_close_during_reads() -> None:
    """Closing a file ends its reads in flight."""
    shelf, filesystem = shelf_of(content_of(20 * MIB), TransferSettings(part_size=MIB))
    shelf.delay = 0.002

    def hold_up(_: int) -> None:
        if "ahead" in threading.current_thread().name:
            shelf.held_up = threading.Event()

    shelf.before_read = hold_up
    file = filesystem.open(NAME)
    while shelf.held_up is None:
        file.read(64 * KIB)
    assert shelf.under_way > 0
    file.close()
    eventually(lambda: shelf.under_way == 0 and memory_taken() == 0)


def test_close_of_stream() -> None:
    """Closing a file ends the answer from which it is read."""
    shelf, filesystem = shelf_of(content_of(20 * MIB), TransferSettings(part_size=MIB))
    file = filesystem.open(NAME)
    for _ in range(3):
        file.read(MIB)
    assert shelf.under_way == 1
    file.close()
    assert (shelf.under_way, memory_taken()) == (0, 0)


@pytest.mark.parametrize("size", [8 * KIB, 100_000])
def test_ended_stream(size: int) -> None:
    """A file that was read to its end holds at most its last block: its stream does not count any more."""
    content = content_of(300_000)
    shelf, filesystem = shelf_of(content, TransferSettings())
    with filesystem.open(NAME) as file:
        assert b"".join(iter(lambda: file.read(size), b"")) == content
        assert shelf.under_way == 0
        assert memory_taken() <= 300 * KIB


# ---- errors


def fail_behind(shelf: Shelf, offset: int) -> None:
    def fail(start: int) -> None:
        if start >= offset:
            raise StorageError("the disk of the store is on fire")

    shelf.before_read = fail


def test_error_ahead() -> None:
    """The read that reaches a failed block raises its error, and the next read tries again."""
    content = content_of(4 * MIB)
    shelf, filesystem = shelf_of(content)
    fail_behind(shelf, 2 * MIB)
    with filesystem.open(NAME) as file:
        read = bytearray()
        with pytest.raises(StorageError, match="on fire"):
            read_rest(file, 50_000, read)
        assert 1.5 * MIB < len(read) <= 2.3 * MIB
        assert file.tell() == len(read)
        shelf.before_read = None
        assert bytes(read) + file.read() == content


@pytest.mark.parametrize("size", [100, 50_000, MIB, -1])
def test_replaced_object(size: int) -> None:
    """A replaced object raises an error, and its versions are never mixed."""
    content = content_of(4 * MIB)
    shelf, filesystem = shelf_of(content)
    with filesystem.open(NAME) as file:
        read = bytearray().join(file.read(50_000) for _ in range(10))
        shelf.objects[NAME] = content_of(4 * MIB + 1)
        with pytest.raises(StorageUnavailableError, match="replaced") as caught:
            read_rest(file, size, read)
        assert caught.value.operation == "read"
        assert content.startswith(read)
        with pytest.raises(StorageUnavailableError, match="replaced"):
            file.read(size)


def test_deleted_object() -> None:
    """A deleted object raises ObjectNotFoundError."""
    shelf, filesystem = shelf_of(content_of(4 * MIB))
    with filesystem.open(NAME) as file:
        file.read(10)
        shelf.objects.clear()
        with pytest.raises(ObjectNotFoundError):
            file.read()


@pytest.mark.parametrize("size", [10_000, MIB, 4 * MIB])
def test_ctrl_c(size: int) -> None:
    """Ctrl-C ends all reads in flight, and the file can be read on from its position."""
    content = content_of(12 * MIB)
    shelf, filesystem = shelf_of(content)
    with filesystem.open(NAME) as file:
        read = bytearray(file.read(size) + file.read(size))
        eventually(lambda: shelf.under_way == 0)
        shelf.held_up = threading.Event()

        def interrupt() -> None:
            eventually(lambda: shelf.under_way > 0)
            time.sleep(0.1)  # most likely long enough for the reads beside it to begin
            eventually(main_waits)
            os.kill(os.getpid(), signal.SIGINT)

        interrupting = threading.Thread(target=interrupt)
        interrupting.start()
        with pytest.raises(KeyboardInterrupt):
            read_rest(file, size, read)
        interrupting.join()
        start = len(read)
        assert file.tell() == start
        eventually(lambda: shelf.under_way == 0 and memory_taken() == 0)
        shelf.held_up = None
        assert file.read(size) == content[start : start + size]
        assert file.read() == content[start + size :]


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Shelf, Callable[[], None]], None]]:
    """Lets a signal handler run before each piece of 64 KiB that the main thread receives from a shelf."""
    before, running = signal.getsignal(signal.SIGUSR1), False

    def set_handler(shelf: Shelf, handler: Callable[[], None]) -> None:
        def run(*_: object) -> None:
            nonlocal running
            running = True
            try:
                handler()
            finally:
                running = False

        def interrupt(_: float) -> None:
            if not running and threading.current_thread() is threading.main_thread():
                signal.raise_signal(signal.SIGUSR1)

        signal.signal(signal.SIGUSR1, run)
        monkeypatch.setattr("tests.shelf.time", SimpleNamespace(sleep=interrupt))
        shelf.delay = 1.0

    yield set_handler
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("size", [10_000, 300_000, 3 * MIB])
def test_handler_reads(size: int, handle: Callable[[Shelf, Callable[[], None]], None]) -> None:
    """A signal handler may read the file in the middle of a read: both receive their bytes."""
    content = content_of(8 * MIB)
    shelf, filesystem = shelf_of(content, TransferSettings(part_size=MIB, max_concurrency=2))
    chosen = random.Random(1)
    with filesystem.open(NAME) as file:

        def read_elsewhere() -> None:
            position = file.tell()
            for start in (max(0, position - size), chosen.randrange(len(content))):
                file.seek(start)
                length = chosen.choice([100, size])
                assert file.read(length) == content[start : start + length]
            file.seek(position)

        handle(shelf, read_elsewhere)
        read = bytearray()
        read_rest(file, size, read)
        assert read == content


def test_handler_closes(handle: Callable[[Shelf, Callable[[], None]], None]) -> None:
    """A signal handler may close the file in the middle of a read, which returns its bytes."""
    content = content_of(8 * MIB)
    shelf, filesystem = shelf_of(content, TransferSettings(part_size=MIB))
    file = filesystem.open(NAME)
    read = b"".join(file.read(MIB // 2) for _ in range(4))
    handle(shelf, file.close)
    read += file.read(MIB // 2)
    assert read == content[: len(read)]
    assert (shelf.under_way, memory_taken()) == (0, 0)


# ---- threads and processes


def test_threads() -> None:
    """Threads that read one file share its bytes among them."""
    content = b"".join(number.to_bytes(4, "big") for number in range(MIB))
    _, filesystem = shelf_of(content)
    found: list[bytes] = []
    with filesystem.open(NAME) as file:

        def read() -> None:
            while piece := file.read(40_000):
                found.append(piece)

        threads = [threading.Thread(target=read) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [*map(hash, sorted(found))] == [hash(content[at : at + 40_000]) for at in range(0, len(content), 40_000)]


@pytest.mark.parametrize("delay", [0.0, 0.01], ids=["near", "distant"])
def test_forked_child(delay: float) -> None:
    """A forked child and its parent both read on from the position of the parent."""
    content = content_of(8 * MIB)
    shelf, filesystem = shelf_of(content)
    shelf.delay = delay
    with filesystem.open(NAME) as file:
        for _ in range(20):
            file.read(50_000)
        eventually(lambda: shelf.under_way == (0 if delay else 1))
        shelf.delay = 0.0
        before = memory_taken()
        assert before > 0
        lock = file._ahead.get().lock
        with lock:  # as if another thread were in the middle of a read
            pid = os.fork()
            if pid == 0:
                ended = 1
                try:
                    assert file.tell() == 1_000_000
                    assert file.read(100) == content[1_000_000:1_000_100]
                    assert b"".join(iter(lambda: file.read(100_000), b"")) == content[1_000_100:]
                    file.close()
                    eventually(lambda: memory_taken() == 0)
                    ended = 0
                finally:
                    os._exit(ended)
        _, status = os.waitpid(pid, 0)
        assert status == 0
        assert (file.tell(), memory_taken()) == (1_000_000, before)
        assert file.read() == content[1_000_000:]
