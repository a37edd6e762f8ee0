"""Section `pipeline`: where a sample's time goes, and how fast loader, step and both are."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import count
from typing import Any, get_args

from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from benchmarks.loading import (
    NOTHING,
    WARM_UP,
    Loop,
    Source,
    measure_loop,
    samples,
    size_of,
    worker_counts,
)
from benchmarks.racing import Trial
from benchmarks.rows import grouped
from benchmarks.sections import Bench, Result
from benchmarks.timing import Spent, spend
from train.data.cache import CacheKind
from train.data.stream import Stream
from train.trainer import Session

CACHES: tuple[CacheKind, ...] = get_args(CacheKind)


def measure(bench: Bench) -> Result:
    """Measure a run's loader, its step and its loop.

    Raises:
        ConfigError: the configuration is not valid, or does not fit the store.
        StoreError: a case cannot be read.
    """
    with bench.begun(bench.preset, *bench.overrides) as session:
        source = Source(session.config.loader, session.stream(), session.compute.device)
        caches = [cache for cache in CACHES if cache == "none" or _fits(source, cache)]
        # Three for the parts, each number of workers, the step, and two for each cache.
        seconds = bench.each(3 + len(worker_counts()) + 1 + 2 * len(caches))
        bench.tell("the loader, 1 worker, and its parts")
        parts, alone = measure_parts(source, seconds)
        rates = {"1 worker(s)": alone}
        for workers in worker_counts()[1:]:
            bench.tell(f"the loader, {workers} workers")
            rates[f"{workers} worker(s)"] = source.rate(workers, seconds=seconds)
        loops, trial = _loops(bench, session, source, caches, seconds)
        return _result(bench, session, parts, rates, trial, loops)


def _fits(source: Source, cache: CacheKind) -> bool:
    return source.stream.window == "crop" and (cache != "device" or source.kind == "dali")


def _loops(
    bench: Bench, session: Session, source: Source, caches: list[CacheKind], seconds: float
) -> tuple[dict[str, Loop], tuple[Trial, list[float]]]:
    """Steps with their loader, by its cache; and the step alone, on the first batch."""
    workers, loops, step = session.config.workers, dict[str, Loop](), list[float]()
    for cache in caches:
        if loops and bench.late():
            break
        bench.tell(f"steps with their loader, cache={cache}")
        kept = source if cache == "none" else source.cached(cache)
        with kept.open(workers) as batches:
            if not loops:
                trial = Trial(session, next(batches))
                trial.warm_up()
                step = trial.turn(seconds)
            loops[f"{workers} worker(s), cache={cache}"] = measure_loop(session, batches, seconds)
    return loops, (trial, step)


def measure_parts(source: Source, seconds: float) -> tuple[dict[str, float | None], Spent]:
    """A sample's processor time in ms by part, and its whole way through one worker.

    Each part is what it costs beyond those before it, so it can be below 0 by chance. `copied` and
    `augmented` are the GPU's own time; None on a CPU.
    """
    stream = source.stream
    plain = replace(stream, augment=NOTHING)
    whole = source.rate(1, seconds=seconds)
    steps = len(whole.batch_seconds)
    stored, drawn = (_here(_samples(each), steps) for each in (plain, stream))
    handed_over = replace(source, stream=plain).rate(1, steps=steps).cpu_ms
    reads = {"read, decode": stored}
    if stream.dims == 3 and stream.window == "crop":
        read = _here(_files(stream), steps)
        reads = {"read": read, "decode": stored - read}
    copied, augmented = _device_ms(source, steps)
    parts: dict[str, float | None] = {**reads}
    parts |= {"draw": drawn - stored, "transport": handed_over - stored}
    parts |= {"augment": whole.cpu_ms - handed_over - (drawn - stored)}
    return parts | {"copied": copied, "augmented": augmented}, whole


def _device_ms(source: Source, steps: int) -> tuple[float | None, float | None]:
    """The GPU's time for copying and for augmenting a sample; None where none is seen."""
    if source.device.type != "cuda":
        return None, None
    with source.open(workers=1) as batches:
        spend(batches, batch_size=size_of, steps=WARM_UP)
        with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as watched:
            spent = spend(batches, batch_size=size_of, steps=steps)
    copying = computing = 0.0
    for event in watched.events() or ():
        if event.device_type.name == "CUDA":
            took = event.time_range.elapsed_us() / 1e3 / spent.samples
            if event.name.startswith("Memcpy HtoD"):
                copying += took
            else:
                computing += took
    return (copying, computing) if computing else (None, None)


