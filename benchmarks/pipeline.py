"""Section `pipeline`: a sample's time by part, and the rates of loader, step and both."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import count
from typing import Any, get_args

from rich.table import Table

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
from train.session import Session

CACHES: tuple[CacheKind, ...] = get_args(CacheKind)


def measure(bench: Bench) -> Result:
    """Measure a run's loader, its step and its loop."""
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
        loops = _loops(bench, session, source, caches, seconds)
        return _result(bench, session, parts, rates, loops)


def _fits(source: Source, cache: CacheKind) -> bool:
    return source.stream.window == "crop" and (cache != "device" or source.kind == "dali")


def _loops(
    bench: Bench, session: Session, source: Source, caches: list[CacheKind], seconds: float
) -> dict[str, Loop]:
    """The step alone on the first batch, then steps with their loader, by its cache."""
    workers, loops = session.config.workers, dict[str, Loop]()
    for cache in caches:
        if loops and bench.late():
            break
        bench.tell(f"steps with their loader, cache={cache}")
        kept = source if cache == "none" else source.cached(cache)
        with kept.open(workers) as batches:
            if not loops:
                trial = Trial(session, next(batches))
                trial.warm_up()
                steps = trial.turn(seconds)
                loops["alone"] = Loop(len(steps) * size_of(trial.batch), steps, [0.0])
            loops[f"{workers} worker(s), cache={cache}"] = measure_loop(session, batches, seconds)
    return loops


def measure_parts(source: Source, seconds: float) -> tuple[dict[str, float], Spent]:
    """A sample's CPU time in ms by part, and the rate of one worker.

    Each part is the difference to the parts before it, so noise can make it negative.
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
    draw = drawn - stored
    augment = whole.cpu_ms - handed_over - draw
    return {**reads, "draw": draw, "transport": handed_over - stored, "augment": augment}, whole


def _here(batches: Iterator[list[Any]], steps: int) -> float:
    """CPU time of a sample in this process, in ms."""
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


def _result(
    bench: Bench,
    session: Session,
    parts: dict[str, float],
    rates: dict[str, Spent],
    loops: dict[str, Loop],
) -> Result:
    cases, peak_gb = len(session.training), session.compute.peak_memory_gb()
    title = (
        f"{bench.preset}, batches of {session.config.batch_size}, {cases} cases; "
        f"{session.compute.describe()}; peak {peak_gb:.2f} GB"
    )
    raw = {
        "preset": bench.preset,
        "compute": session.compute.describe(),
        "cases": cases,
        "config": session.config.model_dump(mode="json"),
        "peak_memory_gb": peak_gb,
        "cpu_ms": parts,
        "loader": {
            name: asdict(spent)
            | {"volumes_per_second": spent.volumes_per_second, "cpu_ms": spent.cpu_ms}
            for name, spent in rates.items()
        },
        "steps": {
            name: asdict(loop)
            | {"volumes_per_second": loop.volumes_per_second, "wait_share": loop.wait_share}
            for name, loop in loops.items()
        },
    }
    return Result(_table(title, parts, rates, loops), raw)


def _table(
    title: str, parts: dict[str, float], rates: dict[str, Spent], loops: dict[str, Loop]
) -> Table:
    rows = list[tuple[str, tuple[str, ...]]]()
    for part, milliseconds in parts.items():
        shown = f"{milliseconds:.1f}" if milliseconds > 0 else "noise"
        rows.append(("a sample, CPU time", (part, shown, "", "")))
    for name, spent in rates.items():
        cells = (name, f"{spent.cpu_ms:.1f}", f"{spent.volumes_per_second:.2f}", "")
        rows.append(("loader alone, CPU time of a sample", cells))
    for name, loop in loops.items():
        milliseconds = 1e3 * sum(loop.step_seconds) / len(loop.step_seconds)
        note = f"{loop.wait_share:.1%} of it waiting for data"
        cells = (name, f"{milliseconds:.1f}", f"{loop.volumes_per_second:.2f}", note)
        rows.append(("a step", cells))
    return grouped(title, ("", "ms", "volumes/s", ""), rows)
