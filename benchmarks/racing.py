"""Training steps of several networks or settings, timed in turns so that their ratios hold."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from rich.table import Table

from benchmarks.rows import Row, grouped, number
from benchmarks.sections import Bench, free
from common.errors import StoreError
from train.data.feed import Batch
from train.data.stream import Stream
from train.precision import DTYPES
from train.trainer import Session, step

BASE = ("precision=fp16", "channels_last=true", "compile=false")
"""The presets' own settings, which entries differ from."""
TURNS = 3
"""That an entry and the base each take, one after the other."""
SECONDS = 1.5
"""For all turns of an entry and the base together, at most."""
WARM_UP = 3
"""Steps before any is timed: a GPU's algorithms are tried, its memory is allocated."""
UNTIL_TAKEN = 12
"""Steps at most until one is taken: gradient scaling skips some while it finds its scale."""


@dataclass
class Trial:
    """A session that learns from one batch that stays on the device."""

    session: Session
    batch: Batch
    captured: bool = False
    """Whether its passes are CUDA graphs."""
    skipped: int = 0
    """Steps without a finite gradient, which had no update."""

    def warm_up(self) -> None:
        """Take steps until one takes as long as any other."""
        done, taken = 0, False
        while done < WARM_UP or (not taken and done < UNTIL_TAKEN):
            taken = self.step()
            done += 1

    def peak_gb(self, before_bytes: int) -> float | None:
        """The most that two steps hold of the GPU, beyond what it held before.

        None on a CPU, and of CUDA graphs, which keep what their replays use.
        """
        device = self.session.compute.device
        if device.type != "cuda" or self.captured:
            return None
        torch.cuda.reset_peak_memory_stats(device)
        self.step()
        self.step()
        return (torch.cuda.max_memory_allocated(device) - before_bytes) / 1e9

    def turn(self, seconds: float) -> list[float]:
        """Seconds of each step, for so long, and of one at least.

        A step ends when its loss and gradients are known; the update of its weights overlaps with
        the next one's beginning, as in training, but for the last, which is waited for.
        """
        device = self.session.compute.device
        wait(device)
        began = before = time.perf_counter()
        times, last = list[float](), False
        while not last:
            self.step()
            last = time.perf_counter() - began >= seconds
            if last:
                wait(device)
            now = time.perf_counter()
            times.append(now - before)
            before = now
        return times

    def step(self) -> bool:
        """One step; whether its gradients were finite."""
        taken = step(self.session, self.batch)[1]
        self.skipped += not taken
        return taken


@dataclass(frozen=True)
class Entry:
    """A network and a way of taking its step."""

    network: str
    preset: str
    """Whose optimiser, precision and loss it has, and whose network before overrides."""
    way: str = "base"
    batch: int = 2
    overrides: tuple[str, ...] = ()
    graphs: bool = False
    """Forward and backward pass are captured as CUDA graphs."""
    adamw: bool = False
    """Torch's fused AdamW in place of NAdam."""
    needs_seconds: float = 0.0
    """Not begun where less of the section's time is left."""

    def unfit(self, bench: Bench) -> str:
        """Why it is not measured; empty if it is."""
        if self.graphs and bench.device.type != "cuda":
            return "needs a GPU"
        if self.needs_seconds and bench.dry and bench.device.type == "cpu":
            return "takes too long on a CPU"
        if bench.late():
            return "no time was left"
        if not bench.dry and self.needs_seconds > bench.until - time.monotonic():
            return f"less than {self.needs_seconds:.0f} s were left"
        return ""

    @contextmanager
    def begun(self, bench: Bench, volumes: Batch) -> Iterator[Trial]:
        """Its session, not warmed up; its batch is the first of some volumes."""
        changes = (*BASE, *self.overrides, f"batch_size={self.batch}")
        batch = first(volumes, self.batch)
        with bench.begun(self.preset, *changes) as session:
            if self.adamw:
                session.optimizer = _adamw(session)
            if self.graphs:
                _capture(session, batch)
            try:
                yield Trial(session, batch, self.graphs)
            finally:
                if session.config.compile:  # torch keeps only so much compiled code of a network
                    torch.compiler.reset()


def race(bench: Bench, entries: Sequence[Entry]) -> list[Row]:
    """Measure entries, each in turns with the first, which is the base of all.

    An error is its row's note, and costs no other row.

    Raises:
        ConfigError: the base's network does not fit the store's crops.
        StoreError: a case cannot be read.
    """
    rows, base_entry = list[Row](), entries[0]
    with ExitStack() as stack:
        with bench.begun(base_entry.preset) as session:
            largest = max(entry.batch for entry in entries)
            volumes = resident(session.stream(), largest, bench.device)
        base: Trial | None = None
        for place, entry in enumerate(entries):
            seconds = min(SECONDS, bench.each(len(entries) - place) / 2)
            rows.append(measure_entry(bench, entry, volumes, base, seconds))
            if not place and rows[0].seconds:
                base = stack.enter_context(base_entry.begun(bench, volumes))
                base.warm_up()
    return rows


