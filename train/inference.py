"""A whole volume through a network that sees windows of it."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations, product
from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import InferenceError
from common.settings import Settings
from common.volume import Triple
from train.postprocess import PostprocessConfig
from train.precision import Compute

SIGMA_OF_WINDOW = 1 / 8
"""Standard deviation of a tile's weights as a share of its side: predictions near a tile's border
see less around them and count less (Isensee et al. 2021, doi 10.1038/s41592-020-01008-z)."""

BACKGROUND_LOGIT = -20.0
"""Logit of every voxel in a tile of background alone, which is not run: a probability of 2e-9.
It enters the weighted mean like any other, and the loss stays finite."""

NO_MEMORY = "can't allocate memory"
"""In torch's error where a CPU's memory is too small, which has no type of its own."""

Tile = tuple[slice, slice, slice]
Heads = Callable[[Tensor], tuple[Tensor, ...]]
"""From images (B, M, …) to the logits (B, regions, …) of one or more heads."""


def _flips(value: object) -> object:
    """Runs of earlier versions said only whether to mirror."""
    return (8 if value else 1) if isinstance(value, bool) else value


class InferenceConfig(Settings):
    """How whole volumes are predicted."""

    overlap: float = Field(default=0.5, ge=0, lt=1)
    """The least share of a tile's side that neighbours share; more is smoother and slower."""
    tiles: int = Field(default=2, ge=1)
    """Tiles in one forward pass; more needs more memory. On a CPU one tile alone takes twice as
    long, because torch then uses its slow implementation of small convolutions."""
    flips: Annotated[Literal[1, 2, 4, 8], BeforeValidator(_flips)] = 1
    """Mirrored views that are averaged, each a pass: 1 is the image alone, 2 mirrors left and
    right, 4 also front and back, 8 all axes, of which 2-D networks have 4. `true` is 8."""
    postprocess: PostprocessConfig = PostprocessConfig()
    """How probabilities become labels."""


def sliding_window(  # noqa: PLR0913 - a network, an image, and how to predict it
    model: nn.Module,
    image: Tensor,
    window: Triple,
    config: InferenceConfig,
    compute: Compute,
    *,
    regions: int,
    dims: Literal[2, 3],
    outputs: int = 1,
) -> Tensor:
    """Logits of a whole volume: the Gaussian-weighted mean over overlapping tiles.

    A volume smaller than the window is padded with background and the result cut back. A network
    with `dims` 2 gets single axial slices of the window's height and width, as many at once as fill
    the window. In memory are the image, its logits in float32, a weight for each voxel and one
    batch of tiles, whatever the overlap and the flips.

    Args:
        model: as of `NetworkConfig.build`; its mode is put back afterwards.
        image: (M, D, H, W) normalised, background 0, of any floating type, on any device.
        window: (D, H, W) of a tile.
        config: overlap, tiles, flips.
        compute: device and precision.
        regions: the network's outputs.
        dims: the network's.
        outputs: how many heads' logits to return: 1 is the main head's; the supervision heads'
            follow it.

    Returns:
        (outputs · regions, D, H, W) float32 on the compute device, one head after the other.

    Raises:
        InferenceError: the network gives NaN or infinity, or the device's memory is too small.
    """
    batch = config.tiles
    if dims == 2:
        batch, window = batch * window[0], (1, window[1], window[2])
    with _evaluating(model, heads=outputs > 1), _explained(config, compute), torch.inference_mode():
        padded, inner = _padded(image.to(compute.device), window)
        weights = tile_weights(window, compute.device)
        total = torch.zeros((outputs * regions, *padded.shape[1:]), device=compute.device)
        weight = torch.zeros(padded.shape[1:], device=compute.device)
        full = list[Tile]()
        for tile in _tiles(padded.shape[1:], window, config.overlap):
            weight[tile] += weights
            if padded[:, *tile].any():
                full.append(tile)
            else:
                total[:, *tile] += BACKGROUND_LOGIT * weights
        for first in range(0, len(full), batch):
            some = full[first : first + batch]
            tiles = torch.stack([padded[:, *tile] for tile in some])
            logits = _forward(lambda images: model(images)[:outputs], tiles, dims, config, compute)
            for tile, tile_logits in zip(some, logits, strict=True):
                total[:, *tile] += tile_logits * weights
        total /= weight
    _check_finite(total, compute)
    return total[:, *inner]