def _here(batches: Iterator[list[Any]], steps: int) -> float:
    """Processor time of a sample in this process, in ms."""
    spend(batches, batch_size=len)  # opens the arrays
    return spend(batches, batch_size=len, steps=steps).cpu_ms


def _samples(stream: Stream) -> Iterator[list[Any]]:
    for index in count(WARM_UP):
        yield samples(stream, index)


def _files(stream: Stream) -> Iterator[list[Any]]:
    """The bytes of the same samples' files."""
    files = stream.store.files
    names = {case: files.of_row(stream.store.record(case).row or 0) for case in stream.case_ids}
    for index in count(WARM_UP):
        cases = stream.step(index).case_ids
        yield [[files.read(name) for name in names[case]] for case in cases]


def _result(  # noqa: PLR0913, PLR0917 - what was measured
    bench: Bench,
    session: Session,
    parts: dict[str, float | None],
    rates: dict[str, Spent],
    step: tuple[Trial, list[float]],
    loops: dict[str, Loop],
) -> Result:
    trial, seconds = step
    alone = Loop(len(seconds) * len(trial.batch.case_ids), seconds, [0.0])
    memory_gb = session.compute.peak_memory_gb()
    about = {
        "preset": bench.preset,
        "compute": session.compute.describe(),
        "note": session.compute.note,
        "cases": len(session.training),
        "config": session.config.model_dump(mode="json"),
    }
    title = (
        f"{bench.preset}, batches of {session.config.batch_size}, {about['cases']} cases; "
        f"{about['compute']}; peak {memory_gb:.2f} GB"
    )
    raw = about | {
        "cpu_ms": parts,
        "loader": {name: _rate(spent) for name, spent in rates.items()},
        "step": asdict(alone) | {"skipped": trial.skipped, "peak_memory_gb": memory_gb},
        "end_to_end": {
            name: asdict(loop)
            | {"volumes_per_second": loop.volumes_per_second, "wait_share": loop.wait_share}
            for name, loop in loops.items()
        },
    }
    return Result(_table(title, parts, rates, alone, loops), raw)


def _rate(spent: Spent) -> dict[str, Any]:
    rates = {"volumes_per_second": spent.volumes_per_second, "cpu_ms": spent.cpu_ms}
    return asdict(spent) | rates


def _table(
    title: str,
    parts: dict[str, float | None],
    rates: dict[str, Spent],
    step: Loop,
    loops: dict[str, Loop],
) -> Table:
    rows = list[tuple[str, tuple[str, ...]]]()
    on_device = {"transport": parts["copied"], "augment": parts["augmented"]}
    for part, milliseconds in parts.items():
        if part in {"copied", "augmented"} or milliseconds is None:
            continue
        gpu = on_device.get(part)
        shown = f"{milliseconds:.1f}" if milliseconds > 0 else "noise"
        note = f"and {gpu:.2f} ms of the GPU" if gpu else ""
        rows.append(("a sample, CPU time", (part, shown, "", note)))
    for name, spent in rates.items():
        cells = (name, f"{spent.cpu_ms:.1f}", f"{spent.volumes_per_second:.2f}", "")
        rows.append(("loader alone, CPU time of a sample", cells))
    for name, loop in {"step alone": step, **loops}.items():
        milliseconds = 1e3 * sum(loop.step_seconds) / len(loop.step_seconds)
        note = f"{loop.wait_share:.1%} of it waiting for data" if loop is not step else ""
        cells = (name, f"{milliseconds:.1f}", f"{loop.volumes_per_second:.2f}", note)
        rows.append(("a step", cells))
    return grouped(title, ("", "ms", "volumes/s", ""), rows)
