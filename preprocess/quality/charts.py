"""The quality report's own charts."""

from collections.abc import Sequence
from itertools import pairwise
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from common.report.charts import FLOOR, TOP, WIDTH, Bar, Svg, bars, points, svg, ticks

STEPS_A_DECADE = 6

BAND = (5, 95)
"""Percentiles over the cases that bound a band."""
TRACE = 1e-4
"""Bins with a smaller share of voxels are not shown."""


def volumes(values_ml: Sequence[float], region: str, decades: tuple[int, int]) -> Svg:
    """Cases by a region's volume, on a logarithmic axis (see `decades_of`) after a bar for 0 ml."""
    style = f"region region-{region}"
    first, last = decades
    edges = np.logspace(first, last, (last - first) * STEPS_A_DECADE + 1)
    present = np.clip([ml for ml in values_ml if ml > 0], edges[0], edges[-1] * (1 - 1e-9))
    none = sum(ml == 0 for ml in values_ml)
    counts = np.histogram(present, edges)[0].tolist()
    step = WIDTH / (len(counts) + 3)
    start = 3 * step
    drawn = [Bar(0, step - 1, none, "0 ml", style)] + [
        Bar(start + index * step, step - 1, count, f"{low:.3g}–{high:.3g} ml", style)
        for index, (count, (low, high)) in enumerate(zip(counts, pairwise(edges), strict=True))
    ]
    places = [(step / 2, "0")] + [
        (start + (power - first) * STEPS_A_DECADE * step, f"{10.0**power:g}")
        for power in range(first, last + 1)
    ]
    return svg(f"Cases by volume of {region.upper()}", [bars(drawn), ticks(places)])


def span(curves: Sequence[NDArray[np.floating]]) -> slice:
    """The bins with more than a trace of any modality: one axis for all modalities."""
    used = np.flatnonzero(np.max([curve.mean(axis=0) for curve in curves], axis=0) > TRACE)
    return slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(None)


def intensities(
    curves: NDArray[np.floating], edges: NDArray[np.floating], name: str, *, logarithmic: bool
) -> Svg:
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
    upper, lower, line = (points(centres, FLOOR - y * rise) for y in (high, low, mean))
    marks = [
        ((mark - begin) * scale, f"{10.0**mark:g}" if logarithmic else f"{mark}".replace("-", "−"))
        for mark in range(ceil(begin), floor(end) + 1)
        if logarithmic or mark % 2 == 0
    ]
    parts = [
        f'<path class="band" d="M{" ".join(upper)}L{" ".join(reversed(lower))}Z"/>',
        f'<path class="line" d="M{" ".join(line)}"/>',
        ticks(marks),
    ]
    return svg(name, parts)
