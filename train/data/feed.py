"""Batches on the device, and what is known of the processes that read them."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from train.data.stream import Step
from train.data.workers import WorkerMonitor


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

    def __init__(self, batches: Iterator[Batch], monitor: WorkerMonitor) -> None:
        self._batches, self._monitor = batches, monitor

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            StoreError: a case cannot be read.
            LoaderError: a worker process died, or `kill` was called.
        """
        with self._monitor.waiting():
            return next(self._batches)

    def at(self) -> dict[int, str]:
        """Ids of the worker processes, and the sample that each is at; empty between two."""
        return self._monitor.at()

    def stacks(self) -> str:
        """Where the threads of each worker are, as text; from any thread, in a second or two."""
        return self._monitor.stacks()

    def kill(self, reason: str) -> None:
        """End the workers, so that whoever waits for a batch gets a LoaderError; any thread.

        Args:
            reason: the error's message.
        """
        self._monitor.kill(reason)
