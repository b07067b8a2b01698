"""The charts: a panel for each job, with two bars for each peer, as ratios. Plain SVG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from benchmarks.figures import Summary, best, floor_of, is_ours, summarise

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_WIDTH = 980
_COLUMNS = 2
_GAP = 24
_TOP = 64
_NAMES = 178
_BAR = 8
_ROW = 24
_TITLE = 34
_CEILING = 4.0  # the longest bar; the number beside it is exact

_STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #24292f; }
  .title { font-weight: 600; font-size: 13px; }
  .head { font-weight: 600; font-size: 16px; }
  .number { font-size: 10px; fill: #57606a; }
  .ours { font-weight: 700; }
  .wall { fill: #8c959f; } .cpu { fill: #d0d7de; }
  .wall.mine { fill: #0969da; } .cpu.mine { fill: #80ccff; }
  .best { stroke: #cf222e; stroke-width: 1; stroke-dasharray: 3 3; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; } .number { fill: #9198a1; }
    .wall { fill: #7d8590; } .cpu { fill: #3d444d; }
    .wall.mine { fill: #4493f8; } .cpu.mine { fill: #1f4f8f; }
    .best { stroke: #f85149; }
  }
"""


@dataclass(frozen=True)
class Panel:
    """The part of a picture for one job.

    Attributes:
        title: Title of the job.
        rows: For each peer its name, the ratios of time and CPU, and whether it is this library.
    """

    title: str
    rows: list[tuple[str, float, float, bool]]


def of_processes(jobs: Mapping[str, Mapping[str, Any]]) -> list[Panel]:
    """The complete processes, to the best peer."""
    return _panels(jobs, "process_", best)


def of_warm_jobs(jobs: Mapping[str, Mapping[str, Any]]) -> list[Panel]:
    """The jobs in warm processes, to the floor."""

    def base(summaries: Mapping[str, Summary], name: str) -> float | None:
        floor = floor_of(summaries)
        return floor.medians[name] if floor else None

    return _panels(jobs, "warm_", base)


def _panels(
    jobs: Mapping[str, Mapping[str, Any]], kind: str, base: Callable[[Mapping[str, Summary], str], float | None]
) -> list[Panel]:
    panels = []
    for measured in jobs.values():
        summaries = summarise(measured["runs"])
        wall, cpu = (base(summaries, kind + figure) for figure in ("wall", "cpu"))
        shown = {name: each.medians for name, each in summaries.items() if f"{kind}wall" in each.medians}
        if not (wall and cpu and any(map(is_ours, shown))):
            continue
        rows = [(name, each[f"{kind}wall"] / wall, each[f"{kind}cpu"] / cpu, is_ours(name)) for name, each in shown.items()]
        panels.append(Panel(measured["job"]["title"], sorted(rows, key=lambda row: row[1])))
    return panels


def to_svg(panels: Sequence[Panel], head: str, caption: str) -> str:
    """Draw the picture.

    Args:
        panels: The panels.
        head: The title.
        caption: The conditions of the run.
    """
    width = (_WIDTH - _GAP * (_COLUMNS + 1)) / _COLUMNS
    body, y = [], float(_TOP)
    for first in range(0, len(panels), _COLUMNS):
        row = panels[first : first + _COLUMNS]
        for column, panel in enumerate(row):
            body.append(_draw(panel, left=_GAP + column * (width + _GAP), top=y, width=width))
        y += max(_TITLE + _ROW * len(panel.rows) for panel in row) + _GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y:.0f}" role="img">\n'
        f"<title>{escape(head)}</title>\n<style>{_STYLE}</style>\n"
        f'<text class="head" x="{_GAP}" y="26">{escape(head)}</text>\n'
        f'<text class="number" x="{_GAP}" y="44">{escape(caption)}. Shorter is better.</text>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def _draw(panel: Panel, *, left: float, top: float, width: float) -> str:
    start = left + _NAMES
    unit = (width - _NAMES - 34) / _CEILING
    lines = [f'<text class="title" x="{left:.0f}" y="{top + 14:.0f}">{escape(panel.title)}</text>']
    y = top + _TITLE - 8
    for peer, wall, cpu, mine in panel.rows:
        kind = "ours" if mine else "peer"
        place = f'x="{start - 8:.0f}" y="{y + 13:.0f}" text-anchor="end"'
        lines.append(f'<text class="{kind}" {place}>{escape(peer)}</text>')
        lines += [
            _bar(name, ratio, start, at, unit, mine=mine)
            for name, ratio, at in (("wall", wall, y), ("cpu", cpu, y + _BAR + 1))
        ]
        y += _ROW
    one = start + unit
    lines.append(f'<line class="best" x1="{one:.1f}" y1="{top + _TITLE - 12:.0f}" x2="{one:.1f}" y2="{y - 4:.0f}"/>')
    return "\n".join(lines)


def _bar(name: str, ratio: float, x: float, y: float, unit: float, *, mine: bool) -> str:
    length = min(ratio, _CEILING) * unit
    kind = f"{name} mine" if mine else name
    return (
        f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{length:.1f}" height="{_BAR}" rx="1"/>'
        f'<text class="number" x="{x + length + 4:.1f}" y="{y + _BAR:.1f}">{ratio:.2f}</text>'
    )
