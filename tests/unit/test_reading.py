"""Objects that are open for reading, on a store that is a dictionary: what is read, and what it costs."""

from __future__ import annotations

import gc
import io
import os
import random
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from fsspec.caching import ReadAheadCache
from hypothesis import given, settings
from hypothesis import strategies as st

from gllm_storage.concurrency import budget as memory_budget
from gllm_storage.errors import ObjectNotFoundError, StorageError, StorageUnavailableError
from gllm_storage.settings import TransferSettings
from gllm_storage.store.retry import no_waits
from tests.shelf import KIB, MIB, Shelf, ShelfFileSystem
from tests.waiting import eventually, main_waits

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "models/a"
PART = 256 * KIB
SETTINGS = TransferSettings(part_size=PART, max_concurrency=4, memory_limit=16 * MIB)


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    """Whatever a test does: when its files are closed or dropped, no thread runs on, and no memory is taken."""
    before = set(threading.enumerate())
    yield
    gc.collect()
    eventually(lambda: not [each for each in threading.enumerate() if each not in before and "ahead" in each.name])
    eventually(lambda: taken() == 0)


@pytest.fixture(autouse=True)
def _no_waits() -> Iterator[None]:
    with no_waits():
        yield


def taken() -> int:
    return memory_budget.memory_budget().taken


def content_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def read_on(file: Any, size: int, read: bytearray) -> None:
    while piece := file.read(size):
        read += piece


def shelf_of(content: bytes, transfer: TransferSettings = SETTINGS) -> tuple[Shelf, ShelfFileSystem]:
    shelf = Shelf(transfer, {NAME: content})
    return shelf, ShelfFileSystem(shelf)


# ---- what is read

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


@settings(max_examples=300, deadline=None)
@given(
    st.lists(operations, max_size=25),
    st.sampled_from([None, 1000, 40_000, PART]),
    st.sampled_from([2 * PART, 6 * PART, 128 * MIB]),
)
def test_a_file_reads_as_one_in_memory(todo: list[Any], block_size: int | None, memory_limit: int) -> None:
    _, filesystem = shelf_of(LINES, TransferSettings(part_size=PART, max_concurrency=3, memory_limit=memory_limit))
    expected = io.BytesIO(LINES)
    with filesystem.open(NAME, block_size=block_size) as file:
        for each in todo:
            if each[0] == "seek" and min(each[1], each[1] + expected.tell()) < 0 and each[2]:
                continue  # BytesIO stops at the start, where fsspec's files, as those of the operating system, complain
            assert outcome(file, *each) == outcome(expected, *each), each
            assert file.tell() == expected.tell()
            assert taken() <= memory_limit
    eventually(lambda: taken() == 0)


def test_lines_and_text() -> None:
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


def test_lines_are_read_ahead_as_anything_is() -> None:
    shelf, filesystem = shelf_of(LINES)
    with filesystem.open(NAME) as file:
        assert b"".join(file) == LINES
    assert shelf.bytes_read <= 1.3 * len(LINES)
    assert len(shelf.reads) <= 12


def test_an_empty_object_is_read_without_a_request() -> None:
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


def test_readinto_takes_buffers_of_any_kind() -> None:
    import array  # noqa: PLC0415 - one test only

    content = content_of(1000)
    _, filesystem = shelf_of(content)
    target = array.array("I", [0] * 100)
    with filesystem.open(NAME) as file:
        assert file.readinto(target) == 400
        assert file.readinto1(memoryview(bytearray(10))[3:]) == 7
        assert file.tell() == 407
    assert target.tobytes() == content[:400]


def test_what_fsspecs_files_have_is_there() -> None:
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


def test_a_closed_file_says_so() -> None:
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


def test_what_a_file_cannot_do_it_refuses() -> None:
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
def test_fsspecs_own_caches_are_there_for_who_asks(options: dict[str, Any]) -> None:
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


# ---- what it costs


