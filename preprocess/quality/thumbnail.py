"""A small picture of a case: an axial, a coronal and a sagittal plane with the regions on them."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.images import intensity_window, paint, plane_with_most, shown_channel, to_grey
from common.task import Task
from common.volume import T

TILE = 144
"""Pixels a side of one plane; the picture is three of them wide."""
QUALITY = 68
OPACITY = 0.34
"""Of a region; its outline is opaque."""


def thumbnail(image: NDArray[np.floating], label: NDArray[np.uint8] | None, task: Task) -> bytes:
    """Three planes side by side as WebP, 3·TILE × TILE pixels.

    Each plane is the one with the most tumour, else the most brain. The patient's right is on the
    left of the axial and the coronal plane, the nose on the left of the sagittal one.

    Args:
        image: (modalities, D, H, W) normalised, background 0.
        label: (D, H, W) canonical labels, or None.
        task: names the modalities and the regions.
    """
    shown = image[shown_channel(task.modalities)]
    window, brain = intensity_window(shown), shown != 0
    masks = (brain,) if label is None else (label > 0, brain)
    scale = TILE / max(shown.shape)
    picture = np.zeros((TILE, 3 * TILE, 3), np.uint8)
    for axis in range(3):
        index = plane_with_most(axis, *masks)
        grey = _resized(to_grey(_plane(shown, axis, index), window), scale)
        label_plane = None if label is None else _plane(label, axis, index)
        tile = _with_regions(grey, label_plane, scale, task)
        top, left = (TILE - tile.shape[0]) // 2, (TILE - tile.shape[1]) // 2 + axis * TILE
        picture[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, "WEBP", quality=QUALITY, method=4)
    return encoded.getvalue()


def _with_regions(
    grey: NDArray[np.uint8], label: NDArray[np.uint8] | None, scale: float, task: Task
) -> NDArray[np.uint8]:
    if label is None:
        return paint(grey, (), (), OPACITY)
    masks = [_resized_mask(mask, scale) for mask in task.to_regions(label)]
    return paint(grey, masks, list(task.region_colours.values()), OPACITY, outlined=True)


def _plane(volume: NDArray[T], axis: int, index: int) -> NDArray[T]:
    """A plane, head up: z grows upwards in the coronal and the sagittal one."""
    plane: NDArray[T] = np.moveaxis(volume, axis, 0)[index]
    return plane if axis == 0 else plane[::-1]


def _resized(
    plane: NDArray[np.uint8], scale: float, how: Image.Resampling = Image.Resampling.LANCZOS
) -> NDArray[np.uint8]:
    height, width = (max(1, round(side * scale)) for side in plane.shape)
    return np.asarray(Image.fromarray(plane).resize((width, height), how))


def _resized_mask(mask: NDArray[np.bool_], scale: float) -> NDArray[np.bool_]:
    return _resized(mask.astype(np.uint8) * 255, scale, Image.Resampling.BILINEAR) > 127
