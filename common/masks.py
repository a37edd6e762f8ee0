"""Masks without their images: whose a file in a folder is, and what its values mean.

A folder may be a cohort with its labels, `labelsTr`, what any tool predicted, or what was submitted
to a challenge.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common import nifti
from common.dataset_json import NAME as DATASET_JSON
from common.dataset_json import DatasetJson, Datasets
from common.discovery import CaseFiles, discover
from common.errors import Finding, InputError
from common.files import real_path
from common.folder import files_below
from common.geometry import Geometry
from common.grouping import Group, Grouping, stem_of, without_suffix
from common.labels import Decided, read_label
from common.layouts import COMPANION, LABEL, MASK, PREDICTED
from common.manifest import Manifest, load_manifest, manifest_in

LEVELS = 2
"""Folders above a mask in which a `dataset.json` is looked for: nnU-Net's is beside `labelsTr`, in
its folder of predictions, or two above those of its own validation."""

NO_MASK = re.compile(r"prob|uncert", re.IGNORECASE)
"""What is in the names of volumes of probabilities, which lie among predicted masks."""


class Mask(NamedTuple):
    """A mask that was read."""

    label: NDArray[np.uint8]
    """(D, H, W) canonical labels."""
    geometry: Geometry
    decided: Decided
    """Its convention."""
    warnings: list[Finding]


@dataclass(frozen=True)
class Masks:
    """The masks of a folder."""

    manifest: Manifest
    files: dict[str, CaseFiles] = field(default_factory=dict)
    """Case id to its mask's file; ids are bare, so that those of two folders are equal."""
    doubled: dict[str, list[Path]] = field(default_factory=dict)
    """Case id to several files that may be its mask; none is taken."""
    unlabelled: list[str] = field(default_factory=list)
    """Ids of the cases that have images and no mask."""
    findings: list[Finding] = field(default_factory=list)
    """About all else in the folder."""


def manifest_of(folder: Path, *settings: str) -> Manifest:
    """The manifest in a folder, or beside it, else the defaults; with settings on top.

    Raises:
        ConfigError: it cannot be read.
    """
    return load_manifest(manifest_in(folder, real_path(folder).parent), settings)


def find_masks(path: Path, manifest: Manifest) -> Masks:
    """Find the masks in a folder and its subfolders, or the one of this name.

    Where cases have images, their masks are those that `check` finds. In any other folder each
    volume that is no image is a mask, and its name without words such as `seg` the case id.

    Raises:
        InputError: there is no such folder, or a dataset.json beside masks cannot be understood.
    """
    found = Masks(manifest)
    if path.is_file() and stem_of(path.name) is not None:
        return _add(found, [(_bare(path), path, None)])
    discovery = discover(path, manifest)
    if not discovery.cases:
        findings = list[Finding]()
        grouping = Grouping(manifest)
        for file in files_below(path.absolute(), findings):
            grouping.add(file)
        found.findings.extend(findings)
        return _add(found, _masks_of(grouping))
    found.findings.extend(discovery.findings)
    for case in discovery.cases:
        if case.label is None:
            found.unlabelled.append(case.case_id)
        else:
            found.files[case.case_id] = case
    return found


def _masks_of(grouping: Grouping) -> Iterable[tuple[str, Path, Group | None]]:
    """Case id, file and group of each volume that may be a mask."""
    for group in grouping.groups():
        for file in group.files:
            if file.role == LABEL:
                yield _bare(file.path, group.case_id), file.path, group
            elif file.role == COMPANION and not NO_MASK.search(file.part):
                yield _bare(file.path), file.path, None
    for path in grouping.strays:
        if not NO_MASK.search(path.name):
            yield _bare(path), path, None


def _bare(path: Path, case_id: str = "") -> str:
    """A case id: that of its name, without words for a mask at its end, else of its folder."""
    name = case_id or (without_suffix(path) or "").rpartition("/")[2]
    while True:
        rest, mark, word = re.fullmatch(r"(.*?)([-_.]?)([^-_.]*)", name, re.DOTALL).groups()  # type: ignore[union-attr]  # it fits any text
        is_mask = word.isalpha() and (MASK.fullmatch(word) or PREDICTED.search(word))
        if not (is_mask or (mark and not word)):
            return name
        if not rest:
            return path.parent.name
        name = rest


def _add(found: Masks, masks: Iterable[tuple[str, Path, Group | None]]) -> Masks:
    datasets, by_id = Datasets(), dict[str, list[tuple[Path, Group | None]]]()
    for case_id, path, group in masks:
        by_id.setdefault(case_id, []).append((path, group))
    for case_id, candidates in sorted(by_id.items()):
        if len(candidates) > 1:
            found.doubled[case_id] = [path for path, _ in candidates]
            continue
        ((path, group),) = candidates
        found.files[case_id] = _case_files(case_id, path, group, datasets, found.manifest)
    return found


def _case_files(
    case_id: str, path: Path, group: Group | None, datasets: Datasets, manifest: Manifest
) -> CaseFiles:
    """A mask as a case without images; only what states a convention suggests one."""
    layout, convention = group.layout() if group else None, None
    if layout and layout.states_convention and layout.convention in manifest.task.conventions:
        convention = layout.convention
    folder = _dataset_folder(path)
    stated = _stated(folder, datasets[folder], manifest) if folder else None
    should_state = folder is not None or path.parent.name in manifest.stacked.labels
    return CaseFiles(
        case_id=case_id,
        patient=manifest.patient_of(case_id),
        images={},
        label=path,
        layout=layout.name if layout else "",
        suggested_convention=stated or convention,
        states_convention=bool(stated or convention),
        lacks_statement=should_state and not stated and not convention,
    )


def _dataset_folder(path: Path) -> Path | None:
    above = path.parents[: LEVELS + 1]
    return next((folder for folder in above if (folder / DATASET_JSON).is_file()), None)


def _stated(folder: Path, dataset: DatasetJson, manifest: Manifest) -> str | None:
    """The convention that a dataset.json states; None if it leaves several, or does not count."""
    if manifest.label_convention != "auto":
        return None
    stated = dataset.conventions(manifest.task)
    if dataset.problem or stated == set():
        found = dataset.problem or "labels " + ", ".join(dataset.labels)
        expected = f"labels of task {manifest.task.name} in the values of "
        expected += ", ".join(manifest.task.conventions)
        action = "set task or label_convention in the manifest, or correct this file"
        raise InputError(Finding(str(folder / DATASET_JSON), found, expected, action))
    return next(iter(stated)) if stated and len(stated) == 1 else None


def read_mask(files: CaseFiles, manifest: Manifest) -> Mask:
    """Read and check one mask.

    Raises:
        InputError: it is damaged, or what its values mean is not certain.
    """
    path = files.label or Path()
    volume = nifti.read(path)
    label, decided, findings = read_label(files, volume.voxels, manifest, {})
    errors = [finding for finding in findings if finding.severity == "error"]
    if label is None:
        raise InputError(*errors)
    return Mask(label, volume.geometry, decided, findings)
