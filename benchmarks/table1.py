"""Section `table1`: mixed precision and DALI, as in the paper's Table I."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from benchmarks.loading import (
    AT_LEAST,
    Source,
    in_this_process,
    measure_loop,
    size_of,
    worker_counts,
)
from benchmarks.racing import Trial
from benchmarks.rows import Row, grouped, number
from benchmarks.sections import Bench, Result
from benchmarks.timing import spend
from common.splits import FractionSplits
from train.data.cache import CacheKind
from train.data.feed import Batch
from train.data.loader import LoaderKind
from train.data.stream import Stream
from train.data.torch_loader import QUEUE
from train.precision import Precision, configure_backends
from train.trainer import Session

PRESET = "unet"
BATCH_SIZES = (1, 2)
PRECISIONS: dict[Precision, str] = {"tf32": "TF32", "fp32": "fp32", "fp16": "AMP"}

LABELLED_CASES = 1251
"""Of BraTS 2021 (Baid et al. 2021, arXiv:2107.02314)."""
EPOCH_CASES = round(FractionSplits().train * LABELLED_CASES)
"""Those that default splits train on."""
PAPERS_FIGURES = "The paper, on one RTX 3090: 1051 s an epoch; AMP 640, DALI 148, both 95: 11.1×."
"""FM-Net paper, Table I; it does not say of how many cases an epoch is."""
WAITING = 0.05
"""Share of the time spent waiting for batches, above which the loader bounds the rate."""
OVERHEAD = 2
"""A measurement's time with starting and warming up, relative to its own."""

Bound = Literal["data", "step", "both"]


@dataclass(frozen=True)
class Way:
    """A loader, and the precisions that it is measured with."""

    name: str
    kind: LoaderKind | None
    """None: batches are made in the training process, between two steps."""
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    cache: CacheKind = "none"

    @contextmanager
    def open(self, stream: Stream, device: torch.device, workers: int) -> Iterator[Iterator[Batch]]:
        if self.kind is None:
            yield in_this_process(stream, device)
            return
        source = Source(self.kind, stream, device)
        source = source if self.cache == "none" else source.cached(self.cache)
        with source.open(workers) as batches:
            yield batches


BEST = Way("DataLoader", "torch", ("tf32", "fp32", "fp16"))
PAPERS = Way("paper's loader", None)
"""One process, which reads and augments on the CPU before it computes (FM-Net paper, Table I)."""
DALI = Way("DALI", "dali")
WAYS = (BEST, PAPERS, DALI, Way("DALI, cached", "dali", ("fp16",), "device"))


def bound(wait_share: float, *, ahead: bool) -> Bound:
    """What bounds the rate; `ahead`: batches are made while the device computes."""
    if wait_share <= WAITING:
        return "step"
    return "data" if ahead or wait_share >= 1 - WAITING else "both"


@dataclass
class _Measuring:
    bench: Bench
    workers: int
    left: int
    """Measurements still to come."""
    rows: list[Row]

    def seconds(self) -> float:
        """For the next measurement."""
        seconds = self.bench.each(max(1, self.left)) / OVERHEAD
        self.left -= 1
        return seconds

    def of_size(self, size: int, sessions: dict[Precision, Session]) -> None:
        """Every way with batches of one size."""
        stream = in_whole_batches(sessions["fp32"].epoch_stream())
        batch = next(in_this_process(stream, self.bench.device))
        steps = {precision: self._step(session, batch) for precision, session in sessions.items()}
        for way in WAYS:
            self.bench.tell(f"U-Net, batches of {size}, {way.name}")
            try:
                if self.bench.late():
                    raise TimeoutError("no time was left")
                self._of_way(way, stream, sessions, steps)
            except Exception as error:  # noqa: BLE001 - no DALI, no memory: the rows so far stand
                why = str(error) if isinstance(error, TimeoutError) else f"{error!r}"[:200]
                done = {row.name for row in self.rows if row.group == _group(size)}
                missing = [p for p in way.precisions if _name(way, p) not in done]
                self.rows += [Row(_group(size), _name(way, p), size, note=why) for p in missing]

    def _step(self, session: Session, batch: Batch) -> Row:
        configure_backends(session.compute, deterministic=session.config.deterministic)
        size, trial = len(batch.case_ids), Trial(session, batch)
        self.bench.tell(f"U-Net, batches of {size}, {session.compute.precision}, the step")
        try:
            trial.warm_up()
            return Row("", "step", size, trial.turn(self.seconds()))
        except torch.OutOfMemoryError:
            return Row("", "step", size, note="out of memory")

    def _of_way(
        self,
        way: Way,
        stream: Stream,
        sessions: dict[Precision, Session],
        steps: dict[Precision, Row],
    ) -> None:
        size = stream.batch_size
        # Batches that were queued before a measurement are used up first.
        queued = QUEUE * self.workers if way.kind else 0
        with way.open(stream, self.bench.device, self.workers) as batches:
            spend(batches, batch_size=size_of, steps=queued)
            alone = spend(batches, batch_size=size_of, steps=AT_LEAST, seconds=self.seconds())
            for precision in way.precisions:
                session, step = sessions[precision], steps[precision]
                row = Row(_group(size), _name(way, precision), size, typical="mean", note=step.note)
                if not step.note:
                    deterministic = session.config.deterministic
                    configure_backends(session.compute, deterministic=deterministic)
                    spend(batches, batch_size=size_of, steps=queued)
                    loop = measure_loop(session, batches, self.seconds())
                    more: dict[str, Any] = {
                        "compute": session.compute.describe(),
                        "workers": self.workers if way.kind else 0,
                        "wait_share": loop.wait_share,
                        "bound": bound(loop.wait_share, ahead=way.kind is not None),
                        "step_volumes_per_second": step.rate,
                        "loader_volumes_per_second": alone.volumes_per_second,
                        "epoch_seconds": EPOCH_CASES / loop.volumes_per_second,
                    }
                    row = replace(row, seconds=loop.step_seconds, more=more)
                self.rows.append(row)


