"""Variants side by side as bars with intervals, and the paper's values beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.names import show
from common.statistics import LEVEL
from train.figures.style import PRINT, TEXT, frame, on_paper

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Sizes in inches.
ROW, FOOT, BESIDE = 0.34, 0.52, 0.12
BAR = 0.5  # of a row; the rest is for its text


@dataclass(frozen=True)
class Bar:
    """A variant's value."""

    mean: float
    low: float | None
    """The lower end of the interval; None where there is no interval, as of one patient."""
    high: float | None
    paper: float | None = None
    """The paper's value; None where it has none."""
    points: Sequence[float] = ()
    """What the mean is of, as each seed's value."""


def bars_figure(title: str, bars: Mapping[str, Bar], ylabel: str) -> "Figure":
    """Each variant's mean as a bar from 0, with its interval, its seeds and the paper's value.

    Args:
        title: above the figure.
        bars: by variant, from top to bottom.
        ylabel: what the values are, with their unit.
    """
    from matplotlib import rc_context

    with rc_context({"text.parse_math": False}):  # a name may have $ in it
        panel, note = ROW * max(1, len(bars)), _note(bars)
        figure, axes = on_paper(title, note, panel=panel, foot=FOOT, left=BESIDE, right=BESIDE)
        axes.set_ylim(len(bars) - 1 + 0.6 * BAR, BAR / 2 - 1)
        frame(axes, "x")
        for place, (name, bar) in enumerate(bars.items()):
            _draw_bar(axes, place, bar)
            _write_bar(axes, place - 0.5 * BAR - 0.06, show(name), bar)
        axes.set_yticks([])
        axes.set_xlabel(ylabel, size=TEXT, labelpad=1)
        return figure


def _draw_bar(axes: "Axes", place: int, bar: Bar) -> None:
    axes.barh(place, bar.mean, height=BAR, color="#c9cdd3")
    axes.scatter(
        bar.points, [place + 0.12] * len(bar.points), s=7, facecolor="none", edgecolor=PRINT.soft
    )
    if bar.low is not None and bar.high is not None:
        axes.plot([bar.low, bar.high], [place - 0.1] * 2, color=PRINT.ink, linewidth=1.3)
    if bar.paper is not None:
        axes.plot(
            bar.paper, place, "D", color=PRINT.ink, markerfacecolor=PRINT.paper, markersize=4.5
        )


def _write_bar(axes: "Axes", place: float, name: str, bar: Bar) -> None:
    value = f"{bar.mean:.3f}"
    if bar.low is not None and bar.high is not None:
        value += f" [{bar.low:.3f}, {bar.high:.3f}]"
    if bar.paper is not None:
        value += f", paper {bar.paper:g}"
    beside = axes.get_yaxis_transform()
    axes.text(0, place, f" {name}", size=TEXT, transform=beside, va="bottom")
    axes.text(1, place, value, size=TEXT, transform=beside, va="bottom", ha="right")


def _note(bars: Mapping[str, Bar]) -> str:
    parts = {
        f"Line: {LEVEL:.0%} interval.": any(bar.low is not None for bar in bars.values()),
        "Circles: seeds.": any(bar.points for bar in bars.values()),
        "Diamond: the paper’s value.": any(bar.paper is not None for bar in bars.values()),
    }
    return " ".join(part for part, is_there in parts.items() if is_there)
