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
    """Rows of a group stand together under its name: a network, a batch size."""
    name: str
    volumes: int = 1
    """In each repetition."""
    seconds: Sequence[float] = ()
    """Of each repetition; empty where it was not measured."""
    base_seconds: Sequence[float] = ()
    """Of the base's repetitions, in turns with these."""
    base_volumes: int = 1
    typical: Literal["median", "mean"] = "median"
    """How repetitions become one figure: the mean where they wait for a queue at times."""
    peak_gb: float | None = None
    """The most memory of the GPU, weights included; None on a CPU."""
    note: str = ""
    """Why it was not measured, or what to know of it."""
    failed: bool = False
    """Whether that was an error."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further figures."""

    @property
    def typical_seconds(self) -> float | None:
        """Of one repetition."""
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
        """Everything, with what is computed from it."""
        return asdict(self) | {"volumes_per_second": self.rate, "ratio": self.ratio}


def grouped(
    title: str,
    headings: Sequence[str],
    rows: Iterable[tuple[str, Sequence[str]]],
    caption: str = "",
) -> Table:
    """A table whose rows stand under the name of their group; text at both ends, else numbers.

    Args:
        title: above it.
        headings: of the columns.
        rows: (group, cells).
        caption: below it.
    """
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