def measure(bench: Bench) -> Result:
    """Measure every way at every batch size, with the step and the loader alone."""
    each = len(PRECISIONS) + sum(1 + len(way.precisions) for way in WAYS)
    workers = 1 if bench.dry else worker_counts()[-1]
    measuring = _Measuring(bench, workers, len(BATCH_SIZES) * each, [])
    for size in BATCH_SIZES:
        with ExitStack() as stack:
            sessions: dict[Precision, Session] = {
                precision: stack.enter_context(
                    bench.begun(PRESET, f"batch_size={size}", f"precision={precision}")
                )
                for precision in PRECISIONS
            }
            measuring.of_size(size, sessions)
    return result(measuring.rows, workers)


def result(rows: list[Row], workers: int) -> Result:
    computes = "; ".join(dict.fromkeys(row.more["compute"] for row in rows if row.more))
    title = (
        f"{PRESET}; {computes}; {workers} worker(s). An epoch is of {EPOCH_CASES} cases: "
        f"{FractionSplits().train:.0%} of BraTS 2021's {LABELLED_CASES}"
    )
    headings = ("", "vol/s", "epoch s", "× best", "× paper", "waits", "step", "loader", "bound by")
    cells = [(row.group, _cells(rows, row)) for row in rows]
    raw = [
        row.to_json()
        | {
            "times_best_dataloader": times(rows, row, BEST),
            "times_papers_condition": times(rows, row, PAPERS),
        }
        for row in rows
    ]
    table = grouped(title, headings, cells, PAPERS_FIGURES)
    return Result(table, {"preset": PRESET, "epoch_cases": EPOCH_CASES, "rows": raw})


def times(rows: list[Row], row: Row, baseline: Way) -> float | None:
    """The rate relative to a baseline's at the same batch size; None where either is missing."""
    name = _name(baseline, "tf32" if baseline is BEST else "fp32")
    others = (other for other in rows if (other.group, other.name) == (row.group, name))
    return row.times(next(others, None))


def in_whole_batches(stream: Stream) -> Stream:
    """Only whole batches: a GPU tries algorithms again for a smaller one."""
    whole = len(stream.case_ids) // stream.batch_size * stream.batch_size
    return replace(stream, case_ids=stream.case_ids[: whole or None])


def _group(size: int) -> str:
    return f"batches of {size}"


def _name(way: Way, precision: Precision) -> str:
    return f"{way.name}, {PRECISIONS[precision]}"


def _cells(rows: list[Row], row: Row) -> tuple[str, ...]:
    more = row.more
    return (
        row.name,
        number(row.rate),
        number(more.get("epoch_seconds"), ".0f"),
        number(times(rows, row, BEST)),
        number(times(rows, row, PAPERS)),
        number(more.get("wait_share"), ".0%"),
        number(more.get("step_volumes_per_second"), ".1f"),
        number(more.get("loader_volumes_per_second"), ".1f"),
        more.get("bound", f"not measured: {row.note}"),
    )
