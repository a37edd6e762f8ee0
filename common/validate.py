"""Reading and checking a case's files; every problem is reported at once."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common import nifti
from common.discovery import CaseFiles
from common.errors import Finding, InputError, warning
from common.geometry import (
    NEARLY_VOXELS,
    Geometry,
    Orientation,
    ToLPS,
    Vector,
    degrees_off_axis,
    offset_voxels,
    reorient,
)
from common.intensities import check_different, check_image
from common.labels import check_ids, decide_without_values, read_label
from common.layouts import LABEL
from common.manifest import Manifest
from common.nifti import ReadFile, Volume
from common.record import DecidedBy, Source
from common.volume import bounding_box, foreground, triple

Paths = Mapping[str, Path]
Array = NDArray[np.generic]

LEAST_MM, MOST_MM = 8, 600
"""Sides of a head's volume; others come from headers in metres or in pixels."""

USUAL_MM, NEAR_MM = 1, 0.001
"""Voxels' sides in the releases: that a coarser grid is made of them is the manifest's doing."""

STORED_BYTES = 4
"""Of a voxel of the stored grid while a case is made: float32."""

NO_FILE = ReadFile("", 0, 0)
"""Of an image that is in memory alone."""

OBLIQUE_DEGREES = 3
"""Smallest angle to the body's axes that is reported; nothing is rotated."""


@dataclass(frozen=True)
class LoadedCase:
    """A case's files, read and checked."""

    images: dict[str, Array]
    """Modality to voxels (D, H, W) in the files' own type, all on one grid."""
    label: NDArray[np.uint8] | None
    """Canonical labels on that grid."""
    geometry: Geometry
    """That grid: the first modality's."""
    convention: str
    """How the label file is written, and predictions for the case are."""
    convention_from: DecidedBy
    sources: tuple[Source, ...]
    """The files with their checksums, one for each modality, also of a 4-D file."""
    warnings: tuple[Finding, ...]


def load_case(files: CaseFiles, manifest: Manifest) -> LoadedCase:
    """Read and check all files of a case; preprocessing takes every case that this accepts.

    Raises:
        InputError: with a finding for everything that is wrong with the case.
    """
    modalities = manifest.task.modalities
    paths = dict(files.images) | ({LABEL: files.label} if files.label else {})
    read, findings = _read_all(paths, files.stacked, manifest)
    findings += _check_field_of_view(paths, read)
    volumes, found = _to_one_grid(paths, read)
    findings += found
    images, found = _check_images(paths, volumes, manifest)
    findings += found
    label, decided = None, decide_without_values(files, manifest)
    if files.label is None:  # nothing is misread yet, but masks would have this task's values
        findings += check_ids(files.case_id, paths[modalities[0]], manifest)
    if LABEL in volumes:
        usable = {} if _errors(findings) else images
        label, decided, found = read_label(files, volumes[LABEL].voxels, manifest, usable)
        findings += found
    if not _errors(findings):
        findings += _check_together(paths, read, images, volumes[modalities[0]].geometry, manifest)
    findings = [replace(finding, case=files.case_id) for finding in _grouped(findings)]
    if errors := _errors(findings):
        raise InputError(*errors)
    return LoadedCase(
        images,
        label,
        volumes[modalities[0]].geometry,
        decided.convention,
        decided.by,
        tuple(
            Source(role=role, file=path.name, **volumes[role].file._asdict())
            for role, path in paths.items()
        ),
        tuple(findings),
    )


def check_arrays(arrays: Mapping[str, Array], spacing_mm: Vector, manifest: Manifest) -> LoadedCase:
    """As `load_case`, of images in memory by modality: (D, H, W) in LPS, spacing (z, y, x).

    Raises:
        InputError: with a finding for everything that is wrong with them.
    """
    paths = {modality: Path(modality) for modality in arrays}
    shape = triple(next(iter(arrays.values())).shape)
    geometry = Geometry(shape, spacing_mm, (0.0, 0.0, 0.0))
    volumes = {name: Volume(voxels, geometry, None, NO_FILE) for name, voxels in arrays.items()}
    findings = _check_field_of_view(paths, volumes)
    images, found = _check_images(paths, volumes, manifest)
    findings += found
    if not _errors(findings):
        findings += _check_together(paths, volumes, images, geometry, manifest)
    if errors := _errors(findings):
        raise InputError(*errors)
    convention = next(iter(manifest.task.conventions))
    return LoadedCase(images, None, geometry, convention, "task", (), tuple(_grouped(findings)))


def _check_together(
    paths: Paths,
    read: Mapping[str, Volume],
    images: Mapping[str, Array],
    geometry: Geometry,
    manifest: Manifest,
) -> list[Finding]:
    """What is wrong with images that are sound each by itself, on one grid of this geometry."""
    first, to_lps = paths[manifest.task.modalities[0]], ToLPS.of(geometry, manifest.spacing_mm)
    if too_large := _check_stored_grid(first, geometry, to_lps, manifest):
        return too_large
    findings = _check_resampled_brain(first, images.values(), to_lps)
    return findings + check_different(paths, images) + _placement_warnings(paths, read, to_lps)


