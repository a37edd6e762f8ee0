"""Charts as inline SVG, with colours from the page's style sheet."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

Svg = Markup
"""An SVG element, safe to put into a page: numbers, constants and escaped text."""

WIDTH, HEIGHT = 320, 150
EDGE = 5
"""Numbers closer than this to an end of the axis are aligned to that end."""
TOP, FLOOR = 16, HEIGHT - 22
"""The y of the highest bar's end, and of the x axis."""

LOST_EDGES = (0.0005, 0.01, 0.02, 0.05, 0.1, 0.2)
LOST_NAMES = ("none", "< 1%", "1–2", "2–5", "5–10", "10–20", "> 20%")


@dataclass(frozen=True)
class Bar:
    """A bar of `count` cases; `style` is its CSS class."""

    x: float
    width: float
    count: int
    name: str
    style: str


def svg(label: str, parts: Sequence[str], left: float | None = 0) -> Svg:
    """A chart of safe parts above an x axis from `left`, if any; `label` is for screen readers."""
    axis = "" if left is None else f'<path class="axis" d="M{left} {FLOOR}H{WIDTH}"/>'
    return Markup(  # noqa: S704 - safe by the rule above
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}{axis}</svg>"
    )


def bars(drawn: Sequence[Bar]) -> str:
    """Bars, and a line with the highest bar's count in place of a y axis."""
    highest = max(bar.count for bar in drawn)
    rise = (FLOOR - TOP) / max(highest, 1)
    parts = [
        f'<path class="grid" d="M0 {TOP}H{WIDTH}"/>'
        f'<text class="tick" x="0" y="{TOP - 4}">{_cases(highest)}</text>'
    ]
    for bar in drawn:
        height = max(bar.count * rise, 1.5)
        if bar.count:
            parts.append(
                f'<rect class="bar {bar.style}" x="{bar.x:.1f}" y="{FLOOR - height:.1f}" '
                f'width="{bar.width:.1f}" height="{height:.1f}">'
                f"<title>{escape(bar.name)}: {_cases(bar.count)}</title></rect>"
            )
    return "".join(parts)


def ticks(places: Sequence[tuple[float, str]]) -> str:
    """Names below the x axis at these x."""
    return "".join(
        f'<text class="tick" x="{x:.1f}" y="{FLOOR + 14}" text-anchor="{_anchor(x)}">'
        f"{escape(name)}</text>"
        for x, name in places
    )


def points(x: NDArray[np.floating], y: NDArray[np.floating]) -> list[str]:
    """Points of a path."""
    return [f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True)]


def decades_of(values_ml: Sequence[float]) -> tuple[int, int]:
    """Powers of ten around a set of volumes, at least three decades apart."""
    present = [ml for ml in values_ml if ml > 0] or [1.0, 100.0]
    last = ceil(log10(max(present)))
    return min(floor(log10(min(present))), last - 3), last


def lost(shares: dict[str, Sequence[float]]) -> Svg:
    """Cases by the share of tumour outside one or two boxes, by the style of each one's bars."""
    step, width = WIDTH / len(LOST_NAMES), 0.84 / len(shares)
    drawn = [
        Bar(step * (index + 0.08 + nth * width), step * width, count, name, style)
        for nth, (style, values) in enumerate(shares.items())
        for index, (count, name) in enumerate(zip(_loss_counts(values), LOST_NAMES, strict=True))
    ]
    names = [(step * (index + 0.5), name) for index, name in enumerate(LOST_NAMES)]
    return svg("Cases by share of tumour outside the crop", [bars(drawn), ticks(names)])


def _loss_counts(shares: Sequence[float]) -> list[int]:
    counts = np.bincount(np.digitize(shares, LOST_EDGES), minlength=len(LOST_NAMES))
    return [int(count) for count in counts]


def _cases(count: int) -> str:
    return "1 case" if count == 1 else f"{count} cases"


def _anchor(x: float) -> str:
    """Numbers at the axis' ends stay inside it: outside may be the end of the page."""
    if x < EDGE:
        return "start"
    return "end" if x > WIDTH - EDGE else "middle"
