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
    left of the axial and the coronal plane, the nose on the left of the sagittal one. The image is
    (modalities, D, H, W) with background 0, the label (D, H, W).
    """
    shown = image[shown_channel(task.modalities)]
    window, brain = intensity_window(shown), shown != 0
    masks = (brain,) if label is None else (label > 0, brain)
    scale, colours = TILE / max(shown.shape), list(task.region_colours.values())
    picture = np.zeros((TILE, 3 * TILE, 3), np.uint8)
    for axis in range(3):
        index = plane_with_most(axis, *masks)
        grey = _resized(to_grey(_plane(shown, axis, index), window), scale)
        regions = () if label is None else task.to_regions(_plane(label, axis, index))
        resized = [_resized_mask(region, scale) for region in regions]
        tile = paint(grey, resized, colours[: len(resized)], OPACITY, outlined=True)
        top, left = (TILE - tile.shape[0]) // 2, (TILE - tile.shape[1]) // 2 + axis * TILE
        picture[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, "WEBP", quality=QUALITY, method=4)
    return encoded.getvalue()


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
