"""Samples to medians and ratios."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

FIGURES = ("wall", "cpu", "process_wall", "process_cpu", "peak_rss", "per_call_us")
"""The figures that are summarised, in seconds, seconds, seconds, seconds, bytes and microseconds."""


@dataclass(frozen=True)
class Sample:
    """One run of one job by one peer.

    Attributes:
        job: Name of the job.
        peer: Name of the peer.
        repeat: Number of the round, from 0.
        figures: The measured figures, by the names in `FIGURES`, and further ones of the worker.
    """

    job: str
    peer: str
    repeat: int
    figures: dict[str, float]


@dataclass(frozen=True)
class Summary:
    """The runs of one job by one peer.

    Attributes:
        runs: Number of runs.
        medians: Medians, by the names in `FIGURES`.
        least: Minima, by the same names.
        most: Maxima, by the same names.
        to_best: Each median divided by the lowest median of all rivals.
        to_yardstick: Each median divided by the median of the job's yardstick, which is s3fs for most jobs.
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
    """Summarise samples by job and peer.

    Args:
        samples: All samples.
        rivals: The peers among which `Summary.to_best` finds the best.
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
    """The order of the peers in a round. Each round begins with another peer, so that no peer is always the first."""
    start = turn % len(peers) if peers else 0
    return peers[start:] + peers[:start]
