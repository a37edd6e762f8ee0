"""Augmentation as values: what may be done to a crop, what is drawn for one, and its noise.

Nothing here touches a voxel. Both loaders take their draws from this module and apply them, so
that a sample is a function of (seed, epoch, case), and for slices the plane, alone
(docs/decisions/0004). It imports neither
torch nor DALI, because the worker processes that read the store need neither.
"""

import hashlib
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.random import SFC64, Generator
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from common.volume import Box, Triple

Floats3 = tuple[float, float, float]

ZOOM_STEPS = 1024
"""Zooms and their windows are multiples of 1/1024 voxel.

Then every position that is sampled is exact in float32, and a label's nearest voxel is the same
whatever order of operations a loader computes it in, on a CPU or a GPU.
"""

PARAMETERS, NOISE, WINDOW = 0, 1, 2
"""What a random generator is for; its last key."""


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the lower bound {bounds[0]} is above the upper bound {bounds[1]}")
    return bounds


Probability = Annotated[float, Field(ge=0, le=1)]
Scale = Annotated[float, Field(ge=0.1, le=1)]
Sigma = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class AugmentConfig(BaseModel):
    """What is done to a training crop, how often and how much (paper, sec. III).

    The order is fixed: zoom, flips, noise, blur, brightness. With every probability at 0 a crop
    leaves as it was stored, bit for bit.

    Attributes:
        zoom_probability: of enlarging a window of the crop to the crop's size.
        zoom_range: the window's side as a share of the crop's; 1 is the whole crop.
        flip_probability: of mirroring, for each axis by itself.
        noise_probability: of adding Gaussian noise.
        noise_range: its standard deviation, in the image's own (z-scored) units.
        blur_probability: of Gaussian blur.
        blur_range: its standard deviation in voxels.
        brightness_probability: of multiplying the image by a factor.
        brightness_range: that factor.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    zoom_probability: Probability = 0.15
    zoom_range: Annotated[tuple[Scale, Scale], AfterValidator(_ordered)] = (0.7, 1.0)
    flip_probability: Probability = 0.5
    noise_probability: Probability = 0.15
    noise_range: Annotated[tuple[Sigma, Sigma], AfterValidator(_ordered)] = (0.0, 0.33)
    blur_probability: Probability = 0.15
    blur_range: Annotated[tuple[Positive, Positive], AfterValidator(_ordered)] = (0.5, 1.5)
    brightness_probability: Probability = 0.15
    brightness_range: Annotated[tuple[Positive, Positive], AfterValidator(_ordered)] = (0.7, 1.3)


@dataclass(frozen=True)
class Zoom:
    """A window of a crop that is enlarged to the crop's size.

    Attributes:
        start: where the window begins (z, y, x), in voxels from the crop's outer edge.
        scales: the window's sides as a share of the crop's (z, y, x): one number, but 1 along an
            axis of one voxel.
    """

    start: Floats3
    scales: Floats3


@dataclass(frozen=True)
class Draw:
    """What is done to one crop; None where nothing is.

    Attributes:
        zoom: the window to enlarge.
        flips: whether each axis (z, y, x) is mirrored.
        noise_sigma: standard deviation of the noise.
        blur_sigma: standard deviation of the blur in voxels.
        brightness: factor.
    """

    zoom: Zoom | None = None
    flips: tuple[bool, bool, bool] = (False, False, False)
    noise_sigma: float | None = None
    blur_sigma: float | None = None
    brightness: float | None = None


def generator(
    seed: int, epoch: int, case_id: str, purpose: int, plane: int | None = None
) -> Generator:
    """The random numbers of one case, or one plane of it, in one epoch, for one purpose.

    The key is the case's id and not its row, so that a store made anew gives the same samples.
    """
    key = int.from_bytes(hashlib.sha256(case_id.encode()).digest()[:8], "big")
    return Generator(SFC64([seed, epoch, key, purpose, *([] if plane is None else [plane])]))


def draw(config: AugmentConfig, crop: Triple, random: Generator) -> Draw:
    """Draw what is done to one crop, or to one plane of it.

    Every number is drawn whether it is used or not: switching one augmentation off leaves the
    others' draws as they were.

    Args:
        config: how often and how much.
        crop: (D, H, W); along an axis of one voxel nothing is enlarged or mirrored.
        random: from `generator(…, PARAMETERS)`.
    """
    zooms, noises, blurs, brightens = random.random(4) < (
        config.zoom_probability,
        config.noise_probability,
        config.blur_probability,
        config.brightness_probability,
    )
    mirrored = (random.random(3) < config.flip_probability) & (np.asarray(crop) > 1)
    flip_z, flip_y, flip_x = map(bool, mirrored)
    zoom = _draw_zoom(config.zoom_range, crop, random)
    noise_sigma = _uniform(config.noise_range, random)
    blur_sigma = _uniform(config.blur_range, random)
    brightness = _uniform(config.brightness_range, random)
    return Draw(
        zoom=zoom if zooms else None,
        flips=(flip_z, flip_y, flip_x),
        noise_sigma=noise_sigma if noises else None,
        blur_sigma=blur_sigma if blurs else None,
        brightness=brightness if brightens else None,
    )


def draw_window(volume: Triple, crop: Triple, random: Generator) -> Box:
    """Draw where a crop is cut from a volume that is at least as large; each place is as likely.

    Args:
        volume: (D, H, W).
        crop: likewise.
        random: from `generator(…, WINDOW)`.
    """
    z, y, x = (
        int(random.integers(0, whole - side, endpoint=True))
        for whole, side in zip(volume, crop, strict=True)
    )
    return Box((z, y, x), crop)


def noise_field(shape: tuple[int, ...], random: Generator) -> NDArray[np.float16]:
    """Standard-normal noise of a shape; float16, as it is half the bytes to hand over."""
    return random.standard_normal(shape, np.float32).astype(np.float16)


def _draw_zoom(bounds: tuple[float, float], crop: Triple, random: Generator) -> Zoom:
    steps = round(_uniform(bounds, random) * ZOOM_STEPS)
    sides = [steps if side > 1 else ZOOM_STEPS for side in crop]
    z, y, x = (
        int(random.integers(0, side * (ZOOM_STEPS - share), endpoint=True)) / ZOOM_STEPS
        for side, share in zip(crop, sides, strict=True)
    )
    scale_z, scale_y, scale_x = (share / ZOOM_STEPS for share in sides)
    return Zoom((z, y, x), (scale_z, scale_y, scale_x))


def _uniform(bounds: tuple[float, float], random: Generator) -> float:
    """A number that is exact in float32, so that both loaders compute with the same one."""
    return float(np.float32(random.uniform(*bounds)))
