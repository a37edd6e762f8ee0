"""Whether a case's files can be used, and its label file read: every reason at once."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common import nifti
from common.discovery import LABEL, CaseFiles
from common.errors import Finding, InputError
from common.geometry import Geometry, ToLPS, degrees_off_axis, reorient
from common.manifest import Manifest
from common.nifti import ReadFile, Volume
from common.record import DecidedBy, Source
from common.task import MODALITIES, Convention, conventions_of, to_canonical
from common.volume import bounding_box, extract, foreground


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


def load_case(files: CaseFiles, manifest: Manifest) -> LoadedCase:
    """Read and check all files of a case. What this accepts, preprocessing takes.

    Raises:
        InputError: with a finding for everything that is wrong with the case.
    """
    paths = dict(files.images) | ({LABEL: files.label} if files.label else {})
    read, findings = _read_all(files, manifest)
    findings += check_field_of_view(paths, read)
    volumes, found = to_one_grid(paths, read)
    findings += found
    images = {m: volumes[m].voxels for m in MODALITIES if m in volumes}
    for modality, voxels in images.items():
        findings += check_intensities(paths[modality], voxels)
    label, decided = None, declared(files, manifest)
    if LABEL in volumes:
        voxels, complete = volumes[LABEL].voxels, len(images) == len(MODALITIES)
        label, decided, found = read_label(
            paths[LABEL], voxels, decided, images.values() if complete else ()
        )
        findings += found
    if not _errors(findings):
        first = MODALITIES[0]
        findings += check_resampled_brain(paths[first], images.values(), read[first].geometry)
        findings += image_warnings(paths, images)
        findings += placement_warnings(paths, read)
    findings = with_case(findings, files.case_id)
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


LEAST_MM, MOST_MM = 8, 600
"""How large a side of a head's volume can be; beyond, its header is in metres or in pixels."""

SURELY_BACKGROUND = 0.2
"""Share of zeros in a sample of rows, from which the whole image has more than the least."""

OBLIQUE_DEGREES = 3
"""From here on a head is seen visibly turned: its axes are taken as the nearest of the body's."""

LEAST_BACKGROUND = 0.05
"""Share of zeros that any image of a brain alone has; the tightest box around one has a third."""

LARGEST, SMALLEST = 1e30, 1e-30
"""Intensities beyond these cannot be scaled in float32."""

SAMPLE = 20_000
"""Voxels that are enough to see of nearly all images that they differ and have a background."""

Paths = Mapping[str, Path]


def to_one_grid(
    paths: Paths, volumes: Mapping[str, Volume]
) -> tuple[dict[str, Volume], list[Finding]]:
    """The volumes with their axes as the first one's; what is not of its place is an error."""
    first = next(iter(volumes), "")
    together, findings = dict[str, Volume](), list[Finding]()
    for role, volume in volumes.items():
        onto = volumes[first].geometry
        if volume.geometry.matches(onto):
            together[role] = volume
            continue
        turned = reorient(volume.voxels, volume.geometry, onto)
        if turned is None:
            expected = f"that of {paths[first].name}, {onto}"
            action = "register or resample the files of the case to one grid"
            found = f"a grid of {volume.geometry}"
            findings.append(Finding(str(paths[role]), found, expected, action))
            continue
        together[role] = volume._replace(voxels=turned, geometry=onto)
        found = f"another order of axes than {paths[first].name}, but of the same place"
        action = f"nothing: it is turned; masks are written as {paths[first].name} is"
        findings.append(_note(paths[role], found, "one orientation for a case", action))
    return together, findings


def check_field_of_view(paths: Paths, volumes: Mapping[str, Volume]) -> list[Finding]:
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