def _errors(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity == "error"]


def _read_all(
    paths: Paths, stacked: bool, manifest: Manifest
) -> tuple[dict[str, Volume], list[Finding]]:
    """Every file that can be read, by role: the modalities in their order, then the label."""
    volumes, findings = dict[str, Volume](), list[Finding]()
    modalities = manifest.task.modalities
    if stacked:
        try:
            channels = nifti.read_stacked(paths[modalities[0]], manifest.stacked.channels)
            volumes = {modality: channels[modality] for modality in modalities}
        except InputError as error:
            findings += error.findings
    for role, path in paths.items():
        if stacked and role != LABEL:
            continue
        others_bytes = 0 if role == LABEL else sum(v.voxels.nbytes for v in volumes.values())
        try:
            volumes[role] = nifti.read(path, others_bytes)
        except InputError as error:
            findings += error.findings
    return volumes, findings


def _check_images(
    paths: Paths, volumes: Mapping[str, Volume], manifest: Manifest
) -> tuple[dict[str, Array], list[Finding]]:
    """The modalities' voxels with a background of 0; those that cannot be used as they are."""
    images, findings = dict[str, Array](), list[Finding]()
    for modality in manifest.task.modalities:
        if (volume := volumes.get(modality)) is None:
            continue
        images[modality], mm3 = volume.voxels, volume.geometry.voxel_mm3
        try:
            images[modality], found = check_image(
                paths[modality], volume.voxels, mm3, manifest.background
            )
            findings += found
        except InputError as error:
            findings += error.findings
    return images, findings


def _grouped(findings: list[Finding]) -> list[Finding]:
    """The findings, with a warning that several files share told once."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for finding in findings:
        is_own = finding.severity == "error"
        key = (finding.file if is_own else "", finding.found, finding.action)
        groups.setdefault(key, []).append(finding)
    return [
        replace(first, found=f"{first.found} (and {len(others)} more file(s) of the case)")
        if others and first.severity == "warning"
        else first
        for first, *others in groups.values()
    ]


def _to_one_grid(
    paths: Paths, volumes: Mapping[str, Volume]
) -> tuple[dict[str, Volume], list[Finding]]:
    """The volumes with their axes in one order, mostly the first's; another place is an error."""
    first = _most_common_place(volumes)
    on_grid, findings = dict[str, Volume](), list[Finding]()
    for role, volume in volumes.items():
        onto = volumes[first].geometry
        if volume.geometry.matches(onto):
            on_grid[role] = volume
            continue
        if not _is_one_place(volume.geometry, onto):
            findings.append(_another_grid(paths[role], volume, paths[first], onto, role))
            continue
        voxels = reorient(volume.voxels, volume.geometry, onto)
        on_grid[role] = volume._replace(voxels=voxels, geometry=onto)
        findings += _nearly_one_grid(paths[role], volume.geometry, paths[first], onto)
    return on_grid, findings


def _most_common_place(volumes: Mapping[str, Volume]) -> str:
    """The first of the volumes whose place most of them have; empty without any.

    Where a volume is elsewhere, its header is the one to doubt, also if it is the first's.
    """
    first, *others = volumes or [""]
    if all(volumes[other].geometry.matches(volumes[first].geometry) for other in others):
        return first
    places = [volume.geometry for volume in volumes.values()]
    shared = {
        role: sum(_is_one_place(volume.geometry, place) for place in places)
        for role, volume in volumes.items()
    }
    return max(shared, key=lambda role: shared[role])


def _is_one_place(one: Geometry, other: Geometry) -> bool:
    offset = offset_voxels(one, other)
    # Rounded, because NIfTI keeps origins in float32.
    return offset is not None and round(offset, 3) <= NEARLY_VOXELS


def _another_grid(path: Path, volume: Volume, first: Path, onto: Geometry, role: str) -> Finding:
    """A file of another grid: its header is wrong, or its voxels are.

    With as many voxels as the others it may be the header alone. Resampling by that would move
    what is in its place already, and leave a mask empty.
    """
    doubt = f" ({volume.orientation_warning})" if volume.orientation_warning else ""
    found, expected = f"a grid of {volume.geometry}{doubt}", f"that of {first.name}, {onto}"
    action = f"export it again on the grid of {first.name}"
    if volume.geometry.shape == onto.shape:
        action = (
            f"if its voxels are in the order of {first.name}, give it that header and put the new "
            f"file in its place: `import nibabel; image, this = nibabel.load('{first.name}'), "
            f"nibabel.load('{path.name}'); new = nibabel.Nifti1Image(this.dataobj, None, "
            f"image.header); new.set_data_dtype(this.get_data_dtype()); "
            f"nibabel.save(new, 'new.nii.gz')`; else {action}"
        )
    elif role != LABEL:
        action = "register or resample the files of the case to one grid"
    return Finding(str(path), found, expected, action)


