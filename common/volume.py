"""Boxes, windows and normalisation: pure functions on (C, D, H, W) and (D, H, W) arrays."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

Triple = tuple[int, int, int]
T = TypeVar("T", bound=np.generic)

SLAB = 8
"""Planes of a box of `foreground_slabs`: as float64, 1 MB in BraTS, which a processor caches."""


def triple(values: Iterable[int]) -> Triple:
    """Three numbers as a tuple (z, y, x)."""
    z, y, x = values
    return z, y, x


@dataclass(frozen=True)
class Box:
    """A window of a grid, which may reach beyond it: `start` may be negative."""

    start: Triple
    """First voxel (z, y, x)."""
    shape: Triple
    """(D, H, W)."""

    @property
    def stop(self) -> Triple:
        """One past the last voxel (z, y, x)."""
        return triple(s + n for s, n in zip(self.start, self.shape, strict=True))

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The box as an index of the grid, if it is inside."""
        z, y, x = map(slice, self.start, self.stop)
        return z, y, x

    def overlap(self, other: "Box") -> "Box":
        """The intersection of both; a shape with a 0 if there is none."""
        start = triple(map(max, self.start, other.start))
        stop = map(min, self.stop, other.stop)
        return Box(start, triple(max(0, b - a) for a, b in zip(start, stop, strict=True)))

    def relative_to(self, other: "Box") -> "Box":
        """The same window in coordinates of `other`."""
        start = triple(a - b for a, b in zip(self.start, other.start, strict=True))
        return Box(start, self.shape)


def bounding_box(*volumes: NDArray[np.generic]) -> Box | None:
    """The smallest box around all voxels that are not 0 in some volume (D, H, W), or None."""
    types = {volume.dtype for volume in volumes}
    are_integers = len(types) == 1 and next(iter(types)).kind in "biu"
    merged: NDArray[Any] = reduce(np.bitwise_or, volumes) if are_integers else foreground(volumes)
    outline = np.bitwise_or.reduce(merged, axis=0) != 0
    rows, columns = np.any(outline, axis=1), np.any(outline, axis=0)
    if not rows.any():
        return None
    y, y_stop = _extent(rows)
    x, x_stop = _extent(columns)
    planes = range(len(merged))
    z = next(plane for plane in planes if np.count_nonzero(merged[plane]))
    z_last = next(plane for plane in reversed(planes) if np.count_nonzero(merged[plane]))
    return Box((z, y, x), (z_last + 1 - z, y_stop - y, x_stop - x))


def _extent(line: NDArray[np.bool_]) -> tuple[int, int]:
    where = np.flatnonzero(line)
    return int(where[0]), int(where[-1]) + 1


def enclosing_box(boxes: Iterable[Box]) -> Box:
    """The smallest box around these; there is at least one."""
    starts, stops = zip(*((box.start, box.stop) for box in boxes), strict=True)
    start = np.min(starts, axis=0)
    return Box(triple(start.tolist()), triple((np.max(stops, axis=0) - start).tolist()))


@overload
def foreground(images: Iterable[NDArray[np.generic]]) -> NDArray[np.bool_]: ...
@overload
def foreground(images: Iterable[Any]) -> Any: ...  # noqa: ANN401 - of tensors it is a tensor
def foreground(images: Iterable[Any]) -> Any:
    """Where any of the images, arrays or tensors, is not 0."""
    first, *others = images
    brain = first != 0
    for voxels in others:
        brain |= voxels != 0
    return brain


def foreground_slabs(images: Iterable[NDArray[np.generic]]) -> list[Box]:
    """Boxes of `SLAB` planes each around the foreground of images (D, H, W), in order.

    In BraTS they have a third fewer voxels than one box around all of it.
    """
    volumes = list(images)
    slabs = []
    for first in range(0, len(volumes[0]), SLAB):
        box = bounding_box(*(volume[first : first + SLAB] for volume in volumes))
        if box is not None:
            z, y, x = box.start
            slabs.append(Box((first + z, y, x), box.shape))
    return slabs


