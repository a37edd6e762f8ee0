"""Seeded label volumes on which scores are held to those of other implementations.

Each case is a reference and a prediction with the labels of a post-treatment glioma (1 to 4), so
that its six regions give six pairs of masks. Nothing of them is stored: seeds make them again.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.geometry import Vector
from common.volume import Triple
from preprocess.phantom.image import synthesise

Labels = NDArray[np.uint8]
Random = np.random.Generator

SPACINGS_MM: tuple[Vector, ...] = (
    (1.0, 1.0, 1.0),
    (3.0, 1.0, 1.0),
    (1.0, 0.5, 0.5),
    (2.0, 0.75, 1.25),
)


@dataclass(frozen=True)
class MaskCase:
    """Two label volumes (D, H, W) of one grid."""

    name: str
    reference: Labels
    prediction: Labels
    spacing_mm: Vector
    """(z, y, x)."""


def mask_cases() -> list[MaskCase]:
    """All cases, in order."""
    return [
        _case(seed, kind, SPACINGS_MM[0 if turn < 2 else turn - 1])  # half of them 1 mm
        for seed, (turn, kind) in enumerate((turn, kind) for turn in range(5) for kind in KINDS)
    ]


def _case(seed: int, kind: str, spacing_mm: Vector) -> MaskCase:
    random = np.random.default_rng(seed)
    z, y, x = random.integers(24, 31, 3).tolist()
    reference, prediction = KINDS[kind](random, (z, y, x))
    return MaskCase(f"{seed}-{kind}", reference, prediction, spacing_mm)


def ball(
    shape: Triple, centre: NDArray[np.float64], radii: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """An ellipsoid."""
    grid = np.indices(shape).reshape(3, -1).T
    inside: NDArray[np.bool_] = (((grid - centre) / radii) ** 2).sum(axis=1) < 1
    return inside.reshape(shape)


def tumour(random: Random, shape: Triple, *, lesions: int, largest: float) -> Labels:
    """Lesions of oedema around core around enhancement, with a cavity here and there."""
    labels = np.zeros(shape, np.uint8)
    for _ in range(lesions):
        centre, radii = random.uniform(0, shape), random.uniform(1, largest, 3)
        for label, size in ((2, 1.0), (3, 0.7), (1, 0.4)):
            labels[ball(shape, centre, radii * size)] = label
        if random.random() < 0.3:
            labels[ball(shape, centre + radii, radii * 0.4)] = 4
    return labels


def disturbed(random: Random, labels: Labels) -> Labels:
    """Moved by a voxel or two, with changed voxels at random, and something more or less."""
    moved = np.roll(labels, random.integers(-2, 3, 3).tolist(), axis=(0, 1, 2))
    changed = random.random(labels.shape) < random.choice((0.0, 0.001, 0.004))
    moved[changed] = random.integers(0, 5, int(changed.sum()))
    if random.random() < 0.5:
        more = tumour(random, moved.shape, lesions=2, largest=5.0)
        moved[more > 0] = more[more > 0]
    if random.random() < 0.3:
        moved[: moved.shape[0] // 2] = 0
    return moved


Pair = tuple[Labels, Labels]


def _blobs(random: Random, shape: Triple) -> Pair:
    labels = tumour(random, shape, lesions=3, largest=10.0)
    return labels, disturbed(random, labels)


def _many_small(random: Random, shape: Triple) -> Pair:
    labels = tumour(random, shape, lesions=10, largest=4.0)
    return labels, disturbed(random, labels)


def _shells(random: Random, shape: Triple) -> Pair:
    """Hollow lesions, the prediction thicker or thinner."""
    volumes = []
    centre, radii = np.array(shape) / 2, np.array(shape) * random.uniform(0.3, 0.5, 3)
    for thickness in random.uniform(0.1, 0.5, 2):
        labels = np.zeros(shape, np.uint8)
        for size, label in ((1.0, 2), (1 - thickness / 3, 3), (1 - 2 * thickness / 3, 1)):
            labels[ball(shape, centre, radii * size)] = label
        labels[ball(shape, centre, radii * (1 - thickness))] = 0
        volumes.append(labels)
    return volumes[0], volumes[1]


def _touching(random: Random, shape: Triple) -> Pair:
    """Boxes in a row with gaps of none to four voxels, some of them only at corners."""
    volumes = []
    for _ in range(2):
        labels, at = np.zeros(shape, np.uint8), np.array([2, 2, 2])
        while (at < shape).all():
            size = random.integers(1, 6, 3)
            z, y, x = (slice(a, a + s) for a, s in zip(at, size, strict=True))
            labels[z, y, x] = random.integers(1, 5)
            at = at + size + random.integers(-1, 5, 3)
        volumes.append(labels)
    return volumes[0], volumes[1]


def _single_voxels(random: Random, shape: Triple) -> Pair:
    reference, prediction = np.zeros((2, *shape), np.uint8)
    for labels in (reference, prediction):
        for _ in range(int(random.integers(1, 4))):
            labels[tuple(random.integers(0, shape))] = random.integers(1, 5)
    return reference, prediction


def _noise(random: Random, shape: Triple) -> Pair:
    share = random.choice((0.002, 0.005, 0.6))
    reference, prediction = (
        np.where(random.random(shape) < share, random.integers(1, 5, shape), 0).astype(np.uint8)
        for _ in range(2)
    )
    return reference, prediction


def _no_reference(random: Random, shape: Triple) -> Pair:
    return np.zeros(shape, np.uint8), tumour(random, shape, lesions=2, largest=6.0)


def _no_prediction(random: Random, shape: Triple) -> Pair:
    reference, prediction = _no_reference(random, shape)
    return prediction, reference


def _part_missing(random: Random, shape: Triple) -> Pair:
    """Some labels are only in one of both; at times neither has any."""
    labels = tumour(random, shape, lesions=2, largest=8.0)
    other = disturbed(random, labels)
    labels[np.isin(labels, random.integers(0, 5, 2))] = 0
    other[np.isin(other, random.integers(0, 5, 3))] = 0
    return labels, other


def _at_the_edge(random: Random, shape: Triple) -> Pair:
    """Lesions at the image's border, and one that fills a side."""
    labels = tumour(random, shape, lesions=4, largest=6.0)
    labels[:2] = 2
    return np.roll(labels, -1, 0), np.roll(labels, 1, 1)


def _phantoms(random: Random, shape: Triple) -> Pair:
    labels = synthesise(0, int(random.integers(1, 9)), shape, cavity=True).label
    return labels, disturbed(random, labels)


def _same(random: Random, shape: Triple) -> Pair:
    labels = tumour(random, shape, lesions=3, largest=8.0)
    return labels, labels.copy()


KINDS: dict[str, Callable[[Random, Triple], Pair]] = {
    "blobs": _blobs,
    "many-small": _many_small,
    "shells": _shells,
    "touching": _touching,
    "single-voxels": _single_voxels,
    "noise": _noise,
    "no-reference": _no_reference,
    "no-prediction": _no_prediction,
    "part-missing": _part_missing,
    "at-the-edge": _at_the_edge,
    "phantoms": _phantoms,
    "same": _same,
}
