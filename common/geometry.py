"""From a file's grid to the stored one (LPS, one spacing along all axes) and back.

Two steps: axes are permuted and flipped to the nearest LPS orientation, then, if the file's spacing
is another, voxels are resampled.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from math import prod
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import PlainSerializer

from common.volume import T, Triple, triple

Vector = tuple[float, float, float]

Number = Annotated[
    float, PlainSerializer(lambda x: x if np.isfinite(x) else str(x), when_used="json")
]
"""A float that JSON can keep: it has no NaN and no infinity, which broken headers have."""

HeaderFields = Mapping[str, int | Number | tuple[Number, ...]]
"""Fields of a NIfTI-1 header by the standard's names, with the file's own float32 values."""

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

TOLERANCE_MM = 1e-2
"""Two grids that differ by less are the same: NIfTI keeps its geometry in float32."""


@dataclass(frozen=True)
class Geometry:
    """Where a volume's voxels are."""

    shape: Triple
    """(D, H, W)."""
    spacing_mm: Vector
    """(z, y, x), along the array's own axes."""
    origin_mm: Vector
    """Physical (x, y, z) of voxel (0, 0, 0), LPS."""
    direction: tuple[float, ...] = IDENTITY
    """Nine cosines, row-major, columns for the file's (i, j, k) axes, LPS."""
    header: HeaderFields = field(default_factory=dict, compare=False)
    """How the file tells all this, so that masks can tell it in the same words; empty if no file
    does. Sform and qform may differ, and tools read one or the other."""

    @property
    def voxel_mm3(self) -> float:
        """The volume of a voxel."""
        return prod(self.spacing_mm)

    def matches(self, other: "Geometry") -> bool:
        """Whether both describe one grid, to NIfTI's own precision."""
        return self == other or (  # nearly always equal, and NumPy is a hundred times slower
            self.shape == other.shape
            and np.allclose(self.spacing_mm, other.spacing_mm, atol=1e-3)
            and np.allclose(self.origin_mm, other.origin_mm, atol=TOLERANCE_MM)
            and np.allclose(self.direction, other.direction, atol=1e-3)
        )

    def __str__(self) -> str:
        return (
            f"{self.shape} voxels of {format_vector(self.spacing_mm)} mm "
            f"from {format_vector(self.origin_mm)}, direction {format_vector(self.direction)}"
        )

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4): voxel (i, j, k) to (x, y, z) in mm, RAS as in NIfTI."""
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(self.direction, (3, 3)) * self.spacing_mm[::-1]
        affine[:3, 3] = self.origin_mm
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def format_vector(values: tuple[float, ...]) -> str:
    """Numbers as `(1, 0.5, 0)`."""
    return f"({', '.join(f'{value + 0.0:.6g}' for value in values)})"


SPACING_TOLERANCE_MM = 1e-3

NEARLY_VOXELS = 0.1
"""Grids whose origins are nearer than this, and that differ in nothing else, are taken for one."""


@dataclass(frozen=True)
class Orientation:
    """How the axes of a file's array lie in the body."""

    axes: Triple
    """For each axis of LPS (z, y, x), the axis of the file's array."""
    flips: tuple[bool, bool, bool]
    """For each axis of LPS, whether the file's runs in the opposite direction."""

    @classmethod
    def of(cls, geometry: Geometry) -> "Orientation":
        """A file's; an oblique grid takes its nearest axes."""
        # Rows are LPS axes (x, y, z), columns the file's (i, j, k); both reversed, as in arrays.
        cosines = np.asarray(geometry.direction).reshape(3, 3)[::-1, ::-1]
        axes = max(permutations(range(3)), key=lambda axes: np.abs(cosines[range(3), axes]).sum())
        flip_z, flip_y, flip_x = (bool(cosines[row, axis] < 0) for row, axis in enumerate(axes))
        return cls(triple(axes), (flip_z, flip_y, flip_x))

    def orient(self, voxels: NDArray[T]) -> NDArray[T]:
        """The file's array (D, H, W) with its axes in LPS order: a view."""
        return np.flip(voxels.transpose(self.axes), self._flipped)

    def unorient(self, voxels: NDArray[T]) -> NDArray[T]:
        """Inverse of `orient`: a view."""
        return np.flip(voxels, self._flipped).transpose(np.argsort(self.axes))

    def oriented(self, geometry: Geometry) -> Geometry:
        """Geometry of the voxels that `orient` returns, for the geometry that `of` took."""
        # A geometry's columns are in the order (i, j, k), array axes in the order (z, y, x).
        columns = [2 - axis for axis in reversed(self.axes)]
        signs = np.where(self.flips[::-1], -1.0, 1.0)
        direction = np.reshape(geometry.direction, (3, 3))[:, columns]
        z_mm, y_mm, x_mm = (geometry.spacing_mm[axis] for axis in self.axes)
        shape = triple(geometry.shape[axis] for axis in self.axes)
        last = (np.asarray(shape[::-1]) - 1) * (x_mm, y_mm, z_mm) * (signs < 0)
        x, y, z = np.asarray(geometry.origin_mm) + direction @ last
        turned = tuple(float(cosine) for cosine in (direction * signs).ravel())
        return Geometry(shape, (z_mm, y_mm, x_mm), (float(x), float(y), float(z)), turned)

    @property
    def _flipped(self) -> tuple[int, ...]:
        return tuple(axis for axis, flip in enumerate(self.flips) if flip)


