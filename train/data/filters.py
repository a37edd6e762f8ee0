"""DALI's resampling and blurring as torch repeats it: a product with one matrix an axis."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

CUBIC_A = -0.5
"""Keys' parameter (1981, doi:10.1109/TASSP.1981.1163711) as DALI has it; torch has -0.75."""
CUBIC_KNOTS = 65
"""Entries of DALI's table of that kernel, from its centre to its edge."""


class Axis(NamedTuple):
    """One axis of a window that becomes `out` voxels: of a sample, in its voxels."""

    size: int
    """Of the sample."""
    start: float
    """Of the window, which may reach beyond the sample."""
    stop: float
    out: int

    def positions(self) -> NDArray[np.float64]:
        """Where the new voxels' centres are, from the sample's outer edge; (out,)."""
        centres = np.arange(self.out, dtype=np.float64) + 0.5
        return self.start + centres * self.step

    @property
    def step(self) -> float:
        """From one new voxel to the next."""
        return (self.stop - self.start) / self.out

    def inside(self) -> slice:
        """The new voxels whose centres are in the sample."""
        where = np.flatnonzero((self.positions() >= 0) & (self.positions() < self.size))
        return slice(int(where[0]), int(where[-1]) + 1)


def cubic(axis: Axis) -> NDArray[np.float32]:
    """Matrix (out, size) that resamples the window.

    Taps beyond the sample's edge, not the window's, take the edge's voxel. As in DALI the kernel is
    a table with linear interpolation between its entries, and a row sums to 1.
    """
    positions = axis.positions() - 0.5
    taps = np.floor(positions).astype(int)[:, None] + np.arange(-1, 3)
    knots = np.linspace(0, 2, CUBIC_KNOTS)
    weights = np.interp(np.abs(positions[:, None] - taps), knots, _keys(knots))
    return _matrix(axis.size, np.clip(taps, 0, axis.size - 1), weights)


def _keys(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel at distances from 0 to 2."""
    near = ((CUBIC_A + 2) * distance - (CUBIC_A + 3)) * distance**2 + 1
    far = CUBIC_A * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, far)


def averaging(axis: Axis) -> NDArray[np.float32]:
    """Matrix (out, size) to fewer voxels: a triangle of their size, so that none is left out."""
    scale = max(1.0, axis.step)
    positions = axis.positions() - 0.5
    reach = np.arange(-math.ceil(scale), math.ceil(scale) + 1)
    taps = np.round(positions).astype(int)[:, None] + reach
    weights = np.clip(1 - np.abs(positions[:, None] - taps) / scale, 0, None)
    return _matrix(axis.size, np.clip(taps, 0, axis.size - 1), weights)


def nearest(axis: Axis) -> NDArray[np.int_]:
    """Indices (out,) of the voxels nearest to the new ones."""
    indices: NDArray[np.int_] = np.floor(axis.positions()).astype(int)
    return np.clip(indices, 0, axis.size - 1)


def gaussian(size: int, sigma: float) -> NDArray[np.float32]:
    """Matrix (size, size) of a Gaussian filter of radius ⌈3σ⌉, mirrored about the edge voxels."""
    radius = math.ceil(3 * sigma)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    taps = np.arange(size)[:, None] + offsets
    period = max(1, 2 * (size - 1))
    mirrored = np.abs((taps + size - 1) % period - (size - 1))
    return _matrix(size, mirrored, np.broadcast_to(weights, taps.shape))


def _matrix(size: int, taps: NDArray[np.int_], weights: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rows of weights, each to sum to 1, at the voxels that they are of."""
    matrix = np.zeros((len(taps), size))
    weights = weights / weights.sum(axis=1, keepdims=True)
    np.add.at(matrix, (np.arange(len(taps))[:, None], taps), weights)
    return matrix.astype(np.float32)


def filtered(image: Tensor, matrices: Iterable[NDArray[np.float32]]) -> Tensor:
    """An image (M, D, H, W), each axis multiplied by its matrix."""
    import torch

    z, y, x = map(torch.from_numpy, matrices)
    image = y @ (image @ x.T)
    return (z @ image.flatten(2)).reshape(len(image), len(z), len(y), len(x))
