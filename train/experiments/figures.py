"""Figures of an experiment: curves or bars of its variants, readable without colour."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, BAR = "#1a1a1a", "#8a8a8a", "#c9d6e8"
COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#8a4fa3", "#b8860b", "#4a4e69", "#0f8b8d", "#d1495b")
DASHES = ("solid", "dashed", "dashdot", "dotted")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
WIDTH_INCHES = 6.3
DOTS_PER_INCH = 200


@dataclass(frozen=True)
class Bar:
    """One variant's value."""

    mean: float
    low: float | None
    """Lower end of its interval; None where there is none."""
    high: float | None
    """Its upper end."""
    points: tuple[float, ...] = ()
    """Each seed's value."""


def curves_figure(curves: Mapping[str, Sequence[Sequence[float | None]]], axis: str) -> "Figure":
    """Values by epoch, counted from 1, of several runs of each variant.

    The line is the mean of its runs, the band goes from the lowest to the highest. An epoch without
    a value in all runs is left out.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure((WIDTH_INCHES, 3.4), dpi=DOTS_PER_INCH, facecolor="white", layout="constrained")
    axes = figure.subplots()
    for index, (name, runs) in enumerate(curves.items()):
        values = {
            epoch: [float(value) for value in of_epoch if value is not None]
            for epoch, of_epoch in enumerate(zip(*runs, strict=False), 1)
            if None not in of_epoch
        }
        table = np.array([*values.values()]).reshape(len(values), -1)
        low, mean, high = table.min(axis=1), table.mean(axis=1), table.max(axis=1)
        colour, dash = COLOURS[index % len(COLOURS)], DASHES[index % len(DASHES)]
        axes.fill_between([*values], low, high, color=colour, alpha=0.15, linewidth=0)
        marker = MARKERS[index % len(MARKERS)]
        axes.plot([*values], mean, color=colour, linestyle=dash, marker=marker, ms=3.5, label=name)
    axes.set_xlabel("epoch", color=INK)
    axes.set_ylabel(axis, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    _style(axes)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    return figure


def bars_figure(bars: Mapping[str, Bar], axis: str) -> "Figure":
    """A bar for each variant with its interval, and a mark for each seed."""
    from matplotlib.figure import Figure

    height = 0.9 + 0.36 * len(bars)
    figure = Figure(
        (WIDTH_INCHES, height), dpi=DOTS_PER_INCH, facecolor="white", layout="constrained"
    )
    axes = figure.subplots()
    places = range(len(bars), 0, -1)
    for place, bar in zip(places, bars.values(), strict=True):
        axes.barh(place, bar.mean, height=0.62, color=BAR, edgecolor=INK, linewidth=0.7)
        if bar.low is not None and bar.high is not None:
            axes.hlines(place, bar.low, bar.high, color=INK, linewidth=1.4)
            axes.vlines([bar.low, bar.high], place - 0.14, place + 0.14, color=INK, linewidth=1.4)
        axes.plot(bar.points, [place] * len(bar.points), "o", ms=3.5, mfc="white", mec=INK, mew=0.8)
    axes.set_yticks([*places], [*bars], fontsize=9, color=INK)
    axes.set_xlabel(axis, color=INK)
    _style(axes)
    axes.tick_params(axis="y", length=0)
    return figure


def _style(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SOFT)
    axes.tick_params(colors=SOFT, labelcolor=INK, labelsize=8)
    axes.grid(color=SOFT, alpha=0.2, linewidth=0.6)
    axes.set_axisbelow(True)