def window_count(image: Tensor, window: Triple, overlap: float, dims: Literal[2, 3]) -> int:
    """Windows of an image (M, D, H, W) that `sliding_window` runs: those with more than background.

    With `dims` 2 they are slices.
    """
    side = window if dims == 3 else (1, window[1], window[2])
    padded, _ = _padded(image, side)
    return sum(bool(padded[:, *tile].any()) for tile in _tiles(padded.shape[1:], side, overlap))


def tile_weights(window: Triple, device: torch.device) -> Tensor:
    """Weights (D, H, W) of a tile's voxels, float32: a Gaussian about its centre, never 0."""
    z, y, x = (line.to(device) for line in weight_lines(window))
    return (z[:, None, None] * y[:, None] * x).float()


def weight_lines(window: Triple) -> list[Tensor]:
    """Weights along each axis of a window, float64, whose product are those of its voxels."""
    lines = []
    for side in window:
        offsets = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
        lines.append(torch.exp(-0.5 * (offsets / (side * SIGMA_OF_WINDOW)) ** 2))
    return lines


def tile_starts(size: int, side: int, overlap: float) -> list[int]:
    """Where tiles begin along an axis that is no shorter than their side.

    The fewest that cover the axis while neighbours share `overlap` of a side, evenly spread.
    """
    step = max(1, int(side * (1 - overlap)))
    gaps = math.ceil((size - side) / step)
    return [round(i * (size - side) / gaps) for i in range(gaps + 1)] if gaps else [0]


def mirrored_axes(flips: int, dims: int) -> list[tuple[int, ...]]:
    """The axes that each view mirrors: at most `flips` views, the first with none."""
    axes = range(-min(dims, flips.bit_length() - 1), 0)
    return [chosen for size in range(len(axes) + 1) for chosen in combinations(axes, size)]


def _tiles(shape: tuple[int, ...], window: Triple, overlap: float) -> Iterator[Tile]:
    axes = [
        [slice(start, start + side) for start in tile_starts(size, side, overlap)]
        for size, side in zip(shape, window, strict=True)
    ]
    yield from ((z, y, x) for z, y, x in product(*axes))


def _padded(image: Tensor, window: Triple) -> tuple[Tensor, Tile]:
    """The image with background around it, at least a window a side; and where the image is."""
    margins, inner = list[int](), list[slice]()
    for size, side in zip(image.shape[1:], window, strict=True):
        before = max(0, side - size) // 2
        margins = [before, max(0, side - size) - before, *margins]  # F.pad counts axes backwards
        inner.append(slice(before, before + size))
    return F.pad(image, margins), (inner[0], inner[1], inner[2])


def _forward(
    heads: Heads, tiles: Tensor, dims: int, config: InferenceConfig, compute: Compute
) -> Tensor:
    """Logits (B, C, *window) float32 of tiles (B, M, *window): the mean over all flips."""
    images = tiles.float() if dims == 3 else tiles.float().squeeze(2)  # (B, M, H, W)
    mirrored = mirrored_axes(config.flips, dims)
    total = torch.zeros((), device=tiles.device)
    for chosen in mirrored:
        with compute.autocast():
            logits = torch.cat(heads(images.flip(chosen)), dim=1)
        total = total + logits.float().flip(chosen)
    total /= len(mirrored)
    return total if dims == 3 else total.unsqueeze(2)


@contextmanager
def _evaluating(model: nn.Module, *, heads: bool) -> Iterator[None]:
    """As in evaluation; with `heads` the network gives all its outputs, as in training.

    Layers do not choose outputs: those that differ in training, as dropout, are in evaluation.
    """
    was_training = model.training
    model.train(heads)
    for layer in model.modules():
        if next(layer.children(), None) is None:
            layer.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def _explained(config: InferenceConfig, compute: Compute) -> Iterator[None]:
    """Say what to do where the memory is too small."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and NO_MEMORY not in str(error):
            raise
        elsewhere = "with --device cpu" if compute.device.type == "cuda" else "on another machine"
        fewer = "set inference.tiles=1" if config.tiles > 1 else f"predict {elsewhere}"
        raise InferenceError(
            f"the volume and {config.tiles} window(s) of it at once do not fit into the memory of "
            f"{compute.device}: {fewer}"
        ) from error


def _check_finite(logits: Tensor, compute: Compute) -> None:
    """NaN > 0 is false, so NaN would silently be background."""
    bad = int((~torch.isfinite(logits)).any(dim=0).sum())
    if bad:
        fp32 = " with precision=fp32" if compute.precision != "fp32" else ""
        raise InferenceError(
            f"the network gives NaN or infinity in {bad} voxels, expected finite logits: train it "
            f"again{fp32}"
        )
