"""Measures the stored voxels of one case for the quality report."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import StoreError
from common.record import CaseRecord
from common.store import Store
from common.task import Task
from common.volume import Box, bounding_box, extract
from preprocess.quality.thumbnail import thumbnail

NORMALISED_EDGES = np.linspace(-5, 10, 61)
"""Bins of normalised intensities, in standard deviations; the outermost take what lies beyond."""
ORIGINAL_EDGES = np.logspace(-2, 6, 8 * 16 + 1)
"""Bins of intensities before normalisation: positive, in arbitrary units, so on a log scale."""

SIDES = (("inferior", "superior"), ("anterior", "posterior"), ("right", "left"))
"""Names of the two ends of each axis (z, y, x) of an LPS grid."""

ZEROS = (0x0000, 0x8000)
"""Half-precision codes of 0 and −0, the background."""
ALL_HALVES = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float64)
CODES = np.flatnonzero(np.isfinite(ALL_HALVES))
CODES = CODES[np.argsort(ALL_HALVES[CODES], kind="stable")]
"""Codes of every finite half-precision number, ascending by value."""
VALUES = ALL_HALVES[CODES]

FIT_BINS = 16
FIT_RANGE = (-3.0, 5.0)
FIT_SIDE = 64
"""About how many voxels per side are compared between two modalities."""


@dataclass(frozen=True)
class Modality:
    """One modality of a case: normalised intensities of its foreground voxels."""

    lowest: float
    low: float
    """The 0.1 % quantile."""
    high: float
    """The 99.9 % quantile."""
    highest: float
    levels: int
    """Number of different values."""
    coverage: float
    """Share of the brain, the union of all modalities' foregrounds, that is its foreground."""
    mirrored_fit: float
    """Fit to the other modalities when mirrored, over the fit as it is; 1 if undecided."""
    normalised: NDArray[np.floating]
    """Share of voxels in each bin of NORMALISED_EDGES."""
    original: NDArray[np.floating]
    """Share of voxels in each bin of ORIGINAL_EDGES, before normalisation."""


@dataclass(frozen=True)
class Measures:
    """What was measured of a case."""

    thumbnail: bytes
    """A WebP picture of three planes."""
    modalities: dict[str, Modality]
    border: dict[str, float]
    """Side of the grid to the brain's area on it, as a share of its largest parallel section."""
    off_brain: float
    """Share of the stored tumour where every modality is background."""
    flair_in_mask: tuple[float, float] | None
    """Mean normalised FLAIR in the tumour and in its mirror image, without voxels of both."""


def measure(store: Store, record: CaseRecord) -> Measures | str:
    """Measures of a case's whole volume; the store's error message if it cannot be read."""
    # Training reads the crop, which may be damaged while the volume is intact.
    read_crop = store.read_crop if record.has_label else store.read_crop_image
    try:
        read_crop(record.case_id)
        image, label = store.read_volume(record.case_id)
    except StoreError as error:
        return str(error)
    return _measure_arrays(image, label, record, store.task)


def _measure_arrays(
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
        for channel, name in enumerate(task.modalities)
    }
    return Measures(
        thumbnail(image, label, task),
        modalities,
        _on_border(brain, box, record.box, record.grid_shape),
        0.0 if tumour is None or not tumour.any() else float((~brain)[tumour].mean()),
        None if tumour is None else _flair_in_mask(inner, extract(tumour, box), task),
    )


def _modality(
    voxels: NDArray[np.floating],
    statistics: tuple[float, float],
    *,
    coverage: float,
    mirrored_fit: float,
) -> Modality:
    """Count every half-precision value; all statistics follow exactly from these counts.

    A foreground voxel whose intensity equals the mean is stored as 0 and counts as background.
    """
    codes = np.asarray(voxels, np.float16).view(np.uint16).ravel()
    counts = np.bincount(codes, minlength=2**16)
    counts[list(ZEROS)] = 0
    counts = counts[CODES]
    present = np.flatnonzero(counts)
    if not present.size:
        nothing = np.zeros(len(NORMALISED_EDGES) - 1), np.zeros(len(ORIGINAL_EDGES) - 1)
        return Modality(0, 0, 0, 0, 0, coverage, mirrored_fit, *nothing)
    values, weights = VALUES[present], counts[present] / counts.sum()
    cumulative = np.cumsum(weights)
    low, high = (values[np.searchsorted(cumulative, share)] for share in (0.001, 0.999))
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
    """Brain in the outermost planes of the file's grid, as a share of its largest section."""
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
    image: NDArray[np.floating], tumour: NDArray[np.bool_], task: Task
) -> tuple[float, float] | None:
    """Mean FLAIR in the tumour and in its mirror image, each without voxels of both."""
    if "flair" not in task.modalities:
        return None
    flair = image[task.modalities.index("flair")]
    brain = flair != 0
    mirrored = tumour[..., ::-1]
    here, there = tumour & ~mirrored & brain, mirrored & ~tumour & brain
    if not here.any() or not there.any():
        return None
    return float(flair[here].mean(dtype=np.float64)), float(flair[there].mean(dtype=np.float64))


def _mirrored_fits(image: NDArray[np.floating]) -> list[float]:
    """For each modality, its fit to the others when mirrored left to right, over its fit as it is.

    The fit is mutual information, which does not depend on contrasts, in the voxels that are brain
    both ways. The image is cut to the brain's box, whose middle is taken as the midline.
    """
    step = max(1, round(min(image.shape[1:]) / FIT_SIDE))
    # Symmetric in the last axis, so that the mirrored sample has the same voxels.
    columns = np.arange((image.shape[-1] - 1) % step // 2, image.shape[-1], step)
    sample = image[:, ::step, ::step][..., columns]
    both = (sample != 0).all(axis=0)
    both &= both[..., ::-1]
    if not both.any():
        return [1.0] * len(sample)
    straight = [_binned(channel[both]) for channel in sample]
    mirrored = [_binned(channel[..., ::-1][both]) for channel in sample]
    fits = []
    for channel in range(len(sample)):
        others = straight[:channel] + straight[channel + 1 :]
        as_is = sum(_mutual_information(straight[channel], other) for other in others)
        flipped = sum(_mutual_information(mirrored[channel], other) for other in others)
        fits.append(flipped / as_is if as_is > 0 else 1.0)
    return fits


def _binned(values: NDArray[np.floating]) -> NDArray[np.intp]:
    first, last = FIT_RANGE
    scaled = (values.astype(np.float32) - first) * (FIT_BINS / (last - first))
    return np.asarray(np.clip(scaled, 0, FIT_BINS - 1), np.intp)


def _mutual_information(a: NDArray[np.intp], b: NDArray[np.intp]) -> float:
    """Mutual information of two binned samples, in nats."""
    joint = np.bincount(a * FIT_BINS + b, minlength=FIT_BINS**2).reshape(FIT_BINS, FIT_BINS)
    joint = joint / joint.sum()
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    present = joint > 0
    return float((joint[present] * np.log(joint[present] / independent[present])).sum())
