"""Line charts as SVG: a page with them needs no network and no script."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

import numpy as np

__all__ = ["COLOURS", "Line", "chart"]

COLOURS: Final = ("#0b5fa5", "#c44e00", "#2e7d32", "#7b1fa2", "#5d4037", "#00838f")
"""Told apart also by those who see few colours; a dash tells them apart where none is seen."""
_DASHES: Final = ("", "6 3", "2 3", "8 3 2 3", "4 4", "1 2")
_WIDTH, _HEIGHT = 460, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 24, 12, 46
_TICKS: Final = 5


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """A line of a chart, and the band around it."""

    name: str
    x: Any
    y: Any
    low: Any = None
    high: Any = None
    has_points: bool = False


def chart(
    lines: Sequence[Line],
    *,
    x: str,
    y: str,
    title: str,
    x_range: tuple[float, float] = (0.0, 1.0),
    y_range: tuple[float, float] | None = (0.0, 1.0),
    diagonal: bool = False,
) -> str:
    """A chart with axes, a legend and a title for those who hear it read."""
    if y_range is None:
        highest = max((float(np.max(each.y)) for each in lines if len(each.y)), default=1.0)
        y_range = (0.0, highest or 1.0)

    def at(across: Any, up: Any) -> str:
        left = _LEFT + (np.asarray(across) - x_range[0]) / (x_range[1] - x_range[0]) * (
            _WIDTH - _LEFT - _RIGHT
        )
        top = (
            _HEIGHT
            - _BOTTOM
            - (np.asarray(up) - y_range[0]) / (y_range[1] - y_range[0]) * (_HEIGHT - _TOP - _BOTTOM)
        )
        return " ".join(
            f"{one:.1f},{other:.1f}" for one, other in zip(np.ravel(left), np.ravel(top), strict=True)
        )

    head = (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + 16 * len(lines)}" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title>'
    )
    parts = [head]
    for share in np.linspace(0, 1, _TICKS + 1):
        across = x_range[0] + share * (x_range[1] - x_range[0])
        up = y_range[0] + share * (y_range[1] - y_range[0])
        parts.append(f'<polyline class="grid" points="{at([across, across], y_range)}"/>')
        parts.append(f'<polyline class="grid" points="{at(x_range, [up, up])}"/>')
        left, _ = at([across], [y_range[0]]).split(",")
        parts.append(f'<text x="{left}" y="{_HEIGHT - _BOTTOM + 15}" class="mid">{_number(across)}</text>')
        _, top = at([x_range[0]], [up]).split(",")
        parts.append(f'<text x="{_LEFT - 6}" y="{float(top) + 4:.1f}" class="end">{_number(up)}</text>')
    parts.append(f'<text x="{(_WIDTH + _LEFT) / 2}" y="{_HEIGHT - 12}" class="mid">{escape(x)}</text>')
    middle = (_HEIGHT - _BOTTOM) / 2
    parts.append(
        f'<text x="14" y="{middle}" class="mid" transform="rotate(-90 14 {middle})">{escape(y)}</text>'
    )
    if diagonal:
        parts.append(f'<polyline class="diagonal" points="{at(x_range, x_range)}"/>')
    for number, line in enumerate(lines):
        colour, dash = COLOURS[number % len(COLOURS)], _DASHES[number % len(_DASHES)]
        if line.low is not None and line.high is not None:
            around = f"{at(line.x, line.high)} {at(np.asarray(line.x)[::-1], np.asarray(line.low)[::-1])}"
            parts.append(f'<polygon points="{around}" fill="{colour}" opacity="0.15"/>')
        parts.append(
            f'<polyline points="{at(line.x, line.y)}" fill="none" stroke="{colour}" '
            f'stroke-width="1.8" stroke-dasharray="{dash}"/>'
        )
        if line.has_points:
            for point in at(line.x, line.y).split():
                across, top = point.split(",")
                parts.append(f'<circle cx="{across}" cy="{top}" r="3" fill="{colour}"/>')
        legend = _HEIGHT + 16 * number + 4
        parts.append(
            f'<line x1="{_LEFT}" x2="{_LEFT + 28}" y1="{legend}" y2="{legend}" stroke="{colour}" '
            f'stroke-width="2.5" stroke-dasharray="{dash}"/>'
            f'<text x="{_LEFT + 34}" y="{legend + 4}">{escape(line.name)}</text>'
        )
    return "".join([*parts, "</svg>"])


def _number(value: float) -> str:
    if abs(value) >= 10_000:
        return f"{value / 1000:,.0f}k"
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.2g}"
