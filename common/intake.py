"""Reading a case's files and refusing what cannot be used, with every reason at once."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common import fitness, nifti
from common.errors import Finding, InputError
from common.expert_label import declared, read_label
from common.labels import MODALITIES, Convention
from common.layout import LABEL, CaseFiles
from common.manifest import Manifest
from common.nifti import Geometry, ReadFile, Volume
from common.record import DecidedBy, Source


@dataclass(frozen=True)
class LoadedCase:
    """A case's files, read and found fit to be used.

    Attributes:
        images: modality to voxels (D, H, W) in the files' own type, all on one grid.
        label: canonical labels on that grid, or None.
        geometry: that grid: the first modality's own.
        convention: how the label file is written.
        convention_from: what decided that.
        sources: the files with their checksums; of a 4-D file, one for each modality.
        notes: findings that keep nothing out.
    """

    images: dict[str, NDArray[np.generic]]
    label: NDArray[np.uint8] | None
    geometry: Geometry
    convention: Convention
    convention_from: DecidedBy
    sources: tuple[Source, ...]
    notes: tuple[Finding, ...]


def load(files: CaseFiles, manifest: Manifest) -> LoadedCase:
    """Read and check all files of a case. What this accepts, preprocessing takes.

    Raises:
        InputError: with a finding for everything that is wrong with the case.
    """
    paths = dict(files.images) | ({LABEL: files.label} if files.label else {})
    read, findings = _read_all(files, manifest)
    findings += fitness.no_head(paths, read)
    volumes, found = fitness.on_one_grid(paths, read)
    findings += found
    images = {m: volumes[m].voxels for m in MODALITIES if m in volumes}
    for modality, voxels in images.items():
        findings += fitness.unusable_image(paths[modality], voxels)
    label, decided = None, declared(files, manifest)
    if LABEL in volumes:
        voxels, complete = volumes[LABEL].voxels, len(images) == len(MODALITIES)
        label, decided, found = read_label(
            paths[LABEL], voxels, decided, images.values() if complete else ()
        )
        findings += found
    if not _errors(findings):
        first = MODALITIES[0]
        findings += fitness.vanishing_brain(paths[first], images.values(), read[first].geometry)
        findings += fitness.notes_on_images(paths, images)
        findings += fitness.notes_on_place(paths, read)
    findings = fitness.of_case(findings, files.case_id)
    if errors := _errors(findings):
        raise InputError(*errors)
    return LoadedCase(
        images,
        label,
        volumes[MODALITIES[0]].geometry,
        decided.convention,
        decided.by,
        tuple(source_of(role, paths[role], volumes[role].file) for role in paths),
        tuple(findings),
    )


def _errors(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity == "error"]


def source_of(role: str, path: Path, file: ReadFile) -> Source:
    """A file as a record names it."""
    return Source(role=role, file=path.name, **file._asdict())


def _read_all(files: CaseFiles, manifest: Manifest) -> tuple[dict[str, Volume], list[Finding]]:
    """Every file that can be read, by role: the modalities in their order, then the label."""
    volumes, findings = dict[str, Volume](), list[Finding]()
    if files.stacked:
        try:
            channels = nifti.read_stacked(files.images[MODALITIES[0]], manifest.stacked.channels)
            volumes = {modality: channels[modality] for modality in MODALITIES}
        except InputError as error:
            findings += error.findings
    paths = {} if files.stacked else dict(files.images)
    for role, path in (paths | ({LABEL: files.label} if files.label else {})).items():
        try:
            volumes[role] = nifti.read(path)
        except InputError as error:
            findings += error.findings
    return volumes, findings
