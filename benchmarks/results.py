"""Result files: all runs of one or more commands, from which the tables and the charts are made.

The values of JSON are::

    {"about": {…}, "machine": {…}, "endpoints": {"https": {
        "peers": {"boto3": {"version": …, "how": …, "cannot": …}, …},
        "jobs": {"upload-1g": {
            "job": …, "runs": {"boto3": {"process_wall": [3.2, …], …}}, "behind": …, "failures": …, "counts": …,
        }},
    }}}
"""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.layout import GIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from benchmarks.jobs import Job
    from benchmarks.run import Found

Results = dict[str, Any]


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


def begin(about: Mapping[str, Any]) -> Results:
    """Results without runs."""
    return {"about": dict(about), "machine": describe_machine(), "endpoints": {}}


def add(results: Results, endpoint: str, peers: Mapping[str, Any], job: Job, found: Found) -> None:
    """Add the runs of a job."""
    place = results["endpoints"].setdefault(endpoint, {"peers": {}, "jobs": {}})
    place["peers"].update({name: dict(each) for name, each in peers.items()})
    place["jobs"][job.name] = {"job": {**asdict(job), "title": job.title}, **found.to_dict()}


def merge(parts: Iterable[Results]) -> Results:
    """One result of several; of a job that more than one has, the last is taken."""
    first, *others = parts
    for other in others:
        for name, theirs in other["endpoints"].items():
            ours = first["endpoints"].setdefault(name, {"peers": {}, "jobs": {}})
            ours["peers"].update(theirs["peers"])
            ours["jobs"].update(theirs["jobs"])
    return first


def load(path: Path) -> Results:
    """Read a result file."""
    found: Results = json.loads(path.read_text())
    return found


def save(results: Results, path: Path) -> None:
    """Write a result file. A job is a few lines, so that the file can be compared with another."""
    path.write_text(_spell(results, 5) + "\n")


def _spell(value: Any, depth: int, indent: int = 0) -> str:
    if not (depth and isinstance(value, dict) and value):
        return json.dumps(value, ensure_ascii=False)
    inner = ",\n".join(
        f"{' ' * (indent + 1)}{json.dumps(name)}: {_spell(each, depth - 1, indent + 1)}" for name, each in value.items()
    )
    return f"{{\n{inner}\n{' ' * indent}}}"


def main() -> None:
    """Merge result files: ``python -m benchmarks.results PART… INTO``."""
    *parts, into = map(Path, sys.argv[1:])
    save(merge(map(load, parts)), into)


if __name__ == "__main__":
    main()
