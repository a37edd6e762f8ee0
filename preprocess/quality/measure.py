"""What the quality report reads from a case's stored voxels: one case, one process, one thread."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import StoreError
from common.record import CaseRecord
from common.store import Store
from common.task import MODALITIES, Task
from common.volume import Box, bounding_box, extract
from preprocess.quality.thumbnail import thumbnail

NORMALISED_EDGES = np.linspace(-5, 10, 61)
"""Bins of normalised intensities, in standard deviations; what is beyond falls in the outermost."""
ORIGINAL_EDGES = np.logspace(-2, 6, 8 * 16 + 1)
"""Bins of intensities before normalisation; they are positive in arbitrary units, hence the log."""

SIDES = (("inferior", "superior"), ("anterior", "posterior"), ("right", "left"))
"""Names of the two ends of each axis (z, y, x) of an LPS grid."""

ZEROS = (0x0000, 0x8000)
"""Half-precision codes of 0 and −0, which the background is stored as."""
ALL_HALVES = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float64)
CODES = np.flatnonzero(np.isfinite(ALL_HALVES))
CODES = CODES[np.argsort(ALL_HALVES[CODES], kind="stable")]
"""Codes of every finite half-precision number, ascending by value."""
VALUES = ALL_HALVES[CODES]

FIT_BINS = 16
FIT_RANGE = (-3.0, 5.0)
FIT_SIDE = 64
"""Voxels a side, about, that a comparison of two modalities looks at."""


@dataclass(frozen=True)
class Modality:
    """One modality of a case; intensities are normalised, of voxels that are not background.

    Attributes:
        lowest: the least intensity.
        low: its 0.1 % quantile.
        high: its 99.9 % quantile.
        highest: the greatest.
        levels: how many different values there are.
        coverage: share of the brain, which all modalities together show, that this one shows.
        mirrored_fit: how well it fits the other modalities when mirrored left to right, as a
            share of how well it fits as it is; 1 means that nothing can be told.
        normalised: share of voxels in each bin of NORMALISED_EDGES.
        original: share of voxels in each bin of ORIGINAL_EDGES, before normalisation.
    """

    lowest: float
    low: float
    high: float
    highest: float
    levels: int
    coverage: float
    mirrored_fit: float
    normalised: NDArray[np.floating]
    original: NDArray[np.floating]


@dataclass(frozen=True)
class Measures:
    """What a case's voxels say.

    Attributes:
        thumbnail: a WebP picture of three planes.
        modalities: by name.
        border: side of the grid to how much brain lies on it, as a share of the largest
            section of the brain parallel to it; sides without brain are left out.
        off_brain: share of the tumour, as far as it is stored, where every modality is background.
        flair_in_mask: mean normalised FLAIR in the tumour, and in its mirror image; voxels in
            both are left out. None without a label, or where nothing is left.
    """

    thumbnail: bytes
    modalities: dict[str, Modality]
    border: dict[str, float]
    off_brain: float
    flair_in_mask: tuple[float, float] | None


def measure(store: Store, record: CaseRecord) -> Measures | str:
    """Look at a case's whole volume; its crop must be sound too.

    Returns:
        What was measured; or, if the store cannot give the voxels, its own words why not.
    """
    try:
        image, label = _read(store, record)
    except StoreError as error:
        return str(error)
    return _measured(image, label, record, store.task)


def _read(
    store: Store, record: CaseRecord
) -> tuple[NDArray[np.floating], NDArray[np.uint8] | None]:
    # Training streams the crop, which may be damaged while the volume is sound.
    if record.has_label:
        store.read_crop(record.case_id)
    else:
        store.read_crop_image(record.case_id)
    return store.read_volume(record.case_id)


def _measured(
    image: NDArray[np.floating], label: NDArray[np.uint8] | None, record: CaseRecord, task: Task
) -> Measures:
    foreground = image != 0
    brain = foreground.any(axis=0)
    box = bounding_box(brain)
    if box is None:
        return Measures(thumbnail(image, label, task), {}, {}, 0.0, None)
    tumour = None if label is None else label > 0
    inner = extract(image, box)
    fits = _mirrored_fits(inner)
    voxels = int(brain.sum())
    modalities = {
        name: _modality(
            image[channel],
            (record.mean[name], record.std[name]),
            coverage=int(foreground[channel].sum()) / voxels,
            mirrored_fit=fits[channel],
        )
        for channel, name in enumerate(MODALITIES)
    }
    return Measures(
        thumbnail(image, label, task),
        modalities,
        _on_border(brain, box, record.box, record.grid_shape),
        0.0 if tumour is None or not tumour.any() else float((~brain)[tumour].mean()),
        None if tumour is None else _flair_in_mask(inner[0], extract(tumour, box)),
    )


def _modality(
    voxels: NDArray[np.floating],
    statistics: tuple[float, float],
    *,
    coverage: float,
    mirrored_fit: float,
) -> Modality:
    """Counts every half-precision value there is: all else follows from those counts exactly.

    A voxel of the brain whose intensity is its modality's very mean counts as background.
    """
    codes = np.asarray(voxels, np.float16).view(np.uint16).ravel()
    counts = np.bincount(codes, minlength=2**16)
    counts[list(ZEROS)] = 0
    counts = counts[CODES]
    seen = np.flatnonzero(counts)
    if not seen.size:
        nothing = np.zeros(len(NORMALISED_EDGES) - 1), np.zeros(len(ORIGINAL_EDGES) - 1)
        return Modality(0, 0, 0, 0, 0, coverage, mirrored_fit, *nothing)
    values, weights = VALUES[seen], counts[seen] / counts.sum()
    reached = np.cumsum(weights)
    low, high = (values[np.searchsorted(reached, share)] for share in (0.001, 0.999))
    mean, std = statistics
    return Modality(
        float(values[0]),
        float(low),
        float(high),
        float(values[-1]),
        len(values),
        coverage,
        mirrored_fit,
        _histogram(values, weights, NORMALISED_EDGES),
        _histogram(values * std + mean, weights, ORIGINAL_EDGES),
    )


def _histogram(
    values: NDArray[np.floating], weights: NDArray[np.floating], edges: NDArray[np.floating]
) -> NDArray[np.floating]:
    inside = np.clip(values, edges[0], edges[-1])
    return np.histogram(inside, edges, weights=weights)[0].astype(np.float32)


def _on_border(
    brain: NDArray[np.bool_], box: Box, window: Box, grid: tuple[int, int, int]
) -> dict[str, float]:
    """Brain in the outermost planes of the file's grid, as shares of its largest section."""
    found = {}
    for axis, sides in enumerate(SIDES):
        others = tuple(other for other in range(3) if other != axis)
        sections = brain.sum(axis=others)
        first = window.start[axis] + box.start[axis]
        last = window.start[axis] + box.stop[axis]
        if first <= 0:
            found[sides[0]] = float(sections[-window.start[axis]] / sections.max())
        if last >= grid[axis]:
            found[sides[1]] = float(sections[grid[axis] - 1 - window.start[axis]] / sections.max())
    return found


