"""Checks of a case's images: finite and varied intensities, a background, one image each."""

import itertools
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import Finding, warning

Array = NDArray[np.generic]

SURELY_BACKGROUND = 0.2
"""With this share of zeros in a sample of rows, the whole image has `LEAST_BACKGROUND` too."""

LEAST_BACKGROUND = 0.05
"""Share of zeros that any image of a brain alone has; the tightest box around one has a third."""

LARGEST, SMALLEST = 1e30, 1e-30
"""Intensities beyond these cannot be scaled in float32."""

SAMPLE = 20_000
"""Voxels of a sample, by which most images are checked without a look at all voxels."""


def check_intensities(path: Path, voxels: Array) -> list[Finding]:
    """An image without finite, varied, scalable intensities."""
    if not np.issubdtype(voxels.dtype, np.integer):
        low, high = float(voxels.min()), float(voxels.max())
        if not np.isfinite((low, high)).all():
            count = voxels.size - np.count_nonzero(np.isfinite(voxels))
            found = f"{count} voxels that are NaN or infinite"
            return [Finding(str(path), found, "finite intensities", "export it again")]
        top = max(-low, high)
        if top and not SMALLEST < top < LARGEST:
            expected = f"intensities of {SMALLEST:g} to {LARGEST:g}"
            return [Finding(str(path), f"intensities up to {top:g}", expected, "export it again")]
    constant = _only_value(voxels)
    if constant is None:
        return []
    found = f"the same value, {constant:g}, in all of the brain" if constant else "only zeros"
    return [Finding(str(path), found, "an image", "export it again")]


def _only_value(voxels: Array) -> float | None:
    """The one value that all non-zero voxels have, 0 if there are none; None if they differ."""
    for some in (_sample(voxels), voxels):  # a sample is nearly always enough
        values = some[some != 0]
        if values.size and (values != values[0]).any():
            return None
    return float(values[0]) if values.size else 0.0


def _sample(voxels: Array) -> Array:
    """All of a small image; else some rows, the same for all images of one shape."""
    depth, height, width = voxels.shape
    count = max(1, SAMPLE // width)
    return voxels if depth * height <= count else voxels[_rows(depth, height, count)]


def _background(voxels: Array) -> float:
    return 1 - int(np.count_nonzero(voxels)) / voxels.size


@lru_cache(maxsize=8)
def _rows(depth: int, height: int, count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Planes and rows at random, since the image may repeat at any fixed step."""
    generator = np.random.default_rng(0)
    return generator.integers(depth, size=count), generator.integers(height, size=count)


def image_warnings(paths: Mapping[str, Path], images: Mapping[str, Array]) -> list[Finding]:
    """Images without a background, and modalities with the same image."""
    warnings, samples = [], {name: _sample(voxels) for name, voxels in images.items()}
    for name, some in samples.items():
        share = _background(some)
        if share < SURELY_BACKGROUND:
            share = _background(images[name])
        if share < LEAST_BACKGROUND:
            found = f"hardly any background: {share:.1%} of its voxels are 0"
            action = "strip the skull and set what is outside to 0, unless this is meant"
            warnings.append(warning(paths[name], found, "a brain in a background of 0", action))
    for one, other in itertools.combinations(images, 2):
        alike = np.array_equal(samples[one], samples[other])
        if alike and np.array_equal(images[one], images[other]):
            found, expected = f"the same voxels for {other} as for {one}", "different images"
            warnings.append(warning(paths[other], found, expected, "replace the wrong one"))
    return warnings
