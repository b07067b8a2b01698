"""The number of parts that are in flight at a time."""

from __future__ import annotations

import threading
import time
from functools import partial
from statistics import median
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from gllm_storage.concurrency import width as widths
from gllm_storage.concurrency import workers
from gllm_storage.concurrency.stop import Stop, TransferStopped
from gllm_storage.concurrency.width import Width
from gllm_storage.concurrency.workers import Background, run_all
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock:
    """A clock that only the simulation advances."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(widths, "time", clock)
    return clock


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


@pytest.mark.parametrize("waits", [True, False])
def test_background_tasks(waits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Background tasks become more while they wait, and stay few if they use the processor."""
    if not waits:  # other processes on the machine must not look like waits
        clock = SimpleNamespace(**{**vars(time), "perf_counter": time.process_time})
        monkeypatch.setattr(workers, "time", clock)
        monkeypatch.setattr(widths, "time", clock)
    lock, seen = threading.Lock(), list[int]()
    running = 0

    def task() -> None:
        nonlocal running
        with lock:
            running += 1
            seen.append(running)
        end = time.thread_time() + 0.002
        time.sleep(0.02 if waits else 0.0)
        while time.thread_time() < end and not waits:
            pass
        with lock:
            running -= 1

    tasks = Background(8, Stop(), lambda: None)
    for _ in range(60):
        tasks.start(task)
    tasks.finish()
    assert max(seen) == 8 if waits else median(seen) <= 2


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
