"""Section `pipeline`: where a training step's time goes on this machine, and in what."""

import os
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from benchmarks.training.loader import Parts, Source, measure_parts
from benchmarks.training.pipeline_table import pipeline_table
from benchmarks.training.step import LoopTimes, StepTimes, measure_loop, measure_step
from benchmarks.training.suite import Bench
from benchmarks.training.timing import Spent
from train.config import TrainConfig
from train.data.cache import CacheKind
from train.trainer import Session

WORKERS = (1, 2, 4, 8)
"""Numbers of processes that the loader is measured with, as far as the machine has cores."""


@dataclass(frozen=True)
class Measured:
    """All that was measured.

    Attributes:
        about: the run in words and numbers.
        config: its configuration.
        rates: the loader by itself, by its number of workers.
        parts: a sample's way to the device.
        step: a training step.
        cached: the loader by itself, with the run's number of workers, by its cache.
        loop: training with its loader, by its cache.
    """

    about: dict[str, Any]
    config: TrainConfig
    rates: dict[int, Spent]
    parts: Parts
    step: StepTimes
    cached: dict[CacheKind, Spent]
    loop: dict[CacheKind, LoopTimes]

    def to_json(self) -> dict[str, Any]:
        """Everything, with the time of each batch and each step."""
        loop = {
            cache: {
                "volumes_per_second": times.volumes_per_second,
                "wait_share": times.wait_share,
                **asdict(times),
            }
            for cache, times in self.loop.items()
        }
        return self.about | {
            "config": self.config.model_dump(mode="json"),
            "loader": {
                "cpu_ms": self.parts.cpu_ms,
                "parts": asdict(self.parts),
                "by_workers": {workers: _rate(spent) for workers, spent in self.rates.items()},
                "by_cache": {cache: _rate(spent) for cache, spent in self.cached.items()},
            },
            "step": asdict(self.step),
            "end_to_end": loop,
        }

    def table(self) -> Table:
        """Medians."""
        return pipeline_table(self)


def worker_counts() -> list[int]:
    """What the loader is measured with on this machine."""
    return [workers for workers in WORKERS if workers <= len(os.sched_getaffinity(0))]


def measure(bench: Bench) -> Measured:
    """Measure a run's loader, its step and its loop.

    Raises:
        ConfigError: the configuration is not valid, or does not fit the store.
        StoreError: a case cannot be read.
    """
    with bench.begun(bench.preset, *bench.overrides) as session:
        return _measure(session, bench)


def _measure(session: Session, bench: Bench) -> Measured:
    config = session.config
    source = Source(config.loader, session.stream(), session.compute.device)
    caches = source.cached()
    # Three for the parts, about, and for the step, which is measured twice; each loop, each cache.
    seconds = bench.each(3 + len(worker_counts()) + 2 + 1 + 2 * len(caches))
    bench.tell("the loader, 1 worker, and what it does")
    parts = measure_parts(source, seconds)
    rates = {1: parts.augmented}
    for workers in worker_counts()[1:]:
        bench.tell(f"the loader, {workers} workers")
        rates[workers] = source.rate(workers, seconds=seconds)
    bench.tell("the step")
    with source.open(config.workers) as batches:
        step = measure_step(session, next(batches), seconds)
        bench.tell("both together")
        loop: dict[CacheKind, LoopTimes] = {"none": measure_loop(session, batches, seconds)}
    cached: dict[CacheKind, Spent] = {}
    for kept in caches:
        if bench.late():
            break
        bench.tell(f"both with cache={kept.cache}")
        cached[kept.cache] = kept.rate(config.workers, seconds=seconds)
        with kept.open(config.workers) as batches:
            loop[kept.cache] = measure_loop(session, batches, seconds)
    return Measured(_about(session, bench), config, rates, parts, step, cached, loop)


def _about(session: Session, bench: Bench) -> dict[str, Any]:
    return {
        "preset": bench.preset,
        "compute": session.compute.describe(),
        "note": session.compute.note,
        "cases": len(session.training),
    }


def _rate(spent: Spent) -> dict[str, Any]:
    return {
        "volumes_per_second": spent.volumes_per_second,
        "cpu_ms": spent.cpu_ms,
        "volumes_per_cpu_second": 1e3 / spent.cpu_ms,
        **asdict(spent),
    }