def test_a_sequential_read_fetches_each_byte_once_and_several_blocks_at_a_time() -> None:
    content = content_of(20 * MIB)
    shelf, filesystem = shelf_of(content, TransferSettings(part_size=MIB, max_concurrency=4))
    most = 0

    def look(start: int) -> None:
        nonlocal most
        most = max(most, shelf.under_way)
        if start >= 10 * MIB:  # they grow until then
            eventually(lambda: most >= 4)
        time.sleep(0.01)  # more would come by then, most likely

    shelf.before_read = look
    with filesystem.open(NAME) as file:
        assert b"".join(iter(lambda: file.read(200_000), b"")) == content
    assert shelf.heads == 1
    assert shelf.bytes_read == len(content)
    assert len(shelf.reads) <= 20 + 14
    assert most == 4


def test_what_is_fetched_ahead_is_never_more_than_what_was_read_in_turn() -> None:
    content = content_of(20 * MIB)
    shelf, filesystem = shelf_of(content, TransferSettings(part_size=MIB))
    with filesystem.open(NAME) as file:
        for read in range(1, 60):
            file.read(150_000)
            assert shelf.bytes_read <= 2 * read * 150_000 + 128 * KIB


def test_the_first_two_reads_in_turn_fetch_what_they_ask_for() -> None:
    shelf, filesystem = shelf_of(content_of(20 * MIB), TransferSettings())
    with filesystem.open(NAME) as file:
        file.seek(MIB)
        file.read(MIB)
        file.read(MIB)
        assert shelf.reads == [(MIB, MIB), (2 * MIB, MIB)]


@pytest.mark.parametrize("size", [64 * KIB, 100_000, MIB, 3 * MIB])
def test_random_reads_fetch_what_they_ask_for(size: int) -> None:
    content = content_of(16 * MIB)
    shelf, filesystem = shelf_of(content, TransferSettings())
    chance = random.Random(1)
    with filesystem.open(NAME) as file:
        for _ in range(50):
            offset = chance.randrange(len(content) - size)
            file.seek(offset)
            assert file.read(size) == content[offset : offset + size]
    assert shelf.bytes_read == 50 * size


def test_small_random_reads_are_soon_left_as_they_are() -> None:
    content = content_of(16 * MIB)
    shelf, filesystem = shelf_of(content, TransferSettings())
    chance = random.Random(1)
    with filesystem.open(NAME) as file:
        for _ in range(1000):
            offset = chance.randrange(len(content) - 4 * KIB)
            file.seek(offset)
            assert file.read(4 * KIB) == content[offset : offset + 4 * KIB]
        assert taken() <= MIB
    assert shelf.bytes_read <= 1000 * 4 * KIB * 2


def test_many_tiny_reads_of_a_header_and_a_footer_cost_few_requests() -> None:
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


def test_a_read_of_everything_goes_in_parts_side_by_side() -> None:
    content = content_of(5 * PART + 17)
    shelf, filesystem = shelf_of(content)
    with filesystem.open(NAME) as file:
        assert file.read() == content
    assert sorted(shelf.reads) == [*((number * PART, PART) for number in range(5)), (5 * PART, 17)]


def test_an_explicit_block_size_is_the_most_that_one_request_fetches_beyond_what_was_asked_for() -> None:
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


def test_without_room_in_the_memory_all_is_read_nevertheless() -> None:
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