def _flair_in_mask(
    flair: NDArray[np.floating], tumour: NDArray[np.bool_]
) -> tuple[float, float] | None:
    """Mean FLAIR in the tumour and in its mirror image, each without what lies in both."""
    brain = flair != 0
    mirrored = tumour[..., ::-1]
    here, there = tumour & ~mirrored & brain, mirrored & ~tumour & brain
    if not here.any() or not there.any():
        return None
    return float(flair[here].mean(dtype=np.float64)), float(flair[there].mean(dtype=np.float64))


def _mirrored_fits(image: NDArray[np.floating]) -> list[float]:
    """For each modality, its fit to the others mirrored left to right, over that as it is.

    The fit is mutual information, which asks for no likeness of contrast, summed over the other
    modalities, in the voxels that are brain both ways. The image is cut to the brain's box, whose
    middle stands for the midline.
    """
    step = max(1, round(min(image.shape[1:]) / FIT_SIDE))
    # Symmetric in the last axis, so that mirroring maps the sample onto itself.
    columns = np.arange((image.shape[-1] - 1) % step // 2, image.shape[-1], step)
    sample = image[:, ::step, ::step][..., columns]
    both = (sample != 0).all(axis=0)
    both &= both[..., ::-1]
    if not both.any():
        return [1.0] * len(sample)
    straight = [_binned(channel[both]) for channel in sample]
    mirrored = [_binned(channel[..., ::-1][both]) for channel in sample]
    return [
        _ratio(
            sum(_mutual_information(mirrored[a], straight[b]) for b in others),
            sum(_mutual_information(straight[a], straight[b]) for b in others),
        )
        for a in range(len(sample))
        for others in [[b for b in range(len(sample)) if b != a]]
    ]


def _ratio(mirrored: float, straight: float) -> float:
    return mirrored / straight if straight > 0 else 1.0


def _binned(values: NDArray[np.floating]) -> NDArray[np.intp]:
    first, last = FIT_RANGE
    scaled = (values.astype(np.float32) - first) * (FIT_BINS / (last - first))
    return np.asarray(np.clip(scaled, 0, FIT_BINS - 1), np.intp)


def _mutual_information(a: NDArray[np.intp], b: NDArray[np.intp]) -> float:
    """Of two binned samples, in nats."""
    joint = np.bincount(a * FIT_BINS + b, minlength=FIT_BINS**2).reshape(FIT_BINS, FIT_BINS)
    joint = joint / joint.sum()
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / apart[seen])).sum())