def measure_entry(
    bench: Bench, entry: Entry, volumes: Batch, base: Trial | None, seconds: float
) -> Row:
    """Warm an entry up, and let it and the base take turns.

    Args:
        bench: where.
        entry: what.
        volumes: on the device.
        base: warmed up; None if the entry is the base.
        seconds: for all turns.
    """
    row = Row(entry.network, entry.way, entry.batch)
    if why := entry.unfit(bench):
        return replace(row, note=f"not run: {why}")
    bench.tell(f"{entry.network}, {entry.way}, batch {entry.batch}")
    on_gpu = bench.device.type == "cuda"
    before = torch.cuda.memory_allocated(bench.device) if on_gpu else 0
    try:
        with entry.begun(bench, volumes) as trial:
            return _turns(row, trial, base, seconds, before)
    except torch.OutOfMemoryError:
        return replace(row, note="not run: out of memory", failed=True)
    except Exception as error:  # noqa: BLE001 - of a compiler, a capture, a configuration
        why = " ".join(str(error).split())[:200]
        return replace(row, note=f"not run: {type(error).__name__}: {why}", failed=True)
    finally:
        free(bench.device)


def _turns(row: Row, trial: Trial, base: Trial | None, seconds: float, before: int) -> Row:
    trial.warm_up()
    peak_gb = trial.peak_gb(before)
    ours, theirs = list[float](), list[float]()
    for _ in range(TURNS):
        if base is not None:
            theirs += base.turn(seconds / (2 * TURNS))
        ours += trial.turn(seconds / (2 * TURNS))
    compute = trial.session.compute
    new_note = base is None or compute.note != base.session.compute.note
    return replace(
        row,
        seconds=ours,
        base_seconds=theirs if base else ours,
        base_volumes=len((base or trial).batch.case_ids),
        peak_gb=peak_gb,
        note=compute.note if new_note else "",
        more={"precision": compute.precision, "skipped": trial.skipped},
    )


def rows_table(title: str, rows: Sequence[Row], network: Callable[[str], str] = str) -> Table:
    """Medians; `network` is what stands above a network's rows."""
    headings = ("", "batch", "ms", "volumes/s", "×", "GB", "")
    return grouped(title, headings, [(network(row.group), _cells(row)) for row in rows])


def _cells(row: Row) -> tuple[str, ...]:
    skipped = row.more.get("skipped")
    notes = (
        row.more.get("precision", ""),
        f"{skipped} steps without a finite gradient" if skipped else "",
        row.note,
    )
    milliseconds = None if row.typical_seconds is None else 1e3 * row.typical_seconds
    return (
        row.name,
        str(row.volumes),
        number(milliseconds, ".1f"),
        number(row.rate),
        number(row.ratio),
        number(row.peak_gb),
        "; ".join(filter(None, notes)),
    )


def resident(stream: Stream, count: int, device: torch.device) -> Batch:
    """The stream's first crops as they are stored, on a device; more than there are repeat.

    Raises:
        StoreError: a case cannot be read.
    """
    singly = replace(stream, batch_size=1)
    samples = [singly.sample(index, 0) for index in range(count)]
    if error := next((sample.error for sample in samples if sample.error), ""):
        raise StoreError(error)
    image = torch.from_numpy(np.stack([sample.image for sample in samples])).half()
    label = torch.from_numpy(np.stack([sample.label for sample in samples]))
    cases = tuple(singly.step(index).case_ids[0] for index in range(count))
    return Batch(image.to(device), label.to(device), cases, 1, last=False)


def first(batch: Batch, count: int) -> Batch:
    """The first volumes of a batch."""
    image, label = batch.image[:count], batch.label[:count]
    return replace(batch, image=image, label=label, case_ids=batch.case_ids[:count])


def wait(device: torch.device) -> None:
    """Until the device has done everything that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _adamw(session: Session) -> torch.optim.Optimizer:
    config = session.config.optimizer
    settings: dict[str, Any] = {"lr": config.lr, "betas": config.betas}
    settings |= {"weight_decay": config.weight_decay, "fused": True}
    return torch.optim.AdamW(session.model.parameters(), **settings)


def _capture(session: Session, batch: Batch) -> None:
    """Make the session's forward and backward pass two CUDA graphs, for batches of this shape.

    Loss and optimiser stay outside: a step decides on the CPU whether its gradients are finite.
    """
    precision = session.compute.precision
    image = batch.image.to(
        dtype=DTYPES[precision], memory_format=session.config.memory_format, copy=True
    )
    with torch.autocast(
        "cuda",
        dtype=torch.bfloat16 if precision == "bf16" else torch.float16,
        enabled=precision in {"fp16", "bf16"},
        cache_enabled=False,  # a graph must not hold casts of weights from before it
    ):
        torch.cuda.make_graphed_callables(session.model.train(), (image,))  # in place
