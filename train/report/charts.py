"""The run report's charts; styles are CSS classes, so that colours follow light, dark and print."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, isfinite, log10

import numpy as np

from common.console import duration
from common.report.charts import FLOOR, TOP, WIDTH, Svg, points, svg, ticks
from train.report.facts import Bins

LEFT = 30
"""Room for the numbers of a y axis."""
MOST_TICKS = 6

LEAST_VOXELS = 100
"""Bins of a reliability curve with fewer voxels are not shown: their share is chance."""

BAR_HEIGHT, BAR_STEP = 15, 34


@dataclass(frozen=True)
class Line:
    """A curve; `style` is its CSS class."""

    name: str
    style: str
    points: list[tuple[float, float]]


@dataclass(frozen=True)
class Dot:
    """A case of a scatter chart; `case` is its place in the page's list."""

    x: float
    y: float
    name: str
    style: str
    case: int


@dataclass(frozen=True)
class Interval:
    """Scores of cases, and their mean with its interval, whose ends are None of one patient."""

    name: str
    style: str
    values: list[float]
    mean: float
    low: float | None
    high: float | None


def nice(low: float, high: float, most: int = MOST_TICKS) -> list[float]:
    """Round numbers from below `low` to above `high`, evenly apart."""
    span = max(high - low, 1e-9)
    power = 10 ** floor(log10(span / (most - 1)))
    step = next(power * k for k in (1, 2, 5, 10) if span / (power * k) <= most - 1)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, max(last, first + 1) + 1)]


def curves(label: str, lines: Sequence[Line], marks: Sequence[float], best: int | None) -> Svg:
    """Lines over epochs between the first and the last of `marks`, the y axis' numbers."""
    last = max((x for line in lines for x, _ in line.points), default=1)
    first = min((x for line in lines for x, _ in line.points), default=0)
    x_of = _scale(first, max(last, first + 1), LEFT, WIDTH)
    y_of = _scale(marks[0], marks[-1], FLOOR, TOP)
    drawn = [_y_axis(marks, y_of)]
    if best is not None:
        x = x_of(best)
        drawn.append(f'<path class="best" d="M{x:.1f} {TOP - 8}V{FLOOR}"/>')
    for line in lines:
        at = [(x_of(x), y_of(y)) for x, y in line.points if isfinite(y)]
        drawn.append(_path(line.style, at))
        if len(at) == 1:
            drawn.append(_dot(line.style, *at[0]))
    epochs = [e for e in nice(first, last, 5) if first <= e <= last and e == int(e)]
    drawn.append(ticks([(x_of(e), f"{e:g}") for e in epochs]))
    return svg(label, drawn, LEFT)


def scatter(label: str, dots: Sequence[Dot], decades: tuple[int, int]) -> Svg:
    """Scores from 0 to 1 over a volume in ml, on a logarithmic axis after a place for 0 ml."""
    first, last = decades
    start = LEFT + 40
    x_of = _scale(first, last, start, WIDTH - 4)
    y_of = _scale(0, 1, FLOOR, TOP)
    drawn = [_y_axis([0, 0.5, 1], y_of)]
    for dot in dots:
        x = x_of(log10(dot.x)) if dot.x > 0 else LEFT + 8
        drawn.append(
            f'<circle class="point {dot.style}" cx="{x:.1f}" cy="{y_of(dot.y):.1f}" r="3.2" '
            f'data-case="{dot.case}"><title>{escape(dot.name)}</title></circle>'
        )
    powers = [(x_of(power), f"{10.0**power:g}") for power in range(first, last + 1)]
    return svg(label, [*drawn, ticks([(LEFT + 8, "0"), *powers])], LEFT)


