"""The number of parts that are in flight at a time."""

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
    """A pace that always allows the most parts."""

    def moved(self, size: int) -> None:
        """Ignore the measurement."""


class Clock:
    """A clock that only the simulation advances."""

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
    """Simulate parts with these bytes per second for each connection and in total; return the width after each part."""
    chance, widths = random.Random(seed), list[int]()
    waiting, in_flight = parts, list[tuple[float, float]]()  # of each part: the bytes left, and its rate
    while waiting or in_flight:
        while waiting and len(in_flight) < pace.width:
            in_flight.append((PART, of_each * chance.uniform(1 - jitter, 1 + jitter)))
            waiting -= 1
        share = min(1.0, of_all / sum(rate for _, rate in in_flight))
        seconds = min(left / (rate * share) for left, rate in in_flight)
        clock.now += seconds
        in_flight = [(left - rate * share * seconds, rate) for left, rate in in_flight]
        done = sum(left < 1 for left, _ in in_flight)
        in_flight = [each for each in in_flight if each[0] >= 1]
        for _ in range(done):
            pace.moved(PART)
            widths.append(pace.width)
    return widths


@pytest.mark.parametrize("of_each", [50, 70])
def test_slow_network(clock: Clock, of_each: int) -> None:
    """On a slow network, the most parts stay in flight."""
    assert set(transfer(Pace(10, PART), clock, 300, of_each=of_each * MIB, jitter=0)) == {10}


def test_fast_network(clock: Clock) -> None:
    """On a fast network, the pace falls to two parts in flight if they reach the same rate."""
    widths = transfer(Pace(10, PART), clock, 100, of_each=2 * GIB, of_all=2 * GIB)
    assert list(dict.fromkeys(widths)) == [10, 5, 2]
    assert widths.index(2) < 50


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("of_each", [90, 150, 200, 300, 500])
def test_limited_connections(clock: Clock, of_each: int, seed: int) -> None:
    """If each connection has its own limit, trials cost at most 10 % of the time."""
    transfer(Pace(10, PART), clock, 500, of_each=of_each * MIB, seed=seed)
    took, clock.now = clock.now, 0.0
    transfer(Fixed(10, PART), clock, 500, of_each=of_each * MIB, seed=seed)
    assert took < 1.1 * clock.now


def test_network_becomes_slow(clock: Clock) -> None:
    """The most parts are in flight again when the network has become slow."""
    pace = Pace(10, PART)
    transfer(pace, clock, 100, of_each=2 * GIB, of_all=2 * GIB)
    assert pace.width == 2
    assert transfer(pace, clock, 20, of_each=80 * MIB)[-1] == 10


def test_pause(clock: Clock) -> None:
    """A pause of the caller does not count as a slow network."""
    pace = Pace(10, PART)
    transfer(pace, clock, 100, of_each=2 * GIB, of_all=2 * GIB)
    clock.now += 60
    pace.begin_anew()
    assert set(transfer(pace, clock, 20, of_each=2 * GIB, of_all=2 * GIB)) == {2}


def test_pause_during_a_trial(clock: Clock) -> None:
    """A pause during a trial does not end the trial, which still finds the better number."""
    pace = Pace(10, PART)
    while pace.width == 10:
        transfer(pace, clock, 1, of_each=2 * GIB)
    clock.now += 60
    pace.begin_anew()
    assert set(transfer(pace, clock, 50, of_each=300 * MIB)[-30:]) == {10}


@pytest.mark.parametrize("most", [1, 2])
def test_small_limit(clock: Clock, most: int) -> None:
    """A limit of one or two parts is never reduced."""
    assert set(transfer(Pace(most, PART), clock, 20, of_each=9 * GIB)) == {most}


def test_resting_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Surplus threads rest, and all tasks are done."""
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


def test_fewer_background_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of background tasks is reduced too."""
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

    tasks = Background(8, Stop(), lambda: None, PART)
    for _ in range(200):
        tasks.start(task)
    tasks.finish()
    assert max(seen) > 2
    assert median(seen[100:]) <= 2


def test_failure_with_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure ends the resting threads."""
    monkeypatch.setattr(pace, "_FAST", 0.0)
    monkeypatch.setattr(pace, "_ENOUGH", 0.0)

    def task(number: int) -> None:
        time.sleep(0.001)
        if number == 150:
            raise OSError("150")

    with pytest.raises(OSError, match="150"):
        run_all([partial(task, number) for number in range(200)], 8, Stop(), PART)
    eventually(lambda: not [each for each in threading.enumerate() if each.name == "gllm-storage"])


def test_stop_with_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop ends the resting threads."""
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
