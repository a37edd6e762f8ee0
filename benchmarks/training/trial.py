"""Training steps of several networks or settings, timed in turns so that their ratios hold."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.training.suite import Bench, free
from common.errors import StoreError
from train.data.feed import Batch
from train.data.stream import Stream
from train.trainer import Session, step

TURNS = 3
"""That a row and its base each take, one after the other."""
SECONDS = 1.5
"""A row and its base together, at most, for all turns."""
WARM_UP = 3
"""Steps before any is timed: a GPU's algorithms are tried, its memory is found."""
UNTIL_TAKEN = 12
"""Steps at most until one is taken: gradient scaling skips some while it finds its scale."""
ALONE = 2
"""Steps in which a row's memory is measured, without its base."""


@dataclass
class Trial:
    """A session that learns from one batch that stays on the device.

    Attributes:
        session: it learns.
        batch: on the device.
        captured: whether its passes are CUDA graphs.
        skipped: of all steps so far, those without a finite gradient, which had no update.
    """

    session: Session
    batch: Batch
    captured: bool = False
    skipped: int = 0

    def warm_up(self) -> None:
        """Steps until their time is that of any other."""
        done, taken = 0, False
        while done < WARM_UP or (not taken and done < UNTIL_TAKEN):
            taken = self._step()
            done += 1

    def peak_memory_bytes(self, before: int) -> int | None:
        """The most that some steps hold of a GPU, beyond what it held before.

        None on a CPU, and of a captured network, whose graph keeps what its replays use.
        """
        device = self.session.compute.device
        if device.type != "cuda" or self.captured:
            return None
        torch.cuda.reset_peak_memory_stats(device)
        for _ in range(ALONE):
            self._step()
        return torch.cuda.max_memory_allocated(device) - before

    def turn(self, seconds: float) -> list[float]:
        """The time of each step in ms, for so long, and of one at least.

        A step ends when its loss and its gradients are known; the update of its weights overlaps
        with the next one's beginning, as in training, but for the last, which is waited for.
        """
        device = self.session.compute.device
        wait(device)
        began = before = time.perf_counter()
        times = list[float]()
        while True:
            self._step()
            last = time.perf_counter() - began >= seconds
            if last:
                wait(device)
            now = time.perf_counter()
            times.append(1e3 * (now - before))
            before = now
            if last:
                return times

    def _step(self) -> bool:
        taken = step(self.session, self.batch)[1]
        self.skipped += not taken
        return taken


@dataclass(frozen=True)
class Row:
    """What a network, or a setting, took.

    Attributes:
        network: which.
        variant: what differs from the base.
        batch: volumes in a step.
        precision: in which it was computed; empty if it was not.
        ms: of each step.
        base_ms: of each step of the base, in turns with these.
        base_batch: volumes in those.
        skipped: of all steps, the warm-up's too, those without a finite gradient.
        peak_memory_gb: of a GPU, with weights and optimiser; None on a CPU.
        note: why it has no times, or what to know of them.
        failed: whether that was an error.
    """

    network: str
    variant: str
    batch: int
    precision: str = ""
    ms: list[float] = field(default_factory=list)
    base_ms: list[float] = field(default_factory=list)
    base_batch: int = 1
    skipped: int = 0
    peak_memory_gb: float | None = None
    note: str = ""
    failed: bool = False

    @property
    def volumes_per_second(self) -> float | None:
        """By the median step."""
        return 1e3 * self.batch / median(self.ms) if self.ms else None

    @property
    def ratio(self) -> float | None:
        """Volumes a second, relative to the base's in the turns between."""
        if not self.ms:
            return None
        return self.batch / median(self.ms) * median(self.base_ms) / self.base_batch

    def to_json(self) -> dict[str, Any]:
        """All of it, with the two above."""
        rates = {"volumes_per_second": self.volumes_per_second, "ratio": self.ratio}
        return asdict(self) | rates


def race(
    bench: Bench,
    row: Row,
    make: Callable[[], AbstractContextManager[Trial]],
    base: Trial | None,
    seconds: float,
) -> Row:
    """Fill a row: make its trial, warm it up, and let it and its base take turns.

    An error is the row's note, so that it costs no other row.

    Args:
        bench: its time.
        row: with its names.
        make: begins the trial; what it holds is freed at its end.
        base: warmed up; None if the row is its own base.
        seconds: for all turns.
    """
    if bench.late():
        return replace(row, note="not run: no time was left")
    bench.tell(f"{row.network}, {row.variant}, batch {row.batch}")
    filled = _attempted(bench.device, row, make, base, seconds)
    free(bench.device)
    return filled


def _attempted(
    device: torch.device,
    row: Row,
    make: Callable[[], AbstractContextManager[Trial]],
    base: Trial | None,
    seconds: float,
) -> Row:
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    try:
        with make() as trial:
            return _raced(row, trial, base, seconds, before)
    except torch.OutOfMemoryError:
        return replace(row, note="not run: out of memory", failed=True)
    except Exception as error:  # noqa: BLE001 - of a compiler, a capture, a configuration
        why = " ".join(str(error).split())[:200]
        return replace(row, note=f"not run: {type(error).__name__}: {why}", failed=True)


def _raced(row: Row, trial: Trial, base: Trial | None, seconds: float, before: int) -> Row:
    trial.warm_up()
    peak = trial.peak_memory_bytes(before)
    ours, theirs = list[float](), list[float]()
    for _ in range(TURNS):
        if base is not None:
            theirs += base.turn(seconds / (2 * TURNS))
        ours += trial.turn(seconds / (2 * TURNS))
    return replace(
        row,
        precision=trial.session.compute.precision,
        ms=ours,
        base_ms=theirs if base else ours,
        base_batch=len((base or trial).batch.case_ids),
        skipped=trial.skipped,
        peak_memory_gb=None if peak is None else peak / 1e9,
        note=_note(trial) if base is None or _note(trial) != _note(base) else "",
    )


def _note(trial: Trial) -> str:
    return trial.session.compute.note


def resident(stream: Stream, count: int, device: torch.device) -> Batch:
    """The stream's first crops as they are stored, on a device; again from the first if need be.

    Raises:
        StoreError: a case cannot be read.
    """
    singly = replace(stream, batch_size=1)
    samples = [singly.sample(number, 0) for number in range(count)]
    if error := next((sample.error for sample in samples if sample.error), ""):
        raise StoreError(error)
    image = torch.from_numpy(np.stack([sample.image for sample in samples])).half()
    label = torch.from_numpy(np.stack([sample.label for sample in samples]))
    cases = tuple(singly.step(number).case_ids[0] for number in range(count))
    return Batch(image.to(device), label.to(device), cases, 1, last=False)


def first(batch: Batch, count: int) -> Batch:
    """The first volumes of a batch."""
    return replace(
        batch,
        image=batch.image[:count],
        label=batch.label[:count],
        case_ids=batch.case_ids[:count],
    )


def wait(device: torch.device) -> None:
    """Until the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
