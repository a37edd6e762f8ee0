"""Section `pipeline` as a table."""

from statistics import median
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from benchmarks.training.loader import Parts
from benchmarks.training.step import LoopTimes, StepTimes
from train.data.cache import CacheKind

if TYPE_CHECKING:
    from benchmarks.training.pipeline import Measured


def pipeline_table(measured: "Measured") -> Table:
    """Medians of all figures, with what they were measured on above them."""
    table = Table(title=_title(measured), title_justify="left", box=None, pad_edge=False)
    for heading in ("", "ms", "volumes/s", ""):
        table.add_column(heading, justify="right" if heading else "left")
    _add_parts(table, measured.parts)
    _add_rates(table, measured)
    _add_step(table, measured)
    _add_loop(table, measured.loop)
    return table


def _title(measured: "Measured") -> str:
    about, config = measured.about, measured.config
    return (
        f"{about['preset']}, batches of {config.batch_size}, {about['cases']} cases; "
        f"{about['compute']}"
    )


def _add_parts(table: Table, parts: Parts) -> None:
    """Processor time of a sample, and beside it the device's, where it has its own."""
    device_ms = {"augment": parts.augment_device_ms, "transport": parts.copy_device_ms}
    what = {"transport": "copying to it", "augment": "augmenting"}
    _head(table, "a sample, CPU time")
    for part, cpu_ms in parts.cpu_ms.items():
        on_device = device_ms.get(part)
        note = "" if on_device is None else f"and {on_device:.2f} ms of the device, {what[part]}"
        table.add_row(part, f"{cpu_ms:.1f}" if cpu_ms > 0 else "noise", "", note)
    table.add_row("all, one worker", f"{parts.augmented.cpu_ms:.1f}")


def _add_rates(table: Table, measured: "Measured") -> None:
    """The loader by itself, against itself with one worker, and with its caches."""
    _head(table, "loader alone, CPU time of a sample")
    alone = measured.rates[1].volumes_per_second
    workers = measured.config.workers
    rows = [(f"{count} worker(s)", spent) for count, spent in measured.rates.items()]
    rows += [(f"{workers} worker(s), cache={c}", spent) for c, spent in measured.cached.items()]
    for what, spent in rows:
        rate = spent.volumes_per_second
        note = f"{1e3 / spent.cpu_ms:.1f} a CPU second, {rate / alone:.2f}×"
        table.add_row(what, f"{spent.cpu_ms:.1f}", f"{rate:.2f}", note)


def _add_step(table: Table, measured: "Measured") -> None:
    """Medians; shares are of all phases together."""
    step: StepTimes = measured.step
    _head(table, "step")
    phases = {phase: median(ms) for phase, ms in step.phases_ms.items()}
    for phase, ms in phases.items():
        table.add_row(phase, f"{ms:.1f}", "", f"{ms / sum(phases.values()):.0%}")
    whole = median(step.whole_ms)
    memory = f"peak {step.peak_memory_gb:.2f} GB"
    skipped = f"; {step.skipped} without a finite gradient" if step.skipped else ""
    rate = f"{1e3 * measured.config.batch_size / whole:.2f}"
    table.add_row("whole", f"{whole:.1f}", rate, memory + skipped)


def _add_loop(table: Table, loop: dict[CacheKind, LoopTimes]) -> None:
    """Steps with their loader."""
    _head(table, "steps with their loader")
    for cache, times in loop.items():
        table.add_row(
            f"{times.workers} worker(s), cache={cache}",
            f"{1e3 * median(times.step_seconds):.1f}",
            f"{times.volumes_per_second:.2f}",
            f"{times.wait_share:.1%} of it waiting for data",
        )


def _head(table: Table, what: str) -> None:
    """A line for what the rows below it are of."""
    table.add_row(Text(what, "bold"))
