"""The quality report's charts, as inline SVG with colours from the page's style sheet."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from math import ceil, floor, log10

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

WIDTH, HEIGHT = 320, 150
EDGE = 5
"""Numbers closer than this to an end of the axis are aligned to that end."""
TOP, FLOOR = 16, HEIGHT - 22
"""The y of the highest bar's end, and of the x axis."""

STEPS_A_DECADE = 6
LOST_EDGES = (0.0005, 0.01, 0.02, 0.05, 0.1, 0.2)
LOST_NAMES = ("none", "< 1%", "1–2", "2–5", "5–10", "10–20", "> 20%")

BAND = (5, 95)
"""Percentiles over the cases that bound a band."""
TRACE = 1e-4
"""Bins with a smaller share of voxels are not shown."""


@dataclass(frozen=True)
class Bar:
    """A bar of `count` cases; `style` is its CSS class."""

    x: float
    width: float
    count: int
    name: str
    style: str


def volumes(values_ml: Sequence[float], region: str, decades: tuple[int, int]) -> Markup:
    """Cases by a region's volume, on a logarithmic axis (see `decades_of`) after a bar for 0 ml."""
    style = f"region region-{region}"
    first, last = decades
    edges = np.logspace(first, last, (last - first) * STEPS_A_DECADE + 1)
    present = np.clip([ml for ml in values_ml if ml > 0], edges[0], edges[-1] * (1 - 1e-9))
    none = sum(ml == 0 for ml in values_ml)
    counts = np.histogram(present, edges)[0].tolist()
    step = WIDTH / (len(counts) + 3)
    start = 3 * step
    bars = [Bar(0, step - 1, none, "0 ml", style)] + [
        Bar(start + index * step, step - 1, count, f"{low:.3g}–{high:.3g} ml", style)
        for index, (count, (low, high)) in enumerate(zip(counts, pairwise(edges), strict=True))
    ]
    ticks = [(step / 2, "0")] + [
        (start + (power - first) * STEPS_A_DECADE * step, f"{10.0**power:g}")
        for power in range(first, last + 1)
    ]
    parts = [_bars(bars), _ticks(ticks)]
    return _svg(f"Cases by volume of {region.upper()}", parts)


def decades_of(values_ml: Sequence[float]) -> tuple[int, int]:
    """Powers of ten around a set of volumes, at least three decades apart."""
    present = [ml for ml in values_ml if ml > 0] or [1.0, 100.0]
    last = ceil(log10(max(present)))
    return min(floor(log10(min(present))), last - 3), last


def lost(crop: Sequence[float], centred: Sequence[float]) -> Markup:
    """Cases by the share of tumour outside the crop, and outside a crop centred on the brain."""
    step = WIDTH / len(LOST_NAMES)
    bars = [
        Bar(step * (index + offset), step * 0.42, count, name, style)
        for shares, style, offset in ((crop, "crop", 0.08), (centred, "centred", 0.5))
        for index, (count, name) in enumerate(zip(_loss_counts(shares), LOST_NAMES, strict=True))
    ]
    ticks = [(step * (index + 0.5), name) for index, name in enumerate(LOST_NAMES)]
    return _svg("Cases by share of tumour outside the crop", [_bars(bars), _ticks(ticks)])


def _loss_counts(shares: Sequence[float]) -> list[int]:
    counts = np.bincount(np.digitize(shares, LOST_EDGES), minlength=len(LOST_NAMES))
    return [int(count) for count in counts]


def span(curves: Sequence[NDArray[np.floating]]) -> slice:
    """The bins with more than a trace of any modality: one axis for all modalities."""
    used = np.flatnonzero(np.max([curve.mean(axis=0) for curve in curves], axis=0) > TRACE)
    return slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(None)


def intensities(
    curves: NDArray[np.floating], edges: NDArray[np.floating], name: str, *, logarithmic: bool
) -> Markup:
    """Mean over all cases, and a band over the cases, of the voxels' shares (cases, bins).

    `name` is the chart's description for screen readers.
    """
    places = np.log10(edges) if logarithmic else edges
    begin, end = float(places[0]), float(places[-1])
    scale = WIDTH / (end - begin)
    centres = ((places[:-1] + places[1:]) / 2 - begin) * scale
    low, high = np.percentile(curves, BAND, axis=0)
    mean = curves.mean(axis=0)
    rise = (FLOOR - TOP) / max(float(high.max()), float(mean.max()), TRACE)
    upper, lower, line = (_points(centres, FLOOR - y * rise) for y in (high, low, mean))
    ticks = [
        ((mark - begin) * scale, f"{10.0**mark:g}" if logarithmic else f"{mark}".replace("-", "−"))
        for mark in range(ceil(begin), floor(end) + 1)
        if logarithmic or mark % 2 == 0
    ]
    parts = [
        f'<path class="band" d="M{" ".join(upper)}L{" ".join(reversed(lower))}Z"/>',
        f'<path class="line" d="M{" ".join(line)}"/>',
        _ticks(ticks),
    ]
    return _svg(name, parts)


def _svg(label: str, parts: Sequence[str]) -> Markup:
    axis = f'<path class="axis" d="M0 {FLOOR}H{WIDTH}"/>'
    # All of this is numbers, constants or escaped.
    return Markup(  # noqa: S704
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}{axis}</svg>"
    )


def _bars(bars: Sequence[Bar]) -> str:
    """Bars, and a line with the highest bar's count in place of a y axis."""
    highest = max(bar.count for bar in bars)
    rise = (FLOOR - TOP) / max(highest, 1)
    drawn = [
        f'<path class="grid" d="M0 {TOP}H{WIDTH}"/>'
        f'<text class="tick" x="0" y="{TOP - 4}">{_cases(highest)}</text>'
    ]
    for bar in bars:
        height = max(bar.count * rise, 1.5)
        if bar.count:
            drawn.append(
                f'<rect class="bar {bar.style}" x="{bar.x:.1f}" y="{FLOOR - height:.1f}" '
                f'width="{bar.width:.1f}" height="{height:.1f}">'
                f"<title>{escape(bar.name)}: {_cases(bar.count)}</title></rect>"
            )
    return "".join(drawn)


def _cases(count: int) -> str:
    return "1 case" if count == 1 else f"{count} cases"


def _ticks(ticks: Sequence[tuple[float, str]]) -> str:
    return "".join(
        f'<text class="tick" x="{x:.1f}" y="{FLOOR + 14}" text-anchor="{_anchor(x)}">'
        f"{escape(name)}</text>"
        for x, name in ticks
    )


def _anchor(x: float) -> str:
    """Numbers at the axis' ends stay inside it: outside may be the end of the page."""
    if x < EDGE:
        return "start"
    return "end" if x > WIDTH - EDGE else "middle"


def _points(x: NDArray[np.floating], y: NDArray[np.floating]) -> list[str]:
    return [f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True)]
