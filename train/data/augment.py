"""Augmentations: a class has the parameters, what is drawn, and how each loader applies it.

Each draws from its own random generator where a sample is read (docs/decisions/0004), and both
loaders only apply what was drawn. To add one, write its class and name it in `AugmentConfig`.
Worker processes import this module, and start faster without torch and DALI: methods that need one
of them import it themselves.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

import numpy as np
from numpy.random import SFC64, Generator
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from common.settings import Settings
from common.volume import Box, Triple

if TYPE_CHECKING:
    from torch import Tensor

Drawn = tuple[NDArray[np.generic], ...]
"""What an augmentation drew for a sample: the arrays that DALI's graph gets."""
Draws = tuple[Drawn | None, ...]
"""What each augmentation drew for a sample, in order; None where it does nothing."""
Shape = tuple[int, int, int, int]
"""(M, D, H, W) of an image; D is 1 for a slice."""
Node = Any
"""A node of DALI's graph; DALI is untyped."""

ZOOM_STEPS = 1024
"""Zooms and their windows are multiples of 1/1024 voxel: then every sampled position is exact in
float32, and both loaders find the same nearest voxel of a label, on a CPU or a GPU."""

CUBIC_A = -0.5
"""Keys' parameter (1981, doi:10.1109/TASSP.1981.1163711) as DALI has it; torch has -0.75."""
CUBIC_KNOTS = 65
"""Entries of DALI's table of that kernel, from its centre to its edge."""


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the lower bound {bounds[0]} is above the upper bound {bounds[1]}")
    return bounds


