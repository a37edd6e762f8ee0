"""Section `steps`: what a training step takes, by batch, and by each way of taking it."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from rich.table import Table

from benchmarks.training.rows import rows_table
from benchmarks.training.suite import Bench
from benchmarks.training.trial import SECONDS, Row, Trial, first, race, resident
from benchmarks.training.variants import COMPILE, VARIANTS, Variant, combination
from train.data.feed import Batch

NETWORKS = ("unet", "fm_net")
BATCHES = (2, 1, 4)
"""The first is the base's."""
PLAIN = Variant("base", "nothing")
CAPTION = (
    "base: fp16, channels last, not compiled, NAdam; × is volumes/s beside the first row's in turns"
)
GAIN = 1.02
"""Ratio to the base from which a change is taken into the combination."""
COMPILE_SECONDS = 45
"""Without so many left, a network is not compiled."""
RESERVED_SECONDS = 60
"""For compiling, and for what gains together."""
ALONE = "not run: no two changes gained"
DRY_SIZES = {"unet": ("model.widths=[2,4]",), "fm_net": ("model.widths=[2,4,8]",)}
"""Overrides that make the networks small in a dry run."""


@dataclass(frozen=True)
class Steps:
    """All rows.

    Attributes:
        rows: by network, in the order in which they were measured.
    """

    rows: list[Row]

    def to_json(self) -> dict[str, Any]:
        """Each with the time of each step."""
        return {"rows": [row.to_json() for row in self.rows]}

    def table(self) -> Table:
        """Medians."""
        return rows_table(self.rows, CAPTION)


@dataclass
class _Contest:
    """One network's rows.

    Attributes:
        bench: its time.
        name: its preset.
        volumes: the largest batch.
        stack: holds the base.
        base: at the first batch size, once it is warmed up.
        rows: so far.
        won: changes that gained, with their ratios.
    """

    bench: Bench
    name: str
    volumes: Batch
    stack: ExitStack
    base: Trial | None = None
    rows: list[Row] = field(default_factory=list)
    won: list[tuple[Variant, float]] = field(default_factory=list)

    @property
    def sizes(self) -> tuple[str, ...]:
        return DRY_SIZES[self.name] if self.bench.dry else ()

    def run_bases(self, seconds: float) -> None:
        for count in BATCHES:
            batch = first(self.volumes, count)
            row = race(
                self.bench,
                Row(self.name, PLAIN.name, count),
                lambda batch=batch: PLAIN.begun(self.bench, self.name, self.sizes, batch),  # type: ignore[misc]
                self.base,
                seconds,
            )
            self.rows.append(row)
            if count == BATCHES[0] and row.ms:
                batch = first(self.volumes, count)
                self.base = self.stack.enter_context(
                    PLAIN.begun(self.bench, self.name, self.sizes, batch)
                )
                self.base.warm_up()

    def run_variants(self, until: float) -> None:
        bench = replace(self.bench, until=until)
        for number, variant in enumerate(VARIANTS):
            seconds = min(SECONDS, bench.each(len(VARIANTS) - number) / 2)
            self._run(bench, variant, seconds)

    def run_compiled(self) -> None:
        self._run(self.bench, COMPILE, SECONDS)

    def run_together(self) -> None:
        together = combination(self.won)
        if together is not None and self._unfit(self.bench, together):  # to compile it as well
            together = combination(pair for pair in self.won if pair[0] is not COMPILE)
        if together is None:
            self.rows.append(Row(self.name, "together", BATCHES[0], note=ALONE))
        else:
            self._run(self.bench, together, SECONDS)

    def _run(self, bench: Bench, variant: Variant, seconds: float) -> None:
        row = self._row(bench, variant, seconds)
        self.rows.append(row)
        without = variant.compiles and row.note  # it failed, and the row is of what runs instead
        if row.ratio and variant.same and not without and (row.ratio > GAIN or bench.dry):
            self.won.append((variant, 0.0 if bench.dry else row.ratio))

    def _row(self, bench: Bench, variant: Variant, seconds: float) -> Row:
        row = Row(self.name, variant.name, BATCHES[0])
        if why := self._unfit(bench, variant):
            return replace(row, note=f"not run: {why}")
        batch = first(self.volumes, BATCHES[0])
        begin: Callable[[], Any] = lambda: variant.begun(bench, self.name, self.sizes, batch)  # noqa: E731
        return race(bench, row, begin, self.base, 0.0 if bench.dry else seconds)

    def _unfit(self, bench: Bench, variant: Variant) -> str:
        """Why a variant is not measured; empty if it is."""
        if self.base is None:
            return "its base was not"
        if variant.needs_gpu and bench.device.type != "cuda":
            return "needs a GPU"
        if not variant.compiles:
            return ""
        if bench.dry and bench.device.type == "cpu":
            return "for a CPU it takes longer than all of a dry run"
        left = self.bench.until - time.monotonic()
        return "" if left > COMPILE_SECONDS else f"{max(0.0, left):.0f} s are left, too few"


def measure(bench: Bench) -> Steps:
    """Measure the U-Net's and FM-Net's steps; takes no preset and none of its overrides.

    Raises:
        ConfigError: the networks do not fit the store's crops.
        StoreError: a case cannot be read.
    """
    with ExitStack() as stack:
        with bench.begun(NETWORKS[0], *(DRY_SIZES[NETWORKS[0]] if bench.dry else ())) as session:
            volumes = resident(session.stream(), max(BATCHES), bench.device)
        contests = [_Contest(bench, name, volumes, stack) for name in NETWORKS]
        rows = len(contests) * (len(BATCHES) + len(VARIANTS))
        for contest in contests:
            contest.run_bases(min(SECONDS, bench.each(rows) / 2))
        for number, contest in enumerate(contests):
            left = bench.until - RESERVED_SECONDS - time.monotonic()
            contest.run_variants(time.monotonic() + max(0.0, left) / (len(contests) - number))
        for contest in contests:
            contest.run_compiled()
            contest.run_together()
        return Steps([row for contest in contests for row in contest.rows])
