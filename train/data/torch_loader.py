"""The same stream through PyTorch's own loader: where DALI cannot be installed, and to compare.

It repeats DALI's arithmetic: cubic and Gaussian filters as products with one matrix an axis.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.errors import StoreError
from train.data.augment import Zoom
from train.data.feed import Batch, Feed, batch_of
from train.data.stream import Sample, Stream
from train.data.workers import WorkerMonitor, check_shared_memory, set_up_worker, status_folder

QUEUE = 2
"""Batches that each worker keeps ready."""

CUBIC_A = -0.5
"""Keys' parameter (1981, doi:10.1109/TASSP.1981.1163711) as DALI has it; torch has -0.75."""
CUBIC_KNOTS = 65
"""Entries of DALI's table of that kernel, from its centre to its edge."""

Item = tuple[Tensor, Tensor, str]
"""Image (M, *shape) float16, label (*shape) uint8, and why it could not be read."""

Place = tuple[int, int]
"""A batch of the stream, and a position in it."""


@contextmanager
def torch_feed(stream: Stream, device: torch.device, workers: int) -> Iterator[Feed]:
    """As `train.data.loader.open_feed`."""
    # Beside those that are ready, one batch is being learnt from and one is on its way.
    check_shared_memory((QUEUE * workers + 2) * stream.batch_size * stream.sample_bytes)
    with status_folder() as folder:
        monitor = WorkerMonitor(folder, stream.store.path)
        loader = DataLoader(
            Augmented(stream, folder),
            batch_sampler=_places(stream),
            num_workers=workers,
            collate_fn=_together,
            prefetch_factor=QUEUE,
            worker_init_fn=partial(_set_up, folder),
            multiprocessing_context="spawn",  # zarrs hangs in a forked child
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # nothing uses it; without it the global one moves on
        )
        with monitor.starting():
            items: Any = iter(loader)
        with monitor.watching(items._workers, items._shutdown_workers, polls=True):
            yield Feed(_batches(items, stream, device), monitor)


class Augmented(Dataset[Item]):
    """The stream's samples, augmented; a place beyond an epoch's end is never asked for."""

    def __init__(self, stream: Stream, folder: Path) -> None:
        self.stream, self._folder = stream, folder

    def __getitem__(self, place: Place) -> Item:
        """The sample at a place."""
        with set_up_worker(self._folder).at(self.stream.name(*place)):
            sample = self.stream.sample(*place)
            return (*augmented(sample), sample.error)


def augmented(sample: Sample) -> tuple[Tensor, Tensor]:
    """A sample as its draw wants it: image (M, *shape) float16, label (*shape) uint8."""
    drawn, noise = sample.plan
    image, label = torch.from_numpy(sample.image).float(), torch.from_numpy(sample.label)
    if drawn.zoom is not None:
        image = _along_axes(image, [cubic(*axis) for axis in _axes(drawn.zoom, label)])
        z, y, x = (nearest(*axis) for axis in _axes(drawn.zoom, label))
        label = label[z[:, None, None], y[:, None], x]
    mirrored = [axis - 3 for axis, flip in enumerate(drawn.flips) if flip]
    image, label = image.flip(mirrored), label.flip(mirrored)
    if drawn.noise_sigma is not None:
        image = image + torch.from_numpy(noise).float() * drawn.noise_sigma
    if drawn.blur_sigma is not None:
        image = _along_axes(image, [gaussian(side, drawn.blur_sigma) for side in label.shape])
    if drawn.brightness is not None:
        image = image * drawn.brightness
    return image.half(), label


def cubic(side: int, start: float, scale: float) -> Tensor:
    """Matrix (side, side) that enlarges the window from `start` of `scale * side` voxels.

    Half-pixel centres; taps beyond the image's edge, not the window's, take the edge's voxel. As in
    DALI the kernel is a table with linear interpolation between its entries, and a row sums to 1.
    """
    position = start + (np.arange(side) + 0.5) * scale - 0.5
    taps = np.floor(position).astype(int)[:, None] + np.arange(-1, 3)
    knots = np.linspace(0, 2, CUBIC_KNOTS)
    weights = np.interp(np.abs(position[:, None] - taps), knots, _keys(knots))
    weights /= weights.sum(axis=1, keepdims=True)
    return _matrix(side, np.clip(taps, 0, side - 1), weights)


def _keys(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel at distances from 0 to 2."""
    near = ((CUBIC_A + 2) * distance - (CUBIC_A + 3)) * distance**2 + 1
    far = CUBIC_A * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, far)


def nearest(side: int, start: float, scale: float) -> Tensor:
    """Indices (side,) of the voxels that `cubic`'s window shows, nearest."""
    position = np.floor(start + (np.arange(side) + 0.5) * scale).astype(int)
    return torch.from_numpy(np.clip(position, 0, side - 1))


def gaussian(side: int, sigma: float) -> Tensor:
    """Matrix (side, side) of a Gaussian filter of radius ⌈3σ⌉, mirrored about the edge voxels."""
    radius = math.ceil(3 * sigma)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights /= weights.sum()
    taps = np.arange(side)[:, None] + offsets
    period = max(1, 2 * (side - 1))
    mirrored = np.abs((taps + side - 1) % period - (side - 1))
    return _matrix(side, mirrored, np.broadcast_to(weights, taps.shape))


def _matrix(side: int, taps: NDArray[np.int_], weights: NDArray[np.float64]) -> Tensor:
    matrix = np.zeros((side, side))
    np.add.at(matrix, (np.arange(side)[:, None], taps), weights)
    return torch.from_numpy(matrix).float()


def _axes(zoom: Zoom, label: Tensor) -> list[tuple[int, float, float]]:
    """(side, start, scale) of each axis."""
    return list(zip(label.shape, zoom.start, zoom.scales, strict=True))


def _along_axes(image: Tensor, matrices: list[Tensor]) -> Tensor:
    """(M, D, H, W), each axis multiplied by its matrix."""
    z, y, x = matrices
    image = y @ (image @ x.T)
    return (z @ image.flatten(2)).view_as(image)


def _places(stream: Stream) -> Iterator[list[Place]]:
    """The places of every batch, without end."""
    for index in count():
        yield [(index, position) for position in range(len(stream.step(index).keys))]


def _set_up(folder: Path, _: int) -> None:
    set_up_worker(folder)


def _together(items: list[Item]) -> Item:
    images, labels, errors = zip(*items, strict=True)
    return torch.stack(images), torch.stack(labels), "".join(errors)


def _batches(items: Iterator[Item], stream: Stream, device: torch.device) -> Iterator[Batch]:
    for index, (image, label, error) in enumerate(items):
        if error:
            raise StoreError(error)
        step = stream.step(index)
        there = [part.to(device, non_blocking=True) for part in (image, label)]
        yield batch_of(step, *there)