def test_fifty_files_that_are_read_at_once_stay_within_the_limit() -> None:
    content = content_of(MIB)
    transfer = TransferSettings(part_size=PART, memory_limit=4 * MIB)
    _, filesystem = shelf_of(content, transfer)
    files = [filesystem.open(NAME) for _ in range(50)]
    found = [bytearray() for _ in files]
    for _ in range(MIB // (32 * KIB)):
        for file, read in zip(files, found, strict=True):
            read.extend(file.read(32 * KIB))
            assert taken() <= transfer.memory_limit
    assert all(read == content for read in found)
    for file in files:
        file.close()


def test_a_file_that_is_dropped_gives_back_what_it_held() -> None:
    shelf, filesystem = shelf_of(content_of(20 * MIB), TransferSettings(part_size=MIB))
    file = filesystem.open(NAME)
    for _ in range(40):
        file.read(100_000)
    assert taken() > 0
    gc.disable()
    try:
        del file  # nothing refers to it in a circle
        eventually(lambda: taken() == 0 and shelf.under_way == 0)
    finally:
        gc.enable()


def test_closing_ends_what_is_on_its_way() -> None:
    shelf, filesystem = shelf_of(content_of(20 * MIB), TransferSettings(part_size=MIB))
    file = filesystem.open(NAME)
    for _ in range(3):
        file.read(MIB)
    eventually(lambda: shelf.under_way == 0)
    shelf.held_up = threading.Event()
    file.read(MIB)
    eventually(lambda: shelf.under_way > 0)
    file.close()
    eventually(lambda: shelf.under_way == 0 and taken() == 0)


# ---- what goes wrong


def fail_behind(shelf: Shelf, offset: int) -> None:
    def fail(start: int) -> None:
        if start >= offset:
            raise StorageError("the disk of the store is on fire")

    shelf.before_read = fail


def test_an_error_ahead_is_raised_by_the_read_that_comes_to_it_and_is_then_over() -> None:
    content = content_of(4 * MIB)
    shelf, filesystem = shelf_of(content)
    fail_behind(shelf, 2 * MIB)
    with filesystem.open(NAME) as file:
        read = bytearray()
        with pytest.raises(StorageError, match="on fire"):
            read_on(file, 50_000, read)
        assert 1.5 * MIB < len(read) <= 2.3 * MIB
        assert file.tell() == len(read)
        shelf.before_read = None
        assert bytes(read) + file.read() == content


@pytest.mark.parametrize("size", [100, 50_000, MIB, -1])
def test_an_object_that_is_replaced_is_an_error_and_never_a_mix(size: int) -> None:
    content = content_of(4 * MIB)
    shelf, filesystem = shelf_of(content)
    with filesystem.open(NAME) as file:
        read = bytearray().join(file.read(50_000) for _ in range(10))
        shelf.objects[NAME] = content_of(4 * MIB + 1)
        with pytest.raises(StorageUnavailableError, match="replaced") as caught:
            read_on(file, size, read)
        assert caught.value.operation == "read"
        assert content.startswith(read)
        with pytest.raises(StorageUnavailableError, match="replaced"):
            file.read(size)


def test_an_object_that_is_deleted_is_not_found() -> None:
    shelf, filesystem = shelf_of(content_of(4 * MIB))
    with filesystem.open(NAME) as file:
        file.read(10)
        shelf.objects.clear()
        with pytest.raises(ObjectNotFoundError):
            file.read()


@pytest.mark.parametrize("size", [10_000, MIB, 4 * MIB])
def test_after_ctrl_c_nothing_runs_on_and_the_file_reads_on_where_it_was(size: int) -> None:
    content = content_of(12 * MIB)
    shelf, filesystem = shelf_of(content)
    with filesystem.open(NAME) as file:
        read = bytearray(file.read(size) + file.read(size))
        eventually(lambda: shelf.under_way == 0)
        shelf.held_up = threading.Event()

        def interrupt() -> None:
            eventually(lambda: shelf.under_way > 0)
            time.sleep(0.1)  # what is begun beside it is begun by then, most likely
            eventually(main_waits)
            os.kill(os.getpid(), signal.SIGINT)

        interrupting = threading.Thread(target=interrupt)
        interrupting.start()
        with pytest.raises(KeyboardInterrupt):
            read_on(file, size, read)
        interrupting.join()
        start = len(read)
        assert file.tell() == start
        eventually(lambda: shelf.under_way == 0 and taken() == 0)
        shelf.held_up = None
        assert file.read(size) == content[start : start + size]
        assert file.read() == content[start + size :]


# ---- threads and processes


def test_threads_that_read_one_file_share_its_bytes_among_them() -> None:
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
    assert b"".join(sorted(found)) == content


def test_a_forked_child_reads_on_where_the_parent_was_and_so_does_the_parent() -> None:
    content = content_of(8 * MIB)
    shelf, filesystem = shelf_of(content)
    with filesystem.open(NAME) as file:
        for _ in range(20):
            file.read(50_000)
        eventually(lambda: shelf.under_way == 0)
        before = taken()
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
                    eventually(lambda: taken() == 0)
                    ended = 0
                finally:
                    os._exit(ended)
        _, status = os.waitpid(pid, 0)
        assert status == 0
        assert (file.tell(), taken()) == (1_000_000, before)
        assert file.read() == content[1_000_000:]
