"""Pictures of slices for both stages: which plane, which grey, and regions in their colours."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

DARKEST = 20
"""Grey of the brain's darkest voxels; the background is 0."""


def shown_channel(modalities: Sequence[str]) -> int:
    """Index of the modality to show: FLAIR, else the first."""
    return modalities.index("flair") if "flair" in modalities else 0


def intensity_window(image: NDArray[np.floating]) -> tuple[float, float]:
    """The 0.5 % and 99.5 % quantiles of every other voxel of a brain (D, H, W) on background 0."""
    sample = image[::2, ::2, ::2]
    brain = sample[sample != 0].astype(np.float32)
    if not brain.size:
        return 0.0, 1.0
    low, high = np.quantile(brain, (0.005, 0.995))
    return float(low), float(high)


def to_grey(plane: NDArray[np.floating], window: tuple[float, float]) -> NDArray[np.uint8]:
    """A plane (H, W) with the window's intensities as `DARKEST` to 255 and background as 0."""
    low, high = window
    span = 255 - DARKEST
    scaled = DARKEST + span * (plane.astype(np.float32) - low) / max(high - low, 1e-6)
    return np.where(plane != 0, np.clip(scaled, DARKEST, 255), 0).astype(np.uint8)


def plane_with_most(axis: int, *masks: NDArray[np.bool_]) -> int:
    """The plane across an axis with the most voxels of the first mask (D, H, W) that is not empty.

    The axis is 0 for axial planes, 1 for coronal, 2 for sagittal ones. If all masks are empty, it
    is the middle plane.
    """
    others = tuple(other for other in range(3) if other != axis)
    for mask in masks:
        if mask.any():
            return int(np.argmax(mask.sum(axis=others)))
    return int(masks[0].shape[axis]) // 2


def paint(
    grey: NDArray[np.uint8],
    masks: Sequence[NDArray[np.bool_]] | NDArray[np.bool_],
    colours: Sequence[str],
    opacity: float,
    *,
    outlined: bool = False,
) -> NDArray[np.uint8]:
    """A plane (H, W) with masks (H, W) in colours (#rrggbb), the later on top, as (H, W, 3).

    With `outlined`, the outermost pixels of each mask are opaque.
    """
    base = np.repeat(grey[..., None], 3, axis=2).astype(np.float32)
    picture = base.copy()
    for mask, colour in zip(masks, colours, strict=True):
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], np.float32)
        picture[mask] = (1 - opacity) * base[mask] + opacity * rgb
        if outlined:
            picture[mask & ~_eroded(mask)] = rgb
    return picture.astype(np.uint8)


def _eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask without its pixels that have a neighbour outside it; the picture's border has none."""
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    return inner
