"""How many parts are under way at a time."""

from __future__ import annotations

import math
import random
import threading
import time
from functools import partial
from statistics import median

import pytest

from gllm_storage.concurrency import pace
from gllm_storage.concurrency.pace import Pace
from gllm_storage.concurrency.stop import Stop, TransferStopped
from gllm_storage.concurrency.workers import Background, run_all
from tests.waiting import eventually

MIB = 2**20
PART = 8 * MIB
GIB = 2**30


class Fixed(Pace):
    """As many as there may be."""

    def moved(self, size: int) -> None:
        """Say nothing."""


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


def transfer(
    pace: Pace, clock: Clock, parts: int, *, of_each: float, of_all: float = math.inf, jitter: float = 0.3, seed: int = 0
) -> list[int]:
    """Move parts over connections that bring so many bytes a second, each and in all; the widths there were."""
    chance, widths = random.Random(seed), list[int]()
    waiting, under_way = parts, list[tuple[float, float]]()  # the bytes that are left of each, and its rate
    while waiting or under_way:
        while waiting and len(under_way) < pace.width:
            under_way.append((PART, of_each * chance.uniform(1 - jitter, 1 + jitter)))
            waiting -= 1
        share = min(1.0, of_all / sum(rate for _, rate in under_way))
        seconds = min(left / (rate * share) for left, rate in under_way)
        clock.now += seconds
        under_way = [(left - rate * share * seconds, rate) for left, rate in under_way]
        done = sum(left < 1 for left, _ in under_way)
        under_way = [each for each in under_way if each[0] >= 1]
        for _ in range(done):
            pace.moved(PART)
            widths.append(pace.width)
    return widths


@pytest.mark.parametrize("of_each", [50, 70])
def test_all_are_under_way_where_the_network_is_slow(clock: Clock, of_each: int) -> None:
    assert set(transfer(Pace(10, PART), clock, 300, of_each=of_each * MIB, jitter=0)) == {10}


def test_fewer_are_under_way_where_they_bring_as_much(clock: Clock) -> None:
    widths = transfer(Pace(10, PART), clock, 100, of_each=2 * GIB, of_all=2 * GIB)
    assert list(dict.fromkeys(widths)) == [10, 5, 2]
    assert widths.index(2) < 50


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("of_each", [90, 150, 200, 300, 500])
def test_where_each_connection_has_its_limit_they_take_hardly_longer_than_all_would(
    clock: Clock, of_each: int, seed: int
) -> None:
    transfer(Pace(10, PART), clock, 500, of_each=of_each * MIB, seed=seed)
    took, clock.now = clock.now, 0.0
    transfer(Fixed(10, PART), clock, 500, of_each=of_each * MIB, seed=seed)
    assert took < 1.1 * clock.now


def test_all_are_under_way_again_where_the_network_has_become_slow(clock: Clock) -> None:
    pace = Pace(10, PART)
    transfer(pace, clock, 100, of_each=2 * GIB, of_all=2 * GIB)
    assert pace.width == 2
    assert transfer(pace, clock, 20, of_each=80 * MIB)[-1] == 10


def test_a_pause_says_nothing_of_the_network(clock: Clock) -> None:
    pace = Pace(10, PART)
    transfer(pace, clock, 100, of_each=2 * GIB, of_all=2 * GIB)
    clock.now += 60
    pace.begin_anew()
    assert set(transfer(pace, clock, 20, of_each=2 * GIB, of_all=2 * GIB)) == {2}


def test_a_pause_in_a_trial_leaves_it_to_the_end(clock: Clock) -> None:
    pace = Pace(10, PART)
    while pace.width == 10:
        transfer(pace, clock, 1, of_each=2 * GIB)
    clock.now += 60
    pace.begin_anew()
    assert set(transfer(pace, clock, 50, of_each=300 * MIB)[-30:]) == {10}


@pytest.mark.parametrize("most", [1, 2])
def test_so_few_stay_as_they_are(clock: Clock, most: int) -> None:
    assert set(transfer(Pace(most, PART), clock, 20, of_each=9 * GIB)) == {most}


def test_threads_that_are_too_many_rest_and_all_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "_FAST", 0.0)
    monkeypatch.setattr(pace, "_ENOUGH", 0.0)
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
    monkeypatch.setattr(pace, "_ENOUGH", 0.0)
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
    monkeypatch.setattr(pace, "_ENOUGH", 0.0)

    def task(number: int) -> None:
        time.sleep(0.001)
        if number == 150:
            raise OSError("150")

    with pytest.raises(OSError, match="150"):
        run_all([partial(task, number) for number in range(200)], 8, Stop(), PART)
    eventually(lambda: not [each for each in threading.enumerate() if each.name == "gllm-storage"])


def test_giving_up_ends_threads_that_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "_FAST", 0.0)
    monkeypatch.setattr(pace, "_ENOUGH", 0.0)
    stop = Stop()

    def task(number: int) -> None:
        time.sleep(0.001)
        if number == 150:
            stop.set()

    with pytest.raises(TransferStopped):
        run_all([partial(task, number) for number in range(200)], 8, stop, PART)
    eventually(lambda: not [each for each in threading.enumerate() if each.name == "gllm-storage"])