@dataclass(frozen=True)
class ToLPS:
    """How a file's grid becomes the stored one."""

    orientation: Orientation
    oriented_shape: Triple
    """(D, H, W) after orienting, before resampling."""
    oriented_spacing_mm: Vector
    """(z, y, x) after orienting."""
    spacing_mm: float
    """Of the result, along every axis."""
    shape: Triple
    """(D, H, W) of the result."""

    @classmethod
    def of(cls, geometry: Geometry, spacing_mm: float) -> "ToLPS":
        """From a file's geometry to a grid of this spacing."""
        orientation = Orientation.of(geometry)
        file = orientation.oriented(geometry)
        resampled = triple(
            size if _is_near(mm, spacing_mm) else max(1, round(size * mm / spacing_mm))
            for size, mm in zip(file.shape, file.spacing_mm, strict=True)
        )
        return cls(orientation, file.shape, file.spacing_mm, spacing_mm, resampled)

    @property
    def resamples(self) -> bool:
        """Whether the file's spacing is another than the result's."""
        return not all(_is_near(mm, self.spacing_mm) for mm in self.oriented_spacing_mm)

    def orient(self, voxels: NDArray[T]) -> NDArray[T]:
        """The file's array (D, H, W) with its axes in LPS order: a view."""
        return self.orientation.orient(voxels)

    def unorient(self, voxels: NDArray[T]) -> NDArray[T]:
        """Inverse of `orient`: a view."""
        return self.orientation.unorient(voxels)

    def resample(self, voxels: NDArray[np.generic]) -> NDArray[np.float32]:
        """Oriented intensities on the result's grid; the outer edges of both grids coincide.

        Linear along axes on which the result is finer, else the mean over each voxel of the result:
        reading single points of it would miss what lies between them.
        """
        return _sampled(voxels, dict(self._steps()), self.shape)

    def resample_labels(self, label: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Oriented labels on the result's grid: of each of its voxels, the one that fills most.

        That is the nearest voxel's where the result is finer. Of labels that fill the same, it is
        the largest, so that a lesion that fills half a voxel is not lost.
        """
        steps = dict(self._steps())
        fine = {axis: step for axis, step in steps.items() if step < 1}
        label = _nearest(label, [fine.get(a, 1) for a in range(3)], self.shape)
        if len(fine) == len(steps):
            return label
        coarse = [(axis, step) for axis, step in steps.items() if step > 1]
        best, background = np.zeros(self.shape, np.float32), np.ones(self.shape, np.float32)
        result = np.zeros(self.shape, np.uint8)
        for value in np.unique(label[label > 0]):
            filled = (label == value).astype(np.float32)
            for axis, step in coarse:
                weights = _shares(filled.shape[axis], self.shape[axis], step)
                filled = _weighted(filled, axis, weights)
            background -= filled
            result[filled >= best] = value
            np.maximum(best, filled, out=best)
        result[best < background] = 0
        return result

    def unresample(self, voxels: NDArray[np.generic]) -> NDArray[np.float32]:
        """Numbers such as logits of the result's grid on the oriented one, as `resample`."""
        steps = {axis: 1 / step for axis, step in self._steps()}
        return _sampled(voxels, steps, self.oriented_shape)

    def _steps(self) -> Iterator[tuple[int, float]]:
        """Axes along which the spacing changes, and the result's in voxels of the file."""
        for axis, mm in enumerate(self.oriented_spacing_mm):
            if not _is_near(mm, self.spacing_mm):
                yield axis, self.spacing_mm / mm


def _is_near(mm: float, spacing_mm: float) -> bool:
    return abs(mm - spacing_mm) < SPACING_TOLERANCE_MM


def offset_voxels(geometry: Geometry, onto: Geometry) -> float | None:
    """How many voxels two grids are apart along an axis, at most; None if they differ otherwise.

    The order and directions of their axes may differ.
    """
    own, other = (Orientation.of(one).oriented(one) for one in (geometry, onto))
    if not replace(own, origin_mm=other.origin_mm).matches(other):
        return None
    apart_mm = np.subtract(own.origin_mm, other.origin_mm) @ np.reshape(other.direction, (3, 3))
    return float(np.abs(apart_mm / other.spacing_mm[::-1]).max())


def reorient(voxels: NDArray[T], geometry: Geometry, onto: Geometry) -> NDArray[T]:
    """Voxels (D, H, W) of one grid with their axes in the order and directions of another's."""
    return Orientation.of(onto).unorient(Orientation.of(geometry).orient(voxels))


def degrees_off_axis(geometry: Geometry) -> float:
    """The largest angle between an axis of the grid and the nearest of the body's."""
    direction = np.reshape(Orientation.of(geometry).oriented(geometry).direction, (3, 3))
    return float(np.degrees(np.arccos(np.clip(direction.diagonal(), -1, 1))).max())


Weights = NDArray[np.float64]
"""(count, size): by how much each of `size` voxels along an axis counts in each of `count`."""


def _linear(size: int, count: int, step: float) -> Weights:
    """Linear interpolation at the centres of voxels of `step`; edges are repeated beyond them."""
    centres = np.clip((np.arange(count) + 0.5) * step - 0.5, 0, size - 1)
    weights: Weights = np.clip(1 - np.abs(centres[:, None] - np.arange(size)), 0, None)
    return weights


def _shares(size: int, count: int, step: float) -> Weights:
    """Means over voxels of `step`, as far as there is something."""
    first, voxels = np.arange(count)[:, None] * step, np.arange(size)
    overlap = np.minimum(first + step, voxels + 1) - np.maximum(first, voxels)
    shares: Weights = np.clip(overlap, 0, None)
    shares /= shares.sum(axis=1, keepdims=True)
    return shares


def _sampled(
    voxels: NDArray[np.generic], steps: Mapping[int, float], shape: Triple
) -> NDArray[np.float32]:
    """Voxels read on another grid: for some axes, the voxel's side there in voxels of this one."""
    sampled = voxels.astype(np.float32)
    for axis, step in steps.items():
        weights = _shares if step > 1 else _linear
        sampled = _weighted(sampled, axis, weights(sampled.shape[axis], shape[axis], step))
    return sampled


def _weighted(voxels: NDArray[np.float32], axis: int, weights: Weights) -> NDArray[np.float32]:
    # Few cohorts need it. Its sums are in one order on every machine, which BLAS's are not.
    from scipy.sparse import csr_array

    lines = np.moveaxis(voxels, axis, 0)
    sums = csr_array(weights.astype(np.float32)) @ lines.reshape(len(lines), -1)
    return np.moveaxis(sums.reshape(len(weights), *lines.shape[1:]), 0, axis)


def _nearest(voxels: NDArray[T], steps: Sequence[float], shape: Triple) -> NDArray[T]:
    """The voxel in which the centre of each voxel of `steps` lies."""
    lines = [
        np.minimum(np.floor((np.arange(count) + 0.5) * step).astype(np.intp), size - 1)
        if step != 1
        else np.arange(size)
        for size, count, step in zip(voxels.shape, shape, steps, strict=True)
    ]
    read: NDArray[T] = voxels[np.ix_(*lines)]
    return read
