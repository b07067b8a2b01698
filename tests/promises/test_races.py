"""Many writers in several processes create one object at the same time: exactly one succeeds."""

from __future__ import annotations

import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.conftest import make_rig
from tests.rig import MIB, SMALL_PARTS
from tests.scripts.racers import REFUSED, WON, Entry, name_of, race, use_barrier

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.rig import Rig

PROCESSES = 4
SMALL = 1000
LARGE = 6 * MIB  # two parts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Race:
    """Parameters of one race.

    Attributes:
        store: Name of the store in the rig.
        rounds: Number of repetitions, each with a new key.
        way: The interface that creates the object.
        size: Size of each object, in bytes.
        writers: Number of concurrent writers.
        parts: Whether the upload must be a multipart upload; None if the store has no multipart uploads.
        trusted: Whether the config says ``conditional_writes="enforced"``.
    """

    store: str
    rounds: int
    way: str = "upload_file"
    size: int = SMALL
    writers: int = 32
    parts: bool | None = None
    trusted: bool = False

    def __str__(self) -> str:
        return f"{self.store}-{self.way}-{self.size}-{self.writers}{'-trusted' if self.trusted else ''}"


RACES = [
    Race("ministack", 40, parts=False),
    Race("ceph", 40, parts=False),
    Race("file", 60),
    # By default an exclusive create goes in parts on Amazon only.
    Race("ministack", 5, size=LARGE, writers=8, parts=True, trusted=True),
    Race("ministack", 5, size=LARGE, writers=8, parts=False),
    # In parts, two writers both succeeded in 11 of 60 rounds on SeaweedFS.
    Race("seaweedfs", 12, size=LARGE, writers=2, parts=False),
    Race("seaweedfs", 4, size=LARGE, writers=8, parts=False),
    Race("seaweedfs", 10, parts=False),
    Race("seaweedfs", 4, way="open", size=LARGE, writers=4, parts=False),
    # Ceph's CompleteMultipartUpload overwrites, so an exclusive create must not use parts, even above the threshold.
    Race("ceph", 6, size=LARGE, writers=16, parts=False),
    Race("file", 10, size=LARGE),
    Race("ministack", 10, way="put_file", parts=False),
    Race("file", 20, way="put_file"),
    Race("ceph", 10, way="open", parts=False),
    Race("file", 20, way="open"),
    Race("azurite", 40),
    Race("azurite", 6, size=LARGE, writers=16),
    Race("azurite", 10, way="put_file"),
    Race("azurite", 10, way="open"),
    Race("gcs-fake", 40),
    Race("gcs-fake", 6, size=LARGE, writers=16),
    Race("gcs-fake", 10, way="put_file"),
    Race("gcs-fake", 10, way="open"),
]
THREAD_RACES = [
    Race("memory", 200),
    Race("memory", 10, size=LARGE),
    Race("memory", 50, way="put_file"),
    Race("memory", 50, way="open"),
]


@pytest.mark.parametrize("each", RACES, ids=str)
def test_race_of_processes(
    each: Race, request: pytest.FixtureRequest, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """With writers in many processes, exactly one creates the object."""
    rig = make_rig(each.store, request)
    sources = make_sources(tmp_path, each)
    spawn = multiprocessing.get_context("spawn")
    entry = Entry(rig.provider, rig.settings(**config_of(each, rig)), each.way, each.rounds)

    # Each task waits at the barrier until all tasks run, so each one has its own process.
    count = min(PROCESSES, each.writers)
    with ProcessPoolExecutor(count, spawn, initializer=use_barrier, initargs=(spawn.Barrier(each.writers),)) as processes:
        shares = [sources[start::count] for start in range(count)]
        outcomes = dict(zip(shares_in_order(shares), gathered(processes, entry, shares), strict=True))

    assert_one_winner_in_each_round(rig, each, outcomes, record_property)


@pytest.mark.parametrize("each", THREAD_RACES, ids=str)
def test_race_of_threads(
    each: Race, request: pytest.FixtureRequest, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """With writers in many threads, exactly one creates the object."""
    rig = make_rig(each.store, request)
    sources = make_sources(tmp_path, each)
    use_barrier(threading.Barrier(each.writers))

    outcomes = race(Entry(rig.provider, rig.settings(), each.way, each.rounds), sources)

    assert_one_winner_in_each_round(rig, each, dict(zip(sources, outcomes, strict=True)), record_property)


def config_of(each: Race, rig: Rig) -> dict[str, str]:
    if rig.server is None:
        return {}
    return {**SMALL_PARTS, **({"conditional_writes": "enforced"} if each.trusted else {})}


def make_sources(folder: Path, each: Race) -> list[str]:
    """Create a local file with different content for each writer."""
    paths = [folder / f"writer-{number}" for number in range(each.writers)]
    for number, path in enumerate(paths):
        path.write_bytes(f"writer {number:02}\n".encode() * (each.size // 10))
    return [str(path) for path in paths]


def shares_in_order(shares: list[list[str]]) -> list[str]:
    return [source for share in shares for source in share]


def gathered(processes: ProcessPoolExecutor, entry: Entry, shares: list[list[str]]) -> list[list[str]]:
    """Run the writers in the processes, and return the outcome of each source, grouped by share."""
    tasks = [processes.submit(race, entry, share) for share in shares]
    return [outcome for task in tasks for outcome in task.result()]


def assert_one_winner_in_each_round(
    rig: Rig, each: Race, outcomes: dict[str, list[str]], record_property: Callable[[str, object], None]
) -> None:
    names = [name_of(number) for number in range(each.rounds)]
    winners = [[source for source, outcome in outcomes.items() if outcome[number] == WON] for number in range(each.rounds)]
    record_property("rounds", each.rounds)
    record_property("winners", sum(map(len, winners)))
    print(
        f"{each}: {each.rounds} rounds of {each.writers} writers, {sum(map(len, winners))} winners "
        f"({len({winner for (winner, *_) in winners})} different ones)"
    )

    assert {outcome for of_source in outcomes.values() for outcome in of_source} == {WON, REFUSED}
    assert [len(of_round) for of_round in winners] == [1] * each.rounds
    for name, (winner,) in zip(names, winners, strict=True):
        with open(winner, "rb") as source:
            assert rig.second.get(rig.key(name)) == source.read(), f"{name} is not what its winner wrote"
    assert rig.keys() == names
    assert rig.open_uploads() == []
    if each.parts is not None:
        assert ["-" in str(rig.client().info(name).etag) for name in names] == [each.parts] * each.rounds
