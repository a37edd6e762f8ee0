"""The endless stream of training samples: which comes when, and how one is read and drawn.

It is what worker processes run. They start faster without torch and DALI, so this module imports
neither.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.random import SFC64, Generator
from numpy.typing import NDArray

from common.errors import ConfigError, StoreError
from common.store import Store
from common.volume import Triple, extract
from train.data.augment import (
    NOISE,
    PARAMETERS,
    WINDOW,
    AugmentConfig,
    Draw,
    draw,
    draw_window,
    generator,
    noise_field,
)
from train.data.cache import SharedCrops

NO_NOISE = np.zeros((1, 1, 1, 1), np.float16)
"""In place of a noise field where no noise is added, as it costs nothing to hand over."""

Arrays = tuple[NDArray[np.floating], NDArray[np.uint8]]
"""Image (M, *shape) and label (*shape)."""


class Key(NamedTuple):
    """What a sample is of.

    Attributes:
        case_id: the case.
        plane: which axial plane of its crop; None for all of it.
    """

    case_id: str
    plane: int | None = None

    def __str__(self) -> str:
        return f"case {self.case_id}" + ("" if self.plane is None else f", plane {self.plane}")


class Step(NamedTuple):
    """One batch of the stream.

    Attributes:
        epoch: counted from 1.
        keys: the samples in it; fewer than the batch size at an epoch's end.
        last: the epoch ends with it.
    """

    epoch: int
    keys: tuple[Key, ...]
    last: bool

    @property
    def case_ids(self) -> tuple[str, ...]:
        """The cases in it."""
        return tuple(key.case_id for key in self.keys)


class Plan(NamedTuple):
    """What is to be done to a sample.

    Attributes:
        draw: the augmentations and their amounts.
        noise: (M, *shape) standard normal, or `NO_NOISE` where the draw has none.
    """

    draw: Draw = Draw()
    noise: NDArray[np.float16] = NO_NOISE


class Sample(NamedTuple):
    """One case, or one plane of it, as it was read, and what is to be done to it.

    Attributes:
        image: (M, *shape), of the store's type; shape is `Stream.shape`.
        label: (*shape) canonical labels.
        plan: what is to be done.
        error: why the case could not be read; the arrays are then zeros.
    """

    image: NDArray[np.floating]
    label: NDArray[np.uint8]
    plan: Plan
    error: str = ""


__all__ = ["Key", "Plan", "Sample", "Step", "Stream"]


@dataclass(frozen=True)
class Stream:
    """Everything that the samples and their order depend on; picklable.

    A sample is a function of (seed, epoch, case), and for slices the plane: batch size, workers,
    loader and the point where a run was resumed change nothing.

    Attributes:
        store: where the crops are.
        case_ids: the cases of an epoch.
        modalities: the images of a sample, in this order.
        augment: what is done to them.
        seed: of order and augmentation.
        batch_size: samples in a step.
        first_epoch: the epoch that the stream begins in, counted from 1.
        skip: samples of that epoch that were seen before.
        dims: 3 for a sample a case; 2 for a sample for every axial plane of a case's crop.
        window: `crop`, the one that is stored, or `random`, a window of the same size anywhere in
            the case's whole volume, another in each epoch.
        held: crops in memory, to be read in the store's place.

    Raises:
        ValueError: no cases, or no sample is left of the first epoch.
        ConfigError: random windows of slices, or of a case whose volume is not stored.
        StoreError: a case's record cannot be read.
    """

    store: Store
    case_ids: tuple[str, ...]
    modalities: tuple[str, ...]
    augment: AugmentConfig
    seed: int
    batch_size: int
    first_epoch: int = 1
    skip: int = 0
    dims: Literal[2, 3] = 3
    window: Literal["crop", "random"] = "crop"
    held: SharedCrops | None = None

    def __post_init__(self) -> None:
        if self.window == "random":
            self._check_windows()
        if not 0 <= self.skip < self.samples:
            raise ValueError(f"skip is {self.skip} of {self.samples} samples")

    @property
    def samples(self) -> int:
        """How many an epoch has."""
        return len(self.case_ids) * self._planes

    @property
    def shape(self) -> Triple:
        """(D, H, W) of a sample; D is 1 for a slice."""
        depth, height, width = self.store.crop
        return (depth if self.dims == 3 else 1, height, width)

    def order(self, epoch: int, first: int = 0, stop: int | None = None) -> tuple[Key, ...]:
        """The samples of one epoch, shuffled by (seed, epoch): those from `first` up to `stop`."""
        shuffled = _shuffled(self.seed, epoch, self.samples)
        return tuple(self._key(int(number)) for number in shuffled[first:stop])

    def _key(self, number: int) -> Key:
        """A sample by its number among all, unshuffled."""
        case, plane = divmod(number, self._planes)
        return Key(self._cases[case], plane if self.dims == 2 else None)

    @property
    def _planes(self) -> int:
        """Samples of a case."""
        return self.store.crop[0] if self.dims == 2 else 1

    @cached_property
    def _cases(self) -> tuple[str, ...]:
        return tuple(sorted(self.case_ids))

    def _check_windows(self) -> None:
        if self.dims == 2:
            raise ConfigError("window=random cuts volumes; with model.dims=2 take window=crop")

    def step(self, index: int) -> Step:
        """The batch `index`, counted from 0 where the stream begins."""
        epoch, first = self._begin(index)
        stop = first + self.batch_size
        return Step(epoch, self.order(epoch, first, stop), stop >= self.samples)

    def number(self, index: int, position: int) -> int:
        """The sample at a position of batch `index` as its number in `every`; 0 beyond its end."""
        epoch, first = self._begin(index)
        place = first + position
        return int(_shuffled(self.seed, epoch, self.samples)[place]) if place < self.samples else 0

    def name(self, index: int, position: int) -> str:
        """The sample at a position of batch `index`, for people; empty beyond a batch's end."""
        _, key = self._at(index, position)
        return str(key or "")

    def every(self) -> Iterator[Arrays]:
        """All samples of an epoch as they are stored, unshuffled, and each case read once.

        Raises:
            StoreError: one cannot be read.
        """
        for case_id in self._cases:
            image, label = self._chosen(*self.store.read_crop(case_id))
            if self.dims == 3:
                yield image, label
            else:
                for plane in range(self._planes):
                    yield image[:, [plane]], label[[plane]]

    def _at(self, index: int, position: int) -> tuple[int, Key | None]:
        """Epoch and key of the sample at a position of batch `index`; no key beyond its end."""
        epoch, first = self._begin(index)
        keys = self.order(epoch, first + position, first + position + 1)
        return epoch, (keys[0] if keys else None)

    def _begin(self, index: int) -> tuple[int, int]:
        """Epoch and place in its order of a batch's first sample."""
        total, size = self.samples, self.batch_size
        begun = math.ceil((total - self.skip) / size)
        if index < begun:
            return self.first_epoch, self.skip + index * size
        later, within = divmod(index - begun, math.ceil(total / size))
        return self.first_epoch + 1 + later, within * size

    @property
    def stored_bytes(self) -> int:
        """What image and label of one sample take as they are stored."""
        itemsize = np.dtype(self.store.manifest.dtype).itemsize
        return math.prod(self.shape) * (len(self.modalities) * itemsize + 1)

    @property
    def noise_bytes(self) -> int:
        """What the noise field of one sample takes."""
        return math.prod(self.shape) * len(self.modalities) * NO_NOISE.itemsize

    @property
    def sample_bytes(self) -> int:
        """What one sample takes on its way from a worker."""
        return self.stored_bytes + self.noise_bytes

    def sample(self, index: int, position: int) -> Sample:
        """The sample at a position of batch `index`.

        A case that cannot be read becomes the sample's `error`, since neither loader can hand an
        exception of a worker process on as it is. A position beyond the end of a smaller last
        batch, which DALI asks for as its batches are all of one size, is all zeros.
        """
        epoch, key = self._at(index, position)
        if key is None:
            return self._blank()
        try:
            arrays = self._chosen(*self._stored(epoch, key))
        except StoreError as error:
            return self._blank(str(error))
        return Sample(*arrays, self._plan(epoch, key))

    def plan(self, index: int, position: int) -> Plan:
        """What is to be done to the sample at a position of batch `index`; nothing beyond its end.

        It needs no reading.
        """
        epoch, key = self._at(index, position)
        return self._plan(epoch, key) if key else Plan()

    def _plan(self, epoch: int, key: Key) -> Plan:
        drawn = draw(self.augment, self.shape, self._generator(epoch, key, PARAMETERS))
        if drawn.noise_sigma is None:
            return Plan(drawn)
        shape = (len(self.modalities), *self.shape)
        return Plan(drawn, noise_field(shape, self._generator(epoch, key, NOISE)))

    def _chosen(self, image: NDArray[np.floating], label: NDArray[np.uint8]) -> Arrays:
        """The stream's modalities of a stored image."""
        stored = self.store.task.modalities
        if self.modalities != stored:
            image = image[[stored.index(modality) for modality in self.modalities]]
        return image, label

    def _stored(self, epoch: int, key: Key) -> Arrays:
        if self.window == "random":
            return self._random_window(epoch, key)
        plane = key.plane
        if self.held is not None:
            image, label = self.held.read(key.case_id)
            return (image, label) if plane is None else (image[:, [plane]], label[[plane]])
        if plane is None:
            return self.store.read_crop(key.case_id)
        image, label = self.store.read_crop_plane(key.case_id, plane)
        return image[:, np.newaxis], label[np.newaxis]

    def _random_window(self, epoch: int, key: Key) -> Arrays:
        """A part of the whole volume, all of which is read.

        Its chunks are whole planes, of which a window leaves few out, and only the whole can be
        compared with its checksum.
        """
        image, label = self.store.read_volume(key.case_id)
        if label is None:
            raise StoreError(f"{self.store.path}: case {key.case_id} has no label to train on")
        _, *volume = image.shape
        random = self._generator(epoch, key, WINDOW)
        box = draw_window((volume[0], volume[1], volume[2]), self.store.crop, random)
        return extract(image, box), extract(label, box)

    def _generator(self, epoch: int, key: Key, purpose: int) -> Generator:
        return generator(self.seed, epoch, key.case_id, purpose, key.plane)

    def _blank(self, error: str = "") -> Sample:
        image = np.zeros((len(self.modalities), *self.shape), self.store.manifest.dtype)
        return Sample(image, np.zeros(self.shape, np.uint8), Plan(), error)


@lru_cache(maxsize=2)
def _shuffled(seed: int, epoch: int, count: int) -> NDArray[np.int_]:
    return Generator(SFC64([seed, epoch])).permutation(count)
