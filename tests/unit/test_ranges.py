"""Byte ranges of objects: `cat_ranges`, and `cat_file` with a start and an end."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gllm_storage.errors import ObjectNotFoundError, StorageError, StorageUnavailableError
from gllm_storage.settings import TransferSettings
from gllm_storage.store.ranges import coalesced
from gllm_storage.store.retry import no_waits
from tests.shelf import KIB, Shelf, ShelfFileSystem
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

PART = 256 * KIB
SETTINGS = TransferSettings(part_size=PART, max_concurrency=4)


@pytest.fixture(autouse=True)
def _no_waits() -> Iterator[None]:
    with no_waits():
        yield


def content_of(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def shelf_of(*sizes: int, transfer: TransferSettings = SETTINGS) -> tuple[Shelf, ShelfFileSystem]:
    """Return a store with objects ``b/0``, ``b/1``, …."""
    shelf = Shelf(transfer, {f"b/{number}": content_of(size, number) for number, size in enumerate(sizes)})
    return shelf, ShelfFileSystem(shelf)


# ---- ranges that one request fetches together

ranges = st.tuples(st.integers(0, 5000), st.integers(1, 2000)).map(lambda each: (each[0], each[0] + each[1]))


@given(st.lists(ranges, max_size=30), st.integers(0, 500), st.integers(1, 4000))
def test_any_spans(wanted: list[tuple[int, int]], max_gap: int, max_size: int) -> None:
    """Spans contain all ranges, no gap above `max_gap`, and no more than `max_size` together."""
    spans = coalesced(wanted, max_gap, max_size)
    assert sorted(number for span in spans for number, _, _ in span.parts) == list(range(len(wanted)))
    for span in spans:
        assert {(start, end) for number, start, end in span.parts} == {wanted[number] for number, _, _ in span.parts}
        assert span.start == min(start for _, start, _ in span.parts)
        assert span.end == max(end for _, _, end in span.parts)
        assert span.end - span.start <= max(max_size, *(end - start for _, start, end in span.parts))
        covered = span.start
        for _, start, end in span.parts:
            assert start <= covered + max_gap
            covered = max(covered, end)


def test_spans_of_neighbours() -> None:
    """Neighbouring ranges share a span, and other ranges do not."""
    assert [(span.start, span.end) for span in coalesced([(0, 10), (20, 30), (41, 50), (5, 8)], 10, 100)] == [
        (0, 30),
        (41, 50),
    ]
    assert [(span.start, span.end) for span in coalesced([(0, 60), (60, 100), (100, 101)], 10, 100)] == [
        (0, 100),
        (100, 101),
    ]
    assert [(span.start, span.end) for span in coalesced([(0, 500), (10, 20)], 10, 100)] == [(0, 500)]


# ---- cat_ranges

SIZES = [0, 1, 1000, 3 * PART + 17]
bounds = st.one_of(st.none(), st.integers(-PART, PART), st.integers(-4 * PART, 4 * PART))
slices = st.tuples(st.integers(0, len(SIZES) - 1), bounds, bounds)


@settings(max_examples=80, deadline=None)
@given(st.lists(slices, max_size=20), st.sampled_from([None, 0, 10, PART]), st.sampled_from([None, 1, 3, -1]))
def test_any_ranges(todo: list[Any], max_gap: int | None, batch_size: int | None) -> None:
    """Ranges return the same bytes as slices of bytes."""
    shelf, filesystem = shelf_of(*SIZES)
    paths = [f"b/{number}" for number, _, _ in todo]
    found = filesystem.cat_ranges(
        paths, [start for _, start, _ in todo], [end for _, _, end in todo], max_gap=max_gap, batch_size=batch_size
    )
    assert found == [shelf.objects[path][start:end] for path, (_, start, end) in zip(paths, todo, strict=True)]


def test_one_start_and_end() -> None:
    """One start and one end apply to all paths."""
    shelf, filesystem = shelf_of(1000, 2000, 3000)
    paths = ["b/2", "b/0", "b/2", "b/1"]
    assert filesystem.cat_ranges(paths, -10, None) == [shelf.objects[path][-10:] for path in paths]
    assert filesystem.cat_ranges(paths, 5, 8) == [shelf.objects[path][5:8] for path in paths]
    assert filesystem.cat_ranges(["shelf://b/0"], [0], [1]) == [shelf.objects["b/0"][:1]]
    assert filesystem.cat_ranges([], [], []) == []


def test_reads_of_neighbours() -> None:
    """Neighbouring ranges of an object are one read, unless `max_gap` is 0."""
    shelf, filesystem = shelf_of(10 * PART, 10 * PART)
    starts = [number * 10 * KIB for number in range(20)]
    paths = [f"b/{number}" for _ in starts for number in (0, 1)]
    both = [start for start in starts for _ in (0, 1)]
    filesystem.cat_ranges(paths, both, [start + 100 for start in both])
    assert sorted(shelf.reads) == [(0, 190 * KIB + 100)] * 2
    shelf.reads.clear()
    filesystem.cat_ranges(paths, both, [start + 100 for start in both], max_gap=0)
    assert len(shelf.reads) == 40


def test_large_range() -> None:
    """A large range is read in concurrent parts."""
    shelf, filesystem = shelf_of(10 * PART)
    most = 0

    def watch(_: int) -> None:
        nonlocal most
        most = max(most, shelf.under_way)
        eventually(lambda: most >= SETTINGS.max_concurrency)
        time.sleep(0.1)  # most likely long enough for one read too many to begin

    shelf.before_read = watch
    assert filesystem.cat_ranges(["b/0"], 10, 8 * PART) == [shelf.objects["b/0"][10 : 8 * PART]]
    assert max(length for _, length in shelf.reads) == PART
    assert most == SETTINGS.max_concurrency
    assert filesystem.cat_file("b/0", 10, 8 * PART) == shelf.objects["b/0"][10 : 8 * PART]


def test_unreadable_range() -> None:
    """The error of a range is returned in its place, or raised with `on_error="raise"`."""
    shelf, filesystem = shelf_of(1000)
    paths = ["b/0", "b/none", "b/0", "no-key"]
    first, missing, last, no_key = filesystem.cat_ranges(paths, 0, 10)
    assert first == last == shelf.objects["b/0"][:10]
    assert isinstance(missing, ObjectNotFoundError)
    assert isinstance(no_key, ValueError)
    with pytest.raises(ObjectNotFoundError):
        filesystem.cat_ranges(paths, 0, 10, on_error="raise")


def test_contradictory_arguments() -> None:
    """Contradictory arguments are refused."""
    _, filesystem = shelf_of(1000)
    with pytest.raises(ValueError, match="2 paths, 1 starts"):
        filesystem.cat_ranges(["b/0", "b/0"], [0], [1, 2])
    with pytest.raises(ValueError, match="2 paths, 2 starts and 3 ends"):
        filesystem.cat_ranges(["b/0", "b/0"], [0, 0], [1, 2, 3])
    with pytest.raises(TypeError, match="must be a list"):
        filesystem.cat_ranges("b/0", 0, 1)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ValueError, match="max_gap"):
        filesystem.cat_ranges(["b/0"], 0, 1, max_gap=-1)


def test_failed_object() -> None:
    """The error of one range is the error of all ranges of its object, and of no other object."""
    shelf, filesystem = shelf_of(10 * PART, 1000)

    def fail(start: int) -> None:
        if start >= 5 * PART:
            raise StorageError("the disk of the store is on fire")

    shelf.before_read = fail
    found = filesystem.cat_ranges(["b/0", "b/0", "b/1"], [0, 6 * PART, 0], [10, 6 * PART + 10, 10])
    assert [type(each) for each in found] == [StorageError, StorageError, bytes]


def test_replaced_object() -> None:
    """All ranges of an object come from one version."""
    shelf, filesystem = shelf_of(10 * PART)
    another = content_of(10 * PART, 1)

    def replace_it(start: int) -> None:
        if start >= 5 * PART:
            shelf.objects["b/0"] = another

    shelf.before_read = replace_it
    starts = [number * PART for number in range(10)]
    found = filesystem.cat_ranges(["b/0"] * 10, starts, [start + 10 for start in starts])
    assert found == [another[start : start + 10] for start in starts]


def test_endless_replacement() -> None:
    """An object that is replaced again and again is an error, and other objects are read."""
    shelf, filesystem = shelf_of(10 * PART, 10)
    seeds = iter(range(1, 10_000))

    def replace_it(_: int) -> None:
        shelf.objects["b/0"] = content_of(1000, next(seeds))

    shelf.before_read = replace_it
    replaced, other = filesystem.cat_ranges(["b/0", "b/1"], [0, 0], [10, 10])
    assert isinstance(replaced, StorageUnavailableError)
    assert other == shelf.objects["b/1"]


def test_cancellation() -> None:
    """Ranges can be awaited and cancelled."""
    shelf, filesystem = shelf_of(10 * PART)
    shelf.held_up, begun = threading.Event(), threading.Event()
    shelf.before_read = lambda _: begun.set()

    async def run() -> None:
        reading = asyncio.ensure_future(filesystem._cat_ranges(["b/0"] * 2, [0, 5 * PART], [10, 5 * PART + 10]))
        await asyncio.get_running_loop().run_in_executor(None, begun.wait)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert shelf.under_way == 0
        shelf.held_up = None
        assert await filesystem._cat_ranges(["b/0"], 0, 3) == [shelf.objects["b/0"][:3]]

    asyncio.run(run())


def test_many_objects() -> None:
    """Many objects are read concurrently, up to the limit."""
    shelf, filesystem = shelf_of(*[1000] * 50, transfer=replace(SETTINGS, max_concurrency=3))
    most = 0

    def watch(_: int) -> None:
        nonlocal most
        most = max(most, shelf.under_way)
        eventually(lambda: most >= 3)
        time.sleep(0.005)  # most likely long enough for one read too many to begin

    shelf.before_read = watch
    paths = [f"b/{number}" for number in range(50)]
    assert filesystem.cat_ranges(paths, 1, 4) == [shelf.objects[path][1:4] for path in paths]
    assert most == 3
    assert len(shelf.reads) == 50
