"""One case: read, orient, resample, box, normalise, and the way back. No Dask, no Zarr."""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from common import __version__, nifti
from common.errors import InputError
from common.grid import ToLPS
from common.labels import (
    MODALITIES,
    REGIONS,
    Convention,
    conventions_of,
    from_canonical,
    region_voxels,
    to_canonical,
)
from common.layout import LABEL, CaseFiles
from common.manifest import Manifest
from common.nifti import Geometry, Volume
from common.record import CaseRecord, DecidedBy, Source, TumourVoxels, hash_of, parameters
from common.volume import (
    Box,
    T,
    bounding_box,
    brain_box,
    crop_window,
    extract,
    foreground_statistics,
    normalise,
    place_back,
)


@dataclass(frozen=True)
class PreparedCase:
    """A case as it is stored.

    Attributes:
        record: everything but the voxels; its row and checksums are not yet known.
        image: (4, *box) normalised, 0 outside the foreground.
        label: (*box) canonical labels, or None.
        crop_image: (4, *crop).
        crop_label: (*crop), or None.
    """

    record: CaseRecord
    image: NDArray[np.floating]
    label: NDArray[np.uint8] | None
    crop_image: NDArray[np.floating]
    crop_label: NDArray[np.uint8] | None


def prepare(
    files: CaseFiles, manifest: Manifest, on_stage: Callable[[str], None] = lambda _: None
) -> PreparedCase:
    """Read and normalise one case.

    Args:
        files: the case's files.
        manifest: crop, margin, type and label convention.
        on_stage: told `read` and `prepare` as they begin, so that a failure can name its stage.

    Raises:
        InputError: a file is damaged, of the wrong kind, or does not fit the others.
    """
    on_stage("read")
    images = {modality: nifti.read(path) for modality, path in files.images.items()}
    label_volume = nifti.read(files.label) if files.label else None
    on_stage("prepare")
    geometry = _common_geometry(files, images, label_volume)
    to_lps = ToLPS.of(geometry)
    brain, statistics = _foreground(files, images, to_lps)
    box = brain_box(brain, manifest.margin, manifest.crop, to_lps.shape)
    image = _normalised(images, statistics, to_lps, box, np.dtype(manifest.dtype))
    label, convention, decided_by = _label(files, label_volume, manifest, to_lps)
    tumour = bounding_box(label > 0) if label is not None else None
    crop = crop_window(brain, tumour, manifest.crop, to_lps.shape)
    centred = crop_window(brain, None, manifest.crop, to_lps.shape)
    record = CaseRecord(
        case_id=files.case_id,
        patient=files.patient,
        has_label=label is not None,
        convention=convention,
        convention_from=decided_by,
        sources=_sources(files, images, label_volume),
        geometry=geometry,
        grid_shape=to_lps.shape,
        box=box,
        crop=crop,
        mean={modality: mean for modality, (mean, _) in statistics.items()},
        std={modality: std for modality, (_, std) in statistics.items()},
        tumour_voxels=None if label is None else _tumour_voxels(label, box, crop, centred),
        parameter_hash=hash_of(parameters(manifest)),
        software=_software(),
    )
    return PreparedCase(
        record,
        image,
        None if label is None else extract(label, box),
        # All that is not background lies in the box, so the crop can be cut from it.
        extract(image, crop.relative_to(box)),
        None if label is None else extract(label, crop),
    )


def restore(label: NDArray[np.uint8], record: CaseRecord) -> tuple[NDArray[np.uint8], Geometry]:
    """Canonical labels in a case's box, back in its files' grid, orientation and values.

    Args:
        label: (*record.box.shape) canonical labels.
        record: the case's.
    """
    to_lps = ToLPS.of(record.geometry)
    whole = place_back(label, record.box, to_lps.shape)
    if to_lps.resamples:
        whole = to_lps.unresample(whole)
    native = np.ascontiguousarray(to_lps.unorient(whole))
    return from_canonical(native, record.convention), record.geometry


def _common_geometry(files: CaseFiles, images: dict[str, Volume], label: Volume | None) -> Geometry:
    first = images[MODALITIES[0]].geometry
    volumes = [(files.images[m], images[m]) for m in MODALITIES[1:]]
    if label is not None and files.label is not None:
        volumes.append((files.label, label))
    for path, volume in volumes:
        if not volume.geometry.matches(first):
            raise InputError(
                f"{path}: its grid is {_describe(volume.geometry)}; expected that of "
                f"{files.images[MODALITIES[0]].name}, {_describe(first)}: "
                "register or resample the files of the case to one grid"
            )
    return first


def _describe(geometry: Geometry) -> str:
    def rounded(values: tuple[float, ...]) -> str:
        return ", ".join(f"{value:g}" for value in values)

    return (
        f"{geometry.shape} voxels of ({rounded(geometry.spacing_mm)}) mm at "
        f"({rounded(geometry.origin_mm)}), direction ({rounded(geometry.direction)})"
    )


