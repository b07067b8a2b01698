"""The tables and charts of the documentation, from a result file: ``python -m benchmarks.docs FILE… FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import picture, report, results
from benchmarks.jobs import choose_jobs
from benchmarks.peers import PEERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from benchmarks.results import Results

_SYNCED = "gllm-storage, synced"
_PAGE = "benchmarks-tables.md"
_HEAD = """# Benchmark results

[Benchmarks](benchmarks.md) describes the method. {about}

"process" is a complete process from its start to its end, which does the job once: with the start of the interpreter, the
imports, and the client. "warm" is the job alone, in a process that has done a small job of the same kind before. "The floor"
is a program that does the job in plain Python and nothing else. The floor, the bare CRT and this library are never "the best
peer". A library with one run was far behind in it: more than 1.3 times the best time, and 1.15 times the best CPU. The floor
and the synced downloads are measured warm only, other libraries with large objects only as processes.
"""
_CHARTS = (
    (
        "process",
        picture.of_processes,
        "Complete processes: time (upper bar) and CPU (lower bar), as ratios to the best peer (1.0)",
    ),
    ("warm", picture.of_warm_jobs, "Warm jobs: time (upper bar) and CPU (lower bar), as ratios to the floor (1.0)"),
)


def write(found: Results, folder: Path) -> None:
    """Write the page with the tables, and the charts that it shows."""
    machine, about = found["machine"], found["about"]
    processors = f"{machine['cores']} processors ({machine['processor']})"
    conditions = f"Medians of up to {about['repeats']} interleaved runs on {processors}"
    shown: dict[str, list[str]] = {}
    for endpoint, measured in found["endpoints"].items():
        for name, panels_of, head in _CHARTS:
            panels = panels_of(measured["jobs"])
            if panels:
                file = f"benchmarks-{endpoint}-{name}.svg"
                title = f"{report.NAMES[endpoint]}. {head}"
                (folder / file).write_text(picture.to_svg(panels, title, conditions))
                shown.setdefault(endpoint, []).append(f"![{title}]({file})")
    said = f"{conditions}, {machine['system']}, Python {machine['python']}."
    tables = report.to_markdown(found, lambda endpoint: "\n\n".join(shown.get(endpoint, [])))
    head = f"{_HEAD.format(about=said)}{_left_out(found)}"
    (folder / _PAGE).write_text(f"{head}\n{tables}\n## Calls of the libraries\n\n{_calls(found)}")


def _left_out(found: Results) -> str:
    """The rows of a complete run that the results lack: a goal without a row is not met."""
    lines = []
    for endpoint, title in report.NAMES.items():
        measured = found["endpoints"].get(endpoint)
        missing = ["all jobs"] if measured is None else list(_missing(endpoint, measured))
        if missing:
            lines.append(f"- {title}: {'; '.join(missing)}")
    return "".join(f"{line}\n" for line in ("", "Not measured in these runs:", "", *lines)) if lines else ""


def _missing(endpoint: str, measured: Mapping[str, Any]) -> Iterator[str]:
    jobs = measured["jobs"]
    for job in choose_jobs([], endpoint):
        if job.name not in jobs:
            yield job.title
        elif job.synced and _SYNCED not in jobs[job.name]["runs"]:
            yield f"{job.title}, synced"
    others = [name for name, each in PEERS.items() if endpoint in each.endpoints and not each.ours and "," not in name]
    absent = [name for name in others if name not in measured["peers"]]
    if absent:
        yield f"the peers {', '.join(absent)}"


def _calls(found: Results) -> str:
    """The tables of the calls; http has those of https, and one more."""
    tables = []
    for endpoint, measured in found["endpoints"].items():
        if endpoint == "http" and "https" in found["endpoints"]:
            continue
        verbs = {name: each["job"]["verb"] for name, each in measured["jobs"].items()}
        tables.append(f"{report.NAMES[endpoint]}:\n\n{report.to_list(verbs, measured['peers'])}")
    return "\n".join(tables)


def main() -> None:
    """Run the command line."""
    *files, folder = map(Path, sys.argv[1:])
    write(results.merge(map(results.load, files)), folder)


if __name__ == "__main__":
    main()
