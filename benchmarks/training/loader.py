"""Where a sample's time goes on its way to the device, and how fast a loader is by itself."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.training.timing import Spent, spend
from common.errors import StoreError
from train.data.augment import AugmentConfig
from train.data.cache import CacheKind
from train.data.feed import Batch
from train.data.loader import LoaderKind, open_feed
from train.data.stream import Sample, Stream

WARM_UP = 6
"""Batches before a measurement, beside one a worker: processes start, queues fill."""
CACHED_CASES = 16
"""That a cache is measured with."""
AT_LEAST = 4
"""Batches of a measurement, however short it is to be."""

NOTHING = AugmentConfig.model_validate(
    {name: 0 for name in AugmentConfig.model_fields if name.endswith("_probability")}
)


@dataclass(frozen=True)
class Parts:
    """Processor time of a sample, taken apart; each part is what it costs beyond those before it.

    Attributes:
        read: bytes from disk, or from the system's cache of it; None where a sample is not one
            whole crop, so that its bytes cannot be told.
        not_augmented: a sample with nothing drawn, in this process.
        drawn: with what augmentation needs, noise fields for one, in this process.
        handed_over: not augmented, through one worker.
        augmented: through one worker.
        copy_device_ms: of the device, copying a sample to it; None on a CPU.
        augment_device_ms: of the device, augmenting it; None on a CPU.
    """

    read: Spent | None
    not_augmented: Spent
    drawn: Spent
    handed_over: Spent
    augmented: Spent
    copy_device_ms: float | None
    augment_device_ms: float | None

    @property
    def cpu_ms(self) -> dict[str, float]:
        """Processor time by part, in ms; below 0 where a part is less than the noise."""
        drawing, reading = self.drawn.cpu_ms - self.not_augmented.cpu_ms, {}
        if self.read is None:
            reading["read, decode"] = self.not_augmented.cpu_ms
        else:
            reading["read"] = self.read.cpu_ms
            reading["decode"] = self.not_augmented.cpu_ms - self.read.cpu_ms
        return reading | {
            "draw": drawing,
            "transport": self.handed_over.cpu_ms - self.not_augmented.cpu_ms,
            "augment": self.augmented.cpu_ms - self.handed_over.cpu_ms - drawing,
        }


@dataclass(frozen=True)
class Source:
    """What a loader brings, and where to.

    Attributes:
        kind: the loader.
        stream: the samples.
        device: where they go.
        cache: where crops are kept once they are read.
    """

    kind: LoaderKind
    stream: Stream
    device: torch.device
    cache: CacheKind = "none"

    @contextmanager
    def open(self, workers: int) -> Iterator[Iterator[Batch]]:
        """Batches, each once it is there on the device, as the training loop waits for it.

        With a cache, they begin after an epoch that fills it.
        """
        with open_feed(self.kind, self.stream, self.device, workers, self.cache) as feed:
            batches = self._arrived(feed)
            while self.cache != "none" and not next(batches).last:
                pass
            yield batches

    def rate(self, workers: int, *, steps: int = AT_LEAST, seconds: float = 0.0) -> Spent:
        """The loader by itself once it is under way, for at least so many steps and so long."""
        with self.open(workers) as batches:
            spend(batches, batch_size=_size, steps=WARM_UP + workers)
            return spend(batches, batch_size=_size, steps=steps, seconds=seconds)

    def cached(self) -> list["Source"]:
        """The same with each cache that it can have, of a few cases: the rate is that of many."""
        caches: tuple[CacheKind, ...] = ("ram", "device") if self.kind == "dali" else ("ram",)
        few = replace(self.stream, case_ids=self.stream.case_ids[:CACHED_CASES])
        if self.stream.window != "crop":
            return []
        return [replace(self, stream=few, cache=cache) for cache in caches]

    def _arrived(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            if self.device.type == "cuda":
                torch.cuda.current_stream(self.device).synchronize()
            yield batch


def measure_parts(source: Source, seconds: float) -> Parts:
    """Take a sample's way apart, all on the same samples.

    Args:
        source: the samples, as they are in training.
        seconds: to measure the whole way for; the parts take as long as they take.
    """
    stream = source.stream
    plain = replace(stream, augment=NOTHING)
    whole_crops = stream.dims == 3 and stream.window == "crop"
    augmented = source.rate(1, seconds=seconds)
    steps = len(augmented.batch_seconds)
    copy, augment = _device_ms(source, steps)
    return Parts(
        read=_here(_files(stream), steps) if whole_crops else None,
        not_augmented=_here(_samples(plain), steps),
        drawn=_here(_samples(stream), steps),
        handed_over=replace(source, stream=plain).rate(1, steps=steps),
        augmented=augmented,
        copy_device_ms=copy,
        augment_device_ms=augment,
    )


def busy_ms(events: Iterable[tuple[str, float]]) -> tuple[float, float]:
    """How long a device copied to itself from the machine, and did all else, in ms.

    Args:
        events: of the device, by their names in CUPTI, with their durations in microseconds.
    """
    copying = computing = 0.0
    for name, microseconds in events:
        if name.startswith("Memcpy HtoD"):
            copying += microseconds / 1e3
        else:
            computing += microseconds / 1e3
    return copying, computing


def _device_ms(source: Source, steps: int) -> tuple[float | None, float | None]:
    """A sample's copying and augmenting by a GPU; None where there is none to watch."""
    if source.device.type != "cuda":
        return None, None
    with source.open(workers=1) as batches:
        spend(batches, batch_size=_size, steps=WARM_UP)
        with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as watched:
            spent = spend(batches, batch_size=_size, steps=steps)
    events = [
        (event.name, event.time_range.elapsed_us())
        for event in watched.events() or ()
        if event.device_type.name == "CUDA"
    ]
    if not events:  # another profiler has the device, or its library is missing
        return None, None
    copying, computing = busy_ms(events)
    return copying / spent.samples, computing / spent.samples


def _here(batches: Iterator[list[object]], steps: int) -> Spent:
    spend(batches, batch_size=len)  # opens the arrays
    return spend(batches, batch_size=len, steps=steps)


def _samples(stream: Stream) -> Iterator[list[object]]:
    for index in count(WARM_UP):
        yield [_whole(stream.sample(index, n)) for n, _ in enumerate(stream.step(index).case_ids)]


def _whole(sample: Sample) -> Sample:
    if sample.error:
        raise StoreError(sample.error)
    return sample


def _files(stream: Stream) -> Iterator[list[object]]:
    """The bytes of the same samples' files."""
    files = stream.store.files
    names = {case: files.of_row(stream.store.record(case).row or 0) for case in stream.case_ids}
    for index in count(WARM_UP):
        cases = stream.step(index).case_ids
        yield [[files.read(name) for name in names[case]] for case in cases]


def _size(batch: Batch) -> int:
    return len(batch.case_ids)
