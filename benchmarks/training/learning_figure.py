"""Section `learning` as a picture: the loss of both networks by time and by samples."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from train.figures import DOTS_PER_INCH, INK, PAPER, SOFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from benchmarks.training.learning import Learning, Learnt

COLOURS = ("#7fb2ff", "#f2a65a")
SMOOTHED = 20
"""Of a curve's steps, one part of so many is what its line is a mean over."""
SIZE = (10.0, 4.6)
"""Inches."""


def learning_figure(found: "Learning") -> "Figure":
    """Each step's loss as a point, and a running mean as a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=DOTS_PER_INCH, facecolor=PAPER)
    panels = figure.subplots(1, 2, sharey=True)
    curves = [learnt for learnt in found.networks if learnt.losses]
    for learnt, colour in zip(curves, COLOURS, strict=False):
        _draw_curve(panels[0], learnt.seconds, learnt, colour)
        _draw_curve(panels[1], learnt.samples, learnt, colour)
    for panel, what in zip(panels, ("seconds of training", "samples learnt from"), strict=True):
        panel.set_xlabel(what, color=SOFT)
        panel.set_facecolor(PAPER)
        panel.tick_params(colors=SOFT, length=0)
        panel.spines[:].set_visible(False)
        panel.grid(color=SOFT, alpha=0.15)
    panels[0].set_ylabel("loss of the main head", color=SOFT)
    panels[1].legend(frameon=False, labelcolor=INK)
    figure.suptitle(
        f"{found.cases} training cases, {found.seconds:.0f} s for each network",
        x=0.08,
        ha="left",
        color=INK,
        weight="bold",
    )
    figure.text(0.08, 0.02, found.note, color=SOFT, size=8)
    figure.subplots_adjust(left=0.08, right=0.98, top=0.88, bottom=0.2, wspace=0.06)
    return figure


def _draw_curve(panel: "Axes", places: Sequence[float], learnt: "Learnt", colour: str) -> None:
    losses = np.array([np.nan if loss is None else loss for loss in learnt.losses])
    panel.plot(places, losses, ".", color=colour, alpha=0.25, markersize=3, markeredgewidth=0)
    panel.plot(places, running_mean(losses), color=colour, linewidth=1.8, label=learnt.network)


def running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each value's mean with those just before it that are numbers; NaN where there are none."""
    count = max(1, len(values) // SMOOTHED)
    there = np.isfinite(values)
    sums = np.cumsum(np.pad(np.where(there, values, 0.0), (count, 0)))
    counts = np.cumsum(np.pad(there, (count, 0)))
    taken = counts[count:] - counts[:-count]
    total = sums[count:] - sums[:-count]
    means = np.full(len(values), np.nan)
    np.divide(total, taken, out=means, where=taken > 0)
    return means
