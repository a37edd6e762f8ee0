"""Checks of a case's images: finite and varied intensities, a background of 0, one image each."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.errors import Finding, InputError, warning
from common.volume import T, bounding_box, extract

Array = NDArray[Any]

BackgroundRule = Literal["zero", "auto"]
"""What is not brain: voxels of 0; or also those of the value that plainly surrounds it."""

SURELY_BACKGROUND = 0.6
"""With this share of zeros in a sample of rows, an image has a background."""

LEAST_BACKGROUND = 0.05
"""Share of zeros that any image of a brain alone has; the tightest box around one has a third."""

LEAST_ON_FACES = 0.5
"""Share of zeros on the faces of an image of a brain, also of one cut by the field of view."""

FAINT = 1e-3
"""Values that differ by less of the 99th percentile are of one background, as after splines."""

ONE_VALUE = 0.1
"""Most of what is not 0 that one value may have: brains had 0.027 at most, in 44 images."""

EXACT = 0.9
"""With this share of one value among those near to it, the background is that value alone."""

ON_FACES = 0.25
"""Least share of a background on the faces of the box around all that is not 0."""

SURELY_BRAIN_L, MOST_BRAIN_L = 1.8, 2.2
"""Brains take 1.1 to 1.8 l, heads 2.6 or more; below the first a sample is enough."""

CLIPPED = 0.003
"""Share of what is not 0 that the largest value may have; unclipped images had 0.00001."""

NEXT_VALUE = 5
"""The largest value of a clipped image has so many times the voxels of the one below."""

LARGEST, SMALLEST = 1e30, 1e-30
"""Intensities beyond these cannot be scaled in float32."""

SAMPLE = 20_000
"""Voxels of a sample, by which most images are checked without a look at all voxels."""


class Background(NamedTuple):
    """What plainly surrounds the brain in an image, where that is not all 0."""

    value: float
    width: float
    """Voxels this near to `value` are background; 0 if it is exact."""

    def covers(self, voxels: Array) -> NDArray[np.bool_]:
        """Where an image has it."""
        off = np.abs(np.subtract(voxels, self.value))
        covered: NDArray[np.bool_] = off <= self.width
        return covered

    def warning(self, path: Path, voxels: Array, rule: BackgroundRule) -> Finding:
        """What `check` says of an image that has it."""
        zeros = voxels == 0
        own = np.count_nonzero(self.covers(voxels) & ~zeros) / voxels.size
        faint = f"faint values (under {FAINT:.1%} of the rest)"
        what = f"{self.value:.6g}" if self.value else faint
        found = (
            f"a background that is not 0: {what} in {own:.0%} of the voxels, "
            f"0 in {np.count_nonzero(zeros) / voxels.size:.0%}"
        )
        action = "nothing: it is taken for 0, by background: auto in the manifest"
        if rule == "zero":
            action = (
                "write background: auto into the manifest, which takes it for 0; else it is "
                "normalised as brain"
            )
        return warning(path, found, "a background of 0", action)


def check_image(
    path: Path, voxels: Array, voxel_mm3: float, rule: BackgroundRule
) -> tuple[Array, list[Finding]]:
    """The image with 0 for its background, and what is unusual about it.

    NaN outside the brain is taken for 0; another value of the background only by `auto`.

    Raises:
        InputError: the image has no finite, varied, scalable intensities.
    """
    voxels, findings = _finite(path, voxels)
    _check_varied(path, voxels)
    background = _odd_background(voxels)
    if background is not None:
        findings.append(background.warning(path, voxels, rule))
        if rule == "zero":  # all else would be measured on the background
            return voxels, findings
        voxels = np.where(background.covers(voxels), voxels.dtype.type(0), voxels)
        _check_varied(path, voxels)
    return voxels, findings + _extent_warnings(path, voxels, voxel_mm3) + _clipped(path, voxels)


def _finite(path: Path, voxels: Array) -> tuple[Array, list[Finding]]:
    """The image with 0 for NaN outside the brain, and a warning of it."""
    if np.issubdtype(voxels.dtype, np.integer):
        return voxels, []
    findings, (low, high) = [], _extremes(voxels)
    if np.isnan(low) and (around := _nan_around(voxels)) is not None:
        share = np.count_nonzero(around) / voxels.size
        voxels = np.where(around, voxels.dtype.type(0), voxels)
        found = f"NaN in {share:.1%} of the voxels, outside the brain"
        findings.append(warning(path, found, "a background of 0", "nothing: they are taken for 0"))
        low, high = _extremes(voxels)
    if not np.isfinite((low, high)).all():
        count = voxels.size - np.count_nonzero(np.isfinite(voxels))
        found = f"{count} voxels that are NaN or infinite"
        raise _unusable(path, found, "finite intensities")
    top = max(-low, high)
    if top and not SMALLEST < top < LARGEST:
        found = f"intensities up to {top:g}"
        raise _unusable(path, found, f"intensities of {SMALLEST:g} to {LARGEST:g}")
    return voxels, findings


def _extremes(voxels: Array) -> tuple[float, float]:
    return float(voxels.min()), float(voxels.max())


def _nan_around(voxels: Array) -> NDArray[np.bool_] | None:
    """The NaN voxels that zeros and NaN connect to the border of an image.

    None if they are too few for a background, and in no corner.
    """
    from scipy.ndimage import label  # few images need it

    missing = np.isnan(voxels)
    parts, count = label(missing | (voxels == 0))
    is_around = np.zeros(count + 1, np.bool_)
    is_around[_faces(parts)] = True
    around: NDArray[np.bool_] = missing & is_around[parts]
    corners = around[np.ix_(*[(0, -1)] * 3)]
    is_plain = corners.any() or np.count_nonzero(around) >= LEAST_BACKGROUND * around.size
    return around if is_plain else None


def _faces(voxels: NDArray[T]) -> NDArray[T]:
    """All voxels on the six faces of a volume; those on edges more than once."""
    return np.concatenate([voxels.take(end, axis).ravel() for axis in range(3) for end in (0, -1)])


def _unusable(path: Path, found: str, expected: str) -> InputError:
    return InputError(Finding(str(path), found, expected, "export it again"))


def _check_varied(path: Path, voxels: Array) -> None:
    for some in (_sample(voxels), voxels):  # a sample is nearly always enough
        values = some[some != 0]
        if values.size and (values != values[0]).any():
            return
    constant = f"the same value, {values[0]:g}, in all of the brain" if values.size else ""
    raise _unusable(path, constant or "only zeros", "an image")


def _odd_background(voxels: Array) -> Background | None:
    """The background, if many voxels that are not 0 have one value and surround the rest.

    It may lie beside zeros, as where an image was padded after it had been normalised.
    """
    some = _sample(voxels)
    values = some[some != 0].astype(np.float64)
    if not values.size:
        return None
    width = FAINT * float(np.percentile(np.abs(values), 99))
    bins = np.rint(values / width)
    each, counts = np.unique(bins, return_counts=True)
    most = int(counts.argmax())
    if counts[most] < ONE_VALUE * values.size:
        return None
    alike = values[bins == each[most]]
    value = 0.0 if each[most] == 0 else float(np.median(alike))
    background = Background(value, 0.0 if np.mean(alike == value) > EXACT else width)
    box = bounding_box(voxels)
    faces = _faces(voxels if box is None else extract(voxels, box))
    own = background.covers(faces)
    count, others = int(np.count_nonzero(own)), int(np.count_nonzero(~own & (faces != 0)))
    return background if count >= max(others, ON_FACES * faces.size) else None


def _extent_warnings(path: Path, voxels: Array, voxel_mm3: float) -> list[Finding]:
    """An image of more than a brain: a head, or one without a background."""
    litres = voxels.size * voxel_mm3 / 1e6
    share = _share_of_zeros(_sample(voxels))
    if share < SURELY_BACKGROUND or (1 - share) * litres > SURELY_BRAIN_L:
        share = _share_of_zeros(voxels)
    if share < LEAST_BACKGROUND:
        found = f"hardly any background: {share:.1%} of its voxels are 0"
    elif share < SURELY_BACKGROUND and (at := _share_of_zeros(_faces(voxels))) < LEAST_ON_FACES:
        found = f"hardly any background: {at:.1%} of the voxels on its faces are 0"
    elif (1 - share) * litres > MOST_BRAIN_L:
        found = f"a head with its skull? {(1 - share) * litres:.1f} l are not 0"
    else:
        return []
    action = "strip the skull and set what is outside to 0, unless this is meant"
    return [warning(path, found, "a brain, of 1.1 to 1.8 l, in a background of 0", action)]


def _clipped(path: Path, voxels: Array) -> list[Finding]:
    """An image whose brightest voxels all have one value."""
    for some in (_sample(voxels), voxels):
        top = some.max()
        share = np.count_nonzero(some == top) / max(1, int(np.count_nonzero(some)))
        if share < CLIPPED:
            return []
    count = np.count_nonzero(voxels == top)
    below = voxels[voxels < top]
    if count < NEXT_VALUE * np.count_nonzero(below == below.max()):
        return []
    found = f"clipped: {share:.1%} of what is not 0 has the largest value"
    return [warning(path, found, "intensities as they were measured", "export it without clipping")]


def _sample(voxels: Array) -> Array:
    """All of a small image; else some rows, the same for all images of one shape."""
    depth, height, width = voxels.shape
    count = max(1, SAMPLE // width)
    return voxels if depth * height <= count else voxels[_rows(depth, height, count)]


def _share_of_zeros(voxels: Array) -> float:
    return 1 - int(np.count_nonzero(voxels)) / voxels.size


@lru_cache(maxsize=8)
def _rows(depth: int, height: int, count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Planes and rows at random, since the image may repeat at any fixed step."""
    generator = np.random.default_rng(0)
    return generator.integers(depth, size=count), generator.integers(height, size=count)


def check_different(paths: Mapping[str, Path], images: Mapping[str, Array]) -> list[Finding]:
    """Warnings of modalities with the same image."""
    samples = {name: _sample(voxels) for name, voxels in images.items()}
    warnings, known = list[Finding](), set[str]()
    for one in images:
        others = [
            other
            for other in images
            if other not in known | {one}
            and np.array_equal(samples[one], samples[other])
            and np.array_equal(images[one], images[other])
        ]
        known |= {one, *others}
        if others:
            found = f"the same voxels for {' and '.join(others)} as for {one}"
            expected, action = "different images", "replace the wrong ones"
            warnings.append(warning(paths[others[0]], found, expected, action))
    return warnings
