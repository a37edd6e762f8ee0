"""A small picture of a case: axial, coronal and sagittal FLAIR with the tumour's regions on it."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion

from common.task import REGION_COLOURS, REGIONS, to_regions
from common.volume import T, bounding_box

TILE = 144
"""Pixels a side of one plane; the picture is three of them wide."""
QUALITY = 68
TINT = 0.34
"""Opacity of a region; its outline is opaque."""

COLOURS = {
    region: np.array([int(REGION_COLOURS[region][i : i + 2], 16) for i in (1, 3, 5)], np.float32)
    for region in REGIONS
}


def thumbnail(flair: NDArray[np.floating], label: NDArray[np.uint8] | None) -> bytes:
    """Three planes side by side as WebP, 3·TILE × TILE pixels.

    Each plane is the one with the most tumour, else the middle of the brain. The patient's right
    is on the left of the axial and the coronal plane, the nose on the left of the sagittal one.

    Args:
        flair: (D, H, W) normalised, background 0.
        label: (D, H, W) canonical labels, or None.
    """
    limits = _limits(flair)
    scale = TILE / max(flair.shape)
    picture = np.zeros((TILE, 3 * TILE, 3), np.uint8)
    for axis, index in enumerate(_planes(flair, label)):
        tile = _draw(
            _grey(_plane(flair, axis, index), limits),
            None if label is None else _plane(label, axis, index),
            scale,
        )
        top, left = (TILE - tile.shape[0]) // 2, (TILE - tile.shape[1]) // 2 + axis * TILE
        picture[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, "WEBP", quality=QUALITY, method=4)
    return encoded.getvalue()


def _limits(flair: NDArray[np.floating]) -> tuple[float, float]:
    """The 0.5 % and 99.5 % quantiles of the brain, of every other voxel along each axis."""
    sample = flair[::2, ::2, ::2]
    brain = sample[sample != 0].astype(np.float32)
    if not brain.size:
        return 0.0, 1.0
    low, high = np.quantile(brain, (0.005, 0.995))
    return float(low), float(high)


def _grey(plane: NDArray[np.floating], limits: tuple[float, float]) -> NDArray[np.uint8]:
    """Intensities between the limits to 20–255; background is 0, so that no brain is as black."""
    low, high = limits
    scaled = 20 + 235 * (plane.astype(np.float32) - low) / max(high - low, 1e-6)
    return np.where(plane != 0, np.clip(scaled, 20, 255), 0).astype(np.uint8)


def _planes(flair: NDArray[np.floating], label: NDArray[np.uint8] | None) -> list[int]:
    if label is not None and label.any():
        tumour = label > 0
        return [int(tumour.sum(axis=others).argmax()) for others in ((1, 2), (0, 2), (0, 1))]
    box = bounding_box(flair)
    if box is None:
        return [size // 2 for size in flair.shape]
    return [start + size // 2 for start, size in zip(box.start, box.shape, strict=True)]


def _plane(volume: NDArray[T], axis: int, index: int) -> NDArray[T]:
    """A plane, head up: z grows upwards in the coronal and the sagittal one."""
    plane: NDArray[T] = np.moveaxis(volume, axis, 0)[index]
    return plane if axis == 0 else plane[::-1]


def _draw(
    grey: NDArray[np.uint8], label: NDArray[np.uint8] | None, scale: float
) -> NDArray[np.uint8]:
    """One plane (H, W) at its size in the picture, (h, w, 3)."""
    height, width = (max(1, round(side * scale)) for side in grey.shape)
    resized = Image.fromarray(grey).resize((width, height), Image.Resampling.LANCZOS)
    tile = np.repeat(np.asarray(resized, np.float32)[..., None], 3, axis=2)
    if label is not None:
        for region, mask in zip(REGIONS, to_regions(label), strict=True):
            shown = _resized_mask(mask, (width, height))
            edge = shown & ~binary_erosion(shown, border_value=1)
            # Regions are nested, so each covers what the one around it has painted.
            tile[shown] = (1 - TINT) * np.asarray(resized)[shown][:, None] + TINT * COLOURS[region]
            tile[edge] = COLOURS[region]
    return np.clip(tile, 0, 255).astype(np.uint8)


def _resized_mask(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(grey.resize(size, Image.Resampling.BILINEAR)) > 127
