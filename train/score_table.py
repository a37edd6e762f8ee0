"""Scores as a table on screen, which fits 80 columns."""

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from common.metrics.metric import Metric
from common.metrics.rules import RULE_SETS
from common.statistics import LEVEL, Spread
from common.task import Task, title
from train.results import LESION_F1, RegionResult, metrics_of

SHOWN = ("dice", "hd95_mm", "nsd_1mm", "sensitivity", "volume_error_ml")
"""Metrics of whole regions on screen; files have all."""

DIGITS = {"mm": 1, "ml": 2}
"""Decimal places by unit; other values have three."""

COLUMNS = ("mean", f"{LEVEL:.0%} CI", "sd", "median", "quartiles", "missed", "false")


def score_table(
    heading: str,
    found: Sequence[RegionResult],
    rules: str,
    task: Task,
    notes: Sequence[str] = (),
) -> Table:
    """Each region's metrics over all cases, with the counts of misses beside each mean."""
    table = narrow_table(f"{heading}, rules {rules}", [*notes, *_notes(found)])
    table.add_column("", max_width=30)
    add_numbers(table, COLUMNS)
    for region in found:
        name = f"{title(region.region)}, {region.region}"
        table.add_row(Text(name, task.region_colours[region.region]))
        for metric in shown_metrics(rules):
            table.add_row(f"  {heading_of(metric)}", *_cells(metric, region))
    return table


def narrow_table(heading: str, notes: Sequence[str]) -> Table:
    """A table without columns yet, with a heading above it and notes below."""
    return Table(
        title=heading,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
        caption="\n".join(notes),
        caption_justify="left",
    )


def add_numbers(table: Table, names: Sequence[str]) -> None:
    """Add columns of numbers."""
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)


def shown_metrics(rules: str) -> tuple[Metric, ...]:
    """The metrics on screen: some of whole regions, and the rule set's Dice, distance and F1."""
    of_lesions = [f"lesion_{metric.name}" for metric in RULE_SETS[rules].metrics[:2]]
    names = {*SHOWN, *of_lesions, LESION_F1.name}
    return tuple(metric for metric in metrics_of(rules) if metric.name in names)


def heading_of(metric: Metric) -> str:
    """A metric's title with its unit."""
    return f"{metric.title}, {metric.unit}" if metric.unit else metric.title


def number(metric: Metric, value: float | None) -> str:
    """A value with the digits that matter; a dash for what one case does not have."""
    return "–" if value is None else f"{value:.{DIGITS.get(metric.unit, 3)}f}"


def _cells(metric: Metric, region: RegionResult) -> tuple[str, ...]:
    found: Spread = region.spreads[metric.name]
    mean, sd, median, q1, q3 = (
        number(metric, value) for value in (found.mean, found.sd, found.median, found.q1, found.q3)
    )
    ends = () if found.low is None else (found.low, found.high)
    interval = "–".join(number(metric, end) for end in ends) or "–"
    counts = (region.misses, region.false_alarms)
    if metric.name.startswith("lesion_"):
        counts = (region.missed_lesions, region.false_lesions)
    return (mean, interval, sd, median, f"{q1}–{q3}", *map(str, counts))


def _notes(found: Sequence[RegionResult]) -> list[str]:
    empty = ", ".join(f"{r.both_empty} of {r.region}" for r in found if r.both_empty)
    return [
        f"{LEVEL:.0%} CI: bootstrap of the mean over patients. missed, false: cases in which",
        "the region is missed, or predicted where there is none; of lesions, lesions.",
        "They are in the means, with the rule set's values for empty masks.",
        *([f"Empty in both masks, and counted as perfect: {empty}."] if empty else []),
    ]
