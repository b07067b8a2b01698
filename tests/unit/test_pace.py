"""The number of parts that are in flight at a time."""

from __future__ import annotations

import math
import random
import threading
import time
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

import pytest

from gllm_storage.concurrency import pace
from gllm_storage.concurrency.pace import Pace, Width
from gllm_storage.concurrency.stop import Stop, TransferStopped
from gllm_storage.concurrency.workers import Background, run_all
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

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


class Workers:
    """Workers of `run_all`, which count how many of them run at a time.

    Args:
        work: What a task does.
    """

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._running = 0
        self.seen: dict[int, int] = {}

    def task(self, number: int) -> int:
        with self._lock:
            self._running += 1
            self.seen[number] = self._running
        try:
            self._work()
        finally:
            with self._lock:
                self._running -= 1
        return number

    def run(self, count: int, most: int) -> None:
        tasks = [partial(self.task, number) for number in range(count)]
        assert run_all(tasks, most, Stop(), paced=True) == list(range(count))


def test_waiting_workers() -> None:
    """Workers that wait get others, up to the most."""
    workers = Workers(partial(time.sleep, 0.01))
    workers.run(100, 8)
    assert 2 < max(workers.seen.values()) <= 8


def test_few_tasks() -> None:
    """No more workers than tasks are started, whatever the limit is."""
    workers = Workers(partial(time.sleep, 0.05))
    workers.run(3, 8)
    assert max(workers.seen.values()) <= 3


def observe(width: Width, clock: Clock, *, tasks: int, seconds: float, use: float, processors: float) -> list[int]:
    """Simulate workers that each use a share of a processor, until these are used up; return the widths.

    Args:
        width: The width.
        clock: The clock.
        tasks: How many tasks are done.
        seconds: How long a task takes if a processor is free.
        use: The share of this time for which it uses one.
        processors: How many there are.
    """
    widths, cpu = [], 0.0
    for _ in range(tasks):
        cpu += seconds * use
        slowed = max(1.0, width.width * use / processors)
        clock.now += seconds * slowed / width.width
        width.observe(seconds * slowed / width.width, seconds * use, width.width)
        width.ended(cpu)
        widths.append(width.width)
    return widths


def test_width_on_slow_network(clock: Clock) -> None:
    """Workers that wait for a slow network become ten soon, and stay ten."""
    widths = observe(Width(10), clock, tasks=200, seconds=0.2, use=0.06, processors=2)
    assert widths.index(10) <= 4
    assert set(widths[4:]) == {10}


def test_width_on_fast_network(clock: Clock) -> None:
    """Two workers that use one processor stay two if a single one would be slower."""
    widths = observe(Width(10), clock, tasks=200, seconds=0.02, use=0.7, processors=1)
    assert set(widths) == {1, 2}
    assert set(widths[20:]) == {2}


def test_width_on_one_processor(clock: Clock) -> None:
    """A worker that uses the only free processor completely is enough."""
    widths = observe(Width(10), clock, tasks=200, seconds=0.02, use=1.0, processors=1)
    assert set(widths[6:]) == {1}


def test_width_on_two_processors(clock: Clock) -> None:
    """Two workers that each use a processor stay two."""
    widths = observe(Width(10), clock, tasks=200, seconds=0.02, use=1.0, processors=2)
    assert set(widths[20:]) == {2}


def test_width_after_slow_start(clock: Clock) -> None:
    """When the network becomes fast, fewer workers are enough."""
    width = Width(10)
    assert observe(width, clock, tasks=50, seconds=0.2, use=0.06, processors=1)[-1] == 10
    assert observe(width, clock, tasks=100, seconds=0.02, use=0.7, processors=1)[-1] == 2


def test_width_of_useful_workers(clock: Clock) -> None:
    """If fewer workers are slower, they become as many as before."""
    width = Width(10)
    observe(width, clock, tasks=50, seconds=0.2, use=0.06, processors=16)
    widths = observe(width, clock, tasks=200, seconds=0.2, use=0.3, processors=16)
    assert 5 in widths
    assert widths[-1] == 10


@pytest.mark.parametrize("most", [1, 2])
def test_small_width(clock: Clock, most: int) -> None:
    """A limit of one or two workers is kept."""
    assert set(observe(Width(most), clock, tasks=20, seconds=0.2, use=0.01, processors=1)) == {most}


def test_busy_process() -> None:
    """Another busy thread of the process does not keep waiting workers few."""
    done = threading.Event()

    def spin() -> None:
        while not done.is_set():
            pass

    other = threading.Thread(target=spin, daemon=True)
    other.start()
    workers = Workers(partial(time.sleep, 0.05))
    workers.run(60, 8)
    done.set()
    other.join()
    assert max(workers.seen.values()) > 2


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


def test_failure_with_rest() -> None:
    """A failure ends the waiting threads."""

    def task(number: int) -> None:
        time.sleep(0.001)
        if number == 150:
            raise OSError("150")

    with pytest.raises(OSError, match="150"):
        run_all([partial(task, number) for number in range(200)], 8, Stop(), paced=True)
    eventually(lambda: not [each for each in threading.enumerate() if each.name == "gllm-storage"])


def test_stop_with_rest() -> None:
    """A stop ends the waiting threads."""
    stop = Stop()

    def task(number: int) -> None:
        time.sleep(0.001)
        if number == 150:
            stop.set()

    with pytest.raises(TransferStopped):
        run_all([partial(task, number) for number in range(200)], 8, stop, paced=True)
    eventually(lambda: not [each for each in threading.enumerate() if each.name == "gllm-storage"])
