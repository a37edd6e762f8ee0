"""One row of a section's table, and the table."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, median
from typing import Any, Literal

from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Row:
    """One way of doing something, timed."""

    group: str
    """A network or a batch size, the heading of its rows."""
    name: str
    volumes: int = 1
    """In each repetition."""
    seconds: Sequence[float] = ()
    """Of each repetition; empty where it was not measured."""
    base_seconds: Sequence[float] = ()
    """Of the base's repetitions, in turns with these."""
    base_volumes: int = 1
    typical: Literal["median", "mean"] = "median"
    """The mean where some repetitions wait for a queue."""
    peak_gb: float | None = None
    """Of the GPU's memory, weights included; None on a CPU."""
    note: str = ""
    """A remark, or why it was not measured."""
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def typical_seconds(self) -> float | None:
        """Of one repetition; None where it was not measured."""
        if not self.seconds:
            return None
        return median(self.seconds) if self.typical == "median" else fmean(self.seconds)

    @property
    def rate(self) -> float | None:
        """Volumes a second."""
        return self.volumes / self.typical_seconds if self.typical_seconds else None

    @property
    def ratio(self) -> float | None:
        """The rate relative to the base's."""
        if not (self.rate and self.base_seconds):
            return None
        return self.rate * median(self.base_seconds) / self.base_volumes

    def times(self, other: "Row | None") -> float | None:
        """How many times as fast as another; None where either was not measured."""
        return self.rate / other.rate if self.rate and other and other.rate else None

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"volumes_per_second": self.rate, "ratio": self.ratio}


def grouped(
    title: str,
    headings: Sequence[str],
    rows: Iterable[tuple[str, Sequence[str]]],
    caption: str = "",
) -> Table:
    """A table of rows (group, cells) below their group's name; numbers but for both ends."""
    drawn = Table(title=title, caption=caption or None, box=None, pad_edge=False)
    drawn.collapse_padding = True
    drawn.title_justify = drawn.caption_justify = "left"
    for number, heading in enumerate(headings):
        ends = number in {0, len(headings) - 1}
        drawn.add_column(heading, justify="left" if ends else "right", no_wrap=not number)
    last = ""
    for group, cells in rows:
        if group != last:
            drawn.add_row(Text(group, "bold"))
            last = group
        drawn.add_row(*cells)
    return drawn


def number(value: float | None, form: str = ".2f") -> str:
    """A figure, or a dash where there is none."""
    return "–" if value is None else f"{value:{form}}"
