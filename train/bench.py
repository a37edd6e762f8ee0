"""`python -m train bench`: where a training step's time goes on this machine, and in what."""

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch.utils import collect_env

from common.store import Store
from train.bench_loader import Parts, Source, measure_parts
from train.bench_step import LoopTimes, StepTimes, measure_loop, measure_step
from train.bench_store import synthetic_store
from train.bench_timing import Spent
from train.cache import CacheKind
from train.config import TrainConfig
from train.run import begin
from train.session import Session
from train.trained import RUN_FILE

WORKERS = (1, 2, 4, 8)
"""Numbers of processes that the loader is measured with, as far as the machine has cores."""


@dataclass(frozen=True)
class Measured:
    """All that was measured.

    Attributes:
        about: what it was measured on, in words and numbers.
        config: the run's configuration.
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


def worker_counts() -> list[int]:
    """What the loader is measured with on this machine."""
    return [workers for workers in WORKERS if workers <= len(os.sched_getaffinity(0))]


@contextmanager
def begun(
    preset: str, overrides: Sequence[str], store: Store | None, side: int
) -> Iterator[Session]:
    """A run to measure, in a folder of its own that is gone afterwards.

    Args:
        preset: a preset's name, or a YAML file.
        overrides: of its keys, as `key=value`.
        store: where samples come from; None makes a synthetic one for the time being.
        side: of the synthetic crops, in voxels.

    Raises:
        ConfigError: the configuration is not valid, or does not fit the store.
    """
    with tempfile.TemporaryDirectory(prefix="fm-net-bench-") as folder:
        opened = store or synthetic_store(Path(folder), side)
        yield begin(preset, overrides, opened, Path(folder, "run"))


def measure(session: Session, seconds: float, on_stage: Callable[[str], None]) -> Measured:
    """Measure a run's loader, its step and its loop.

    Args:
        session: a run at its beginning; it learns.
        seconds: that each measurement takes; all in all it is about fifteen times as long.
        on_stage: told what begins.

    Raises:
        StoreError: a case cannot be read.
    """
    config = session.config
    source = Source(config.loader, session.stream(), session.compute.device)
    on_stage("the loader, 1 worker, and what it does")
    parts = measure_parts(source, seconds)
    rates = {1: parts.augmented}
    for workers in worker_counts()[1:]:
        on_stage(f"the loader, {workers} workers")
        rates[workers] = source.rate(workers, seconds=seconds)
    on_stage("the step")
    with source.open(config.workers) as batches:
        step = measure_step(session, next(batches), seconds)
        on_stage("both together")
        loop: dict[CacheKind, LoopTimes] = {"none": measure_loop(session, batches, seconds)}
    cached: dict[CacheKind, Spent] = {}
    for kept in source.cached():
        on_stage(f"both with cache={kept.cache}")
        cached[kept.cache] = kept.rate(config.workers, seconds=seconds)
        with kept.open(config.workers) as batches:
            loop[kept.cache] = measure_loop(session, batches, seconds)
    about = _about(session, seconds)
    return Measured(about, config, rates, parts, step, cached, loop)


def _rate(spent: Spent) -> dict[str, Any]:
    return {
        "volumes_per_second": spent.volumes_per_second,
        "cpu_ms": spent.cpu_ms,
        "volumes_per_cpu_second": 1e3 / spent.cpu_ms,
        **asdict(spent),
    }


def _about(session: Session, seconds: float) -> dict[str, Any]:
    """What the figures hold for."""
    run = json.loads((session.run_dir / RUN_FILE).read_text("utf-8"))
    device, store = session.compute.device, session.store
    driver = None
    if device.type == "cuda":
        driver = collect_env.get_nvidia_driver_version(collect_env.run)  # type: ignore[no-untyped-call]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.orig_argv),
        "commit": _commit(),
        "device": session.compute.describe(),
        "driver": driver,
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": run["sessions"][-1]["versions"],
        "preset": run["preset"],
        "precision": session.compute.precision,
        "note": session.compute.note,
        "store": {
            "name": store.manifest.name,
            "crop": store.crop,
            "dtype": store.manifest.dtype,
            "cases": len(session.training),
        },
        "seconds": seconds,
    }


def _commit() -> str:
    """Of the code's own checkout, with `-dirty` where files differ from it; else `unknown`."""
    command = ("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty")
    try:
        found = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - fixed
    except (OSError, subprocess.CalledProcessError):  # no git, or installed from a wheel
        return "unknown"
    return found.stdout.strip()


def _processor() -> str:
    """The processor's own name, on Linux."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"
