"""The tables of a result file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks import goals
from benchmarks.figures import Summary, best, floor_of, summarise
from benchmarks.layout import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from benchmarks.results import Results

    Cell = Callable[[Summary], str]

NAMES = {
    "https": "S3 over https",
    "http": "S3 over http",
    "gcs": "Google Cloud Storage over https",
    "azure": "Azure Blob Storage over https",
}
"""The endpoints in headings."""
_NONE = "–"


def show(tables: str, file: Path | None) -> None:
    """Print tables, and write them to a file if one is named."""
    print(tables)
    if file:
        file.write_text(tables)


def to_markdown(results: Results, picture: Callable[[str], str] | None = None) -> str:
    """The goals, and a table for each job.

    Args:
        results: The results.
        picture: Gives the text above the tables of an endpoint. Default: nothing.
    """
    blocks = []
    reached = [] if results["about"].get("quick") else goals.judge(results["endpoints"])
    if reached:
        blocks += ["## Goals", goals.to_markdown(reached).rstrip()]
    for name, measured in results["endpoints"].items():
        blocks.append(f"## {NAMES.get(name, name)}")
        if picture:
            blocks.append(picture(name))
        blocks += [job_table(each, measured["peers"]) for each in measured["jobs"].values()]
        slope = slope_table(measured["jobs"])
        missing = [
            f"- {peer}: {_one_line(each['missing'])}" for peer, each in measured["peers"].items() if "missing" in each
        ]
        blocks += [slope] if slope else []
        blocks += ["Could not be had:\n\n" + "\n".join(missing)] if missing else []
    return "\n\n".join(blocks) + "\n"


def job_table(measured: Mapping[str, Any], peers: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of a job. It has no column without figures."""
    summaries = summarise(measured["runs"])
    ranked = sorted(summaries.items(), key=_time)
    columns = [(head, [cell(each) for _, each in ranked]) for head, cell in _columns(summaries)]
    shown = [(head, cells) for head, cells in columns if any(each != _NONE for each in cells)]
    counts = measured["counts"]
    if counts:
        shown += _counted([name for name, _ in ranked], counts)
    lines = [f"### {measured['job']['title']}", "", "| | " + " | ".join(head for head, _ in shown) + " |"]
    lines.append("|---" * (len(shown) + 1) + "|")
    for row, (peer, _) in enumerate(ranked):
        lines.append(f"| {peer} | " + " | ".join(cells[row] for _, cells in shown) + " |")
    return "\n".join([*lines, *_notes(measured, peers)])


def _time(item: tuple[str, Summary]) -> float:
    medians = item[1].medians
    return medians.get("process_wall") or medians["warm_wall"]


def _columns(summaries: Mapping[str, Summary]) -> list[tuple[str, Cell]]:
    floor = floor_of(summaries)
    of_floor = floor.medians if floor else {}
    return [
        ("runs", lambda each: str(each.runs)),
        ("process: wall s", _number("process_wall", 2)),
        ("least–most", _span("process_wall")),
        ("CPU s", _number("process_cpu", 2)),
        ("to the best peer: wall", _ratio("process_wall", best(summaries, "process_wall"))),
        ("CPU", _ratio("process_cpu", best(summaries, "process_cpu"))),
        ("warm: wall s", _number("warm_wall", 3)),
        ("CPU s", _number("warm_cpu", 3)),
        ("to the best peer: wall", _ratio("warm_wall", best(summaries, "warm_wall"))),
        ("CPU", _ratio("warm_cpu", best(summaries, "warm_cpu"))),
        ("to the floor: wall", _ratio("warm_wall", of_floor.get("warm_wall"))),
        ("CPU", _ratio("warm_cpu", of_floor.get("warm_cpu"))),
        ("one call µs", _number("per_call_us", 0)),
        ("peak RSS MiB", _number("peak_rss", 0, MIB)),
        ("handshakes (resumed)", _handshakes),
    ]


def _number(name: str, digits: int, unit: int = 1) -> Cell:
    return lambda each: f"{each.medians[name] / unit:.{digits}f}" if name in each.medians else _NONE


def _span(name: str) -> Cell:
    return lambda each: f"{each.least[name]:.2f}–{each.most[name]:.2f}" if name in each.medians else _NONE


def _ratio(name: str, base: float | None) -> Cell:
    return lambda each: f"{each.medians[name] / base:.2f}" if base and name in each.medians else _NONE


def _handshakes(each: Summary) -> str:
    if not each.medians.get("handshakes"):
        return _NONE
    return f"{each.medians['handshakes']:.0f} ({each.medians['resumed']:.0f})"


def _counted(names: Sequence[str], counts: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    def column(cell: Callable[[Mapping[str, Any]], str]) -> list[str]:
        return [cell(counts[name]) if name in counts else _NONE for name in names]

    return [
        ("requests", column(lambda each: str(sum(each["requests"].values())))),
        ("MiB up", column(lambda each: f"{each['bytes_up'] / MIB:.1f}")),
        ("MiB down", column(lambda each: f"{each['bytes_down'] / MIB:.1f}")),
    ]


def _notes(measured: Mapping[str, Any], peers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    verb, lines = measured["job"]["verb"], []
    cannot = {name: each["cannot"][verb] for name, each in peers.items() if verb in each.get("cannot", {})}
    reasons = {**cannot, **measured["failures"]}
    for said, shown in (("Not in the table", False), ("Failed once, and not asked again", True)):
        notes = [f"{name}: {_one_line(why)}" for name, why in reasons.items() if (name in measured["runs"]) is shown]
        if notes:
            lines += ["", f"{said}: {'; '.join(notes)}."]
    return lines


def slope_table(jobs: Mapping[str, Mapping[str, Any]]) -> str:
    """The jobs on one processor beside the same jobs on all; empty if they were not measured."""
    lines = []
    for name, measured in jobs.items():
        other = jobs.get(f"{measured['job']['verb']}-1g") if name.startswith("one-core-") else None
        if other is None:
            continue
        one, more = summarise(measured["runs"]), summarise(other["runs"])
        for peer in one.keys() & more.keys():
            of_one, of_more = one[peer].medians, more[peer].medians
            one_wall, all_wall = of_one["wall"], of_more.get("wall", of_more.get("warm_wall"))  # the floor is warm at once
            if not all_wall:
                continue
            title, speed = other["job"]["title"], one_wall / all_wall
            lines.append(f"| {title} | {peer} | {one_wall:.2f} | {all_wall:.2f} | {speed:.2f} |")
    head = ["### From one processor to all", "", "| | | one: wall s | all: wall s | faster by |", "|---|---|---|---|---|"]
    return "\n".join([*head, *sorted(lines)]) if lines else ""


def _one_line(text: str) -> str:
    return " ".join(text.splitlines()[-1:]).strip().rstrip(".")


def to_list(verbs: Mapping[str, str], peers: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of the jobs, with the call by which each peer does them.

    Args:
        verbs: The verb of each job.
        peers: The abilities of the peers.
    """
    names: dict[str, dict[str, None]] = {}
    for name, verb in verbs.items():
        names.setdefault(verb, {})[name] = None
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
