"""One case: read, orient, resample, box, normalise, and the way back. No Dask, no Zarr."""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common import __version__
from common.discovery import CaseFiles
from common.geometry import ToLPS
from common.manifest import Manifest
from common.record import CaseRecord, CaseWarning, TumourVoxels, hash_of, parameters
from common.task import Task
from common.validate import LoadedCase, load_case
from common.volume import (
    Box,
    T,
    bounding_box,
    brain_box,
    crop_window,
    enclosing_box,
    extract,
    foreground,
    foreground_slabs,
    foreground_statistics,
    normalise,
    z_scores,
)


@dataclass(frozen=True)
class PreparedCase:
    """A case as it is stored; labels are canonical, and None without a label file."""

    record: CaseRecord
    """Its row and checksums are not yet known."""
    image: NDArray[np.floating]
    """(modalities, *box) normalised, 0 outside the foreground."""
    label: NDArray[np.uint8] | None
    """(*box)."""
    crop_image: NDArray[np.floating]
    """(modalities, *crop)."""
    crop_label: NDArray[np.uint8] | None
    """(*crop)."""
    reference: NDArray[np.uint8] | None = None
    """(*geometry.shape): the label in the files' own grid, where `label` does not give it."""


def prepare(
    files: CaseFiles, manifest: Manifest, on_stage: Callable[[str], None] = lambda _: None
) -> PreparedCase:
    """Read and normalise one case.

    `on_stage` is called with `read` and `prepare` as they begin, so that a failure can name its
    stage.

    Raises:
        InputError: a file is damaged, of the wrong kind, or does not fit the others.
    """
    on_stage("read")
    loaded = load_case(files, manifest)
    on_stage("prepare")
    return prepare_loaded(files.case_id, loaded, manifest)


def prepare_loaded(case_id: str, loaded: LoadedCase, manifest: Manifest) -> PreparedCase:
    """Normalise one case that was read and checked."""
    modalities = manifest.task.modalities
    to_lps = ToLPS.of(loaded.geometry, manifest.spacing_mm)
    images = {modality: to_lps.orient(loaded.images[modality]) for modality in modalities}
    slabs = foreground_slabs(images.values())  # not empty: `load_case` refuses images of zeros
    brain = _resampled_box(images, to_lps) if to_lps.resamples else enclosing_box(slabs)
    box = brain_box(brain, manifest.margin, manifest.crop, to_lps.shape)
    image = np.zeros((len(modalities), *box.shape), manifest.dtype)
    statistics = {
        modality: _score(images[modality], slabs, to_lps, box, scores)
        for modality, scores in zip(modalities, image, strict=True)
    }
    label = None if loaded.label is None else _oriented(loaded.label, to_lps)
    tumour = bounding_box(label) if label is not None else None
    crop = crop_window(brain, tumour, manifest.crop, to_lps.shape)
    windows = {
        "box": box,
        "crop": crop,
        "centred_crop": crop_window(brain, None, manifest.crop, to_lps.shape),
    }
    record = CaseRecord(
        case_id=case_id,
        has_label=label is not None,
        convention=loaded.convention,
        convention_from=loaded.convention_from,
        sources=loaded.sources,
        geometry=loaded.geometry,
        spacing_mm=manifest.spacing_mm,
        grid_shape=to_lps.shape,
        box=box,
        crop=crop,
        mean={modality: mean for modality, (mean, _) in statistics.items()},
        std={modality: std for modality, (_, std) in statistics.items()},
        tumour_voxels=None if label is None else _voxels(manifest.task, label, tumour, windows),
        parameter_hash=hash_of(parameters(manifest)),
        software=_software(),
        warnings=tuple(
            CaseWarning(file=Path(warning.file).name, found=warning.found, action=warning.action)
            for warning in loaded.warnings
        ),
    )
    return PreparedCase(
        record,
        image,
        None if label is None else _cut(label, box),
        # All that is not background lies in the box, so the crop can be cut from it.
        _cut(image, crop.relative_to(box)),
        None if label is None else _cut(label, crop),
        loaded.label if record.stores_reference else None,
    )


def _cut(array: NDArray[T], box: Box) -> NDArray[T]:
    """As `extract`, but contiguous: it is read more than once."""
    return np.ascontiguousarray(extract(array, box))


def _score(
    voxels: NDArray[np.generic],
    slabs: list[Box],
    to_lps: ToLPS,
    box: Box,
    scores: NDArray[np.floating],
) -> tuple[float, float]:
    """Put one modality's z-scores into `scores` (*box.shape), which are 0; return mean and std.

    The voxels are oriented, of the files' spacing; the slabs hold their foreground.
    """
    parts = [_cut(voxels, slab) for slab in slabs]
    mean, std = foreground_statistics(parts)
    if to_lps.resamples:
        resampled, inside = _resampled(voxels, to_lps, box)
        scores[...] = z_scores(resampled, mean, std, inside)
    else:
        within = [extract(scores, slab.relative_to(box)) for slab in slabs]
        normalise(parts, mean, std, within)
    return mean, std


def _resampled_box(images: dict[str, NDArray[np.generic]], to_lps: ToLPS) -> Box:
    """The brain's box in the stored grid."""
    brain = foreground(images.values()).astype(np.uint8)
    box = bounding_box(to_lps.resample_labels(brain))
    assert box is not None  # noqa: S101 - `load_case` refuses a brain too thin for the grid
    return box


def _resampled(
    voxels: NDArray[np.generic], to_lps: ToLPS, box: Box
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """One modality in the box of the stored grid, and where its foreground is.

    Interpolation weighs the foreground alone: the zeros outside are no intensities, and with them
    the brain would end in a dark shell.
    """
    inside = voxels != 0
    foreground = extract(to_lps.resample_labels(inside.astype(np.uint8)), box) > 0
    sums = extract(to_lps.resample(voxels), box)
    weights = extract(to_lps.resample(inside), box)
    np.divide(sums, weights, out=sums, where=foreground)  # there a weight is 1/8 or more
    return sums, foreground


def _oriented(label: NDArray[np.uint8], to_lps: ToLPS) -> NDArray[np.uint8]:
    oriented = to_lps.orient(label)
    return to_lps.resample_labels(oriented) if to_lps.resamples else oriented


def _voxels(
    task: Task, label: NDArray[np.uint8], tumour: Box | None, windows: dict[str, Box]
) -> TumourVoxels:
    """Count labels in the whole grid and in each window; `tumour` holds all that is labelled."""
    tumour = tumour or Box((0, 0, 0), (0, 0, 0))
    native = task.label_voxels(extract(label, tumour))
    counts = {"native": native}
    for name, window in windows.items():
        part = tumour.overlap(window)
        counts[name] = native if part == tumour else task.label_voxels(extract(label, part))
    return TumourVoxels(**counts)


@cache
def _software() -> dict[str, str]:
    packages = ("numpy", "scipy", "SimpleITK", "nibabel", "zarr")
    return {"fm-net": __version__, "python": platform.python_version()} | {
        package: version(package) for package in packages
    }
