"""Rows of timed steps as a table."""

from collections.abc import Iterable
from statistics import median

from rich.table import Table
from rich.text import Text

from benchmarks.training.trial import Row


def rows_table(rows: Iterable[Row], caption: str) -> Table:
    """A line for every row, below the name of its network."""
    table = Table(title=caption, title_justify="left", box=None, pad_edge=False)
    for heading in ("", "batch", "ms", "volumes/s", "×", "GB", ""):
        table.add_column(heading, justify="right" if heading else "left")
    network = ""
    for row in rows:
        if row.network != network:
            network = row.network
            table.add_row(Text(network, "bold"))
        table.add_row(row.variant, str(row.batch), *figures(row))
    return table


def figures(row: Row) -> tuple[str, str, str, str, str]:
    """Time, rate, ratio, memory, and all there is to say; dashes where it was not measured."""
    if not row.ms:
        return "–", "–", "–", "–", row.note
    memory = "–" if row.peak_memory_gb is None else f"{row.peak_memory_gb:.2f}"
    skipped = f"{row.skipped} without a finite gradient" if row.skipped else ""
    said = "; ".join(filter(None, (row.precision, skipped, row.note)))
    rate, ratio = f"{row.volumes_per_second:.2f}", f"{row.ratio:.2f}"
    return f"{median(row.ms):.1f}", rate, ratio, memory, said
