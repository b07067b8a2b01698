"""The goals for this library, as ratios of medians of one run, and whether a run meets them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.figures import Summary, best, floor_of, summarise
from benchmarks.layout import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

OURS = {"https": "gllm-storage", "http": "gllm-storage", "gcs": "gllm-storage on GCS", "azure": "gllm-storage on Azure"}
"""The peer for which the goals are set, by endpoint."""
_COMMAND = "gllm-storage, command"
_UNSIGNED = "gllm-storage, unsigned"
_SYNCED = "gllm-storage, synced"

# Over https: the process to the best peer, the warm job to the best peer, the warm job to the floor, MiB of peak RSS.
_TRANSFERS: dict[str, tuple[float, float | None, float, float]] = {
    "upload-1g": (0.95, None, 1.2, 300),
    "download-1g": (1.2, None, 1.2, 300),
    "upload-4g": (0.85, None, 1.15, 300),
    "download-4g": (1.05, None, 1.15, 300),
    "upload-16k": (1.2, 0.8, 1.5, 150),
    "download-16k": (1.2, 0.8, 1.5, 150),
    "upload-1m": (1.2, 0.8, 1.5, 150),
    "download-1m": (1.2, 0.8, 1.5, 150),
}
_FLOOR_OF_OPEN = {"read": "download-1g", "write": "upload-1g"}
_SERIAL = ("latency-upload", "latency-exists", "latency-download", "serial")
_FIRST = {"first-keys": 0.35, "first-chain": 0.6}
_SHARE_OF_BANDWIDTH = 0.9
_CONNECTIONS = 10
_FIGURES = (("wall", "wall"), ("CPU", "cpu"))


@dataclass(frozen=True)
class Goal:
    """A goal, and the figure that a run reached.

    Attributes:
        endpoint: Name of the endpoint.
        job: Title of the job.
        figure: Name of the figure.
        limit: The highest figure that meets the goal; the lowest if `is_least`.
        reached: The figure.
        is_least: Whether the goal is a minimum.
    """

    endpoint: str
    job: str
    figure: str
    limit: float
    reached: float
    is_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the figure, with the two digits that are shown, meets the goal."""
        shown = round(self.reached, 2)
        return shown >= self.limit if self.is_least else shown <= self.limit


@dataclass(frozen=True)
class _Run:
    """The summaries of an endpoint, for the goals of one job."""

    endpoint: str
    name: str
    job: Mapping[str, Any]
    jobs: Mapping[str, Mapping[str, Summary]]

    @property
    def by_peer(self) -> Mapping[str, Summary]:
        return self.jobs[self.name]

    @property
    def ours(self) -> Summary:
        return self.by_peer[OURS[self.endpoint]]

    def goal(self, figure: str, limit: float, reached: float, *, is_least: bool = False) -> Goal:
        return Goal(self.endpoint, self.job["title"], figure, limit, reached, is_least)

    def to(self, said: str, limit: float, figure: str, base: float | None, ours: Summary | None = None) -> Iterator[Goal]:
        """The goal for the ratio of a figure to another value, if both were measured."""
        value = (ours or self.ours).medians.get(figure)
        if value is not None and base:
            yield self.goal(said, limit, value / base)

    def to_best(self, limit: float, kind: str) -> Iterator[Goal]:
        said = "process" if kind == "process_" else "warm job"
        for name, figure in _FIGURES:
            yield from self.to(f"{said}: {name}, to the best peer", limit, kind + figure, best(self.by_peer, kind + figure))

    def to_floor(self, limit: float, floor: Summary | None, said: str = "", ours: Summary | None = None) -> Iterator[Goal]:
        kind = "warm_" if floor and "warm_wall" in (ours or self.ours).medians else ""
        for name, figure in _FIGURES:
            base = floor.medians.get(kind + figure) if floor else None
            yield from self.to(f"job: {name}, to the floor{said}", limit, kind + figure, base, ours)

    def memory(self, limit: float) -> Iterator[Goal]:
        if "peak_rss" in self.ours.medians:
            yield self.goal("peak RSS, MiB", limit, self.ours.medians["peak_rss"] / MIB)


def judge(endpoints: Mapping[str, Any]) -> list[Goal]:
    """The goals that the runs of each endpoint reached, or did not.

    Args:
        endpoints: The results of a run, by endpoint; see `benchmarks.results`.
    """
    found: list[Goal] = []
    for endpoint, measured in endpoints.items():
        jobs = {name: summarise(each["runs"]) for name, each in measured["jobs"].items()}
        for name, each in measured["jobs"].items():
            run = _Run(endpoint, name, each["job"], jobs)
            if OURS.get(endpoint) in run.by_peer:
                found += _JUDGES.get(endpoint, _of_http)(run)
    return found


