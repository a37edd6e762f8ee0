"""What DALI's worker processes call for each sample.

In a module without DALI and torch, as workers import it and start faster without them.
"""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from train.data.augment import Draws
from train.data.stream import Stream
from train.data.workers import set_up_worker


class SampleInfo(Protocol):
    """What DALI tells its source (nvidia.dali.types.SampleInfo)."""

    iteration: int
    idx_in_batch: int


@dataclass(frozen=True)
class DaliSource:
    """The stream as DALI takes it; picklable."""

    stream: Stream
    status_folder: Path  # where workers write which sample they are reading
    reads: bool  # whether samples are read here, or only draws are made

    def __call__(self, info: SampleInfo) -> tuple[NDArray[np.generic], ...]:
        """One sample, or what is drawn for it.

        Where samples are read: image (M, *shape), label (1, *shape), and the error as UTF-8 bytes.
        Then an int32 for each augmentation, 1 where it is drawn, and the arrays of each.
        """
        place = info.iteration, info.idx_in_batch
        with set_up_worker(self.status_folder).working_on(self.stream.name(*place)):
            if not self.reads:
                return self._drawn(self.stream.draws(*place))
            sample = self.stream.sample(*place)
            error = np.frombuffer(sample.error.encode(), np.uint8)
            return sample.image, sample.label[np.newaxis], error, *self._drawn(sample.draws)

    def _drawn(self, draws: Draws) -> tuple[NDArray[np.generic], ...]:
        chosen = np.asarray([drawn is not None for drawn in draws], np.int32)
        augmentations = self.stream.augment.in_order()
        arrays = [
            array
            for augmentation, drawn in zip(augmentations, draws, strict=True)
            for array in drawn or augmentation.placeholder
        ]
        return chosen, *arrays


@dataclass(frozen=True)
class SourcePickler:
    """How DALI hands its source to a worker, which is set up then and not at its first sample.

    Otherwise it would not notice before then that the process that started it was killed.
    """

    status_folder: Path

    def dumps(self, source: DaliSource) -> bytes:
        """In the process that starts workers."""
        return pickle.dumps(source)

    def loads(self, content: bytes) -> DaliSource:
        """In a worker."""
        set_up_worker(self.status_folder)
        source: DaliSource = pickle.loads(content)  # noqa: S301 - from the process that started it
        return source
