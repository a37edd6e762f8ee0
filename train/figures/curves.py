"""Curves over epochs: variants with their spread over seeds (Fig. 3, 4), a run (Fig. 5)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.names import show
from train.figures.style import COLOURS, DASHES, MARKERS, PRINT, SMALL, TEXT, frame, on_paper

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Sizes in inches.
PANEL, FOOT, LEFT, RIGHT = 1.75, 0.55, 0.42, 0.08
BETWEEN = 0.28
LEGEND_ROW, LEGEND_COLUMNS = 0.13, 2

MARKS = 8
"""Marks on a curve, about; more would hide it."""

Curve = Sequence[float | None]
"""A value for each epoch; None where there is none, as between validations."""


def curves_figure(title: str, curves: Mapping[str, Sequence[Curve]], ylabel: str) -> "Figure":
    """Each variant's mean over seeds as a line, and its lowest to highest seed as a band.

    They are drawn at the epochs at which all seeds of the variant have a value.

    Args:
        title: above the figure.
        curves: variant to the curve of each of its seeds.
        ylabel: what the values are, with their unit.
    """
    from matplotlib import rc_context
    from matplotlib.ticker import MaxNLocator

    foot = FOOT + LEGEND_ROW * -(-len(curves) // LEGEND_COLUMNS)
    with rc_context({"text.parse_math": False}):  # a name may have $ in it
        note = _note(curves)
        figure, axes = on_paper(title, note, panel=PANEL, foot=foot, left=LEFT, right=RIGHT)
        frame(axes)
        for index, (name, seeds) in enumerate(curves.items()):
            _draw_variant(axes, show(name), seeds, index, len(curves))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("epoch", size=TEXT, labelpad=1)
        axes.set_ylabel(ylabel, size=TEXT, labelpad=2)
        figure.legend(
            *axes.get_legend_handles_labels(),
            loc="lower left",
            ncols=LEGEND_COLUMNS,
            bbox_to_anchor=(0, 0.17 / figure.get_figheight()),
            frameon=False,
            fontsize=SMALL,
            handlelength=3.2,
            labelspacing=0.3,
            borderaxespad=0.3,
        )
        return figure


def run_figure(
    title: str,
    epochs: Sequence[int],
    losses: Mapping[str, Curve],
    dice: Mapping[str, Curve],
    best: int | None,
) -> "Figure":
    """A run's losses, and its Dice of each region, with the best epoch marked.

    Args:
        title: above the figure.
        epochs: of all values.
        losses: by name, as of training and validation.
        dice: by region.
        best: the epoch of the best checkpoint; None if there is none.
    """
    from matplotlib import rc_context
    from matplotlib.ticker import MaxNLocator

    height = 2 * PANEL + BETWEEN
    with rc_context({"text.parse_math": False}):  # a name may have $ in it
        note = f"Upright line: epoch {best}, whose checkpoint is the best." if best else ""
        figure, box = on_paper(title, note, panel=height, foot=FOOT, left=LEFT, right=RIGHT)
        box.axis("off")
        for place, (ylabel, curves) in enumerate({"loss": losses, "Dice": dice}.items()):
            share = PANEL / height
            axes = box.inset_axes((0, 1 - share if place == 0 else 0, 1, share))
            frame(axes)
            for index, (name, values) in enumerate(curves.items()):
                _draw_run(axes, name, epochs, values, index)
            if best:
                axes.axvline(best, color=PRINT.ink, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.set_ylabel(ylabel, size=TEXT, labelpad=2)
            axes.legend(frameon=False, fontsize=SMALL, handlelength=3.2)
        axes.set_ylim(0, 1)
        axes.set_xlabel("epoch", size=TEXT, labelpad=1)
        return figure


def _draw_run(axes: "Axes", name: str, epochs: Sequence[int], values: Curve, index: int) -> None:
    known = [
        (epoch, value) for epoch, value in zip(epochs, values, strict=True) if value is not None
    ]
    axes.plot(
        [epoch for epoch, _ in known],
        [value for _, value in known],
        label=name,
        color=COLOURS[index],
        linestyle=DASHES[index % len(DASHES)],
        linewidth=1.1,
        marker=MARKERS[index % len(MARKERS)],
        markersize=3,
        markevery=max(1, len(known) // MARKS),
    )


def _draw_variant(
    axes: "Axes", name: str, seeds: Sequence[Curve], index: int, variants: int
) -> None:
    values = _together(seeds)
    epochs = 1 + np.flatnonzero(np.isfinite(values).all(axis=0))
    if not epochs.size:
        return
    known = values[:, epochs - 1]
    colour, apart = COLOURS[index % len(COLOURS)], max(1, len(epochs) // MARKS)
    first = index * apart // variants  # marks of curves that lie on one another lie beside
    axes.plot(
        epochs,
        known.mean(axis=0),
        label=name,
        color=colour,
        linewidth=1.1,
        linestyle=DASHES[index % len(DASHES)],
        marker=MARKERS[index % len(MARKERS)],
        markersize=3,
        markevery=(first, apart),
    )
    if len(known) > 1:
        low, high = known.min(axis=0), known.max(axis=0)
        axes.fill_between(epochs, low, high, color=colour, alpha=0.18, linewidth=0)


def _together(seeds: Sequence[Curve]) -> NDArray[np.float64]:
    """Curves (seeds, epochs), NaN where there is no value."""
    values = np.full((len(seeds), max(map(len, seeds), default=0)), np.nan)
    for row, seed in zip(values, seeds, strict=True):
        row[: len(seed)] = [np.nan if value is None else value for value in seed]
    return values


def _note(curves: Mapping[str, Sequence[Curve]]) -> str:
    counts = sorted({len(seeds) for seeds in curves.values()})
    if not counts or counts[-1] <= 1:
        return "One seed each."
    seeds = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    return f"Line: mean over {seeds} seeds. Band: lowest to highest seed."
