"""How many parts are under way at a time."""

from __future__ import annotations

import threading
import time
from functools import partial
from statistics import median

import pytest

from gllm_storage import pace
from gllm_storage.background import Background
from gllm_storage.pace import Pace
from gllm_storage.parallel import Stop, TransferStopped, run_all
from tests.waiting import eventually

MIB = 2**20
PART = 8 * MIB
GIB = 2**30


class Clock:
    """Goes on only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    return clock


def go(pace: Pace, clock: Clock, parts: int, rates: dict[int, float]) -> list[int]:
    """Move so many parts, each round as fast as the network is with that many at a time; the widths there were."""
    widths = []
    for _ in range(parts):
        clock.now += PART / rates[pace.width]
        pace.moved(PART)
        widths.append(pace.width)
    return widths


def test_all_are_under_way_where_the_network_is_slow(clock: Clock) -> None:
    assert set(go(Pace(10, PART), clock, 200, {10: 500 * MIB})) == {10}


def test_fewer_are_under_way_where_they_bring_as_much(clock: Clock) -> None:
    widths = go(Pace(10, PART), clock, 60, {10: 2 * GIB, 5: 2.1 * GIB, 2: 2.2 * GIB})
    assert list(dict.fromkeys(widths)) == [10, 5, 2]
    assert widths[-1] == 2


def test_where_fewer_bring_less_there_are_as_many_as_before_from_then_on(clock: Clock) -> None:
    widths = go(Pace(10, PART), clock, 400, {10: 4 * GIB, 5: 2 * GIB})
    assert widths.count(5) == 10  # one round that brings what was begun, and one that counts
    assert set(widths[-300:]) == {10}


def test_all_are_under_way_again_where_the_network_has_become_slow(clock: Clock) -> None:
    pace = Pace(10, PART)
    go(pace, clock, 60, {10: 2 * GIB, 5: 2 * GIB, 2: 2 * GIB})
    assert go(pace, clock, 20, {2: 100 * MIB, 10: 500 * MIB})[-1] == 10


def test_who_begins_with_some_gets_all_where_these_are_slow(clock: Clock) -> None:
    pace = Pace(10, PART, first=4)
    assert pace.width == 4
    assert go(pace, clock, 20, {4: 200 * MIB, 10: 500 * MIB})[-1] == 10


def test_a_pause_says_nothing_of_the_network(clock: Clock) -> None:
    pace = Pace(10, PART)
    go(pace, clock, 60, {10: 2 * GIB, 5: 2 * GIB, 2: 2 * GIB})
    clock.now += 60
    pace.begin_anew()
    assert set(go(pace, clock, 20, {2: 2 * GIB})) == {2}


@pytest.mark.parametrize("most", [1, 2])
def test_so_few_stay_as_they_are(clock: Clock, most: int) -> None:
    assert set(go(Pace(most, PART), clock, 20, {most: 9 * GIB})) == {most}


def test_threads_that_are_too_many_rest_and_all_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "_FAST", 0.0)
    monkeypatch.setattr(pace, "_AS_MUCH", 0.0)
    lock, seen = threading.Lock(), dict[int, int]()
    running = 0

    def task(number: int) -> int:
        nonlocal running
        with lock:
            running += 1
            seen[number] = running
        time.sleep(0.002)
        with lock:
            running -= 1
        return number

    assert run_all([partial(task, number) for number in range(200)], 8, Stop(), PART) == list(range(200))
    assert max(seen.values()) > 2
    assert median(seen[number] for number in range(100, 200)) <= 2


def test_tasks_beside_their_caller_are_fewer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "_FAST", 0.0)
    monkeypatch.setattr(pace, "_AS_MUCH", 0.0)
    lock, seen = threading.Lock(), list[int]()
    running = 0

    def task() -> None:
        nonlocal running
        with lock:
            running += 1
            seen.append(running)
        time.sleep(0.002)
        with lock:
            running -= 1

    crew = Background(8, Stop(), lambda: None, PART)
    for _ in range(200):
        crew.start(task)
    crew.finish()
    assert max(seen) > 2
    assert median(seen[100:]) <= 2


def test_a_failure_ends_threads_that_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "_FAST", 0.0)
    monkeypatch.setattr(pace, "_AS_MUCH", 0.0)

    def task(number: int) -> None:
        time.sleep(0.001)
        if number == 150:
            raise OSError("150")

    with pytest.raises(OSError, match="150"):
        run_all([partial(task, number) for number in range(200)], 8, Stop(), PART)
    eventually(lambda: not [each for each in threading.enumerate() if each.name == "gllm-storage"])


def test_giving_up_ends_threads_that_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "_FAST", 0.0)
    monkeypatch.setattr(pace, "_AS_MUCH", 0.0)
    stop = Stop()

    def task(number: int) -> None:
        time.sleep(0.001)
        if number == 150:
            stop.set()

    with pytest.raises(TransferStopped):
        run_all([partial(task, number) for number in range(200)], 8, stop, PART)
    eventually(lambda: not [each for each in threading.enumerate() if each.name == "gllm-storage"])
