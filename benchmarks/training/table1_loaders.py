"""The ways in which Table I's batches come to the device."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count

import torch

from benchmarks.training.loader import Source
from common.errors import StoreError
from train.data.cache import CacheKind
from train.data.feed import Batch, batch_of
from train.data.loader import LoaderKind
from train.data.stream import Stream
from train.precision import Precision


@dataclass(frozen=True)
class Way:
    """A loader, and the precisions that it is measured with.

    Attributes:
        name: for people.
        kind: the project's loader; None makes batches in this process, between two steps.
        precisions: of the steps.
        cache: where the loader keeps crops.
    """

    name: str
    kind: LoaderKind | None
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    cache: CacheKind = "none"

    @property
    def ahead(self) -> bool:
        """Whether batches are made while the device computes."""
        return self.kind is not None

    @contextmanager
    def open(self, stream: Stream, device: torch.device, workers: int) -> Iterator[Iterator[Batch]]:
        """Batches, each once it is there on the device; with a cache, of a few of the cases."""
        if self.kind is None:
            yield in_this_process(stream, device)
            return
        source = Source(self.kind, stream, device)
        if self.cache != "none":
            (source,) = (kept for kept in source.cached() if kept.cache == self.cache)
        with source.open(workers) as batches:
            yield batches


BEST = Way("DataLoader", "torch", ("tf32", "fp32", "fp16"))
"""The best one: processes for all cores up to eight, which stay; pinned memory; queues."""
PAPERS = Way("paper's loader", None)
"""One process, which reads and augments on the CPU before it computes (FM-Net paper, Table I)."""
DALI = Way("DALI", "dali")
WAYS = (BEST, PAPERS, DALI, Way("DALI, cached", "dali", ("fp16",), "device"))


def in_this_process(stream: Stream, device: torch.device) -> Iterator[Batch]:
    """What torch's DataLoader does without workers, on the stream's samples, without end.

    Raises:
        StoreError: a case cannot be read.
    """
    from train.data.torch_loader import augmented

    for index in count():
        step = stream.step(index)
        samples = [stream.sample(index, position) for position in range(len(step.keys))]
        if error := "".join(sample.error for sample in samples):
            raise StoreError(error)
        images, labels = zip(*map(augmented, samples), strict=True)
        yield batch_of(step, torch.stack(images).to(device), torch.stack(labels).to(device))


def in_whole_batches(stream: Stream) -> Stream:
    """Of as many of its cases as make whole batches: a smaller batch has algorithms of its own."""
    whole = len(stream.case_ids) // stream.batch_size * stream.batch_size
    return replace(stream, case_ids=stream.case_ids[: whole or None])
