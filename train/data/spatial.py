"""Augmentations that move voxels: image and label alike, what comes from outside is background.

All positions are multiples of a power of two of a voxel, and so exact in float32: both loaders find
the same nearest voxel of a label, in whatever order it is computed, on a CPU or a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import Field

from train.data.augmentation import (
    SPACE,
    Augmentation,
    Drawn,
    Node,
    NotNegative,
    Ordered,
    Probability,
    Shape,
)
from train.data.filters import Axis, cubic, filtered, nearest

if TYPE_CHECKING:
    from torch import Tensor

STEPS = 1024
"""Zooms, their windows and shifts are multiples of 1/1024 voxel."""
ROTATION_STEPS = 4096
"""Entries of a rotation are multiples of 1/4096: 0.01 voxel off, 64 voxels from the centre."""

Share = Annotated[float, Field(ge=0.1, le=2)]
Degrees = Annotated[float, Field(ge=-180, le=180)]


class Zoom(Augmentation):
    """Resample a window of the sample to the sample's size: cubic for images, nearest for labels.

    A window that is larger than the sample shrinks it; around it is background.
    """

    placeholder = (np.zeros((5, 3), np.float32),)
    """The sample's size, the window's start and stop in voxels, the first of the new voxels that
    come from inside the sample, and their number; each (z, y, x)."""

    probability: Probability = 0.15
    """Of one zoom for all axes; an axis of one voxel is never zoomed."""
    range: Annotated[tuple[Share, Share], Ordered] = (0.7, 1.0)
    """The window's side as a share of the sample's: below 1 enlarges, above 1 shrinks."""

    def drawn(self, random: Generator, shape: Shape) -> Drawn:
        steps = round(random.uniform(*self.range) * STEPS)
        size = np.asarray(shape[1:])
        shares = np.where(size > 1, steps, STEPS)
        room = size * (STEPS - shares)
        start = random.integers(np.minimum(0, room), np.maximum(0, room), endpoint=True)
        window = np.stack([size * STEPS, start, start + size * shares]) / STEPS
        inside = [axis.inside() for axis in _axes(window)]
        parts = [[each.start, each.stop - each.start] for each in inside]
        return (np.vstack([window, np.transpose(parts)]).astype(np.float32),)

    def apply_torch(self, image: Tensor, label: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
        import torch

        axes = _axes(drawn[0])
        z, y, x = map(nearest, axes)
        inside = torch.zeros(label.shape, dtype=torch.uint8)
        inside[tuple(axis.inside() for axis in axes)] = 1
        label = label[z[:, None, None], y[:, None], x] * inside
        return filtered(image, map(cubic, axes)) * inside, label

    def apply_dali(self, image: Node, label: Node, drawn: Sequence[Node]) -> tuple[Node, Node]:
        from nvidia.dali import fn
        from nvidia.dali.types import DALIDataType, DALIInterpType

        (window,) = drawn
        region = {"size": window[0], "roi_start": window[1], "roi_end": window[2]}
        cubically = DALIInterpType.INTERP_CUBIC
        image = fn.resize(image, **region, interp_type=cubically, antialias=False)
        label = fn.resize(label, **region, interp_type=DALIInterpType.INTERP_NN)
        if self.range[1] <= 1:
            return image, label
        window = fn.cast(window, dtype=DALIDataType.INT32)
        cut: dict[str, Any] = {"start": window[3], "shape": window[4], "axes": SPACE}
        back: dict[str, Any] = {"start": -window[3], "shape": window[0], "axes": SPACE}
        image, label = (
            fn.slice(fn.slice(each, **cut), **back, out_of_bounds_policy="pad")
            for each in (image, label)
        )
        return image, label


def _axes(window: NDArray[np.generic]) -> list[Axis]:
    rows = window[:3].T.tolist()
    return [Axis(round(size), start, stop, round(size)) for size, start, stop in rows]


class Rotation(Augmentation):
    """Rotate the sample about its centre: linear for images, nearest for labels."""

    placeholder = (np.zeros((3, 4), np.float32),)
    """From a new voxel to where it comes from, in voxels from the outer corner; (x, y, z)."""

    probability: Probability = 0.0
    """Of a sample."""
    degrees: Annotated[tuple[Degrees, Degrees], Ordered] = (-15.0, 15.0)
    """The angle about each axis; a slice rotates in its plane only."""

    def drawn(self, random: Generator, shape: Shape) -> Drawn:
        size = np.asarray(shape[:0:-1])
        angles = np.radians(random.uniform(*self.degrees, 3))
        whole = np.eye(3)
        for axis in range(3):
            others = [other for other in range(3) if other != axis]
            if (size[others] > 1).all():
                turn, (sine, cosine) = np.eye(3), (np.sin(angles[axis]), np.cos(angles[axis]))
                turn[np.ix_(others, others)] = [[cosine, -sine], [sine, cosine]]
                whole = whole @ turn
        whole = np.round(whole * ROTATION_STEPS) / ROTATION_STEPS
        centre = size / 2
        return (np.column_stack([whole, centre - whole @ centre]).astype(np.float32),)

    def apply_torch(self, image: Tensor, label: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
        import torch
        from torch.nn import functional

        depth, height, width = label.shape
        sizes = (width, height, depth)
        x, y, z = (torch.arange(side) + 0.5 for side in sizes)
        found = [
            row[0] * x + row[1] * y[:, None] + row[2] * z[:, None, None] + row[3]
            for row in drawn[0].tolist()
        ]
        shares = [2 * position / side - 1 for position, side in zip(found, sizes, strict=True)]
        grid = torch.stack(shares, dim=-1)[None]
        image = functional.grid_sample(image[None], grid, align_corners=False)[0]
        x, y, z = (position.floor().long() for position in found)
        inside = torch.ones(label.shape, dtype=torch.bool)
        for index, side in zip((x, y, z), sizes, strict=True):
            inside &= (index >= 0) & (index < side)
            index.clamp_(0, side - 1)
        return image, label[z, y, x] * inside

    def apply_dali(self, image: Node, label: Node, drawn: Sequence[Node]) -> tuple[Node, Node]:
        from nvidia.dali import fn
        from nvidia.dali.types import DALIInterpType

        (matrix,) = drawn
        linear, nearest_voxel = DALIInterpType.INTERP_LINEAR, DALIInterpType.INTERP_NN
        turned = []
        for each, kind in ((image, linear), (label, nearest_voxel)):
            # DALI warps volumes whose channels are last; each modality is one, as of a film.
            film = fn.expand_dims(fn.reshape(each, layout="FDHW"), axes=4, new_axis_names="C")
            film = fn.warp_affine(film, matrix=matrix, interp_type=kind, fill_value=0)
            turned.append(fn.reshape(fn.squeeze(film, axes=[4]), layout="CDHW"))
        return turned[0], turned[1]


class Elastic(Augmentation):
    """Shift every line of voxels along itself by a smooth random amount, for each axis in turn.

    The shift of a line depends on where it crosses the other two axes, so that the three together
    bend the sample in all directions. Nothing is folded or torn, and no volume changes but by
    rounding: each shift has an inverse. Lines are interpolated linearly, labels are the nearest.
    DALI has no operator for any field of displacements on a CPU.
    """

    placeholder = (*(np.zeros((1, 2, 3), np.float32) for _ in range(3)), np.ones((3, 4), np.int32))
    """For each line along x, along y and along z, DALI's affine map (2, 3) of a picture that is one
    line: its last column begins with the shift. Lines are in the order (z, y), (x, z), (y, x). Then
    the shapes with these lines last, as (z, y, x, -1), where -1 is for the modalities."""

    probability: Probability = 0.0
    """Of a sample."""
    range_voxels: Annotated[tuple[NotNegative, NotNegative], Ordered] = (1.0, 4.0)
    """The largest shift along an axis; an axis of one voxel has none."""
    half_waves: Annotated[int, Field(ge=1, le=16)] = 3
    """Of cosines along an axis, at most: more bend shorter pieces."""

    def drawn(self, random: Generator, shape: Shape) -> Drawn:
        depth, height, width = shape[1:]
        lines = ((depth, height, width), (width, depth, height), (height, width, depth))
        shapes = np.asarray([[*sides, -1] for sides in lines], np.int32)
        return (*(self._maps(random, *sides) for sides in lines), shapes)

    def _maps(self, random: Generator, rows: int, columns: int, length: int) -> NDArray[np.float32]:
        """Maps (rows * columns, 2, 3) of lines of a length."""
        amount = random.uniform(*self.range_voxels) if length > 1 else 0
        waves = self.half_waves + 1
        field = _cosines(rows, waves) @ random.standard_normal((waves, waves))
        field = field @ _cosines(columns, waves).T
        maps = np.zeros((rows * columns, 2, 3), np.float32)
        maps[:, [0, 1], [0, 1]] = 1
        maps[:, 0, 2] = np.round(field.ravel() * (amount * STEPS / np.abs(field).max())) / STEPS
        return maps

    def most_bytes(self, shape: Shape) -> int:
        depth, height, width = shape[1:]
        lines = depth * height + width * depth + height * width
        maps = self.placeholder[0].nbytes * lines if self.probability else 0
        return super().most_bytes(shape) + maps

    def apply_torch(self, image: Tensor, label: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
        label = label[None]
        for maps in drawn[:3]:
            image, label = _shifted(image, label, maps)
            image, label = (each.permute(0, 3, 1, 2) for each in (image, label))
        return image.contiguous(), label[0].contiguous()

    def apply_dali(self, image: Node, label: Node, drawn: Sequence[Node]) -> tuple[Node, Node]:
        from nvidia.dali import fn
        from nvidia.dali.types import DALIInterpType

        linear, nearest_voxel = DALIInterpType.INTERP_LINEAR, DALIInterpType.INTERP_NN
        bent, shapes = [], drawn[3]
        for each, kind in ((image, linear), (label, nearest_voxel)):
            volume: Node = fn.transpose(each, perm=[1, 2, 3, 0])
            for number, maps in enumerate(drawn[:3]):
                film = fn.reshape(volume, src_dims=[0, -1, 2, 3], rel_shape=[-1, 1, 1, 1])
                film = fn.reshape(film, layout="FHWC")
                film = fn.warp_affine(
                    film, matrix=fn.per_frame(maps), interp_type=kind, fill_value=0
                )
                volume = fn.transpose(fn.reshape(film, shape=shapes[number]), perm=[2, 0, 1, 3])
            bent.append(fn.reshape(fn.transpose(volume, perm=[3, 0, 1, 2]), layout="CDHW"))
        return bent[0], bent[1]


def _cosines(size: int, waves: int) -> NDArray[np.float64]:
    """The first cosines along an axis of a size; (size, waves)."""
    return np.cos(np.pi * (np.arange(size) + 0.5)[:, None] / size * np.arange(waves))


def _shifted(image: Tensor, label: Tensor, maps: NDArray[np.generic]) -> tuple[Tensor, Tensor]:
    """Image (M, A, B, N) and label (1, A, B, N) with each line of N shifted by its map's amount."""
    import torch

    *rows, length = label.shape[1:]
    found = torch.arange(length) + torch.from_numpy(maps[:, 0, 2]).reshape(*rows, 1)
    before = found.floor()
    after = found - before
    image = _taken(image, before.long()) * (1 - after) + _taken(image, before.long() + 1) * after
    return image, _taken(label, (found + 0.5).floor().long())


