"""Training steps of several networks or settings, timed in turns so that their ratios hold."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from rich.table import Table

from benchmarks.loading import samples
from benchmarks.rows import Row, grouped, number
from benchmarks.sections import Bench, free
from train.data.feed import Batch
from train.data.stream import Stream
from train.networks import parameter_count
from train.session import Session
from train.trainer import step

BASE = ("precision=fp16", "channels_last=true", "compile=false")
"""The presets' own settings, which entries change."""
TURNS = 3
"""Of an entry and of the base."""
SECONDS = 1.5
"""For all turns of an entry and the base together, at most."""
WARM_UP = 3
"""Steps before any is timed: a GPU's algorithms are tried, its memory is allocated."""
UNTIL_TAKEN = 12
"""Warm-up steps at most; gradient scaling skips some while it finds its scale."""


@dataclass
class Trial:
    """A session that learns from one batch that stays on the device."""

    session: Session
    batch: Batch
    skipped: int = 0
    """Steps without a finite gradient, which had no update."""

    def warm_up(self) -> None:
        done, taken = 0, False
        while done < WARM_UP or (not taken and done < UNTIL_TAKEN):
            taken = self.step()
            done += 1

    def peak_gb(self, before_bytes: int) -> float | None:
        """The GPU's memory that two steps take; None on a CPU."""
        device = self.session.compute.device
        if device.type != "cuda":
            return None
        torch.cuda.reset_peak_memory_stats(device)
        self.step()
        self.step()
        return (torch.cuda.max_memory_allocated(device) - before_bytes) / 1e9

    def turn(self, seconds: float) -> list[float]:
        """Seconds of each step; one at least.

        A step ends when its loss and gradients are known. As in training, the update of its weights
        overlaps with the next step; the last update is waited for.
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
        """Take a step; whether its gradients were finite."""
        taken = step(self.session, self.batch)[1]
        self.skipped += not taken
        return taken


@dataclass(frozen=True)
class Entry:
    """A network and a way of taking its step."""

    network: str
    preset: str
    way: str = "base"
    batch: int = 2
    overrides: tuple[str, ...] = ()
    needs_seconds: float = 0.0
    """Skipped where less of the section's time is left."""

    def why_not(self, bench: Bench) -> str:
        """Why it is not measured; empty if it is."""
        if self.needs_seconds and bench.dry and bench.device.type == "cpu":
            return "takes too long on a CPU"
        if bench.late():
            return "no time was left"
        if not bench.dry and self.needs_seconds > bench.until - time.monotonic():
            return f"less than {self.needs_seconds:.0f} s were left"
        return ""

    @contextmanager
    def begun(self, bench: Bench) -> Iterator[Trial]:
        changes = (*BASE, *self.overrides, f"batch_size={self.batch}")
        with bench.begun(self.preset, *changes) as session:
            try:
                yield Trial(session, resident(session.stream(), bench.device))
            finally:
                if session.config.compile:  # torch keeps only so much compiled code of a network
                    torch.compiler.reset()


def race(bench: Bench, entries: Sequence[Entry]) -> list[Row]:
    """Measure entries, each in turns with the first, the base; an error is its row's note."""
    rows, base = list[Row](), None
    with ExitStack() as stack:
        for place, entry in enumerate(entries):
            seconds = min(SECONDS, bench.each(len(entries) - place) / 2)
            rows.append(measure_entry(bench, entry, base, seconds))
            if not place and rows[0].seconds:
                base = stack.enter_context(entry.begun(bench))
                base.warm_up()
    return rows


def measure_entry(bench: Bench, entry: Entry, base: Trial | None, seconds: float) -> Row:
    """Measure an entry in turns with the base, which is None for the base itself."""
    row = Row(entry.network, entry.way, entry.batch)
    if why := entry.why_not(bench):
        return replace(row, note=f"not run: {why}")
    bench.tell(f"{entry.network}, {entry.way}, batch {entry.batch}")
    on_gpu = bench.device.type == "cuda"
    before = torch.cuda.memory_allocated(bench.device) if on_gpu else 0
    try:
        with entry.begun(bench) as trial:
            return _turns(row, trial, base, seconds, before)
    except torch.OutOfMemoryError:
        return replace(row, note="not run: out of memory")
    except Exception as error:  # noqa: BLE001 - of a compiler, a store, a configuration
        why = " ".join(str(error).split())[:200]
        return replace(row, note=f"not run: {type(error).__name__}: {why}")
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
    return replace(
        row,
        seconds=ours,
        base_seconds=theirs if base else ours,
        base_volumes=len((base or trial).batch.case_ids),
        peak_gb=peak_gb,
        note=compute.note,
        more={
            "precision": compute.precision,
            "skipped": trial.skipped,
            "parameters": parameter_count(trial.session.model.parameters()),
        },
    )


def rows_table(title: str, rows: Sequence[Row]) -> Table:
    """Medians, below each network's name and number of weights."""
    weights = {row.group: f": {row.more['parameters'] / 1e6:.1f} M" for row in rows if row.more}
    headings = ("", "batch", "ms", "volumes/s", "×", "GB", "")
    cells = [(row.group + weights.get(row.group, ""), _cells(row)) for row in rows]
    return grouped(title, headings, cells)


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


def resident(stream: Stream, device: torch.device) -> Batch:
    """The first crops of a stream of one batch's size, as they are stored; they may repeat.

    Raises:
        StoreError: a case cannot be read.
    """
    singly = replace(stream, batch_size=1)
    found = [samples(singly, index)[0] for index in range(stream.batch_size)]
    image = torch.from_numpy(np.stack([sample.image for sample in found])).half()
    label = torch.from_numpy(np.stack([sample.label for sample in found]))
    cases = tuple(singly.step(index).case_ids[0] for index in range(stream.batch_size))
    return Batch(image.to(device), label.to(device), cases, 1, last=False)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
