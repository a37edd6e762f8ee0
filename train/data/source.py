"""What DALI's worker processes call for each sample.

Like the stream it imports neither torch nor DALI, so that they start faster.
"""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from train.data.stream import Plan, Stream
from train.data.workers import set_up_worker

CONTROLS = 5
"""Outputs that say what is to be done to a sample."""


@dataclass(frozen=True)
class WorkersPickle:
    """How DALI hands its source to a worker, which is set up then and not at its first sample.

    Until then it would not notice that the process that started it was killed.

    Attributes:
        board: where workers say what they are at.
    """

    status_folder: Path

    def dumps(self, source: "DaliSource") -> bytes:
        """In the process that starts workers."""
        return pickle.dumps(source)

    def loads(self, content: bytes) -> "DaliSource":
        """In a worker."""
        set_up_worker(self.status_folder)
        source: DaliSource = pickle.loads(content)  # noqa: S301 - from the process that started it
        return source


class SampleInfo(Protocol):
    """What DALI tells its source (nvidia.dali.types.SampleInfo)."""

    iteration: int
    idx_in_batch: int


@dataclass(frozen=True)
class DaliSource:
    """The stream as DALI takes it; picklable.

    Attributes:
        stream: the samples.
        board: where workers say what they are at.
        reads: whether samples are read here, or only what is to be done to them is drawn.
    """

    stream: Stream
    status_folder: Path
    reads: bool

    def __call__(self, info: SampleInfo) -> tuple[NDArray[np.generic], ...]:
        """One sample, or what is to be done to it.

        Returns:
            Where samples are read: image (M, *shape), label (1, *shape), and the error as UTF-8
            bytes. Then in either case: noise field; the window, float32[6], as start and stop;
            flips int32[3] (z, y, x); which of zoom, noise, blur and brightness are on, int32[4];
            the amounts of the last three, float32[3].
        """
        place = info.iteration, info.idx_in_batch
        with set_up_worker(self.status_folder).at(self.stream.name(*place)):
            if not self.reads:
                return self._controls(self.stream.plan(*place))
            sample = self.stream.sample(*place)
            error = np.frombuffer(sample.error.encode(), np.uint8)
            return (sample.image, sample.label[np.newaxis], error, *self._controls(sample.plan))

    def _controls(self, plan: Plan) -> tuple[NDArray[np.generic], ...]:
        drawn, shape = plan.draw, np.asarray(self.stream.shape)
        start = np.asarray(drawn.zoom.start if drawn.zoom else (0, 0, 0))
        stop = start + shape * (drawn.zoom.scales if drawn.zoom else (1, 1, 1))
        amounts = (drawn.noise_sigma, drawn.blur_sigma, drawn.brightness)
        chosen = (drawn.zoom, *amounts)
        return (
            plan.noise,
            np.concatenate([start, stop]).astype(np.float32),
            np.asarray(drawn.flips, np.int32),
            np.asarray([choice is not None for choice in chosen], np.int32),
            np.asarray([amount or 0 for amount in amounts], np.float32),
        )