def _taken(lines: Tensor, indices: Tensor) -> Tensor:
    """The voxels of lines (M, A, B, N) at indices (A, B, N), 0 beyond their ends."""
    length = lines.shape[-1]
    inside = (indices >= 0) & (indices < length)
    found = lines.gather(3, indices.clamp(0, length - 1).expand(lines.shape))
    return found * inside


class Flip(Augmentation):
    """Mirror the sample."""

    placeholder = (np.zeros(3, np.int32),)
    """1 for each axis (z, y, x) that is mirrored."""

    probability: Probability = 0.5
    """Of each axis; an axis of one voxel is never mirrored."""

    def draw(self, random: Generator, shape: Shape) -> Drawn | None:
        axes = (random.random(3) < self.probability) & (np.asarray(shape[1:]) > 1)
        return (axes.astype(np.int32),) if axes.any() else None

    def apply_torch(self, image: Tensor, label: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
        axes = (np.flatnonzero(drawn[0]) - 3).tolist()
        return image.flip(axes), label.flip(axes)

    def apply_dali(self, image: Node, label: Node, drawn: Sequence[Node]) -> tuple[Node, Node]:
        from nvidia.dali import fn

        (axes,) = drawn
        flips = {"depthwise": axes[0], "vertical": axes[1], "horizontal": axes[2]}
        return fn.flip(image, **flips), fn.flip(label, **flips)
