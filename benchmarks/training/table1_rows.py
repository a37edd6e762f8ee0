"""The rows of Table I: rates, ratios to both baselines, and what bounds each."""

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from benchmarks.training.step import LoopTimes, StepTimes
from benchmarks.training.table1_loaders import BEST, DALI, PAPERS, Way
from benchmarks.training.timing import Spent
from common.splits import FractionSplits
from train.precision import Precision

PRESET = "unet"
PRECISION_NAMES: dict[Precision, str] = {"tf32": "TF32", "fp32": "fp32", "fp16": "AMP"}
BASELINES: dict[Way, Precision] = {BEST: "tf32", PAPERS: "fp32"}
"""Torch's own float32 rounds to TF32 in a GPU's convolutions; the paper's condition does not."""

LABELLED_CASES = 1251
"""Of BraTS 2021 (Baid et al. 2021, arXiv:2107.02314)."""
EPOCH_CASES = round(FractionSplits().train * LABELLED_CASES)
"""Of them, those that a manifest's own splits train on."""
PAPERS_SECONDS = {"none": 1051, "AMP": 640, "DALI": 148, "DALI + AMP": 95}
"""An epoch on one RTX 3090 (FM-Net paper, Table I; it does not say of how many cases)."""

WAITING = 0.05
"""Share of the time spent waiting for batches, above which they bound the rate."""

Bound = Literal["data", "step", "both"]


def bound(wait_share: float, *, ahead: bool) -> Bound:
    """What a rate would rise with: a faster loader, a faster step, or either.

    Args:
        wait_share: of all time, waiting for batches.
        ahead: whether batches are made while the device computes; if not, both times add up.
    """
    if wait_share <= WAITING:
        return "step"
    return "data" if ahead or wait_share >= 1 - WAITING else "both"


@dataclass(frozen=True)
class Row:
    """A way of training, measured.

    Attributes:
        batch_size: samples in a step.
        way: its loader.
        precision: what was asked for.
        compute: what it was.
        loop: steps with their loader.
        step: the step alone, on one batch.
        alone: the loader alone.
    """

    batch_size: int
    way: Way
    precision: Precision
    compute: str
    loop: LoopTimes
    step: StepTimes
    alone: Spent

    @property
    def epoch_seconds(self) -> float:
        """For `EPOCH_CASES`; computed from the rate."""
        return EPOCH_CASES / self.loop.volumes_per_second

    @property
    def step_per_second(self) -> float:
        """Volumes in a second of the step alone."""
        return 1e3 * self.batch_size / median(self.step.whole_ms)

    @property
    def bound(self) -> Bound:
        """What bounds its rate."""
        return bound(self.loop.wait_share, ahead=self.way.ahead)


@dataclass(frozen=True)
class Missing:
    """A row that could not be measured.

    Attributes:
        batch_size: samples in a step.
        loader: its name.
        precision: of the steps.
        reason: why.
    """

    batch_size: int
    loader: str
    precision: Precision
    reason: str

    def __str__(self) -> str:
        return f"{self.loader}, {PRECISION_NAMES[self.precision]}, batches of {self.batch_size}"


@dataclass
class Table1:
    """All rows.

    Attributes:
        workers: processes of the loaders that have any.
        rows: in the order in which they were measured.
        missing: those that could not be.
    """

    workers: int
    rows: list[Row] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)

    def times(self, row: Row, baseline: Way) -> float | None:
        """How many times as fast a row is as a baseline; None if that is missing."""
        precision = BASELINES[baseline]
        for other in self.rows:
            if (other.batch_size, other.way, other.precision) == (
                row.batch_size,
                baseline,
                precision,
            ):
                return row.loop.volumes_per_second / other.loop.volumes_per_second
        return None

    def to_json(self) -> dict[str, Any]:
        """Everything, with raw timings."""
        return {
            "preset": PRESET,
            "epoch_cases": EPOCH_CASES,
            "papers_seconds": PAPERS_SECONDS,
            "bound_by_data_above_wait_share": WAITING,
            "rows": [self._row(row) for row in self.rows],
            "missing": [asdict(missing) for missing in self.missing],
        }

    def table(self) -> Table:
        """Rates and ratios."""
        table = Table(title=self._title(), caption=self._caption(), box=None, pad_edge=False)
        table.collapse_padding = True  # or it would not fit into 80 columns
        table.title_justify = table.caption_justify = "left"
        table.add_column("")
        rates = ("volumes/s", "epoch s", "× best", "× paper", "waits", "step", "loader")
        for heading in rates:
            table.add_column(heading, justify="right")
        table.add_column("bound")
        for size in dict.fromkeys(row.batch_size for row in self.rows):
            table.add_row(Text(f"batches of {size}", "bold"))
            for row in self.rows:
                if row.batch_size == size:
                    table.add_row(*self._cells(row))
        return table

    def _title(self) -> str:
        computes = "".join(
            f"{compute}; " for compute in dict.fromkeys(row.compute for row in self.rows)
        )
        return (
            f"{PRESET}; {computes}{self.workers} worker(s). An epoch is of {EPOCH_CASES} cases: "
            f"{FractionSplits().train:.0%} of BraTS 2021's {LABELLED_CASES}"
        )

    def _caption(self) -> str:
        """The paper's ratio beside what it is here, the best DataLoader first."""
        both = [row for row in self.rows if (row.way, row.precision) == (DALI, "fp16")]
        said = "".join(
            f"DALI + AMP, batches of {row.batch_size}: {_times(self.times(row, BEST))} the best "
            f"DataLoader in torch's own float32, {_times(self.times(row, PAPERS))} the paper's "
            "condition.\n"
            for row in both
        )
        seconds = ", ".join(f"{what} {count}" for what, count in PAPERS_SECONDS.items())
        ratio = PAPERS_SECONDS["none"] / PAPERS_SECONDS["DALI + AMP"]
        said += f"The paper, on one RTX 3090: {seconds} s an epoch, {ratio:.1f}×."
        for reason in dict.fromkeys(missing.reason for missing in self.missing):
            rows = [str(missing) for missing in self.missing if missing.reason == reason]
            said += f"\nNot measured, {reason}: {'; '.join(rows)}."
        return said

    def _cells(self, row: Row) -> tuple[str, ...]:
        return (
            f"{row.way.name}, {PRECISION_NAMES[row.precision]}",
            f"{row.loop.volumes_per_second:.2f}",
            f"{row.epoch_seconds:.0f}",
            _times(self.times(row, BEST)),
            _times(self.times(row, PAPERS)),
            f"{row.loop.wait_share:.0%}",
            f"{row.step_per_second:.1f}",
            f"{row.alone.volumes_per_second:.1f}",
            row.bound,
        )

    def _row(self, row: Row) -> dict[str, Any]:
        return {
            "batch_size": row.batch_size,
            "loader": row.way.name,
            "precision": row.precision,
            "compute": row.compute,
            "cache": row.way.cache,
            "workers": self.workers if row.way.ahead else 0,
            "volumes_per_second": row.loop.volumes_per_second,
            "epoch_seconds": row.epoch_seconds,
            "times_best_dataloader": self.times(row, BEST),
            "times_papers_condition": self.times(row, PAPERS),
            "wait_share": row.loop.wait_share,
            "bound": row.bound,
            "step_volumes_per_second": row.step_per_second,
            "loader_volumes_per_second": row.alone.volumes_per_second,
            "samples": row.loop.samples,
            "step_seconds": row.loop.step_seconds,
            "wait_seconds": row.loop.wait_seconds,
            "step_alone": asdict(row.step),
            "loader_alone": asdict(row.alone),
        }


def _times(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}×"
