"""Section `table1`: what mixed precision and DALI bring, as the paper's Table I has it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
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
"""Of them, those that a manifest's default splits train on."""
PAPERS_SECONDS = {"none": 1051, "AMP": 640, "DALI": 148, "DALI + AMP": 95}
"""An epoch on one RTX 3090 (FM-Net paper, Table I; it does not say of how many cases)."""
WAITING = 0.05
"""Share of the time spent waiting for batches, above which they bound the rate."""
OVERHEAD = 2
"""What a measurement takes, with starting and warming up, of the seconds that it measures for."""

Bound = Literal["data", "step", "both"]


@dataclass(frozen=True)
class Way:
    """How batches come to the device, and the precisions of the steps they are measured with."""

    name: str
    kind: LoaderKind | None
    """None makes batches in the training process, between two steps."""
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    cache: CacheKind = "none"

    @contextmanager
    def open(self, stream: Stream, device: torch.device, workers: int) -> Iterator[Iterator[Batch]]:
        """Batches, each once it is on the device."""
        if self.kind is None:
            yield in_this_process(stream, device)
            return
        source = Source(self.kind, stream, device)
        source = source if self.cache == "none" else source.cached(self.cache)
        with source.open(workers) as batches:
            yield batches


BEST = Way("DataLoader", "torch", ("tf32", "fp32", "fp16"))
"""Torch's at its best: as many workers as cores up to eight, pinned memory, queues."""
PAPERS = Way("paper's loader", None)
"""One process, which reads and augments on the CPU before it computes (FM-Net paper, Table I)."""
DALI = Way("DALI", "dali")
WAYS = (BEST, PAPERS, DALI, Way("DALI, cached", "dali", ("fp16",), "device"))


def bound(wait_share: float, *, ahead: bool) -> Bound:
    """What would raise a rate: a faster loader, a faster step, or either.

    Args:
        wait_share: of all time, waiting for batches.
        ahead: whether batches are made while the device computes; if not, both times add up.
    """
    if wait_share <= WAITING:
        return "step"
    return "data" if ahead or wait_share >= 1 - WAITING else "both"


@dataclass
class _Measuring:
    """The section while it is measured."""

    bench: Bench
    workers: int
    left: int
    """Measurements still to come."""
    rows: list[Row]

    def seconds(self) -> float:
        """For the next measurement; what one leaves, or takes more, is that of all after it."""
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
        """The step alone, on one batch."""
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
        # Steps are not to be fed from a queue that filled before them.
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
                        "wait_seconds": loop.wait_seconds,
                        "step_alone_seconds": step.seconds,
                        "loader_alone": asdict(alone),
                    }
                    row = replace(row, seconds=loop.step_seconds, more=more)
                self.rows.append(row)


def measure(bench: Bench) -> Result:
    """Measure every way at every batch size, the step and the loader alone for each.

    Raises:
        ConfigError: the store's crops do not fit the network.
        StoreError: a case cannot be read.
    """
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
    """Rates and ratios."""
    computes = "; ".join(dict.fromkeys(row.more["compute"] for row in rows if row.more))
    title = (
        f"{PRESET}; {computes}; {workers} worker(s). An epoch is of {EPOCH_CASES} cases: "
        f"{FractionSplits().train:.0%} of BraTS 2021's {LABELLED_CASES}"
    )
    headings = ("", "vol/s", "epoch s", "× best", "× paper", "waits", "step", "loader", "bound by")
    cells = [(row.group, _cells(rows, row)) for row in rows if row.seconds]
    raw = [
        row.to_json()
        | {
            "times_best_dataloader": times(rows, row, BEST),
            "times_papers_condition": times(rows, row, PAPERS),
        }
        for row in rows
    ]
    about = {"preset": PRESET, "epoch_cases": EPOCH_CASES, "papers_seconds": PAPERS_SECONDS}
    return Result(grouped(title, headings, cells, _caption(rows)), about | {"rows": raw})


def times(rows: list[Row], row: Row, baseline: Way) -> float | None:
    """How many times as fast as a baseline at the same batch size; None where either is missing.

    The best DataLoader has torch's own float32, which rounds to TF32 in a GPU's convolutions; the
    paper's condition does not.
    """
    name = _name(baseline, "tf32" if baseline is BEST else "fp32")
    others = (other for other in rows if (other.group, other.name) == (row.group, name))
    return row.times(next(others, None))


def in_whole_batches(stream: Stream) -> Stream:
    """Of as many of its cases as make whole batches: a smaller batch has algorithms of its own."""
    whole = len(stream.case_ids) // stream.batch_size * stream.batch_size
    return replace(stream, case_ids=stream.case_ids[: whole or None])


def _group(size: int) -> str:
    return f"batches of {size}"


def _name(way: Way, precision: Precision) -> str:
    return f"{way.name}, {PRECISIONS[precision]}"


def _cells(rows: list[Row], row: Row) -> tuple[str, ...]:
    return (
        row.name,
        number(row.rate),
        number(row.more["epoch_seconds"], ".0f"),
        number(times(rows, row, BEST)),
        number(times(rows, row, PAPERS)),
        number(row.more["wait_share"], ".0%"),
        number(row.more["step_volumes_per_second"], ".1f"),
        number(row.more["loader_volumes_per_second"], ".1f"),
        row.more["bound"],
    )


def _caption(rows: list[Row]) -> str:
    seconds = ", ".join(f"{what} {count}" for what, count in PAPERS_SECONDS.items())
    ratio = PAPERS_SECONDS["none"] / PAPERS_SECONDS["DALI + AMP"]
    lines = [f"The paper, on one RTX 3090: {seconds} s an epoch, {ratio:.1f}×."]
    for why in dict.fromkeys(row.note for row in rows if row.note):
        names = "; ".join(f"{row.name}, {row.group}" for row in rows if row.note == why)
        lines.append(f"Not measured, {why}: {names}.")
    return "\n".join(lines)
