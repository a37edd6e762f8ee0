"""Wall and CPU time of batches; it imports nothing of the project, for peers' environments."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import psutil

T = TypeVar("T")


@dataclass(frozen=True)
class Spent:
    """What some batches took."""

    samples: int
    batch_seconds: tuple[float, ...]
    """Wall time from each batch to the next."""
    cpu_seconds: float
    """Of this process and its workers."""

    @property
    def volumes_per_second(self) -> float:
        return self.samples / sum(self.batch_seconds)

    @property
    def cpu_ms(self) -> float:
        """CPU time of a sample, in all processes together."""
        return 1e3 * self.cpu_seconds / self.samples


def cpu_seconds() -> float:
    """CPU time of this process and its running children."""
    times = [worker.cpu_times() for worker in psutil.Process().children(recursive=True)]
    return time.process_time() + sum(each.user + each.system for each in times)


def spend(
    batches: Iterator[T], *, batch_size: Callable[[T], int], steps: int = 1, seconds: float = 0.0
) -> Spent:
    """Take at least so many batches of an endless stream, for at least so long."""
    samples, intervals = 0, list[float]()
    used, began = cpu_seconds(), time.perf_counter()
    before = began
    while len(intervals) < steps or before - began < seconds:
        samples += batch_size(next(batches))
        now = time.perf_counter()
        intervals.append(now - before)
        before = now
    return Spent(samples, tuple(intervals), cpu_seconds() - used)
