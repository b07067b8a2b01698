"""The goals for this library, as ratios of medians of one run, and whether a run meets them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.layout import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from benchmarks.figures import Summary
    from benchmarks.jobs import Job

_OURS = "gllm-storage"

_RATIOS = {  # wall and CPU to the best peer, MiB of peak RSS
    "upload-1g": (0.9, 0.7, 300),
    "upload-4g": (0.9, 0.7, 300),
    "download-1g": (1.0, 1.0, 300),
    "download-4g": (1.0, 1.0, 300),
    "upload-16k": (1.0, 1.0, 150),
    "download-16k": (1.0, 1.0, 150),
    "upload-1m": (1.0, 1.0, 150),
    "download-1m": (1.0, 1.0, 150),
}


@dataclass(frozen=True)
class Goal:
    """A goal, and the figure that a run reached.

    Attributes:
        job: Title of the job.
        figure: Name of the figure.
        limit: The highest figure that meets the goal.
        reached: The figure of the job alone.
        process: The figure of the complete process, with the start of the interpreter and the imports; None if it was not
            measured.
    """

    job: str
    figure: str
    limit: float
    reached: float
    process: float | None = None

    @property
    def met(self) -> bool:
        """Whether both figures meet the goal."""
        return max(self.reached, self.process or 0.0) <= self.limit


@dataclass(frozen=True)
class _Run:
    """The figures of one job."""

    job: Job
    by_peer: Mapping[str, Summary]
    counts: Mapping[str, Mapping[str, Any]]
    summaries: Mapping[str, Mapping[str, Summary]]

    @property
    def ours(self) -> Summary:
        return self.by_peer[_OURS]

    def goal(self, figure: str, limit: float, reached: float, process: float | None = None) -> Goal:
        return Goal(self.job.title, figure, limit, reached, process)

    def ratio(self, said: str, limit: float, ratios: Mapping[str, float], name: str) -> Iterator[Goal]:
        if name in ratios:
            yield self.goal(said, limit, ratios[name], ratios[f"process_{name}"])

    def memory(self, limit: float) -> Goal:
        return self.goal("peak RSS, MiB", limit, self.ours.medians["peak_rss"] / MIB)


def judge(
    jobs: Sequence[Job],
    summaries: Mapping[str, Mapping[str, Summary]],
    counts: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> list[Goal]:
    """The goals of the jobs that this library and the compared peers have run."""
    found: list[Goal] = []
    for job in jobs:
        run = _Run(job, summaries.get(job.name, {}), counts.get(job.name, {}), summaries)
        if _OURS in run.by_peer and job.name in _JUDGES:
            found += _JUDGES[job.name](run)
    return found


def _of_transfer(run: _Run) -> Iterator[Goal]:
    wall, cpu, memory = _RATIOS[run.job.name]
    yield from run.ratio("wall, to the best peer", wall, run.ours.to_best, "wall")
    yield from run.ratio("CPU, to the best peer", cpu, run.ours.to_best, "cpu")
    yield run.memory(memory)


def _of_latency(run: _Run) -> Iterator[Goal]:
    if "boto3" in run.by_peer:
        theirs = run.by_peer["boto3"].medians["per_call_us"]
        yield run.goal("one call, to boto3", 1.0, run.ours.medians["per_call_us"] / theirs)


def _of_read(run: _Run) -> Iterator[Goal]:
    download = run.summaries.get("download-1g", {}).get(_OURS)
    if download:
        wall = run.ours.medians["wall"] / download.medians["wall"]
        yield run.goal("wall, to the download of as much", 1 / 0.9, wall)
    yield run.memory(300)


def _of_random_reads(run: _Run) -> Iterator[Goal]:
    yield from run.ratio("wall, to s3fs", 1.0, run.ours.to_yardstick, "wall")
    if _OURS in run.counts:
        asked = run.job.count * run.job.step
        yield run.goal("bytes fetched, to those asked for", 2.0, run.counts[_OURS]["bytes_down"] / asked)


def _of_conflict(run: _Run) -> Iterator[Goal]:
    yield from run.ratio("wall, to check_conflict=False", 1.05, run.ours.to_yardstick, "wall")


def _of_small_conflict(run: _Run) -> Iterator[Goal]:
    if {_OURS, run.job.yardstick} <= run.counts.keys():
        requests = {peer: sum(each["requests"].values()) for peer, each in run.counts.items()}
        # Rounded: on a server that stores objects, the first call also probes the server.
        more = round((requests[_OURS] - requests[run.job.yardstick]) / run.job.count, 1)
        yield run.goal("requests more for each call", 1.0, more)


def _of_memory(run: _Run) -> Iterator[Goal]:
    yield run.memory(300)


_JUDGES: dict[str, Callable[[_Run], Iterator[Goal]]] = {
    **dict.fromkeys(_RATIOS, _of_transfer),
    **dict.fromkeys(("latency-upload", "latency-exists", "latency-download"), _of_latency),
    "read": _of_read,
    "read-random": _of_random_reads,
    "conflict-1g": _of_conflict,
    "conflict-1k": _of_small_conflict,
    **{f"memory-{verb}-{gib}g": _of_memory for verb in ("upload", "download") for gib in (1, 4, 16)},
}


def to_markdown(goals: Sequence[Goal]) -> str:
    """The goals as a table."""
    lines = ["### Goals", "", "| job | figure | at most | the job | the process | |", "|---|---|---|---|---|---|"]
    for each in goals:
        process = "–" if each.process is None else f"{each.process:.2f}"
        said = "met" if each.met else "**not met**"
        lines.append(f"| {each.job} | {each.figure} | {each.limit:.2f} | {each.reached:.2f} | {process} | {said} |")
    return "\n".join(lines) + "\n"
