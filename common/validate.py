"""Reading and checking a case's files; every problem is reported at once."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common import nifti
from common.discovery import LABEL, CaseFiles
from common.errors import Finding, InputError, warning
from common.geometry import Geometry, ToLPS, degrees_off_axis, reorient
from common.intensities import check_intensities, image_warnings
from common.labels import decide_without_values, read_label
from common.manifest import Manifest
from common.nifti import Volume
from common.record import DecidedBy, Source
from common.volume import bounding_box, foreground

Paths = Mapping[str, Path]
Array = NDArray[np.generic]

LEAST_MM, MOST_MM = 8, 600
"""Sides of a head's volume; others come from headers in metres or in pixels."""

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
    images = {m: volumes[m].voxels for m in modalities if m in volumes}
    for modality, voxels in images.items():
        findings += check_intensities(paths[modality], voxels)
    label, decided = None, decide_without_values(files, manifest)
    if LABEL in volumes:
        complete = images.values() if len(images) == len(modalities) else ()
        label, decided, found = read_label(
            paths[LABEL], volumes[LABEL].voxels, manifest.task, decided, complete
        )
        findings += found
    first = modalities[0]
    if not _errors(findings):
        findings += _check_resampled_brain(paths[first], images.values(), read[first].geometry)
        findings += image_warnings(paths, images) + _placement_warnings(paths, read)
    findings = [replace(finding, case=files.case_id) for finding in findings]
    if errors := _errors(findings):
        raise InputError(*errors)
    return LoadedCase(
        images,
        label,
        volumes[first].geometry,
        decided.convention,
        decided.by,
        tuple(
            Source(role=role, file=path.name, **volumes[role].file._asdict())
            for role, path in paths.items()
        ),
        tuple(findings),
    )


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
        try:
            volumes[role] = nifti.read(path)
        except InputError as error:
            findings += error.findings
    return volumes, findings


def _to_one_grid(
    paths: Paths, volumes: Mapping[str, Volume]
) -> tuple[dict[str, Volume], list[Finding]]:
    """The volumes with their axes in the first one's order; another place is an error."""
    first = next(iter(volumes), "")
    on_grid, findings = dict[str, Volume](), list[Finding]()
    for role, volume in volumes.items():
        onto = volumes[first].geometry
        if volume.geometry.matches(onto):
            on_grid[role] = volume
            continue
        turned = reorient(volume.voxels, volume.geometry, onto)
        if turned is None:
            found, expected = f"a grid of {volume.geometry}", f"that of {paths[first].name}, {onto}"
            action = "register or resample the files of the case to one grid"
            findings.append(Finding(str(paths[role]), found, expected, action))
            continue
        on_grid[role] = volume._replace(voxels=turned, geometry=onto)
        found = f"another order of axes than {paths[first].name}, but the same place"
        action = f"nothing: it is turned; masks are written as {paths[first].name} is"
        findings.append(warning(paths[role], found, "one orientation for a case", action))
    return on_grid, findings


def _check_field_of_view(paths: Paths, volumes: Mapping[str, Volume]) -> list[Finding]:
    """Volumes too small or too large for a head: at 1 mm, one would be a point or fill memory."""
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


def _check_resampled_brain(
    path: Path, images: Iterable[Array], geometry: Geometry
) -> list[Finding]:
    """A brain so thin that no voxel of the 1 mm grid falls on it."""
    to_lps = ToLPS.of(geometry)
    if not to_lps.resamples:
        return []
    brain = to_lps.orient(foreground(images))
    if to_lps.resample(brain.astype(np.uint8), linear=False).any():
        return []
    box = bounding_box(brain)
    shape = " × ".join(map(str, box.shape)) if box else "0"
    spacing = " × ".join(f"{mm:.4g}" for mm in to_lps.spacing_mm)
    found = f"a brain of {shape} voxels of {spacing} mm (z, y, x)"
    action = "check the spacing in its header"
    return [Finding(str(path), found, "a brain that has voxels at 1 mm", action)]


def _placement_warnings(paths: Paths, volumes: Mapping[str, Volume]) -> list[Finding]:
    """Headers that leave a volume's place open, and grids that are oblique or not of 1 mm."""
    warnings, by_doubt = list[Finding](), dict[str, list[Path]]()
    of_file = {paths[role]: volume.orientation_warning for role, volume in volumes.items()}
    for path, doubt in of_file.items():
        if doubt:
            by_doubt.setdefault(doubt, []).append(path)
    for doubt, (path, *others) in by_doubt.items():
        found = doubt + (f" (and {len(others)} more file(s) of the case)" if others else "")
        action = "nothing if that is where it is; else correct the header"
        warnings.append(warning(path, found, "an sform and a qform of one place", action))
    role, volume = next(iter(volumes.items()))
    geometry = volume.geometry
    if (degrees := degrees_off_axis(geometry)) >= OBLIQUE_DEGREES:
        found = f"an oblique grid, {degrees:.0f}° off the body's axes"
        action = "nothing: masks return to this grid; resample to straight axes if scores are low"
        warnings.append(warning(paths[role], found, "axes along the body's", action))
    if ToLPS.of(geometry).resamples:
        found = f"voxels of {' × '.join(f'{mm:.4g}' for mm in geometry.spacing_mm)} mm (z, y, x)"
        action = "nothing: it is resampled, and masks return to this grid"
        warnings.append(warning(paths[role], found, "1 mm a side", action))
    return warnings
