"""The endless stream of training samples: which case comes when, and how one is read and drawn.

It is what worker processes run. They start faster without torch and DALI, so this module imports
neither.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.random import SFC64, Generator
from numpy.typing import NDArray

from common.errors import StoreError
from common.labels import MODALITIES
from common.store import Store
from train.augment import (
    NOISE,
    PARAMETERS,
    AugmentConfig,
    Draw,
    draw,
    generator,
    noise_field,
)
from train.workers import set_up_worker

NO_NOISE = np.zeros((1, 1, 1, 1), np.float16)
"""In place of a noise field where no noise is added, as it costs nothing to hand over."""


class Step(NamedTuple):
    """One batch of the stream.

    Attributes:
        epoch: counted from 1.
        case_ids: the cases in it; fewer than the batch size at an epoch's end.
        last: the epoch ends with it.
    """

    epoch: int
    case_ids: tuple[str, ...]
    last: bool


@dataclass(frozen=True)
class Sample:
    """One case as it was read, and what is to be done to it.

    Attributes:
        image: (M, *crop), of the store's type.
        label: (*crop) canonical labels.
        draw: what is to be done.
        noise: (M, *crop) standard normal, or `NO_NOISE` where the draw has none.
        error: why the case could not be read; the arrays are then zeros.
    """

    image: NDArray[np.floating]
    label: NDArray[np.uint8]
    draw: Draw
    noise: NDArray[np.float16]
    error: str = ""


@dataclass(frozen=True)
class Stream:
    """Everything that the samples and their order depend on; picklable.

    A sample is a function of (seed, epoch, case): batch size, workers, loader and the point
    where a run was resumed change nothing.

    Attributes:
        store: where the crops are.
        case_ids: the cases of an epoch.
        modalities: the images of a sample, in this order.
        augment: what is done to them.
        seed: of order and augmentation.
        batch_size: samples in a step.
        first_epoch: the epoch that the stream begins in, counted from 1.
        skip: samples of that epoch that were seen before.

    Raises:
        ValueError: no cases, or no sample is left of the first epoch.
    """

    store: Store
    case_ids: tuple[str, ...]
    modalities: tuple[str, ...]
    augment: AugmentConfig
    seed: int
    batch_size: int
    first_epoch: int = 1
    skip: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.skip < len(self.case_ids):
            raise ValueError(f"skip is {self.skip} of {len(self.case_ids)} samples")

    def order(self, epoch: int) -> tuple[str, ...]:
        """The cases of one epoch, shuffled by (seed, epoch)."""
        cases = sorted(self.case_ids)
        order = Generator(SFC64([self.seed, epoch])).permutation(len(cases))
        return tuple(cases[index] for index in order)

    def step(self, index: int) -> Step:
        """The batch `index`, counted from 0 where the stream begins."""
        total, size = len(self.case_ids), self.batch_size
        begun = math.ceil((total - self.skip) / size)
        if index < begun:
            epoch, first = self.first_epoch, self.skip + index * size
        else:
            later, within = divmod(index - begun, math.ceil(total / size))
            epoch, first = self.first_epoch + 1 + later, within * size
        return Step(epoch, self.order(epoch)[first : first + size], first + size >= total)

    def name(self, index: int, position: int) -> str:
        """The sample at a position of batch `index`, for people; empty beyond a batch's end."""
        cases = self.step(index).case_ids
        return f"case {cases[position]}" if position < len(cases) else ""

    @property
    def sample_bytes(self) -> int:
        """What one sample takes on its way from a worker: image, noise field, label."""
        voxels = math.prod(self.store.crop)
        stored = np.dtype(self.store.manifest.dtype).itemsize
        return voxels * (len(self.modalities) * (stored + NO_NOISE.itemsize) + 1)

    def sample(self, index: int, position: int) -> Sample:
        """The sample at a position of batch `index`.

        A case that cannot be read becomes the sample's `error`, since neither loader can hand an
        exception of a worker process on as it is. A position beyond the end of a smaller last
        batch, which DALI asks for as its batches are all of one size, is all zeros.
        """
        step = self.step(index)
        if position >= len(step.case_ids):
            return self._blank()
        try:
            return self._read(step.epoch, step.case_ids[position])
        except StoreError as error:
            return self._blank(str(error))

    def _read(self, epoch: int, case_id: str) -> Sample:
        image, label = self.store.read_crop(case_id)
        if self.modalities != MODALITIES:
            image = image[[MODALITIES.index(modality) for modality in self.modalities]]
        drawn = draw(
            self.augment, self.store.crop, generator(self.seed, epoch, case_id, PARAMETERS)
        )
        noise = NO_NOISE
        if drawn.noise_sigma is not None:
            noise = noise_field(image.shape, generator(self.seed, epoch, case_id, NOISE))
        return Sample(image, label, drawn, noise)

    def _blank(self, error: str = "") -> Sample:
        crop = self.store.crop
        image = np.zeros((len(self.modalities), *crop), self.store.manifest.dtype)
        return Sample(image, np.zeros(crop, np.uint8), Draw(), NO_NOISE, error)


class SampleInfo(Protocol):
    """What DALI tells its source (nvidia.dali.types.SampleInfo)."""

    iteration: int
    idx_in_batch: int


@dataclass(frozen=True)
class DaliSource:
    """What DALI's worker processes call for each sample.

    Attributes:
        stream: the samples.
        board: where workers say what they are at.
    """

    stream: Stream
    board: Path

    def __call__(self, info: SampleInfo) -> tuple[NDArray[np.generic], ...]:
        """One sample as DALI takes it.

        Returns:
            image (M, *crop); label (1, *crop); noise field; window float32[6] (start, stop); flips
            int32[3] (z, y, x); which of zoom, noise, blur and brightness are on, int32[4]; the
            amounts of the last three, float32[3]; the error as UTF-8 bytes.
        """
        place = info.iteration, info.idx_in_batch
        with set_up_worker(self.board).at(self.stream.name(*place)):
            sample = self.stream.sample(*place)
        drawn, crop = sample.draw, np.asarray(self.stream.store.crop)
        start = np.asarray(drawn.zoom.start if drawn.zoom else (0, 0, 0))
        stop = start + crop * (drawn.zoom.scale if drawn.zoom else 1)
        amounts = (drawn.noise_sigma, drawn.blur_sigma, drawn.brightness)
        chosen = (drawn.zoom, *amounts)
        return (
            sample.image,
            sample.label[np.newaxis],
            sample.noise,
            np.concatenate([start, stop]).astype(np.float32),
            np.asarray(drawn.flips, np.int32),
            np.asarray([choice is not None for choice in chosen], np.int32),
            np.asarray([amount or 0 for amount in amounts], np.float32),
            np.frombuffer(sample.error.encode(), np.uint8),
        )