def reliability(label: str, found: Sequence[tuple[str, Bins]]) -> Svg:
    """Share of voxels in a region over their mean probability; a curve for each (style, bins)."""
    x_of, y_of = _scale(0, 1, LEFT, WIDTH - 4), _scale(0, 1, FLOOR, TOP)
    drawn = [
        _y_axis([0, 0.5, 1], y_of),
        f'<path class="ideal" d="M{x_of(0)} {y_of(0)}L{x_of(1)} {y_of(1)}"/>',
    ]
    for style, bins in found:
        counts = zip(bins.voxels, bins.probability, bins.positives, strict=True)
        at = [(x_of(p / n), y_of(k / n)) for n, p, k in counts if n >= LEAST_VOXELS]
        drawn.append(_path(style, at))
        drawn += [_dot(style, x, y) for x, y in at]
    shares = [(x_of(p), f"{p:g}") for p in (0, 0.25, 0.5, 0.75, 1)]
    return svg(label, [*drawn, ticks(shares)], LEFT)


def intervals(label: str, found: Sequence[Interval], marks: Sequence[float]) -> Svg:
    """Scores, a stroke for each case, below their means; `marks` are the axis' numbers."""
    x_of = _scale(marks[0], marks[-1], 4, WIDTH - 4)
    step = (FLOOR - TOP) / len(found)
    drawn = [f'<path class="grid" d="M{x_of(m):.1f} {TOP - 6}V{FLOOR}"/>' for m in marks]
    for index, each in enumerate(found):
        y, size = TOP + step * (index + 0.4), min(step / 3, 14)
        strokes = "".join(f"M{x_of(value):.1f} {y + 6:.1f}v{size:.1f}" for value in each.values)
        drawn.append(f'<path class="cases {each.style}" d="{strokes}"/>')
        if each.low is not None and each.high is not None:
            ends = f"M{x_of(each.low):.1f} {y:.1f}H{x_of(each.high):.1f}"
            drawn.append(f'<path class="interval {each.style}" d="{ends}"/>')
        drawn.append(
            f'<circle class="mean {each.style}" cx="{x_of(each.mean):.1f}" cy="{y:.1f}" r="4">'
            f"<title>{escape(each.name)}: {each.mean:.3f}</title></circle>"
        )
    return svg(label, [*drawn, ticks([(x_of(mark), f"{mark:g}") for mark in marks])])


def times(label: str, seconds: Sequence[tuple[str, str, float]]) -> Svg:
    """Bars of (style, name, seconds), each with its time and its share of all."""
    total = sum(time for _, _, time in seconds) or 1.0
    drawn = []
    for index, (style, name, time) in enumerate(seconds):
        y = TOP + index * BAR_STEP
        text = f"{escape(name)} · {duration(time)} · {time / total:.1%}"
        drawn.append(
            f'<text class="tick strong" x="0" y="{y}">{text}</text>'
            f'<rect class="track" x="0" y="{y + 5}" width="{WIDTH}" height="{BAR_HEIGHT}"/>'
            f'<rect class="bar {style}" x="0" y="{y + 5}" height="{BAR_HEIGHT}" '
            f'width="{WIDTH * time / total:.1f}"/>'
        )
    return svg(label, drawn, None)


Scale = Callable[[float], float]


def _scale(low: float, high: float, begin: float, end: float) -> Scale:
    """Places the numbers from `low` to `high` between two ends of an axis."""
    return lambda value: begin + (value - low) * (end - begin) / (high - low)


def _y_axis(marks: Sequence[float], y_of: Scale) -> str:
    return "".join(
        f'<path class="grid" d="M{LEFT} {y_of(mark):.1f}H{WIDTH}"/>'
        f'<text class="tick" x="{LEFT - 5}" y="{y_of(mark) + 3.5:.1f}" text-anchor="end">'
        f"{mark:g}</text>"
        for mark in marks
    )


def _dot(style: str, x: float, y: float) -> str:
    return f'<circle class="dot {style}" cx="{x:.1f}" cy="{y:.1f}" r="2"/>'


def _path(style: str, at: Sequence[tuple[float, float]]) -> str:
    if len(at) < 2:
        return ""
    x, y = np.array(at).T
    return f'<path class="line {style}" d="M{" ".join(points(x, y))}"/>'