Ordered = AfterValidator(_ordered)
Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(ge=0.1, le=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Augmentation(Settings):
    """What may be done to a training sample; a subclass has the parameters as its fields.

    Both loaders must compute the same: images up to the rounding of float32, labels exactly.
    """

    placeholder: ClassVar[Drawn]
    """What DALI's graph gets where nothing is drawn: arrays of a draw's types and axes."""
    on_device: ClassVar[bool] = False
    """Whether DALI's operators need the drawn arrays where the image is, not on the CPU."""

    def draw(self, random: Generator, shape: Shape) -> Drawn | None:
        """Draw what is done to a sample; None if nothing is."""
        raise NotImplementedError

    def most_bytes(self, shape: Shape) -> int:
        """Memory that a draw takes at most."""
        return sum(array.nbytes for array in self.placeholder)

    def apply_torch(self, image: Tensor, label: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
        """Do it to an image (M, D, H, W) float32 and its label (D, H, W) uint8."""
        raise NotImplementedError

    def apply_dali(self, image: Node, label: Node, drawn: Sequence[Node]) -> tuple[Node, Node]:
        """Do it in DALI's graph, for samples that something is drawn for.

        Image (M, D, H, W) float32 and label (1, D, H, W) uint8 are on a CPU or a GPU, the arrays of
        `draw` on the CPU unless `on_device`.
        """
        raise NotImplementedError


class Zoom(Augmentation):
    """Enlarge a window of the sample to the sample's size: cubic for images, nearest for labels."""

    placeholder = (np.zeros((3, 3), np.float32),)
    """The sample's size, and the window's start and stop in voxels; each (z, y, x)."""

    probability: Probability = 0.15
    """Of one zoom for all axes; an axis of one voxel is never zoomed."""
    range: Annotated[tuple[Share, Share], Ordered] = (0.7, 1.0)
    """The window's side as a share of the sample's."""

    def draw(self, random: Generator, shape: Shape) -> Drawn | None:
        if random.random() >= self.probability:
            return None
        steps = round(random.uniform(*self.range) * ZOOM_STEPS)
        size = np.asarray(shape[1:])
        shares = np.where(size > 1, steps, ZOOM_STEPS)
        start = random.integers(0, size * (ZOOM_STEPS - shares), endpoint=True)
        window = np.stack([size * ZOOM_STEPS, start, start + size * shares]) / ZOOM_STEPS
        return (window.astype(np.float32),)

    def apply_torch(self, image: Tensor, label: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
        axes = [Axis(round(size), start, stop) for size, start, stop in drawn[0].T.tolist()]
        z, y, x = (_nearest(axis) for axis in axes)
        label = label[z[:, None, None], y[:, None], x]
        return _filtered(image, map(_cubic, axes)), label

    def apply_dali(self, image: Node, label: Node, drawn: Sequence[Node]) -> tuple[Node, Node]:
        from nvidia.dali import fn
        from nvidia.dali.types import DALIInterpType

        (window,) = drawn
        region = {"size": window[0], "roi_start": window[1], "roi_end": window[2]}
        image = fn.resize(image, **region, interp_type=DALIInterpType.INTERP_CUBIC)
        return image, fn.resize(label, **region, interp_type=DALIInterpType.INTERP_NN)


class Flip(Augmentation):
    """Mirror the sample."""

    placeholder = (np.zeros(3, np.int32),)
    """1 for each axis (z, y, x) that is mirrored."""

    probability: Probability = 0.5
    """Of each axis; an axis of one voxel is never mirrored."""

    def draw(self, random: Generator, shape: Shape) -> Drawn | None:
        axes = (random.random(3) < self.probability) & (np.asarray(shape[1:]) > 1)
        return (axes.astype(np.int32),) if axes.any() else None

    def apply_torch(self, image: Tensor, label: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
        axes = (np.flatnonzero(drawn[0]) - 3).tolist()
        return image.flip(axes), label.flip(axes)

    def apply_dali(self, image: Node, label: Node, drawn: Sequence[Node]) -> tuple[Node, Node]:
        from nvidia.dali import fn

        (axes,) = drawn
        flips = {"depthwise": axes[0], "vertical": axes[1], "horizontal": axes[2]}
        return fn.flip(image, **flips), fn.flip(label, **flips)


class Noise(Augmentation):
    """Add Gaussian noise; DALI's own would depend on a sample's position in its batch."""

    placeholder = (np.zeros((), np.float32), np.zeros((1, 1, 1, 1), np.float16))
    """Standard deviation, and standard-normal noise (M, D, H, W): float16 is half the bytes."""
    on_device = True

    probability: Probability = 0.15
    """Of a sample."""
    range: Annotated[tuple[NotNegative, NotNegative], Ordered] = (0.0, 0.33)
    """Standard deviation, in the image's own (z-scored) units."""

    def draw(self, random: Generator, shape: Shape) -> Drawn | None:
        if random.random() >= self.probability:
            return None
        sigma = np.asarray(random.uniform(*self.range), np.float32)
        return sigma, random.standard_normal(shape, np.float32).astype(np.float16)

    def most_bytes(self, shape: Shape) -> int:
        field = math.prod(shape) * np.dtype(np.float16).itemsize if self.probability else 0
        return super().most_bytes(shape) + field

    def apply_torch(self, image: Tensor, label: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
        import torch

        sigma, noise = drawn
        return image + torch.from_numpy(noise).float() * sigma.item(), label

    def apply_dali(self, image: Node, label: Node, drawn: Sequence[Node]) -> tuple[Node, Node]:
        from nvidia.dali import fn
        from nvidia.dali.types import DALIDataType

        sigma, noise = drawn
        return image + fn.cast(noise, dtype=DALIDataType.FLOAT) * sigma, label


class ByAmount(Augmentation):
    """Draws one amount, of float32 so that both loaders compute with the same."""

    placeholder = (np.ones((), np.float32),)

    probability: Probability = 0.15
    """Of a sample."""
    range: Annotated[tuple[Positive, Positive], Ordered]

    def draw(self, random: Generator, shape: Shape) -> Drawn | None:
        if random.random() >= self.probability:
            return None
        return (np.asarray(random.uniform(*self.range), np.float32),)


class Blur(ByAmount):
    """Blur by a Gaussian of radius ⌈3σ⌉, mirrored about the edge voxels."""

    range: Annotated[tuple[Positive, Positive], Ordered] = (0.5, 1.5)
    """Standard deviation in voxels."""

    def apply_torch(self, image: Tensor, label: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
        sigma = drawn[0].item()
        return _filtered(image, (_gaussian(side, sigma) for side in label.shape)), label

    def apply_dali(self, image: Node, label: Node, drawn: Sequence[Node]) -> tuple[Node, Node]:
        from nvidia.dali import fn

        return fn.gaussian_blur(image, sigma=drawn[0]), label


class Brightness(ByAmount):
    """Multiply the image by a factor."""

    on_device = True
    range: Annotated[tuple[Positive, Positive], Ordered] = (0.7, 1.3)
    """The factor."""

    def apply_torch(self, image: Tensor, label: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
        return image * drawn[0].item(), label

    def apply_dali(self, image: Node, label: Node, drawn: Sequence[Node]) -> tuple[Node, Node]:
        return image * drawn[0], label


class ModalityDropout(Augmentation):
    """Take one image away, each equally likely, so that the network predicts without any one.

    What is left is background, as predictions have it where a case lacks an image.
    """

    placeholder = (np.ones((1, 1, 1, 1), np.float32),)
    """(M, 1, 1, 1): 0 for the image that is taken away, 1 for the others."""
    on_device = True

    probability: Probability = 0.0
    """Of a sample; one with a single image keeps it."""

    def draw(self, random: Generator, shape: Shape) -> Drawn | None:
        if random.random() >= self.probability or shape[0] == 1:
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


class AugmentConfig(Settings):
    """What is done to training samples, in the order of the fields (paper, sec. III).

    Only `modality_dropout` is not the paper's.
    """

    zoom: Zoom = Zoom()
    flip: Flip = Flip()
    noise: Noise = Noise()
    blur: Blur = Blur()
    brightness: Brightness = Brightness()
    modality_dropout: ModalityDropout = ModalityDropout()

    def in_order(self) -> tuple[Augmentation, ...]:
        """All augmentations, in the order in which they are applied."""
        return tuple(getattr(self, name) for name in AUGMENTATIONS)

    def draw(
        self, shape: Shape, seed: int, epoch: int, case_id: str, plane: int | None = None
    ) -> Draws:
        """Draw what is done to one sample; an augmentation's draws do not depend on the others."""
        return tuple(
            augmentation.draw(generator(seed, epoch, case_id, plane, name), shape)
            for name, augmentation in zip(AUGMENTATIONS, self.in_order(), strict=True)
        )


AUGMENTATIONS = tuple(AugmentConfig.model_fields)
"""The augmentations' names, in the order in which they are applied."""


def generator(seed: int, epoch: int, case_id: str, plane: int | None, purpose: str) -> Generator:
    """The random numbers of one case, or one plane of it, in one epoch, for one purpose.

    The key holds the case's id and not its row, so that a rebuilt store gives the same samples.
    """
    key = repr((seed, epoch, case_id, plane, purpose)).encode()
    return Generator(SFC64(int.from_bytes(hashlib.sha256(key).digest(), "big")))


def draw_window(volume: Triple, crop: Triple, random: Generator) -> Box:
    """Draw where a crop (D, H, W) is cut from a larger volume; every place is equally likely."""
    z, y, x = (
        int(random.integers(0, whole - side, endpoint=True))
        for whole, side in zip(volume, crop, strict=True)
    )
    return Box((z, y, x), crop)


# The torch loader repeats DALI's arithmetic: a filter is a product with one matrix an axis.


class Axis(NamedTuple):
    """One axis of a zoom: the sample's size, and the window's start and stop, in voxels."""

    size: int
    start: float
    stop: float

    def positions(self) -> NDArray[np.float64]:
        """Where the enlarged voxels' centres are, from the sample's outer edge; (size,)."""
        return self.start + (np.arange(self.size) + 0.5) * (self.stop - self.start) / self.size


def _cubic(axis: Axis) -> NDArray[np.float32]:
    """Matrix (size, size) that enlarges the window.

    Taps beyond the sample's edge, not the window's, take the edge's voxel. As in DALI the kernel is
    a table with linear interpolation between its entries, and a row sums to 1.
    """
    positions = axis.positions() - 0.5
    taps = np.floor(positions).astype(int)[:, None] + np.arange(-1, 3)
    knots = np.linspace(0, 2, CUBIC_KNOTS)
    weights = np.interp(np.abs(positions[:, None] - taps), knots, _keys(knots))
    weights /= weights.sum(axis=1, keepdims=True)
    return _matrix(axis.size, np.clip(taps, 0, axis.size - 1), weights)


def _keys(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel at distances from 0 to 2."""
    near = ((CUBIC_A + 2) * distance - (CUBIC_A + 3)) * distance**2 + 1
    far = CUBIC_A * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, far)


def _nearest(axis: Axis) -> NDArray[np.int_]:
    """Indices (size,) of the voxels nearest to the enlarged ones."""
    indices: NDArray[np.int_] = np.floor(axis.positions()).astype(int)
    return np.clip(indices, 0, axis.size - 1)


def _gaussian(size: int, sigma: float) -> NDArray[np.float32]:
    """Matrix (size, size) of a Gaussian filter of radius ⌈3σ⌉, mirrored about the edge voxels."""
    radius = math.ceil(3 * sigma)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights /= weights.sum()
    taps = np.arange(size)[:, None] + offsets
    period = max(1, 2 * (size - 1))
    mirrored = np.abs((taps + size - 1) % period - (size - 1))
    return _matrix(size, mirrored, np.broadcast_to(weights, taps.shape))


def _matrix(size: int, taps: NDArray[np.int_], weights: NDArray[np.float64]) -> NDArray[np.float32]:
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, None], taps), weights)
    return matrix.astype(np.float32)


def _filtered(image: Tensor, matrices: Iterable[NDArray[np.float32]]) -> Tensor:
    """An image (M, D, H, W), each axis multiplied by its matrix."""
    import torch

    z, y, x = map(torch.from_numpy, matrices)
    image = y @ (image @ x.T)
    return (z @ image.flatten(2)).view_as(image)
