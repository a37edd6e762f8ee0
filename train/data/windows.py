"""Where random windows are cut from whole volumes."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from common.volume import Box, Triple, crop_window


def draw_window(volume: Triple, crop: Triple, random: Generator) -> Box:
    """Draw where a crop (D, H, W) is cut from a larger volume; every place is equally likely."""
    z, y, x = (
        int(random.integers(0, whole - side, endpoint=True))
        for whole, side in zip(volume, crop, strict=True)
    )
    return Box((z, y, x), crop)


def draw_on_tumour(
    label: NDArray[np.uint8], regions: Mapping[str, Sequence[int]], crop: Triple, random: Generator
) -> Box | None:
    """Draw a crop around a voxel of the tumour; None if the case has none.

    Each region that the case has is equally likely, however small, and then each of its voxels.
    The voxel is in the crop's middle, or as near to it as the volume allows.
    """
    # One pass over the volume: what follows looks at tumour voxels alone.
    places = np.flatnonzero(label)
    values = label.ravel()[places]
    present = set(np.flatnonzero(np.bincount(values)).tolist())
    found = [members for members in regions.values() if present.intersection(members)]
    if not found:
        return None
    members = found[random.integers(len(found))]
    inside = places[np.isin(values, members)]
    voxel = np.unravel_index(inside[random.integers(len(inside))], label.shape)
    z, y, x = map(int, voxel)
    depth, height, width = label.shape
    middle = Box((z, y, x), (1, 1, 1))
    return crop_window(middle, None, crop, (depth, height, width))
