"""Batches on the device, from either loader."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from common.errors import ConfigError
from train.cache import CacheKind, shared_crops
from train.crew import Crew
from train.sample import Step
from train.stream import Stream

__all__ = ["Batch", "Feed", "LoaderKind", "Stream", "open_feed"]

LoaderKind = Literal["dali", "torch"]


@dataclass(frozen=True)
class Batch:
    """What a step learns from.

    Attributes:
        image: (B, M, D, H, W) float16, augmented, on the device; of slices (B, M, H, W).
        label: (B, D, H, W) uint8 canonical labels; of slices (B, H, W).
        case_ids: the case of each sample.
        epoch: counted from 1.
        last: the epoch ends with it.
        planes: which axial plane of its case's crop each slice is; empty for volumes.
    """

    image: Tensor
    label: Tensor
    case_ids: tuple[str, ...]
    epoch: int
    last: bool
    planes: tuple[int, ...] = ()


def batch_of(step: Step, image: Tensor, label: Tensor) -> Batch:
    """A step's batch: image (B, M, D, H, W) and label (B, D, H, W), of slices with D = 1."""
    planes = tuple(key.plane for key in step.keys if key.plane is not None)
    if planes:
        image, label = image.squeeze(2), label.squeeze(1)
    return Batch(image, label, step.case_ids, step.epoch, step.last, planes)


class Feed(Iterator[Batch]):
    """Batches without end, and what can be known of the processes that read them.

    Args:
        batches: as a loader makes them.
        crew: its processes.
    """

    def __init__(self, batches: Iterator[Batch], crew: Crew) -> None:
        self._batches, self._crew = batches, crew

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            StoreError: a case cannot be read.
            LoaderError: a worker process died, or `kill` was called.
        """
        with self._crew.waited_for():
            return next(self._batches)

    def at(self) -> dict[int, str]:
        """Ids of the worker processes, and the sample that each is at; empty between two."""
        return self._crew.at()

    def stacks(self) -> str:
        """Where the threads of each worker are, as text; from any thread, in a second or two."""
        return self._crew.stacks()

    def kill(self, reason: str) -> None:
        """End the workers, so that whoever waits for a batch gets a LoaderError; any thread.

        Args:
            reason: the error's message.
        """
        self._crew.kill(reason)


@contextmanager
def open_feed(
    kind: LoaderKind,
    stream: Stream,
    device: torch.device,
    workers: int,
    cache: CacheKind = "none",
) -> Iterator[Feed]:
    """The stream's batches, endlessly: epochs follow each other without a pause. Main thread only.

    Args:
        kind: `dali`, or `torch` where DALI cannot be installed; both give the same samples.
        stream: which samples.
        device: where batches go; DALI also augments there.
        workers: processes that read the store.
        cache: where crops are kept once they are read; it changes no sample. `device` is DALI's
            alone, and reads all of them first.

    Returns:
        A context manager; leaving it ends the workers.

    Raises:
        ConfigError: DALI is not installed; shared memory is too small for the batches, or memory
            for the cache; or the cache does not go with loader or windows.
        LoaderError: a worker process did not start.
    """
    refuse_unfit_cache(kind, stream, cache)
    with ExitStack() as stack:
        if cache == "ram":
            held = stack.enter_context(shared_crops(stream.store, stream.case_ids))
            stream = replace(stream, held=held)
        if kind == "torch":
            from train.torch_loader import torch_feed

            yield stack.enter_context(torch_feed(stream, device, workers))
        else:
            feed = _dali()(stream, device, workers, on_device=cache == "device")
            yield stack.enter_context(feed)


def refuse_unfit_cache(kind: LoaderKind, stream: Stream, cache: CacheKind) -> None:
    """Make sure that a loader can keep what a stream is cut from.

    Raises:
        ConfigError: it cannot.
    """
    if cache != "none" and stream.window != "crop":
        raise ConfigError(
            f"cache={cache} keeps crops, and window={stream.window} cuts others: take window=crop, "
            "or cache=none"
        )
    if cache == "device" and kind == "torch":
        raise ConfigError("cache=device needs loader=dali; loader=torch can take cache=ram")


def _dali() -> Callable[..., AbstractContextManager[Feed]]:
    try:
        from train.dali_loader import dali_feed
    except ImportError as error:
        raise ConfigError(
            f"loader=dali: DALI cannot be imported ({error}); install nvidia-dali-cuda120, or "
            "train with --set loader=torch, which gives the same samples more slowly"
        ) from error
    return dali_feed
