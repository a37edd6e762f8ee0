"""What the checks of a GPU share: rows with a figure and its bound, and a few batches."""

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Any, Literal

import pytest
import torch
from rich.table import Table
from rich.text import Text

from benchmarks.sections import Bench, Figures
from common.errors import ConfigError
from train.data.cache import CacheKind
from train.data.feed import Batch
from train.data.loader import open_feed
from train.data.stream import Stream
from train.precision import Precision, choose_compute
from train.session import Session
from train.trainer import step

PRESET = "fm_net"
"""What is trained: it has every part that another preset has."""
HALVINGS = 16
"""Steps that fp16 may leave out: its scale begins at 2¹⁶ and is halved each time, down to 1."""

Status = Literal["passed", "FAILED", "reported", "not run"]
STYLES: dict[Status, str] = {"passed": "green", "FAILED": "bold red", "not run": "yellow"}


@dataclass(frozen=True)
class Row:
    """One thing that was checked."""

    name: str
    status: Status
    """`reported` has no bound, `not run` says nothing either way."""
    why: str
    """Where the bound comes from, what went wrong, or why it was not run."""
    found: float | None = None
    bound: float | None = None
    """What `found` may be at most, or what `why` says."""
    raw: dict[str, Any] = field(default_factory=dict)
    """Everything that the figure was made from."""


@dataclass
class Check:
    """What the checks work with, and their rows so far."""

    bench: Bench
    figures: Figures
    rows: dict[str, list[Row]] = field(default_factory=dict)
    """By check: the part of a module's name after `test_`."""
    current: str = ""
    """The check that runs."""
    _kept: list[Batch] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        """What is checked."""
        return self.bench.device

    @property
    def on_gpu(self) -> bool:
        """Whether it is a GPU; in a dry run it need not be."""
        return self.device.type == "cuda"

    def need_time(self, name: str) -> None:
        """Leave the test where the time for all checks is over."""
        if not self.bench.dry and time.monotonic() > self.bench.until:
            self.not_run(name, "no time was left")

    def not_run(self, name: str, why: str) -> None:
        """Note that something cannot be checked, and leave the test."""
        self.note(Row(name, "not run", why))
        pytest.skip(why)

    def add(self, *rows: Row) -> None:
        """Note rows; the test fails where one of them does.

        Raises:
            AssertionError: a row failed.
        """
        for row in rows:
            self.note(row)
        failed = [f"{row.name}: {row.found}, {row.why}" for row in rows if row.status == "FAILED"]
        assert not failed, "\n".join(failed)

    def note(self, row: Row) -> None:
        """Note a row of the test that runs."""
        self.rows.setdefault(self.current, []).append(row)

    def save(self) -> None:
        """Write the figures of the check that runs."""
        rows = self.rows.get(self.current, [])
        counts = dict(Counter(row.status for row in rows))
        found = {"counts": counts, "rows": [_finite(asdict(row)) for row in rows]}
        self.figures.add(self.current, found)

    def batches(self, count: int) -> list[Batch]:
        """Batches of one sample through DALI, augmented as the preset has it, on the device."""
        if len(self._kept) < count:
            with self.bench.begun(PRESET, "batch_size=1") as session:
                self._kept = by_dali(session.stream(), self.device, count)
        return self._kept[:count]

    def why_not(self, precision: Precision) -> str:
        """Why a run on the device would not compute in a precision; empty if it would."""
        try:
            compute = choose_compute(str(self.device), precision)
        except ConfigError as error:
            return str(error)
        return "" if compute.precision == precision else compute.note


def verdict(holds: bool) -> Status:
    """Whether it passed."""
    return "passed" if holds else "FAILED"


def judged(name: str, found: float, bound: float, why: str, **raw: Any) -> Row:
    """A row that holds where its figure is at most its bound; NaN is not."""
    return Row(name, verdict(found <= bound), why, found, bound, raw)


def table(rows: Sequence[Row]) -> Table:
    """For people; where the bound of a row that holds comes from is in the JSON."""
    drawn = Table(box=None, pad_edge=False)
    for heading in ("", "found", "bound", "", ""):
        drawn.add_column(heading, justify="right" if heading else "left")
    for row in rows:
        found, bound = (f"{f:.3g}" if f is not None else "" for f in (row.found, row.bound))
        why = Text("" if row.status == "passed" else row.why)
        drawn.add_row(
            Text(row.name), found, bound, Text(row.status, STYLES.get(row.status, "")), why
        )
    return drawn


def by_dali(
    stream: Stream, device: torch.device, batches: int, cache: CacheKind = "none"
) -> list[Batch]:
    """A stream's first batches through DALI, in memory of their own."""
    kept: list[Batch] = []
    with open_feed("dali", stream, device, 1, cache) as feed:
        for batch in islice(feed, batches):
            if device.type == "cuda":  # as the training loop waits
                torch.cuda.current_stream(device).synchronize()
            kept.append(replace(batch, image=batch.image.clone(), label=batch.label.clone()))
    return kept


def learn(session: Session, batch: Batch) -> None:
    """Take steps until one has a finite gradient, which is the first that the optimiser makes."""
    for _ in range(HALVINGS + 1):
        if step(session, batch)[1]:
            return
    pytest.fail(f"{HALVINGS + 1} steps without a finite gradient")


def _finite(value: Any) -> Any:
    """The same, with figures that are not finite as text, which JSON can hold."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
