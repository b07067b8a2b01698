"""The picture: one panel for each job, with two bars for each peer, as ratios to the best peer. Plain SVG."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from benchmarks.figures import Summary
    from benchmarks.jobs import Job

_WIDTH = 980
_COLUMNS = 2
_GAP = 24
_TOP = 64
_NAMES = 150
_BAR = 8
_ROW = 24
_TITLE = 34
_CEILING = 4.0  # the longest bar; the number beside it is exact

_HEAD = "Time of the job (upper bar) and its CPU (lower bar), as ratios to the best peer (1.0)"

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


def to_svg(jobs: Sequence[Job], summaries: Mapping[str, Mapping[str, Summary]], ours: Collection[str], caption: str) -> str:
    """Draw the picture.

    Args:
        jobs: The jobs, in the order of their panels; a job without figures has none.
        summaries: The summaries, by job and peer.
        ours: The peers that are this library.
        caption: The conditions of the run.
    """
    shown = [job for job in jobs if any(each.to_best for each in summaries.get(job.name, {}).values())]
    width = (_WIDTH - _GAP * (_COLUMNS + 1)) / _COLUMNS
    body, y = [], float(_TOP)
    for first in range(0, len(shown), _COLUMNS):
        row = shown[first : first + _COLUMNS]
        for column, job in enumerate(row):
            left = _GAP + column * (width + _GAP)
            body.append(_panel(job.title, summaries[job.name], ours, left=left, top=y, width=width))
        y += max(_TITLE + _ROW * len(summaries[job.name]) for job in row) + _GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y:.0f}" role="img">\n'
        f"<title>{escape(caption)}</title>\n<style>{_STYLE}</style>\n"
        f'<text class="head" x="{_GAP}" y="26">{_HEAD}</text>\n'
        f'<text class="number" x="{_GAP}" y="44">{escape(caption)}. Shorter is better.</text>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def _panel(
    title: str, summaries: Mapping[str, Summary], ours: Collection[str], *, left: float, top: float, width: float
) -> str:
    start = left + _NAMES
    unit = (width - _NAMES - 34) / _CEILING
    lines = [f'<text class="title" x="{left:.0f}" y="{top + 14:.0f}">{escape(title)}</text>']
    y = top + _TITLE - 8
    ranked = sorted(summaries.items(), key=lambda item: item[1].medians["wall"])
    for peer, summary in ranked:
        mine = peer in ours
        kind = "ours" if mine else "peer"
        place = f'x="{start - 8:.0f}" y="{y + 13:.0f}" text-anchor="end"'
        lines.append(f'<text class="{kind}" {place}>{escape(peer)}</text>')
        for name, at in (("wall", y), ("cpu", y + _BAR + 1)):
            if name in summary.to_best:
                lines.append(_bar(name, summary.to_best[name], start, at, unit, mine=mine))
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
