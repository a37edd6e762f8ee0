"""Section `table1`: what mixed precision and DALI bring, as the paper's Table I has it."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack

import torch

from benchmarks.training.loader import AT_LEAST
from benchmarks.training.pipeline import worker_counts
from benchmarks.training.step import StepTimes, measure_loop, measure_step
from benchmarks.training.suite import Bench
from benchmarks.training.table1_loaders import WAYS, Way, in_this_process, in_whole_batches
from benchmarks.training.table1_rows import PRESET, Missing, Row, Table1
from benchmarks.training.timing import spend
from train.data.feed import Batch
from train.data.stream import Stream
from train.data.torch_loader import QUEUE
from train.precision import Precision, configure_backends
from train.trainer import Session

BATCH_SIZES = (1, 2)
PRECISIONS: tuple[Precision, ...] = ("tf32", "fp32", "fp16")

NO_TIME = "no time was left"
OVERHEAD = 2
"""What a measurement takes, with warming up and starting, of the seconds that it measures for."""


def measure(bench: Bench) -> Table1:
    """Measure every way at every batch size, the step and the loader alone for each.

    Raises:
        ConfigError: the store's crops do not fit the network.
        StoreError: a case cannot be read.
    """
    return _Measuring(bench).all()


class _Measuring:
    """The section while it is measured.

    Args:
        bench: what it measures with.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        # The best way takes what the machine has; a dry run starts as few processes as it can.
        self._workers = 1 if bench.dry else worker_counts()[-1]
        self._left = len(BATCH_SIZES) * (
            len(PRECISIONS) + sum(1 + len(way.precisions) for way in WAYS)
        )
        self._found = Table1(self._workers)

    def all(self) -> Table1:
        """Measure, one batch size after the other."""
        for size in BATCH_SIZES:
            if self._bench.late():
                for way in WAYS:
                    self._miss(size, way, way.precisions, NO_TIME)
                continue
            with ExitStack() as stack:
                begun = [
                    self._bench.begun(PRESET, f"batch_size={size}", f"precision={precision}")
                    for precision in PRECISIONS
                ]
                sessions = dict(zip(PRECISIONS, map(stack.enter_context, begun), strict=True))
                self._batches_of(size, sessions)
        return self._found

    def _batches_of(self, size: int, sessions: dict[Precision, Session]) -> None:
        stream = in_whole_batches(sessions["fp32"].epoch_stream())
        batch = next(in_this_process(stream, self._bench.device))
        steps = dict[Precision, StepTimes | None]()
        for precision, session in sessions.items():
            self._bench.tell(f"U-Net, batches of {size}, {precision}, the step")
            steps[precision] = self._step(session, batch)
        for way in WAYS:
            if self._bench.late():
                self._miss(size, way, way.precisions, NO_TIME)
                continue
            self._bench.tell(f"U-Net, batches of {size}, {way.name}")
            try:
                self._rows_of(way, stream, sessions, steps)
            except Exception as error:  # noqa: BLE001 - no DALI, no memory, …: the rows so far stand
                self._miss(size, way, way.precisions, f"{type(error).__name__}: {error}")

    def _step(self, session: Session, batch: Batch) -> StepTimes | None:
        """The step alone; None where it does not fit into memory."""
        configure_backends(session.compute, deterministic=session.config.deterministic)
        try:
            return measure_step(session, batch, self._seconds())
        except torch.OutOfMemoryError:
            return None

    def _rows_of(
        self,
        way: Way,
        stream: Stream,
        sessions: dict[Precision, Session],
        steps: dict[Precision, StepTimes | None],
    ) -> None:
        size = stream.batch_size
        with way.open(stream, self._bench.device, self._workers) as batches:
            self._use_up(way, batches)
            alone = spend(batches, batch_size=_size, steps=AT_LEAST, seconds=self._seconds())
            for precision in way.precisions:
                step, session = steps[precision], sessions[precision]
                if step is None:
                    self._miss(size, way, [precision], "out of memory")
                    continue
                configure_backends(session.compute, deterministic=session.config.deterministic)
                self._use_up(way, batches)
                loop = measure_loop(session, batches, self._seconds())
                compute = session.compute.describe()
                self._found.rows.append(Row(size, way, precision, compute, loop, step, alone))

    def _use_up(self, way: Way, batches: Iterator[Batch]) -> None:
        """Take what is ready: steps are not to be fed from a queue that filled before them."""
        if way.ahead:
            spend(batches, batch_size=_size, steps=QUEUE * self._workers)

    def _miss(self, size: int, way: Way, precisions: Iterable[Precision], reason: str) -> None:
        for precision in precisions:
            self._left -= 1
            self._found.missing.append(Missing(size, way.name, precision, reason))

    def _seconds(self) -> float:
        """For the next measurement; what one leaves or takes more is that of all after it."""
        seconds = self._bench.each(self._left) / OVERHEAD
        self._left -= 1
        return seconds


def _size(batch: Batch) -> int:
    return len(batch.case_ids)