def brain_box(brain: Box, margin: int, least: Triple, grid: Triple) -> Box:
    """The brain with a margin, of at least `least` voxels, inside the grid if that fits."""
    starts, sizes = [], []
    for axis in range(3):
        start = max(0, brain.start[axis] - margin)
        stop = min(grid[axis], brain.stop[axis] + margin)
        size = max(stop - start, least[axis])
        starts.append(_inside((start + stop - size) // 2, size, grid[axis]))
        sizes.append(size)
    return Box(triple(starts), triple(sizes))


def crop_window(brain: Box, tumour: Box | None, size: Triple, grid: Triple) -> Box:
    """The window that training streams.

    It is centred on the brain, then moved as little as needed to contain the whole tumour; a larger
    tumour is centred in it. It stays inside the grid if that fits.
    """
    starts = []
    for axis in range(3):
        start = (brain.start[axis] + brain.stop[axis] - size[axis]) // 2
        if tumour is not None:
            first, last = tumour.stop[axis] - size[axis], tumour.start[axis]
            start = min(max(start, first), last) if first <= last else (first + last) // 2
        starts.append(_inside(start, size[axis], grid[axis]))
    return Box(triple(starts), size)


def _inside(start: int, size: int, limit: int) -> int:
    """Start of a window moved into [0, limit); centred on that if it is larger."""
    if size > limit:
        return -((size - limit) // 2)
    return min(max(start, 0), limit - size)


def extract(array: NDArray[T], box: Box) -> NDArray[T]:
    """The window `box` of the last three axes, 0 beyond the array; a view if it is inside."""
    inside = box.overlap(Box((0, 0, 0), triple(array.shape[-3:])))
    within: NDArray[T] = array[..., *inside.slices]
    if inside == box:
        return within
    out = np.zeros((*array.shape[:-3], *box.shape), array.dtype)
    out[..., *inside.relative_to(box).slices] = within
    return out


def place_back(patch: NDArray[T], box: Box, grid: Triple, outside: float = 0) -> NDArray[T]:
    """Inverse of `extract`: the patch in a grid of one value, cut off at the grid's edges."""
    inside = box.overlap(Box((0, 0, 0), grid))
    out = np.full((*patch.shape[:-3], *grid), outside, patch.dtype)
    out[..., *inside.slices] = patch[..., *inside.relative_to(box).slices]
    return out


def foreground_statistics(parts: Sequence[NDArray[np.generic]]) -> tuple[float, float]:
    """Mean and standard deviation of a volume's non-zero voxels, in float64; NaN if there are none.

    Integers of up to 16 bits need one pass and no mask: zeros add nothing to their sums, which are
    exact in float64 for parts (D, H, W) of up to two million voxels.
    """
    if all(_is_narrow(part) for part in parts):
        count, total, squares = 0, 0, 0
        ones = np.ones(max(part.size for part in parts))  # a product takes half the time of a sum
        for part in parts:
            values = part.ravel()
            count += int(np.count_nonzero(values))
            wide = values.astype(np.float64)
            total, squares = total + int(wide @ ones[: wide.size]), squares + int(wide @ wide)
        if count == 0:
            return float("nan"), float("nan")
        return total / count, max(count * squares - total * total, 0) ** 0.5 / count
    values = np.concatenate([part[part != 0] for part in parts]).astype(np.float64)
    if values.size == 0:
        return float("nan"), float("nan")
    return float(values.mean()), float(values.std())


def normalise(
    parts: Sequence[NDArray[np.generic]],
    mean: float,
    std: float,
    scores: Sequence[NDArray[np.floating]],
) -> None:
    """Write z-scores of the non-zero voxels of each part to its `scores`, 0 elsewhere.

    Source: paper, sec. III.
    """
    if not all(_is_narrow(part) and part.itemsize == 2 for part in parts):
        for part, out in zip(parts, scores, strict=True):
            out[...] = z_scores(part, mean, std, part != 0)
        return
    # A table of all 65,536 values takes a fifth of the time of scaling every voxel, nearly all of
    # which is NumPy's conversion to float16.
    every = np.arange(1 << 16, dtype=np.uint16)
    table = z_scores(every.view(parts[0].dtype), mean, std, every != 0)
    with np.errstate(over="ignore"):  # of values that the volume does not have
        scaled = table.astype(scores[0].dtype)
    for part, out in zip(parts, scores, strict=True):
        out[...] = scaled.take(part.view(np.uint16), mode="clip")


def z_scores(
    values: NDArray[np.generic], mean: float, std: float, foreground: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Z-scores of the foreground, 0 elsewhere; all arrays are of one shape."""
    scaled = values.astype(np.float32)
    scaled -= np.float32(mean)
    scaled *= np.float32(1.0 / std)
    np.copyto(scaled, 0, where=~foreground)  # a product would give -0 for some
    return scaled


def _is_narrow(values: NDArray[np.generic]) -> bool:
    return bool(np.issubdtype(values.dtype, np.integer)) and values.itemsize <= 2
