"""Reading a case's files and refusing what cannot be used, with every reason at once."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common import nifti
from common.errors import Finding, InputError
from common.labels import MODALITIES, Convention, conventions_of, to_canonical
from common.layout import LABEL, CaseFiles
from common.manifest import Manifest
from common.nifti import Geometry, Volume
from common.record import DecidedBy, Source
from common.volume import T, bounding_box, extract

LEAST_MM, MOST_MM = 8, 1000
"""How large a side of a head's volume can be; beyond, its header is in metres or in pixels."""


@dataclass(frozen=True)
class LoadedCase:
    """A case's files, read and found fit to be used.

    Attributes:
        images: modality to voxels (D, H, W) in the files' own type and grid.
        label: canonical labels in the files' own grid, or None.
        geometry: that grid.
        convention: how the label file is written.
        convention_from: what decided that.
        sources: the files with their checksums.
    """

    images: dict[str, NDArray[np.generic]]
    label: NDArray[np.uint8] | None
    geometry: Geometry
    convention: Convention
    convention_from: DecidedBy
    sources: tuple[Source, ...]


def load(files: CaseFiles, manifest: Manifest) -> LoadedCase:
    """Read and check all files of a case.

    Raises:
        InputError: with a finding for everything that is wrong with the case.
    """
    paths = dict(files.images) | ({LABEL: files.label} if files.label else {})
    volumes, findings = _read_all(paths)
    findings += _other_grids(paths, volumes)
    findings += _no_head(paths, volumes)
    for modality in MODALITIES:
        if modality in volumes:
            findings += _unusable_image(paths[modality], volumes[modality].voxels)
    convention, decided_by = _declared(files, manifest)
    label = None
    if LABEL in volumes:
        values, strange = _label_values(paths[LABEL], volumes[LABEL].voxels)
        findings += strange
        if not strange:
            allowed = conventions_of(values)
            if decided_by != "manifest" and len(allowed) == 1:
                convention, decided_by = next(iter(allowed)), "values"
            findings += _outside(paths[LABEL], values, convention, allowed)
            label = to_canonical(volumes[LABEL].voxels, convention)
    if findings:
        raise InputError(*(replace(finding, case=files.case_id) for finding in findings))
    return LoadedCase(
        {modality: volumes[modality].voxels for modality in MODALITIES},
        label,
        volumes[MODALITIES[0]].geometry,
        convention,
        decided_by,
        tuple(source_of(role, paths[role], volumes[role].sha256) for role in paths),
    )


def source_of(role: str, path: Path, sha256: str) -> Source:
    """A file as a record names it."""
    state = path.stat()
    return Source(
        role=role,
        file=path.name,
        sha256=sha256,
        size_bytes=state.st_size,
        modified_ns=state.st_mtime_ns,
    )


def _read_all(paths: dict[str, Path]) -> tuple[dict[str, Volume], list[Finding]]:
    volumes, findings = {}, list[Finding]()
    for role, path in paths.items():
        try:
            volumes[role] = nifti.read(path)
        except InputError as error:
            findings += error.findings
    return volumes, findings


def _other_grids(paths: dict[str, Path], volumes: dict[str, Volume]) -> list[Finding]:
    """Files on another grid than the first one that could be read."""
    roles = list(volumes)
    return [
        Finding(
            str(paths[role]),
            f"a grid of {_describe(volumes[role].geometry)}",
            f"that of {paths[roles[0]].name}, {_describe(volumes[roles[0]].geometry)}",
            "register or resample the files of the case to one grid",
        )
        for role in roles[1:]
        if not volumes[role].geometry.matches(volumes[roles[0]].geometry)
    ]


def _no_head(paths: dict[str, Path], volumes: dict[str, Volume]) -> list[Finding]:
    """Files whose header gives no head's size: at 1 mm it would be a point, or fill the memory."""
    findings = []
    for role, volume in volumes.items():
        geometry = volume.geometry
        extents = [mm * n for mm, n in zip(geometry.spacing_mm, geometry.shape, strict=True)]
        if min(extents) < LEAST_MM or max(extents) > MOST_MM:
            found = f"a volume of {' × '.join(f'{extent:g}' for extent in extents)} mm (z, y, x)"
            expected = f"a head: {LEAST_MM} to {MOST_MM} mm a side"
            action = "mend the spacing in its header"
            findings.append(Finding(str(paths[role]), found, expected, action))
    return findings


def _describe(geometry: Geometry) -> str:
    def shown(values: tuple[float, ...]) -> str:
        return ", ".join(f"{value:g}" for value in values)

    return (
        f"{geometry.shape} voxels of ({shown(geometry.spacing_mm)}) mm from "
        f"({shown(geometry.origin_mm)}), direction ({shown(geometry.direction)})"
    )


def _unusable_image(path: Path, voxels: NDArray[np.generic]) -> list[Finding]:
    if not np.issubdtype(voxels.dtype, np.integer):
        strange = int(np.size(voxels) - np.count_nonzero(np.isfinite(voxels)))
        if strange:
            found = f"{strange} voxels that are NaN or infinite"
            return [Finding(str(path), found, "finite intensities", "export it again")]
    if not np.any(voxels):
        return [Finding(str(path), "only zeros", "an image", "export it again")]
    return []


def _declared(files: CaseFiles, manifest: Manifest) -> tuple[Convention, DecidedBy]:
    if manifest.label_convention == "auto":
        return files.names, "names"
    return manifest.label_convention, "manifest"


def _label_values(path: Path, voxels: NDArray[np.generic]) -> tuple[set[int], list[Finding]]:
    values = np.unique(_around_foreground(voxels))
    whole = np.isfinite(values) & (values == np.round(values))
    if not whole.all():
        found = f"label values such as {values[~whole][0]:g}"
        action = "it looks interpolated: export it with nearest neighbour"
        return set(), [Finding(str(path), found, "whole numbers", action)]
    return {0} | {int(value) for value in values}, []


def _around_foreground(voxels: NDArray[T]) -> NDArray[T]:
    """The part of an array that holds all that is not 0: less to count in."""
    box = bounding_box(voxels != 0)
    return voxels[:0] if box is None else extract(voxels, box)


def _outside(
    path: Path, values: set[int], convention: Convention, allowed: set[Convention]
) -> list[Finding]:
    if convention in allowed:
        return []
    expected = " or ".join(
        str(sorted(option.values)) for option in ([convention] if allowed else Convention)
    )
    action = "map the values to a BraTS convention, or set label_convention in the manifest"
    return [Finding(str(path), f"label values {sorted(values)}", expected, action)]
