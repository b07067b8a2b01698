"""Runs to medians and ratios."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.peers import BEFORE, entry_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

FIGURES = (
    "process_wall",
    "process_cpu",
    "peak_rss",
    "wall",
    "cpu",
    "warm_wall",
    "warm_cpu",
    "per_call_us",
    "connections",
    "handshakes",
    "resumed",
)
"""The figures of a job by a peer, in seconds, bytes, microseconds and numbers.

``process_wall`` and ``process_cpu`` are those of a complete process that is not warm; ``wall`` and ``cpu`` those of the job
in it, with the start of the client and its later imports; ``warm_wall`` and ``warm_cpu`` those of the job in a process which
has done a small job before.
"""
_FAR_BEHIND = {"wall": 1.3, "cpu": 1.15}

Runs = dict[str, list[float]]
"""The values of each figure, a value for each run."""


@dataclass(frozen=True)
class Summary:
    """The runs of one job by one peer.

    Attributes:
        runs: Number of runs.
        medians: Medians, by the names in `FIGURES`.
        least: Minima, by the same names.
        most: Maxima, by the same names.
    """

    runs: int
    medians: dict[str, float]
    least: dict[str, float]
    most: dict[str, float]


def summarise(by_peer: Mapping[str, Runs]) -> dict[str, Summary]:
    """Summarise the runs of one job by peer."""
    return {
        peer: Summary(
            runs=max(map(len, runs.values()), default=0),
            medians=_reduce(runs, median),
            least=_reduce(runs, min),
            most=_reduce(runs, max),
        )
        for peer, runs in by_peer.items()
    }


def _reduce(runs: Runs, reduce: Callable[[list[float]], float]) -> dict[str, float]:
    return {name: reduce(values) for name, values in runs.items() if values}


def rivals_in(names: Iterable[str]) -> list[str]:
    """The peers among which the best is searched: neither this library nor a reference."""
    return [name for name in names if not (entry_of(name).ours or entry_of(name).reference)]


def best(summaries: Mapping[str, Summary], figure: str) -> float | None:
    """The lowest median of all rivals; None if there is none."""
    found = [summaries[name].medians.get(figure) for name in rivals_in(summaries)]
    return min((each for each in found if each), default=None)


def floor_of(summaries: Mapping[str, Summary], *, synced: bool = False, warm: bool = True) -> Summary | None:
    """The fastest floor of a job; None if it was not measured."""
    wall = "warm_wall" if warm else "wall"
    names = ("floor, synced",) if synced else ("floor", "floor, MemoryBIO")
    found = [summaries[name] for name in names if name in summaries and wall in summaries[name].medians]
    return min(found, key=lambda each: each.medians[wall], default=None)


def far_behind(by_peer: Mapping[str, Runs], names: Collection[str]) -> list[str]:
    """The peers that are far behind the best one in all figures, so that further runs of them cannot change a ratio.

    Neither this library nor the floor is among them.
    """
    summaries = {name: each for name, each in summarise(by_peer).items() if name in names}
    limits = {f"{kind}_{figure}": limit for kind in ("process", "warm") for figure, limit in _FAR_BEHIND.items()}
    lowest = {figure: best(summaries, figure) for figure in limits}
    behind = []
    for name, each in summaries.items():
        ratios = {figure: each.medians[figure] / low for figure, low in lowest.items() if low and figure in each.medians}
        measured = not (entry_of(name).ours or name.startswith("floor"))
        if measured and ratios and all(ratio > limits[figure] for figure, ratio in ratios.items()):
            behind.append(name)
    return behind


def leaders(by_peer: Mapping[str, Runs]) -> set[str]:
    """The rivals with the lowest time or the lowest CPU of the process."""
    summaries = summarise(by_peer)
    rivals = [name for name in rivals_in(summaries) if "process_wall" in summaries[name].medians]
    figures = ("process_wall", "process_cpu") if rivals else ()
    return {min(rivals, key=lambda name: summaries[name].medians[figure]) for figure in figures}


def order(peers: Sequence[str], turn: int) -> list[str]:
    """The order of the peers in a round. Each round begins with another peer, so that no peer is always the first."""
    start = turn % len(peers) if peers else 0
    return [*peers[start:], *peers[:start]]


def is_ours(name: str) -> bool:
    """Whether a peer is this library, in this version."""
    return entry_of(name).ours and not name.endswith(BEFORE)