def _foreground(
    files: CaseFiles, images: dict[str, Volume], to_lps: ToLPS
) -> tuple[Box, dict[str, tuple[float, float]]]:
    """The brain's box in the LPS grid, and each modality's mean and standard deviation."""
    brain = np.zeros(images[MODALITIES[0]].voxels.shape, np.bool_)
    for modality in MODALITIES:
        voxels = images[modality].voxels
        if not np.issubdtype(voxels.dtype, np.integer) and not np.isfinite(voxels).all():
            raise InputError(
                f"{files.images[modality]}: {int((~np.isfinite(voxels)).sum())} voxels are NaN or "
                "infinite; expected numbers: export it again"
            )
        brain |= voxels != 0
    native = bounding_box(brain)
    statistics = {}
    for modality in MODALITIES:
        voxels = images[modality].voxels
        mean, std = foreground_statistics(extract(voxels, native) if native else voxels)
        if not std > 0:
            found = "no voxel is other than 0" if np.isnan(mean) else f"all are {mean:g}"
            raise InputError(
                f"{files.images[modality]}: {found}; expected an image: export it again"
            )
        statistics[modality] = (mean, std)
    oriented = to_lps.orient(brain)
    if to_lps.resamples:
        oriented = to_lps.resample(oriented.astype(np.uint8), linear=False) > 0
    box = bounding_box(oriented)
    if box is None:
        raise InputError(f"{files.images[MODALITIES[0]]}: nothing of the brain is left at 1 mm")
    return box, statistics


def _normalised(
    images: dict[str, Volume],
    statistics: dict[str, tuple[float, float]],
    to_lps: ToLPS,
    box: Box,
    dtype: np.dtype[np.floating],
) -> NDArray[np.floating]:
    out = np.empty((len(MODALITIES), *box.shape), dtype)
    for channel, modality in enumerate(MODALITIES):
        voxels = to_lps.orient(images[modality].voxels)
        if to_lps.resamples:
            foreground = to_lps.resample((voxels != 0).astype(np.uint8), linear=False) > 0
            voxels = extract(to_lps.resample(voxels, linear=True), box)
            foreground = extract(foreground, box)
        else:
            voxels = extract(voxels, box)
            foreground = voxels != 0
        out[channel] = normalise(voxels, foreground, *statistics[modality], dtype)
    return out


def _label(
    files: CaseFiles, volume: Volume | None, manifest: Manifest, to_lps: ToLPS
) -> tuple[NDArray[np.uint8] | None, Convention, DecidedBy]:
    """Canonical labels in the LPS grid, the convention, and what decided it."""
    declared = None if manifest.label_convention == "auto" else manifest.label_convention
    if volume is None or files.label is None:
        return None, declared or files.names, "manifest" if declared else "names"
    values = _values(files, volume.voxels)
    allowed = conventions_of(values) & ({declared} if declared else set(Convention))
    if not allowed:
        expected = declared.values if declared else "0, 1, 2 and 3, or 0, 1, 2 and 4"
        raise InputError(
            f"{files.label}: label values {sorted(values)}; expected {expected}: "
            "map them to a BraTS convention"
        )
    if declared:
        return _oriented(volume, declared, to_lps), declared, "manifest"
    if len(allowed) == 1:
        convention = next(iter(allowed))
        return _oriented(volume, convention, to_lps), convention, "values"
    return _oriented(volume, files.names, to_lps), files.names, "names"


def _oriented(volume: Volume, convention: Convention, to_lps: ToLPS) -> NDArray[np.uint8]:
    label = to_lps.orient(to_canonical(volume.voxels, convention))
    if to_lps.resamples:
        label = to_lps.resample(label, linear=False)
    return label


def _values(files: CaseFiles, voxels: NDArray[np.generic]) -> set[int]:
    values = np.unique(_around_foreground(voxels))
    if not np.array_equal(values, np.round(values)):
        raise InputError(
            f"{files.label}: label values such as {values[values != np.round(values)][0]:g}; "
            "expected whole numbers: it looks interpolated, export it with nearest neighbour"
        )
    return {0} | {int(value) for value in values}


def _around_foreground(voxels: NDArray[T]) -> NDArray[T]:
    """The part of an array that holds all that is not 0: less to count in."""
    box = bounding_box(voxels != 0)
    return voxels[:0] if box is None else extract(voxels, box)


def _tumour_voxels(label: NDArray[np.uint8], box: Box, crop: Box, centred: Box) -> TumourVoxels:
    tumour = bounding_box(label > 0)
    if tumour is None:
        none = dict.fromkeys(REGIONS, 0)
        return TumourVoxels(native=none, box=none, crop=none, centred_crop=none)
    return TumourVoxels(
        native=region_voxels(extract(label, tumour)),
        box=region_voxels(extract(label, tumour.overlap(box))),
        crop=region_voxels(extract(label, tumour.overlap(crop))),
        centred_crop=region_voxels(extract(label, tumour.overlap(centred))),
    )


def _sources(
    files: CaseFiles, images: dict[str, Volume], label: Volume | None
) -> tuple[Source, ...]:
    sources = [
        Source(role=m, file=files.images[m].name, sha256=images[m].sha256) for m in MODALITIES
    ]
    if label is not None and files.label is not None:
        sources.append(Source(role=LABEL, file=files.label.name, sha256=label.sha256))
    return tuple(sources)


def _software() -> dict[str, str]:
    packages = ("numpy", "scipy", "SimpleITK", "nibabel", "zarr")
    return {"fm-net": __version__, "python": platform.python_version()} | {
        package: version(package) for package in packages
    }
