"""The tables and the JSON of a run."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.layout import GIB, MIB

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.figures import Summary
    from benchmarks.jobs import Job
    from benchmarks.run import Outcome

_HEAD = (
    "| | wall s | least–most | CPU s | wall, to the best peer | CPU, to the best peer | wall, to {0} | CPU, to {0} "
    "| peak RSS MiB | process: wall s | CPU s |"
)
_RULE = "|---|---|---|---|---|---|---|---|---|---|---|"


def describe_machine() -> dict[str, Any]:
    """The machine of the run, without names of hosts or people."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def to_markdown(
    jobs: Sequence[Job],
    summaries: Mapping[str, Mapping[str, Summary]],
    outcome: Outcome,
    peers: Mapping[str, Mapping[str, Any]],
) -> str:
    """The tables, one for each job."""
    run = [job for job in jobs if job.name in summaries or job.name in outcome.failures]
    blocks = [_job_table(job, summaries.get(job.name, {}), outcome, peers) for job in run]
    missing = [f"- {name}: {each['missing']}" for name, each in peers.items() if "missing" in each]
    if missing:
        blocks.append("Could not be had:\n\n" + "\n".join(missing))
    return "\n\n".join(blocks) + "\n"


def _job_table(job: Job, summaries: Mapping[str, Summary], outcome: Outcome, peers: Mapping[str, Mapping[str, Any]]) -> str:
    small = any("per_call_us" in each.medians for each in summaries.values())
    counts = outcome.counts.get(job.name, {})
    head, rule = _HEAD.format(job.yardstick), _RULE
    if small:
        head, rule = f"{head} one call µs | to the best peer |", f"{rule}---|---|"
    if counts:
        head, rule = f"{head} requests | MiB up | MiB down |", f"{rule}---|---|---|"
    lines = [f"### {job.title}", "", head, rule]
    for peer, summary in sorted(summaries.items(), key=lambda item: item[1].medians["wall"]):
        lines.append(_row(peer, summary, small=small, counted=counts.get(peer) if counts else None))
    cannot = {name: each["cannot"][job.verb] for name, each in peers.items() if job.verb in each.get("cannot", {})}
    reasons = {**cannot, **outcome.failures.get(job.name, {})}
    for said, shown in (("Not in the table", False), ("Failed once, and not asked again", True)):
        notes = [f"{name}: {_one_line(reason)}" for name, reason in reasons.items() if (name in summaries) is shown]
        if notes:
            lines += ["", f"{said}: {'; '.join(notes)}."]
    return "\n".join(lines)


def _row(peer: str, summary: Summary, *, small: bool, counted: Mapping[str, Any] | None) -> str:
    middle, least, most = summary.medians, summary.least, summary.most
    cells = [
        peer,
        f"{middle['wall']:.2f}",
        f"{least['wall']:.2f}–{most['wall']:.2f}",
        f"{middle['cpu']:.2f}",
        _ratio(summary.to_best, "wall"),
        _ratio(summary.to_best, "cpu"),
        _ratio(summary.to_yardstick, "wall"),
        _ratio(summary.to_yardstick, "cpu"),
        f"{middle['peak_rss'] / MIB:.0f}",
        f"{middle['process_wall']:.2f}",
        f"{middle['process_cpu']:.2f}",
    ]
    if small:
        cells += [f"{middle['per_call_us']:.0f}", _ratio(summary.to_best, "per_call_us")]
    if counted is not None:
        cells += [
            str(sum(counted["requests"].values())),
            f"{counted['bytes_up'] / MIB:.1f}",
            f"{counted['bytes_down'] / MIB:.1f}",
        ]
    return "| " + " | ".join(cells) + " |"


def _ratio(ratios: Mapping[str, float], name: str) -> str:
    return f"{ratios[name]:.2f}" if name in ratios else "–"


def _one_line(text: str) -> str:
    return " ".join(text.splitlines()[-1:]).strip().rstrip(".")


def to_list(jobs: Sequence[Job], peers: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of the jobs, with the call by which each peer does them."""
    names: dict[str, list[str]] = {}
    for job in jobs:
        names.setdefault(job.verb, []).append(job.name)
    lines = ["| jobs | peer | by |", "|---|---|---|"]
    for verb, of_verb in names.items():
        first = ", ".join(of_verb)
        for peer, each in peers.items():
            how = each.get("how", {}).get(verb)
            if how:
                lines.append(f"| {first} | {peer} {each['version']} | {how} |")
                first = ""
            elif verb in each.get("cannot", {}):
                lines.append(f"| {first} | {peer} {each['version']} | not: {each['cannot'][verb]} |")
                first = ""
    lines += [f"| | {name} | could not be had: {each['missing']} |" for name, each in peers.items() if "missing" in each]
    return "\n".join(lines) + "\n"


def to_json(
    jobs: Sequence[Job],
    summaries: Mapping[str, Mapping[str, Summary]],
    outcome: Outcome,
    peers: Mapping[str, Mapping[str, Any]],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """The complete run: its options, the samples, and the summaries."""
    return {
        "about": dict(about),
        "machine": describe_machine(),
        "peers": {name: dict(each) for name, each in peers.items()},
        "jobs": [{**asdict(job), "title": job.title} for job in jobs],
        "samples": [asdict(each) for each in outcome.samples],
        "failures": outcome.failures,
        "counts": outcome.counts,
        "summaries": {job: {peer: asdict(each) for peer, each in by_peer.items()} for job, by_peer in summaries.items()},
    }