def check_resampled_brain(
    path: Path, images: Iterable[NDArray[np.generic]], geometry: Geometry
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
    return [Finding(str(path), found, "one that is still there at 1 mm", action)]


def check_intensities(path: Path, voxels: NDArray[np.generic]) -> list[Finding]:
    """An image without finite, varied, scalable intensities."""
    if not np.issubdtype(voxels.dtype, np.integer):
        low, high = float(voxels.min()), float(voxels.max())
        if not np.isfinite((low, high)).all():
            count = voxels.size - np.count_nonzero(np.isfinite(voxels))
            found = f"{count} voxels that are NaN or infinite"
            return [Finding(str(path), found, "finite intensities", "export it again")]
        top = max(-low, high)
        if top and not SMALLEST < top < LARGEST:
            expected = f"intensities of {SMALLEST:g} to {LARGEST:g}"
            return [Finding(str(path), f"intensities up to {top:g}", expected, "export it again")]
    constant = _only_value(voxels)
    if constant is None:
        return []
    found = f"the same value, {constant:g}, in all of the brain" if constant else "only zeros"
    return [Finding(str(path), found, "an image", "export it again")]


def _only_value(voxels: NDArray[np.generic]) -> float | None:
    """The one value that all non-zero voxels have, 0 if there are none; None if they differ."""
    for some in (_sample(voxels), voxels):  # of nearly all images a sample is enough
        values = some[some != 0]
        if values.size and (values != values[0]).any():
            return None
    return float(values[0]) if values.size else 0.0


def _sample(voxels: NDArray[np.generic]) -> NDArray[np.generic]:
    """All of a small image; of others some rows, the same for all of one shape."""
    depth, height, width = voxels.shape
    count = max(1, SAMPLE // width)
    return voxels if depth * height <= count else voxels[_rows(depth, height, count)]


def _background(voxels: NDArray[np.generic]) -> float:
    return 1 - int(np.count_nonzero(voxels)) / voxels.size


@lru_cache(maxsize=8)
def _rows(depth: int, height: int, count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Planes and rows at random: any step between them could fall in with the image's sides."""
    generator = np.random.default_rng(0)
    return generator.integers(depth, size=count), generator.integers(height, size=count)


def image_warnings(paths: Paths, images: Mapping[str, NDArray[np.generic]]) -> list[Finding]:
    """Images without a background, and images that are one and the same."""
    notes, samples = [], {name: _sample(voxels) for name, voxels in images.items()}
    for name, some in samples.items():
        share = _background(some)
        if share < SURELY_BACKGROUND:
            share = _background(images[name])
        if share < LEAST_BACKGROUND:
            found = f"hardly any background: {share:.1%} of its voxels are 0"
            action = "strip the skull and set what is outside to 0, unless this is meant"
            notes.append(_note(paths[name], found, "a brain in a background of 0", action))
    for one, other in itertools.combinations(images, 2):
        alike = np.array_equal(samples[one], samples[other])
        if alike and np.array_equal(images[one], images[other]):
            found = f"the same voxels for {other} as for {one}"
            notes.append(_note(paths[other], found, "four images", "replace the wrong one"))
    return notes


def placement_warnings(paths: Paths, volumes: Mapping[str, Volume]) -> list[Finding]:
    """What a header leaves open, and what is done to a grid that is not straight and of 1 mm."""
    by_warning: dict[str, list[Path]] = {}
    for path, warning in {
        paths[role]: volume.orientation_warning for role, volume in volumes.items()
    }.items():
        if warning:
            by_warning.setdefault(warning, []).append(path)
    action = "nothing if that is where it is; else mend the header"
    notes = [
        _note(paths[0], warning + _and_others(paths), "sform and qform that say the same", action)
        for warning, paths in by_warning.items()
    ]
    role, volume = next(iter(volumes.items()))
    geometry = volume.geometry
    if (degrees := degrees_off_axis(geometry)) >= OBLIQUE_DEGREES:
        found = f"an oblique grid, {degrees:.0f}° off the body's axes"
        action = "nothing: masks return to this grid; resample to straight axes if scores are low"
        notes.append(_note(paths[role], found, "axes along the body's", action))
    if ToLPS.of(geometry).resamples:
        found = f"voxels of {' × '.join(f'{mm:.4g}' for mm in geometry.spacing_mm)} mm (z, y, x)"
        action = "nothing: it is resampled, and masks return to this grid"
        notes.append(_note(paths[role], found, "1 mm a side", action))
    return notes


def _and_others(paths: list[Path]) -> str:
    others = len(paths) - 1
    return f" (and {others} more file(s) of the case)" if others else ""


def _note(path: Path, found: str, expected: str, action: str) -> Finding:
    return Finding(str(path), found, expected, action, severity="note")


def with_case(findings: Iterable[Finding], case_id: str) -> list[Finding]:
    """The findings with their case."""
    return [replace(finding, case=case_id) for finding in findings]


BRAIN_SHARE = 0.8
"""A mask that covers more of the brain than this is a brain mask: no tumour does."""

DECIDED_BY = {"names": "its file names", "layout": "its layout", "manifest": "the manifest"}

MAP_VALUES = "map the values to a convention, or set label_convention in the manifest"


class Decided(NamedTuple):
    """How a case's labels are written, and what decided that."""

    convention: Convention
    by: DecidedBy


def declared(files: CaseFiles, manifest: Manifest) -> Decided:
    """What is known before the values are: the manifest's word, else the layout's or the names'."""
    if manifest.label_convention != "auto":
        return Decided(manifest.label_convention, "manifest")
    return Decided(files.names, "layout" if files.stacked else "names")


def read_label(
    path: Path,
    voxels: NDArray[np.generic],
    known: Decided,
    images: Iterable[NDArray[np.generic]],
) -> tuple[NDArray[np.uint8] | None, Decided, list[Finding]]:
    """Canonical labels of a label file.

    Args:
        path: the file.
        voxels: (D, H, W), of any type.
        known: the convention, as far as it is known without the values.
        images: the case's images, on the same grid; none if they could not be read.

    Returns:
        Canonical labels, None if the values cannot be told; the convention; and findings.
    """
    box = bounding_box(voxels)
    part = voxels[:0] if box is None else extract(voxels, box)  # less to look at
    values, strange = _label_values(path, part)
    if strange:
        return None, known, strange
    decided = _decided(values, known)
    findings = _outside(path, values, decided)
    if findings:
        return None, decided, findings
    if values == {0, 1}:
        findings += _one_value(path, voxels, decided, list(images))
    elif decided.by == "names" and values != {0}:
        findings.append(_assumed(path, values, decided))
    if values == {0}:
        found, action = "no tumour, only zeros", "nothing if this patient has none"
        findings.append(Finding(str(path), found, "a tumour", action, severity="note"))
    label = np.zeros(voxels.shape, np.uint8)
    if box is not None:
        extract(label, box)[...] = to_canonical(part, decided.convention)
    return label, decided, findings


def _label_values(path: Path, voxels: NDArray[np.generic]) -> tuple[set[int], list[Finding]]:
    values = np.unique(voxels)
    whole = np.isfinite(values) & (values == np.round(values))
    if not whole.all():
        found = f"label values such as {values[~whole][0]:g}"
        action = "it looks interpolated: export it with nearest neighbour"
        return set(), [Finding(str(path), found, "whole numbers", action)]
    return {0} | {int(value) for value in values}, []


def _decided(values: set[int], known: Decided) -> Decided:
    """Values overrule names alone. That they may be the Decathlon's, only its layout tells."""
    allowed = conventions_of(values) - {Convention.MSD}
    if known.by == "names" and len(allowed) == 1:
        return Decided(next(iter(allowed)), "values")
    return known


def _outside(path: Path, values: set[int], decided: Decided) -> list[Finding]:
    if values <= decided.convention.values:
        return []
    found = f"label values {sorted(values)}"
    either = [Convention.BRATS_2021, Convention.BRATS_2023]
    if decided.by == "names":
        expected = " or ".join(f"{option} {sorted(option.values)}" for option in either)
    else:
        own = decided.convention
        expected = f"{own} {sorted(own.values)}, decided by {DECIDED_BY[decided.by]}"
    return [Finding(str(path), found, expected, MAP_VALUES)]


def _one_value(
    path: Path, voxels: NDArray[np.generic], decided: Decided, images: list[NDArray[np.generic]]
) -> list[Finding]:
    """A mask of 1 alone: a brain's, or a whole tumour's, which would be taken for one tissue."""
    brain = foreground(images) if images else np.zeros(voxels.shape, np.bool_)
    covered = int(np.count_nonzero(brain & (voxels != 0))) / max(1, int(np.count_nonzero(brain)))
    if covered > BRAIN_SHARE:
        found = f"looks like a brain mask: 1 in {covered:.0%} of the brain"
        action = "name the tumour's mask; list this one's ending under companions in the manifest"
        return [Finding(str(path), found, "the tumour's tissues", action)]
    tissue = "oedema" if decided.convention is Convention.MSD else "necrotic core"
    found = f"a mask of 1 alone, which would be read as {tissue} and nothing else"
    if decided.by == "manifest":
        action = "nothing: the manifest says that 1 is that"
        return [Finding(str(path), found, "all tissues", action, severity="note")]
    action = f"if it is {tissue} alone, set label_convention: {decided.convention} in the manifest"
    return [Finding(str(path), found, "core, oedema and enhancing tumour told apart", action)]


def _assumed(path: Path, values: set[int], decided: Decided) -> Finding:
    found = (
        f"label values {sorted(values)}, which brats2021 and brats2023 share; taken as "
        f"{decided.convention} by {DECIDED_BY[decided.by]}"
    )
    expected = "enhancing tumour, which tells them apart"
    action = "nothing if that is right; else set label_convention in the manifest"
    return Finding(str(path), found, expected, action, severity="note")
