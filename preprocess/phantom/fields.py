"""The grid of a phantom, and random fields on it.

Lengths are in millimetres of one template head: a smaller volume shows the same anatomy more
coarsely, and one seed gives the same field on every grid.
"""

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

Field = NDArray[np.float32]

HEAD_MM = (155.0, 184.0, 148.0)
"""(z, y, x): the template's box. Brains of BraTS measure 138×169×138 mm in the median, so one
fills a 155×240×240 volume from top to bottom and leaves the usual border beside it."""

CENTRE_MM = (9.0, -17.0, 0.0)
"""(z, y, x) of that box's middle; the template's origin lies between the hemispheres, at the
anterior commissure, with x to the left, y to the front and z upwards."""

REACH_MM = 128.0
"""Noise lattices reach this far from the box's middle along every axis."""


class Points(NamedTuple):
    """Template coordinates in mm, arrays of one shape or scalars."""

    z: Field
    y: Field
    x: Field


@dataclass(frozen=True)
class Grid:
    """The part of a volume that the head fills."""

    size: tuple[int, int, int]
    """(D, H, W) of the whole volume."""
    box: tuple[slice, slice, slice]
    """Where the head's box is in it."""
    voxel_mm: float
    """Size of a voxel in millimetres of the template."""
    axes_mm: tuple[Field, Field, Field]
    """Template coordinates (z, y, x) of the box's voxels, relative to its middle."""

    @classmethod
    def of(cls, size: tuple[int, int, int]) -> Self:
        """The largest head that fits a volume of `size`, in its middle."""
        voxel_mm = max(head / side for head, side in zip(HEAD_MM, size, strict=True))
        box, axes = [], []
        for head, side, sign in zip(HEAD_MM, size, (1, -1, 1), strict=True):
            length = min(side, round(head / voxel_mm))
            start = (side - length) // 2
            box.append(slice(start, start + length))
            # Axis H runs to the back (LPS), the template's y to the front.
            axes.append(
                (sign * voxel_mm * (np.arange(length) - (length - 1) / 2)).astype(np.float32)
            )
        return cls(size, (box[0], box[1], box[2]), voxel_mm, (axes[0], axes[1], axes[2]))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H, W) of the box."""
        return (len(self.axes_mm[0]), len(self.axes_mm[1]), len(self.axes_mm[2]))

    def points(self) -> Points:
        """Template coordinates of the box's voxels, broadcastable to its shape."""
        z, y, x = np.ix_(*self.axes_mm)
        return Points(
            z + np.float32(CENTRE_MM[0]), y + np.float32(CENTRE_MM[1]), x + np.float32(CENTRE_MM[2])
        )


def _spline_weights(axis_mm: Field, spacing_mm: float, knots: int) -> Field:
    """(len(axis), knots) weights of the uniform cubic B-spline."""
    position = (axis_mm[:, None] + REACH_MM) / spacing_mm - np.arange(knots)
    t = np.abs(position)
    inner = 2 / 3 - t**2 + t**3 / 2
    outer = np.clip(2 - t, 0, None) ** 3 / 6
    return np.asarray(np.where(t < 1, inner, outer), np.float32)


def smooth_noise(rng: np.random.Generator, grid: Grid, scale_mm: float) -> Field:
    """A smooth Gaussian field of about unit variance whose features measure `scale_mm`.

    White noise on a lattice, interpolated by cubic B-splines one axis at a time.
    """
    knots = int(np.ceil(2 * REACH_MM / scale_mm)) + 2
    values = rng.standard_normal((knots, knots, knots), np.float32)
    for axis_mm in grid.axes_mm:
        # Each product consumes the leading axis and appends its own: z, y, x come out in order.
        values = np.tensordot(
            values, _spline_weights(axis_mm, scale_mm, knots), axes=([0], [1])
        ).astype(np.float32)
    # The mean of the squared weights is 0.479 along an axis (151/315).
    return values / np.float32((151 / 315) ** 1.5)


def fold_noise(rng: np.random.Generator, points: Points, wavelength_mm: float) -> Field:
    """Gaussian noise of nearly one wavelength: its zero sheets wind like sulci.

    Noise whose spectrum is a thin shell has evenly spaced, winding zero sets; the same holds for
    the folds of a growing cortex. Drawn on a periodic lattice by FFT and sampled at `points`.
    """
    spacing_mm, side = 3.0, 96
    frequency = np.fft.fftfreq(side, spacing_mm)
    radius = np.sqrt(
        sum(
            f**2
            for f in np.meshgrid(
                frequency, frequency, frequency[: side // 2 + 1], indexing="ij", sparse=True
            )
        )
    )
    shell = np.exp(-0.5 * ((radius * wavelength_mm - 1) / 0.16) ** 2)
    noise = rng.standard_normal((side, side, side), np.float32)
    lattice = np.fft.irfftn(np.fft.rfftn(noise) * shell, noise.shape, axes=(0, 1, 2))
    lattice = (lattice / lattice.std()).astype(np.float32)
    where = np.stack(np.broadcast_arrays(*points)) / np.float32(spacing_mm)
    return map_coordinates(lattice, where, order=1, mode="grid-wrap", output=np.float32)
