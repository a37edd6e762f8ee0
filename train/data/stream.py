"""The endless stream of training samples: their order, and how one is read and drawn.

Worker processes run it. They start faster without torch and DALI, so this module imports neither.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Literal, NamedTuple

import numpy as np
from numpy.random import SFC64, Generator
from numpy.typing import NDArray

from common.errors import ConfigError, StoreError
from common.store import Store
from common.volume import Triple, extract, foreground, triple
from train.data.augment import AUGMENTATIONS, AugmentConfig, Draws, generator
from train.data.cache import SharedCrops
from train.data.windows import draw_on_tumour, draw_window

FOREGROUND_BIT = 128
"""Added to a label where the images have foreground: so it moves as the label does, in any
augmentation and loader."""

NOTHING_DRAWN: Draws = (None,) * len(AUGMENTATIONS)

Arrays = tuple[NDArray[np.floating], NDArray[np.uint8]]
"""Image (M, *shape) and label (*shape), as they are stored."""


class Key(NamedTuple):
    """What a sample is of."""

    case_id: str
    plane: int | None = None  # axial plane of the case's crop; None for all of it

    def __str__(self) -> str:
        return f"case {self.case_id}" + ("" if self.plane is None else f", plane {self.plane}")


class Step(NamedTuple):
    """One batch of the stream."""

    epoch: int  # counted from 1
    keys: tuple[Key, ...]  # its samples; fewer than the batch size at an epoch's end
    last: bool  # whether the epoch ends with it

    @property
    def case_ids(self) -> tuple[str, ...]:
        """The case of each sample."""
        return tuple(key.case_id for key in self.keys)


class Sample(NamedTuple):
    """One case, or one plane of it, as stored, and what augmentation draws for it."""

    image: NDArray[np.floating]  # (M, *shape), of the store's type; shape is `Stream.shape`
    label: NDArray[np.uint8]  # (*shape), canonical labels
    draws: Draws
    error: str = ""  # why the case could not be read; the arrays are then zeros


@dataclass(frozen=True)
class Stream:
    """Everything that the samples and their order depend on; picklable.

    A sample is a function of (seed, epoch, case), and for slices the plane: batch size, workers,
    loader and the point where a run was resumed change nothing.

    Raises:
        ValueError: no cases, or no sample is left of the first epoch.
        ConfigError: random windows of slices, or a share of windows that are none.
    """

    store: Store
    case_ids: tuple[str, ...]  # the cases of an epoch
    modalities: tuple[str, ...]  # the images of a sample, in this order
    augment: AugmentConfig
    seed: int  # of order and augmentation
    batch_size: int
    first_epoch: int = 1  # the epoch that the stream begins in, counted from 1
    skip: int = 0  # samples of that epoch that were trained on before
    dims: Literal[2, 3] = 3  # 3: a sample is a case; 2: one axial plane of its crop
    window: Literal["crop", "random"] = "crop"  # as in `train.config.TrainConfig`
    tumour_share: float = 0.0  # of random windows, as there
    foreground: bool = False  # whether labels have `FOREGROUND_BIT`
    cache: SharedCrops | None = None  # where crops are read instead of the store

    def __post_init__(self) -> None:
        if self.window == "random" and self.dims == 2:
            raise ConfigError("window=random cuts volumes; with model.dims=2 take window=crop")
        if self.tumour_share and self.window != "random":
            raise ConfigError(
                f"tumour_share={self.tumour_share:g} is of random windows: take window=random, or "
                "tumour_share=0"
            )
        if self.foreground and max(self.store.task.labels.values()) >= FOREGROUND_BIT:
            raise ConfigError(
                f"foreground_channel=true needs labels below {FOREGROUND_BIT}; the task "
                f"{self.store.task.name} has others: leave it false"
            )
        if not 0 <= self.skip < self.samples:
            raise ValueError(f"skip is {self.skip} of {self.samples} samples")

    @property
    def shape(self) -> Triple:
        """(D, H, W) of a sample; D is 1 for a slice."""
        depth, height, width = self.store.crop
        return (depth if self.dims == 3 else 1, height, width)

    @property
    def image_shape(self) -> tuple[int, int, int, int]:
        """(M, D, H, W) of a sample's image."""
        return (len(self.modalities), *self.shape)

    @property
    def samples(self) -> int:
        """Samples of an epoch."""
        return len(self.case_ids) * self._samples_of_case

    @property
    def _samples_of_case(self) -> int:
        return self.store.crop[0] if self.dims == 2 else 1

    @property
    def stored_bytes(self) -> int:
        """Size of a sample's image and label as they are stored."""
        itemsize = np.dtype(self.store.manifest.dtype).itemsize
        return math.prod(self.shape) * (len(self.modalities) * itemsize + 1)

    @property
    def drawn_bytes(self) -> int:
        """Size of what is drawn for a sample, at most."""
        return sum(each.most_bytes(self.image_shape) for each in self.augment.in_order())

    # The order of samples

    def step(self, index: int) -> Step:
        """The batch `index`, counted from 0 where the stream begins."""
        epoch, first = self._begin(index)
        stop = first + self.batch_size
        return Step(epoch, self.order(epoch, first, stop), stop >= self.samples)

    def order(self, epoch: int, first: int = 0, stop: int | None = None) -> tuple[Key, ...]:
        """The samples of one epoch, shuffled by (seed, epoch): those from `first` up to `stop`."""
        shuffled = _shuffled(self.seed, epoch, self.samples)
        return tuple(self._key(int(number)) for number in shuffled[first:stop])

    def name(self, index: int, position: int) -> str:
        """The sample at a position of batch `index`, for messages; empty beyond a batch's end."""
        return str(self._at(index, position)[1] or "")

    def number(self, index: int, position: int) -> int:
        """The sample at a position of batch `index` as its number in `every`; 0 beyond its end."""
        epoch, first = self._begin(index)
        place = first + position
        return int(_shuffled(self.seed, epoch, self.samples)[place]) if place < self.samples else 0

    def _begin(self, index: int) -> tuple[int, int]:
        """Epoch and position in its order of a batch's first sample."""
        total, size = self.samples, self.batch_size
        in_first_epoch = math.ceil((total - self.skip) / size)
        if index < in_first_epoch:
            return self.first_epoch, self.skip + index * size
        later, within = divmod(index - in_first_epoch, math.ceil(total / size))
        return self.first_epoch + 1 + later, within * size

    def _at(self, index: int, position: int) -> tuple[int, Key | None]:
        """Epoch and key of the sample at a position of batch `index`; no key beyond its end."""
        epoch, first = self._begin(index)
        keys = self.order(epoch, first + position, first + position + 1)
        return epoch, (keys[0] if keys else None)

    def _key(self, number: int) -> Key:
        """A sample by its number among all, unshuffled."""
        case, plane = divmod(number, self._samples_of_case)
        return Key(self._cases[case], plane if self.dims == 2 else None)

    @cached_property
    def _cases(self) -> tuple[str, ...]:
        return tuple(sorted(self.case_ids))

    # Samples

    def sample(self, index: int, position: int) -> Sample:
        """The sample at a position of batch `index`.

        A case that cannot be read becomes the sample's `error`, since neither loader passes a
        worker's exception on unchanged. A position beyond the end of an epoch's smaller last batch,
        which DALI asks for, is all zeros.
        """
        epoch, key = self._at(index, position)
        if key is None:
            return self._blank()
        try:
            image, label = self._stored(epoch, key)
        except StoreError as error:
            return self._blank(str(error))
        image, draws = self._chosen(image), self._draws(epoch, key)
        return Sample(image, self._marked(image, label, draws), draws)

    def draws(self, index: int, position: int) -> Draws:
        """What is drawn for the sample at a position of batch `index`, which is not read."""
        epoch, key = self._at(index, position)
        return self._draws(epoch, key) if key else NOTHING_DRAWN

    def every(self) -> Iterator[Arrays]:
        """All samples of an epoch as they are stored, unshuffled, and each case read once.

        Raises:
            StoreError: one cannot be read.
        """
        for case_id in self._cases:
            image, label = self.store.read_crop(case_id)
            image, depth = self._chosen(image), self.shape[0]
            label = self._marked(image, label, NOTHING_DRAWN)
            for plane in range(0, self.store.crop[0], depth):
                yield image[:, plane : plane + depth], label[plane : plane + depth]

    def _draws(self, epoch: int, key: Key) -> Draws:
        return self.augment.draw(self.image_shape, self.seed, epoch, *key)

    def _chosen(self, image: NDArray[np.floating]) -> NDArray[np.floating]:
        """The stream's modalities of a stored image."""
        stored = self.store.task.modalities
        if self.modalities == stored:
            return image
        return image[[stored.index(modality) for modality in self.modalities]]

    def _marked(
        self, image: NDArray[np.floating], label: NDArray[np.uint8], draws: Draws
    ) -> NDArray[np.uint8]:
        """The label, with the foreground of the images that are not taken away if asked for."""
        if not self.foreground:
            return label
        dropout = draws[AUGMENTATIONS.index("modality_dropout")]
        kept = image if dropout is None else image[dropout[0].ravel() != 0]
        marked: NDArray[np.uint8] = label + np.uint8(FOREGROUND_BIT) * foreground(kept)
        return marked

    def _stored(self, epoch: int, key: Key) -> Arrays:
        if self.window == "random":
            return self._random_window(epoch, key)
        if key.plane is None:
            return (self.cache or self.store).read_crop(key.case_id)
        if self.cache:
            image, label = self.cache.read_crop(key.case_id)
            return image[:, [key.plane]], label[[key.plane]]
        image, label = self.store.read_crop_plane(key.case_id, key.plane)
        return image[:, np.newaxis], label[np.newaxis]

    def _random_window(self, epoch: int, key: Key) -> Arrays:
        """A part of the volume, which is read whole so that its checksum can be compared."""
        image, label = self.store.read_volume(key.case_id)
        if label is None:
            raise StoreError(f"{self.store.path}: case {key.case_id} has no label to train on")
        drawing = partial(generator, self.seed, epoch, *key)
        box = None
        if self.tumour_share and (random := drawing("tumour")).random() < self.tumour_share:
            box = draw_on_tumour(label, self.store.task.regions, self.store.crop, random)
        box = box or draw_window(triple(label.shape), self.store.crop, drawing("window"))
        return extract(image, box), extract(label, box)

    def _blank(self, error: str = "") -> Sample:
        image = np.zeros(self.image_shape, self.store.manifest.dtype)
        return Sample(image, np.zeros(self.shape, np.uint8), NOTHING_DRAWN, error)


@lru_cache(maxsize=2)
def _shuffled(seed: int, epoch: int, count: int) -> NDArray[np.int_]:
    return Generator(SFC64([seed, epoch])).permutation(count)
