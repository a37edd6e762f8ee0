"""Augmentations that change values of images, and no label.

Background is what is 0. After noise without `keep_background`, or beside a brain that was blurred,
there is less of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import Field

from train.data.augmentation import (
    SPACE,
    Augmentation,
    Drawn,
    Node,
    NotNegative,
    Ordered,
    Positive,
    Probability,
    Shape,
)
from train.data.filters import Axis, averaging, cubic, filtered, gaussian

if TYPE_CHECKING:
    from torch import Tensor

Resolution = Annotated[float, Field(ge=0.1, le=1)]

LEAST = 1e-6
"""In place of a range or a deviation of 0, as of an image that is only background."""


class Noise(Augmentation):
    """Add Gaussian noise; DALI's own would depend on a sample's position in its batch."""

    placeholder = (np.zeros((), np.float32), np.zeros((1, 1, 1, 1), np.float16))
    """Standard deviation, and standard-normal noise (M, D, H, W): float16 is half the bytes."""
    on_device = (0, 1)

    probability: Probability = 0.15
    """Of a sample."""
    range: Annotated[tuple[NotNegative, NotNegative], Ordered] = (0.0, 0.33)
    """Standard deviation, in the image's own (z-scored) units."""
    keep_background: bool = False
    """Add none where an image is 0, which is what surrounds every brain in prediction, too."""

    def drawn(self, random: Generator, shape: Shape) -> Drawn:
        sigma = np.asarray(random.uniform(*self.range), np.float32)
        return sigma, random.standard_normal(shape, np.float32).astype(np.float16)

    def most_bytes(self, shape: Shape) -> int:
        field = math.prod(shape) * np.dtype(np.float16).itemsize if self.probability else 0
        return super().most_bytes(shape) + field

    def apply_torch(self, image: Tensor, label: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
        import torch

        sigma, noise = drawn
        added = torch.from_numpy(noise).float() * sigma.item()
        return image + (added * (image != 0) if self.keep_background else added), label

    def apply_dali(self, image: Node, label: Node, drawn: Sequence[Node]) -> tuple[Node, Node]:
        from nvidia.dali import fn
        from nvidia.dali.types import DALIDataType

        sigma, noise = drawn
        added = fn.cast(noise, dtype=DALIDataType.FLOAT) * sigma
        return image + (added * (image != 0) if self.keep_background else added), label


class Blur(Augmentation):
    """Blur by a Gaussian of radius ⌈3σ⌉, mirrored about the edge voxels."""

    placeholder = (np.ones((), np.float32),)
    """The standard deviation."""

    probability: Probability = 0.15
    """Of a sample."""
    range: Annotated[tuple[Positive, Positive], Ordered] = (0.5, 1.5)
    """Standard deviation in voxels."""

    def drawn(self, random: Generator, shape: Shape) -> Drawn:
        return (np.asarray(random.uniform(*self.range), np.float32),)

    def apply_torch(self, image: Tensor, label: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
        sigma = drawn[0].item()
        return filtered(image, (gaussian(side, sigma) for side in label.shape)), label

    def apply_dali(self, image: Node, label: Node, drawn: Sequence[Node]) -> tuple[Node, Node]:
        from nvidia.dali import fn

        return fn.gaussian_blur(image, sigma=drawn[0]), label


class ByModality(Augmentation):
    """Draws one amount for each modality, of float32 so that both loaders compute with the same."""

    placeholder = (np.ones((1, 1, 1, 1), np.float32),)
    """(M, 1, 1, 1), or (1, 1, 1, 1) for all modalities."""
    on_device = (0,)

    probability: Probability = 0.0
    """Of a sample."""
    range: Annotated[tuple[Positive, Positive], Ordered]

    def drawn(self, random: Generator, shape: Shape) -> Drawn:
        return (_amounts(random.uniform(*self.range, shape[0])),)

    def most_bytes(self, shape: Shape) -> int:
        return super().most_bytes(shape) * shape[0]


def _amounts(values: NDArray[np.generic]) -> NDArray[np.float32]:
    """One value of each modality, as it is multiplied with an image."""
    return values.astype(np.float32)[:, None, None, None]


class Brightness(ByModality):
    """Multiply the image by a factor.

    One for all modalities, as in the paper, teaches a network nothing whose first layers are a
    convolution and an instance norm, which divides by that factor again: FM-Net's logits move by
    2e-4 of their standard deviation. One per modality moves them by 1.6 to 3 of it.
    """

    probability: Probability = 0.15
    """Of a sample."""
    range: Annotated[tuple[Positive, Positive], Ordered] = (0.7, 1.3)
    """The factor."""
    per_modality: bool = False
    """Draw a factor for each modality."""

    def drawn(self, random: Generator, shape: Shape) -> Drawn:
        count = shape[0] if self.per_modality else 1
        return (_amounts(random.uniform(*self.range, count)),)

    def apply_torch(self, image: Tensor, label: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
        import torch

        return image * torch.from_numpy(drawn[0]), label

    def apply_dali(self, image: Node, label: Node, drawn: Sequence[Node]) -> tuple[Node, Node]:
        return image * drawn[0], label


class Contrast(ByModality):
    """Spread or narrow each modality's values about their mean, within their range in the sample.

    The mean of z-scores is 0, so it is a factor; the limits are what brightness does not have: they
    saturate what is darkest and brightest.
    Source: nnU-Net's contrast augmentation (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z).
    """

    range: Annotated[tuple[Positive, Positive], Ordered] = (0.75, 1.25)
    """The factor."""

    def apply_torch(self, image: Tensor, label: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
        import torch

        low, high = image.amin(SPACE, keepdim=True), image.amax(SPACE, keepdim=True)
        return (image * torch.from_numpy(drawn[0])).clamp(low, high), label

    def apply_dali(self, image: Node, label: Node, drawn: Sequence[Node]) -> tuple[Node, Node]:
        from nvidia.dali import fn, math

        low = fn.reductions.min(image, axes=SPACE, keep_dims=True)
        high = fn.reductions.max(image, axes=SPACE, keep_dims=True)
        return math.clamp(image * drawn[0], low, high), label


class LowResolution(Augmentation):
    """Take detail away from some modalities: average to fewer voxels, enlarge again by cubics.

    How many modalities, and which, is drawn. Background stays 0: a brain is cut out after the scan.
    """

    placeholder = (
        np.ones(3, np.float32),
        np.ones(3, np.float32),
        np.ones((1, 1, 1, 1), np.float32),
    )
    """Size with less detail and size of the sample, each (z, y, x); 1 for each modality that is
    changed, (M, 1, 1, 1)."""
    on_device = (2,)

    probability: Probability = 0.0
    """Of a sample."""
    range: Annotated[tuple[Resolution, Resolution], Ordered] = (0.5, 1.0)
    """Voxels along an axis as a share of those of the sample."""

    def drawn(self, random: Generator, shape: Shape) -> Drawn:
        size = np.asarray(shape[1:], np.float32)
        fewer = np.maximum(1, np.round(size * random.uniform(*self.range))).astype(np.float32)
        count = random.integers(1, shape[0], endpoint=True)
        return fewer, size, _amounts(random.permutation(shape[0]) < count)

    def most_bytes(self, shape: Shape) -> int:
        return super().most_bytes(shape) + 4 * shape[0]

    def apply_torch(self, image: Tensor, label: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
        import torch

        sizes = [(int(size), int(fewer)) for fewer, size in zip(*drawn[:2], strict=True)]
        low = filtered(image, [averaging(Axis(size, 0, size, fewer)) for size, fewer in sizes])
        low = filtered(low, [cubic(Axis(fewer, 0, fewer, size)) for size, fewer in sizes])
        changed = torch.from_numpy(drawn[2]) * (image != 0)
        return image + (low - image) * changed, label

    def apply_dali(self, image: Node, label: Node, drawn: Sequence[Node]) -> tuple[Node, Node]:
        from nvidia.dali import fn
        from nvidia.dali.types import DALIInterpType

        fewer, size, chosen = drawn
        low: Node = fn.resize(image, size=fewer, interp_type=DALIInterpType.INTERP_LINEAR)
        low = fn.resize(low, size=size, interp_type=DALIInterpType.INTERP_CUBIC)
        return image + (low - image) * (chosen * (image != 0)), label


class Gamma(ByModality):
    """Raise each modality's values to a power; mean and deviation of its brain stay as they were.

    Values count from 0 at the modality's darkest to 1 at its brightest voxel of the sample. Without
    the old mean and deviation they would be no z-scores any more, as all are in prediction.
    Background stays 0.
    Source: nnU-Net's gamma augmentation, which retains both as well (Isensee et al. 2021).
    """

    range: Annotated[tuple[Positive, Positive], Ordered] = (0.7, 1.5)
    """The power: below 1 the middle becomes brighter, above 1 darker."""

    def apply_torch(self, image: Tensor, label: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
        import torch

        brain = (image != 0).float()
        count = brain.sum(SPACE, keepdim=True).clamp_min(1)
        low, high = image.amin(SPACE, keepdim=True), image.amax(SPACE, keepdim=True)
        share = (image - low) / (high - low).clamp_min(LEAST)
        curved = share ** torch.from_numpy(drawn[0]) * brain

        def mean_and_deviation(values: Tensor) -> tuple[Tensor, Tensor]:
            mean = values.sum(SPACE, keepdim=True) / count
            square = (values * values).sum(SPACE, keepdim=True) / count
            return mean, (square - mean * mean).clamp_min(LEAST**2).sqrt()

        (mean, deviation), (its_mean, its_deviation) = map(mean_and_deviation, (image, curved))
        return brain * ((curved - its_mean) * (deviation / its_deviation) + mean), label

    def apply_dali(self, image: Node, label: Node, drawn: Sequence[Node]) -> tuple[Node, Node]:
        from nvidia.dali import fn, math
        from nvidia.dali.types import DALIDataType

        over_space: dict[str, Any] = {"axes": SPACE, "keep_dims": True}
        brain = fn.cast(image != 0, dtype=DALIDataType.FLOAT)
        count = math.max(fn.reductions.sum(brain, **over_space), 1.0)
        low = fn.reductions.min(image, **over_space)
        high = fn.reductions.max(image, **over_space)
        share = (image - low) / math.max(high - low, LEAST)
        curved = share ** drawn[0] * brain

        def mean_and_deviation(values: Node) -> tuple[Node, Node]:
            mean = fn.reductions.sum(values, **over_space) / count
            square = fn.reductions.sum(values * values, **over_space) / count
            return mean, math.sqrt(math.max(square - mean * mean, LEAST**2))

        (mean, deviation), (its_mean, its_deviation) = map(mean_and_deviation, (image, curved))
        return brain * ((curved - its_mean) * (deviation / its_deviation) + mean), label


class ModalityDropout(Augmentation):
    """Take one image away, each equally likely, so that the network predicts without any one.

    What is left is background, as predictions have it where a case lacks an image.
    """

    placeholder = (np.ones((1, 1, 1, 1), np.float32),)
    """(M, 1, 1, 1): 0 for the image that is taken away, 1 for the others."""
    on_device = (0,)

    probability: Probability = 0.0
    """Of a sample; one with a single image keeps it."""

    def drawn(self, random: Generator, shape: Shape) -> Drawn | None:
        if shape[0] == 1:
            return None
        kept = np.ones((shape[0], 1, 1, 1), np.float32)
        kept[random.integers(shape[0])] = 0
        return (kept,)

    def most_bytes(self, shape: Shape) -> int:
        return super().most_bytes(shape) * shape[0]

    def apply_torch(self, image: Tensor, label: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
        import torch

        return image * torch.from_numpy(drawn[0]), label

    def apply_dali(self, image: Node, label: Node, drawn: Sequence[Node]) -> tuple[Node, Node]:
        return image * drawn[0], label