def _of_https(run: _Run) -> Iterator[Goal]:
    if run.name in _TRANSFERS:
        yield from _of_transfer(run)
    elif run.name in _FLOOR_OF_OPEN:
        yield from run.to("process: wall, to the best peer", 0.9, "process_wall", best(run.by_peer, "process_wall"))
        yield from run.to("process: CPU, to the best peer", 1.0, "process_cpu", best(run.by_peer, "process_cpu"))
        yield from run.to_floor(1.5, floor_of(run.jobs.get(_FLOOR_OF_OPEN[run.name], {})))
        yield from run.memory(300)
    elif run.name in _SERIAL:
        yield from _of_calls(run)
    elif run.name in _FIRST:
        yield from _of_first(run)
    elif run.name.startswith("slow-"):
        limit = _CONNECTIONS * run.job["bandwidth"]
        share = run.job["size"] / run.ours.medians["wall"] / limit
        yield run.goal(f"share of {_CONNECTIONS} connections' bandwidth", _SHARE_OF_BANDWIDTH, share, is_least=True)


def _of_transfer(run: _Run) -> Iterator[Goal]:
    process, warm, floor, memory = _TRANSFERS[run.name]
    yield from run.to_best(process, "process_")
    if warm is not None:
        yield from run.to_best(warm, "warm_")
    is_warm = "warm_wall" in run.ours.medians
    yield from run.to_floor(floor, floor_of(run.by_peer, warm=is_warm))
    if _SYNCED in run.by_peer:
        yield from run.to_floor(floor, floor_of(run.by_peer, synced=True), " (synced)", run.by_peer[_SYNCED])
    yield from run.memory(memory)


def _of_calls(run: _Run) -> Iterator[Goal]:
    if "obstore" in run.by_peer:
        for name, figure in _FIGURES:
            base = run.by_peer["obstore"].medians.get(f"warm_{figure}")
            yield from run.to(f"warm job: {name}, to obstore", 1.0, f"warm_{figure}", base)
    yield from run.to_floor(2.0 if run.endpoint == "https" else 1.5, floor_of(run.by_peer))


def _of_first(run: _Run) -> Iterator[Goal]:
    limit = _FIRST[run.name] if run.endpoint == "https" else 1.0
    if "boto3" not in run.by_peer:
        return
    base = run.by_peer["boto3"].medians
    for peer, said in ((OURS[run.endpoint], ""), (_COMMAND, " (`gllm-storage exists`)")):
        if peer in run.by_peer:
            for name, figure in _FIGURES:
                yield from run.to(
                    f"process: {name}, to boto3{said}",
                    limit,
                    f"process_{figure}",
                    base.get(f"process_{figure}"),
                    run.by_peer[peer],
                )


def _of_http(run: _Run) -> Iterator[Goal]:
    if run.name in _SERIAL:
        yield from _of_calls(run)
        return
    if run.name in _FIRST:
        yield from _of_first(run)
        return
    yield from run.to_best(1.0, "process_")
    if run.name in _TRANSFERS and _TRANSFERS[run.name][1] is not None:
        yield from run.to_best(1.0, "warm_")
    unsigned = run.by_peer.get(_UNSIGNED)
    floor = floor_of(run.jobs.get(_FLOOR_OF_OPEN.get(run.name, run.name), {}))
    yield from run.to_floor(1.5, floor, " (bodies not signed)" if unsigned else "", unsigned)


def _of_cloud(run: _Run) -> Iterator[Goal]:
    yield from run.to_best(1.0, "process_")
    in_python = {name: each for name, each in run.by_peer.items() if not name.startswith("obstore")}
    for name, figure in _FIGURES:
        base = best(in_python, f"process_{figure}")
        yield from run.to(f"process: {name}, to the best without obstore", 1.0, f"process_{figure}", base)
    yield from run.memory(300)


_JUDGES: dict[str, Callable[[_Run], Iterator[Goal]]] = {
    "https": _of_https,
    "http": _of_http,
    "gcs": _of_cloud,
    "azure": _of_cloud,
}


def to_markdown(goals: list[Goal]) -> str:
    """The goals as a table."""
    met = sum(each.met for each in goals)
    lines = [
        f"{met} of {len(goals)} are met.",
        "",
        "| endpoint | job | figure | goal | reached | |",
        "|---|---|---|---|---|---|",
    ]
    for each in goals:
        sign, said = "≥" if each.is_least else "≤", "met" if each.met else "**not met**"
        lines.append(
            f"| {each.endpoint} | {each.job} | {each.figure} | {sign} {each.limit:g} | {each.reached:.2f} | {said} |"
        )
    return "\n".join(lines) + "\n"