def _nearly_one_grid(path: Path, geometry: Geometry, first: Path, onto: Geometry) -> list[Finding]:
    """Warnings of a file whose grid is the first one's, but for its axes or a small offset."""
    warnings = []
    if Orientation.of(geometry) != Orientation.of(onto):
        found = f"another order of axes than {first.name}, but the same place"
        action = f"nothing: it is turned; masks are written as {first.name} is"
        warnings.append(warning(path, found, "one orientation for a case", action))
    if not Orientation.of(geometry).oriented(geometry).matches(Orientation.of(onto).oriented(onto)):
        offset = offset_voxels(geometry, onto)
        found = f"a grid {offset:.2g} voxels off that of {first.name}, and else the same"
        action = f"nothing: its voxels are taken as those of {first.name}"
        warnings.append(warning(path, found, "one grid for a case", action))
    return warnings


def _check_field_of_view(paths: Paths, volumes: Mapping[str, Volume]) -> list[Finding]:
    """Volumes too small or too large for a head: resampled, one would be a point or fill memory."""
    findings = []
    for role, volume in volumes.items():
        geometry = volume.geometry
        extents = [mm * n for mm, n in zip(geometry.spacing_mm, geometry.shape, strict=True)]
        if min(extents) < LEAST_MM or max(extents) > MOST_MM:
            found = f"a volume of {' × '.join(f'{extent:g}' for extent in extents)} mm (z, y, x)"
            expected = f"a head: {LEAST_MM} to {MOST_MM} mm a side"
            action = "correct the spacing in its header"
            findings.append(Finding(str(paths[role]), found, expected, action))
    return findings


def _check_stored_grid(
    path: Path, geometry: Geometry, to_lps: ToLPS, manifest: Manifest
) -> list[Finding]:
    """A grid of so many voxels, once it has the stored spacing, that the case fills the memory."""
    size = math.prod(to_lps.shape) * len(manifest.task.modalities) * STORED_BYTES
    if size <= nifti.MOST_BYTES:
        return []
    shape, file_shape = (" × ".join(map(str, s)) for s in (to_lps.shape, geometry.shape))
    spacing = " × ".join(f"{mm:.4g}" for mm in geometry.spacing_mm)
    found = f"{file_shape} voxels of {spacing} mm (z, y, x), which are {shape} of "
    found += f"{to_lps.spacing_mm:g} mm: {size / 1e9:,.1f} GB for all images of the case"
    action = "correct the spacing in its header, or set a larger spacing_mm in the manifest"
    return [Finding(str(path), found, f"{nifti.MOST_BYTES / 1e9:.1f} GB at most", action)]


def _check_resampled_brain(path: Path, images: Iterable[Array], to_lps: ToLPS) -> list[Finding]:
    """A brain so thin that no voxel of the stored grid is brain."""
    if not to_lps.resamples:
        return []
    brain = to_lps.orient(foreground(images))
    if to_lps.resample_labels(brain.astype(np.uint8)).any():
        return []
    box = bounding_box(brain)
    shape = " × ".join(map(str, box.shape)) if box else "0"
    spacing = " × ".join(f"{mm:.4g}" for mm in to_lps.oriented_spacing_mm)
    found = f"a brain of {shape} voxels of {spacing} mm (z, y, x)"
    expected = f"a brain that has voxels at {to_lps.spacing_mm:g} mm"
    return [Finding(str(path), found, expected, "check the spacing in its header")]


def _placement_warnings(
    paths: Paths, volumes: Mapping[str, Volume], to_lps: ToLPS
) -> list[Finding]:
    """Headers that leave a volume's place open, and grids that are oblique or resampled."""
    warnings = [
        warning(
            paths[role],
            volume.orientation_warning,
            "an sform and a qform of one place",
            "nothing if that is where it is; else correct the header",
        )
        for role, volume in volumes.items()
        if volume.orientation_warning
    ]
    role, volume = next(iter(volumes.items()))
    geometry = volume.geometry
    if (degrees := degrees_off_axis(geometry)) >= OBLIQUE_DEGREES:
        found = f"an oblique grid, {degrees:.0f}° off the body's axes"
        action = "nothing: masks return to this grid; resample to straight axes if scores are low"
        warnings.append(warning(paths[role], found, "axes along the body's", action))
    if to_lps.resamples and any(abs(mm - USUAL_MM) > NEAR_MM for mm in geometry.spacing_mm):
        found = f"voxels of {' × '.join(f'{mm:.4g}' for mm in geometry.spacing_mm)} mm (z, y, x)"
        action = "nothing: it is resampled, and masks return to this grid"
        expected = f"{to_lps.spacing_mm:g} mm a side, as the stored grid has"
        warnings.append(warning(paths[role], found, expected, action))
    return warnings
