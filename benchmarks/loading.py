"""Batches on their way to the device, and the loop that waits for them."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from benchmarks.timing import Spent, spend
from common.errors import StoreError
from train.data.augment import AUGMENTATIONS, AugmentConfig
from train.data.cache import CacheKind
from train.data.feed import Batch
from train.data.loader import LoaderKind, open_feed
from train.data.stream import Sample, Stream
from train.session import Session
from train.trainer import step

WORKERS = (1, 2, 4, 8)
WARM_UP = 6
"""Batches before a measurement, plus one for each worker: processes start, queues fill."""
AT_LEAST = 4
"""Batches, or steps, that a measurement takes at least."""
CACHED_CASES = 16
"""At most; the rate does not depend on their number."""
NOTHING = AugmentConfig.model_validate({name: {"probability": 0} for name in AUGMENTATIONS})


@dataclass(frozen=True)
class Source:
    """A loader, its samples, and the device that it loads to."""

    kind: LoaderKind
    stream: Stream
    device: torch.device
    cache: CacheKind = "none"

    @contextmanager
    def open(self, workers: int) -> Iterator[Iterator[Batch]]:
        """Batches on the device; with a cache, after the epoch that fills it."""
        with open_feed(self.kind, self.stream, self.device, workers, self.cache) as feed:
            batches = self._arrived(feed)
            while self.cache != "none" and not next(batches).last:
                pass
            yield batches

    def rate(self, workers: int, *, steps: int = AT_LEAST, seconds: float = 0.0) -> Spent:
        """The loader alone, after a warm-up."""
        with self.open(workers) as batches:
            spend(batches, batch_size=size_of, steps=WARM_UP + workers)
            return spend(batches, batch_size=size_of, steps=steps, seconds=seconds)

    def cached(self, cache: CacheKind) -> "Source":
        """The same with a cache, of a few cases."""
        few = replace(self.stream, case_ids=self.stream.case_ids[:CACHED_CASES])
        return replace(self, stream=few, cache=cache)

    def _arrived(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            if self.device.type == "cuda":
                torch.cuda.current_stream(self.device).synchronize()
            yield batch


@dataclass(frozen=True)
class Loop:
    """Training steps with their loader."""

    samples: int
    step_seconds: list[float]
    """Of each step, with the wait for its batch."""
    wait_seconds: list[float]
    """Of each wait alone."""

    @property
    def volumes_per_second(self) -> float:
        return self.samples / sum(self.step_seconds)

    @property
    def wait_share(self) -> float:
        return sum(self.wait_seconds) / sum(self.step_seconds)


def measure_loop(session: Session, batches: Iterator[Batch], seconds: float) -> Loop:
    """Time training steps with their loader, after a warm-up."""
    waits, steps, samples = list[float](), list[float](), 0

    def learn() -> None:
        nonlocal samples
        began = time.perf_counter()
        batch = next(batches)
        waits.append(time.perf_counter() - began)
        step(session, batch)  # which reads the loss, so waits for the device
        steps.append(time.perf_counter() - began)
        samples += size_of(batch)

    _repeat(lambda: step(session, next(batches)), seconds / 4)
    _repeat(learn, seconds)
    return Loop(samples, steps, waits)


def samples(stream: Stream, index: int) -> list[Sample]:
    """A batch's samples, read in this process.

    Raises:
        StoreError: a case cannot be read.
    """
    found = [stream.sample(index, place) for place in range(len(stream.step(index).keys))]
    if error := next((sample.error for sample in found if sample.error), ""):
        raise StoreError(error)
    return found


def worker_counts() -> list[int]:
    """Those of `WORKERS` that this machine has cores for."""
    return [workers for workers in WORKERS if workers <= len(os.sched_getaffinity(0))]


def size_of(batch: Batch) -> int:
    return len(batch.case_ids)


def _repeat(once: Callable[[], object], seconds: float) -> None:
    began, done = time.perf_counter(), 0
    while done < 2 or time.perf_counter() - began < seconds:
        once()
        done += 1
