"""What a check says: rows, each with a figure, its bound, and whether it holds."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from rich.table import Table
from rich.text import Text

from common.errors import ConfigError, FMNetError
from train.precision import Precision, choose_compute

Status = Literal["passed", "FAILED", "reported", "not run"]
STYLES: dict[Status, str] = {"passed": "green", "FAILED": "bold red", "not run": "yellow"}


@dataclass(frozen=True)
class Row:
    """One thing that was checked.

    Attributes:
        name: what.
        status: whether it holds; `reported` has no bound, `not run` says nothing either way.
        why: where the bound comes from, what went wrong, or why it was not run.
        found: the figure.
        bound: what it may be at most, or what `why` says.
        raw: everything that it was made from.
    """

    name: str
    status: Status
    why: str
    found: float | None = None
    bound: float | None = None
    raw: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The row with its raw figures; those that are not finite as text."""
        return {key: _finite(value) for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Checked:
    """All rows of a check."""

    rows: Sequence[Row]

    @property
    def counts(self) -> dict[Status, int]:
        """Rows by their status."""
        return dict(Counter(row.status for row in self.rows))

    def to_json(self) -> dict[str, Any]:
        """As `benchmarks.training.suite.Result`."""
        return {"counts": self.counts, "rows": [row.to_json() for row in self.rows]}

    def table(self) -> Table:
        """For people; where the bound of a row that holds comes from is in the JSON."""
        table = Table(box=None, pad_edge=False)
        for heading in ("", "found", "bound", "", ""):
            table.add_column(heading, justify="right" if heading else "left")
        for row in self.rows:
            status = Text(row.status, STYLES.get(row.status, ""))
            why = Text("" if row.status == "passed" else row.why)
            table.add_row(Text(row.name), _shown(row.found), _shown(row.bound), status, why)
        return table


def verdict(holds: bool) -> Status:
    """Whether it passed."""
    return "passed" if holds else "FAILED"


def judged(name: str, found: float, bound: float, why: str, **raw: Any) -> Row:  # noqa: ANN401 - anything that JSON can hold
    """A row that holds where its figure is no more than its bound; NaN is not."""
    return Row(name, verdict(found <= bound), why, found, bound, raw)


def attempt(name: str, check: Callable[[], Sequence[Row]]) -> Sequence[Row]:
    """A check's rows, or the one row that says why there are none.

    What a driver or a library does not like is a RuntimeError, of torch and of DALI alike, and a
    finding; the rows after it may still be told.
    """
    try:
        return check()
    except torch.OutOfMemoryError as error:
        return [Row(name, "FAILED", f"does not fit into the device's memory: {error}")]
    except (FMNetError, RuntimeError) as error:
        return [Row(name, "FAILED", f"{type(error).__name__}: {error}")]


def why_not(device: torch.device, precision: Precision) -> str:
    """Why a run on a device would not compute in a precision; empty if it would."""
    try:
        compute = choose_compute(str(device), precision)
    except ConfigError as error:
        return str(error)
    return "" if compute.precision == precision else compute.note


def _shown(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.3g}"


def _finite(value: Any) -> Any:  # noqa: ANN401 - anything that JSON can hold
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
