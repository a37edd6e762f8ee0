"""From a file's grid to the stored one (LPS, 1 mm) and back.

Two steps, each with an inverse: axes are permuted and flipped to the nearest LPS orientation,
then, if the spacing is not 1 mm, voxels are resampled.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import permutations
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


@dataclass(frozen=True)
class ToLPS:
    """How a file's grid becomes the stored one."""

    axes: Triple
    """For each array axis (z, y, x) of the result, the axis of the file's array."""
    flips: tuple[bool, bool, bool]
    """For each axis of the result, whether its direction is opposite to the file's."""
    oriented_shape: Triple
    """(D, H, W) after orienting, before resampling."""
    spacing_mm: Vector
    """(z, y, x) after orienting."""
    shape: Triple
    """(D, H, W) of the result."""

    @classmethod
    def of(cls, geometry: Geometry) -> "ToLPS":
        """From a file's geometry; an oblique grid takes its nearest axes."""
        # Rows are LPS axes (x, y, z), columns the file's (i, j, k); both reversed, as in arrays.
        cosines = np.asarray(geometry.direction).reshape(3, 3)[::-1, ::-1]
        nearest = max(
            permutations(range(3)), key=lambda axes: np.abs(cosines[range(3), axes]).sum()
        )
        axes = triple(nearest)
        flip_z, flip_y, flip_x = (bool(cosines[row, axis] < 0) for row, axis in enumerate(axes))
        shape = triple(geometry.shape[axis] for axis in axes)
        z_mm, y_mm, x_mm = spacing_mm = [geometry.spacing_mm[axis] for axis in axes]
        resampled = triple(
            size if abs(mm - 1) < SPACING_TOLERANCE_MM else max(1, round(size * mm))
            for size, mm in zip(shape, spacing_mm, strict=True)
        )
        return cls(axes, (flip_z, flip_y, flip_x), shape, (z_mm, y_mm, x_mm), resampled)

    @property
    def resamples(self) -> bool:
        """Whether the spacing is other than 1 mm."""
        return any(abs(mm - 1) >= SPACING_TOLERANCE_MM for mm in self.spacing_mm)

    def oriented(self, geometry: Geometry) -> Geometry:
        """Geometry of the voxels that `orient` returns, for the geometry that `of` took."""
        # A geometry's columns are in the order (i, j, k), array axes in the order (z, y, x).
        columns = [2 - axis for axis in reversed(self.axes)]
        signs = np.where(self.flips[::-1], -1.0, 1.0)
        direction = np.reshape(geometry.direction, (3, 3))[:, columns]
        spacing_mm = np.asarray(self.spacing_mm[::-1])
        last = (np.asarray(self.oriented_shape[::-1]) - 1) * spacing_mm * (signs < 0)
        x, y, z = np.asarray(geometry.origin_mm) + direction @ last
        turned = tuple(float(cosine) for cosine in (direction * signs).ravel())
        return Geometry(
            self.oriented_shape, self.spacing_mm, (float(x), float(y), float(z)), turned
        )

    def orient(self, voxels: NDArray[T]) -> NDArray[T]:
        """The file's array (D, H, W) with its axes in LPS order: a view."""
        return np.flip(voxels.transpose(self.axes), self._flipped)

    def unorient(self, voxels: NDArray[T]) -> NDArray[T]:
        """Inverse of `orient`: a view."""
        return np.flip(voxels, self._flipped).transpose(np.argsort(self.axes))

    def resample(self, voxels: NDArray[T], *, linear: bool) -> NDArray[T]:
        """Oriented voxels to 1 mm, linear or nearest; the outer edges of both grids coincide."""
        return _sample(voxels, self.shape, [1 / mm for mm in self.spacing_mm], linear=linear)

    def unresample(self, voxels: NDArray[T]) -> NDArray[T]:
        """Labels of 1 mm to the oriented grid, nearest; exact where the spacing is 1 mm or more."""
        return _sample(voxels, self.oriented_shape, list(self.spacing_mm), linear=False)

    @property
    def _flipped(self) -> tuple[int, ...]:
        return tuple(axis for axis, flip in enumerate(self.flips) if flip)


def reorient(voxels: NDArray[T], geometry: Geometry, onto: Geometry) -> NDArray[T] | None:
    """Voxels (D, H, W) of one grid with the axes of another; None if the places differ.

    The grids may differ in the order and directions of their axes, and in nothing else.
    """
    own, other = ToLPS.of(geometry), ToLPS.of(onto)
    if not own.oriented(geometry).matches(other.oriented(onto)):
        return None
    return other.unorient(own.orient(voxels))


def degrees_off_axis(geometry: Geometry) -> float:
    """The largest angle between an axis of the grid and the nearest of the body's."""
    direction = np.reshape(ToLPS.of(geometry).oriented(geometry).direction, (3, 3))
    return float(np.degrees(np.arccos(np.clip(direction.diagonal(), -1, 1))).max())


def _sample(voxels: NDArray[T], shape: Triple, step: list[float], *, linear: bool) -> NDArray[T]:
    """Read a grid at (i + 0.5) · step − 0.5 along each axis; edges are repeated beyond it."""
    # Few cohorts need it, and its import takes longer than two cases.
    from scipy.ndimage import affine_transform

    sampled: NDArray[T] = affine_transform(
        voxels.astype(np.float32 if linear else voxels.dtype, copy=False),
        np.asarray(step),
        offset=[0.5 * s - 0.5 for s in step],
        output_shape=shape,
        order=1 if linear else 0,
        mode="nearest",
        prefilter=False,
    )
    return sampled
