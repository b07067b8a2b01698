"""From samples to medians and ratios: arithmetic alone."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

FIGURES = ("wall", "cpu", "process_wall", "process_cpu", "peak_rss", "per_call_us")
"""What is summed up of the samples: seconds, seconds, seconds, seconds, bytes, microseconds."""


@dataclass(frozen=True)
class Sample:
    """One run of one job by one peer.

    Attributes:
        job: The job's name.
        peer: The peer's name.
        repeat: In which round, from 0.
        figures: What was measured, by the names in `FIGURES`, and what else the worker said.
    """

    job: str
    peer: str
    repeat: int
    figures: dict[str, float]


@dataclass(frozen=True)
class Summary:
    """The runs of one job by one peer.

    Attributes:
        runs: How many there were.
        medians: By the names in `FIGURES`.
        least: Likewise.
        most: Likewise.
        to_best: The median as a ratio to that of the peer which is best in that figure.
        to_yardstick: Likewise, to the job's yardstick, which is s3fs for most.
    """

    runs: int
    medians: dict[str, float]
    least: dict[str, float]
    most: dict[str, float]
    to_best: dict[str, float]
    to_yardstick: dict[str, float]


def summarise(
    samples: Iterable[Sample], rivals: Collection[str], yardsticks: Mapping[str, str]
) -> dict[str, dict[str, Summary]]:
    """Sum samples up by job and peer.

    Args:
        samples: All samples.
        rivals: The peers among which the best one is looked for.
        yardsticks: The peer of `Summary.to_yardstick`, by job.
    """
    grouped: dict[str, dict[str, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))
    for each in samples:
        grouped[each.job][each.peer].append(each.figures)
    return {job: _summarise_job(runs, rivals, yardsticks[job]) for job, runs in grouped.items()}


def _summarise_job(runs: dict[str, list[dict[str, float]]], rivals: Collection[str], yardstick: str) -> dict[str, Summary]:
    medians = {peer: _reduce(figures, median) for peer, figures in runs.items()}
    of_rivals = [medians[peer] for peer in medians if peer in rivals]
    best = {
        name: min(each[name] for each in of_rivals if name in each)
        for name in FIGURES
        if any(name in each for each in of_rivals)
    }
    return {
        peer: Summary(
            runs=len(figures),
            medians=medians[peer],
            least=_reduce(figures, min),
            most=_reduce(figures, max),
            to_best=_ratios(medians[peer], best),
            to_yardstick=_ratios(medians[peer], medians.get(yardstick, {})),
        )
        for peer, figures in runs.items()
    }


def _reduce(runs: list[dict[str, float]], reduce: Callable[[list[float]], float]) -> dict[str, float]:
    return {name: reduce([each[name] for each in runs]) for name in FIGURES if all(name in each for each in runs)}


def _ratios(figures: dict[str, float], base: dict[str, float]) -> dict[str, float]:
    return {name: figures[name] / base[name] for name in figures if base.get(name)}


def order(peers: list[str], turn: int) -> list[str]:
    """The peers, begun with another one in each round, so that none is always the first."""
    start = turn % len(peers) if peers else 0
    return peers[start:] + peers[:start]
