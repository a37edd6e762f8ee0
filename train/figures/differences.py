"""A figure of a comparison: differences with their intervals, readable without colour."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from common.names import show
from common.statistics import LEVEL
from train.compare import Compared, Comparison
from train.figures.style import DOTS_PER_INCH, MARKERS, PRINT
from train.score_table import heading_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIGNIFICANT = 0.05

# Sizes in inches.
PANEL, ROW, LEFT, RIGHT, TOP, BETWEEN, FOOT = 2.9, 0.22, 1.0, 0.2, 0.75, 0.85, 1.0
COLUMNS = 2


def difference_figure(comparison: Comparison) -> "Figure":
    """A panel for each metric that whole regions and lesions are ranked by.

    Each other method's difference from the first is a mark with its interval: to the right of the
    line it is better, whatever the metric; a filled mark is significant after correction.
    """
    from matplotlib.figure import Figure

    metrics = ["dice", "hd95_mm", *(metric.name for metric in comparison.ranked_by)]
    panels = [[r for r in comparison.rows if r.apart and r.metric.name == m] for m in metrics]
    side = ROW * (len(panels[0]) + len({row.region for row in panels[0]}))
    rows = -(-len(panels) // COLUMNS)
    width = COLUMNS * (LEFT + PANEL) + RIGHT
    height = TOP + rows * side + (rows - 1) * BETWEEN + FOOT
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor=PRINT.paper)
    for index, panel in enumerate(panels):
        row, column = divmod(index, COLUMNS)
        left = LEFT + column * (LEFT + PANEL)
        bottom = height - TOP - side - row * (side + BETWEEN)
        box = (left / width, bottom / height, PANEL / width, side / height)
        _draw(figure.add_axes(box), panel, comparison)
    first = show(comparison.methods[0].name)
    heading = f"Difference from {first}, {len(comparison.cases)} case(s)"
    figure.text(0.015, 1 - 0.25 / height, heading, size=11, weight="bold", color=PRINT.ink)
    _draw_legend(figure, comparison, height)
    return figure


def _draw(axes: "Axes", rows: Sequence[Compared], comparison: Comparison) -> None:
    others = [method.name for method in comparison.methods[1:]]
    ticks, place, region = dict[float, str](), 0.0, ""
    for row in rows:
        if row.apart is None:
            continue
        place -= 1 if row.region == region else 2
        if row.region != region:
            region = row.region
            ticks[place - (len(others) - 1) / 2] = region.upper()
        if row.apart.low is not None and row.apart.high is not None:
            axes.plot(
                [row.apart.low, row.apart.high], [place, place], color=PRINT.ink, linewidth=1.1
            )
        is_sure = row.p_holm is not None and row.p_holm < SIGNIFICANT
        axes.plot(
            [row.apart.mean],
            [place],
            marker=MARKERS[others.index(row.method) % len(MARKERS)],
            color=PRINT.ink,
            markerfacecolor=PRINT.ink if is_sure else PRINT.paper,
            markersize=6,
            linestyle="none",
        )
    axes.axvline(0, color=PRINT.soft, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
    axes.set_yticks(list(ticks), list(ticks.values()), size=9)
    axes.set_ylim(place - 1, -1)
    metric = rows[0].metric
    axes.set_title(heading_of(metric), size=10, loc="left", color=PRINT.ink)
    axes.margins(x=0.1)
    if not metric.higher_is_better:
        axes.invert_xaxis()
    axes.set_xlabel("better →", size=8, color=PRINT.ink, loc="right", labelpad=1)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    for edge in ("top", "right", "left"):
        axes.spines[edge].set_visible(False)


def _draw_legend(figure: "Figure", comparison: Comparison, height: float) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [], [], color=PRINT.ink, marker=marker, markerfacecolor=PRINT.paper, linestyle="none"
        )
        for marker in MARKERS[: len(comparison.methods) - 1]
    ]
    names = [show(method.name) for method in comparison.methods[1:]]
    figure.legend(
        handles,
        names,
        loc="lower left",
        ncols=4,
        frameon=False,
        fontsize=9,
        bbox_to_anchor=(0, 0.22 / height),
    )
    note = f"Line: {LEVEL:.0%} bootstrap interval. Filled: p < {SIGNIFICANT:g} after Holm's "
    note += f"correction for {comparison.tests} tests. Rules: {comparison.rules}."
    figure.text(0.015, 0.12 / height, note, size=7.5, color=PRINT.ink)
