"""Reading and checking a case's files; every problem is reported at once."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common import nifti
from common.discovery import LABEL, STACKED_CONVENTION, CaseFiles
from common.errors import Finding, InputError
from common.geometry import Geometry, ToLPS, degrees_off_axis, reorient
from common.manifest import Manifest
from common.nifti import Volume
from common.record import DecidedBy, Source
from common.task import Task, title
from common.volume import bounding_box, extract, foreground

Paths = Mapping[str, Path]
Array = NDArray[np.generic]

LEAST_MM, MOST_MM = 8, 600
"""Sides of a head's volume; others come from headers in metres or in pixels."""

SURELY_BACKGROUND = 0.2
"""With this share of zeros in a sample of rows, the whole image has `LEAST_BACKGROUND` too."""

OBLIQUE_DEGREES = 3
"""Smallest angle to the body's axes that is reported; nothing is rotated."""

LEAST_BACKGROUND = 0.05
"""Share of zeros that any image of a brain alone has; the tightest box around one has a third."""

LARGEST, SMALLEST = 1e30, 1e-30
"""Intensities beyond these cannot be scaled in float32."""

SAMPLE = 20_000
"""Voxels of a sample, by which most images are checked without a look at all voxels."""

BRAIN_SHARE = 0.8
"""A mask that covers more of the brain than this is a brain mask."""

DECIDED_BY = {
    "names": "its file names",
    "layout": "its layout",
    "manifest": "the manifest",
    "task": "the task",
}


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
        findings += _check_intensities(paths[modality], voxels)
    label, decided = None, _decided_without_values(files, manifest)
    if LABEL in volumes:
        complete = images.values() if len(images) == len(modalities) else ()
        label, decided, found = _read_label(
            paths[LABEL], volumes[LABEL].voxels, manifest.task, decided, complete
        )
        findings += found
    first = modalities[0]
    if not _errors(findings):
        findings += _check_resampled_brain(paths[first], images.values(), read[first].geometry)
        findings += _image_warnings(paths, images) + _placement_warnings(paths, read)
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
        findings.append(_warning(paths[role], found, "one orientation for a case", action))
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


def _check_intensities(path: Path, voxels: Array) -> list[Finding]:
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


def _only_value(voxels: Array) -> float | None:
    """The one value that all non-zero voxels have, 0 if there are none; None if they differ."""
    for some in (_sample(voxels), voxels):  # a sample is nearly always enough
        values = some[some != 0]
        if values.size and (values != values[0]).any():
            return None
    return float(values[0]) if values.size else 0.0


def _sample(voxels: Array) -> Array:
    """All of a small image; else some rows, the same for all images of one shape."""
    depth, height, width = voxels.shape
    count = max(1, SAMPLE // width)
    return voxels if depth * height <= count else voxels[_rows(depth, height, count)]


def _background(voxels: Array) -> float:
    return 1 - int(np.count_nonzero(voxels)) / voxels.size


@lru_cache(maxsize=8)
def _rows(depth: int, height: int, count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Planes and rows at random, since the image may repeat at any fixed step."""
    generator = np.random.default_rng(0)
    return generator.integers(depth, size=count), generator.integers(height, size=count)


def _image_warnings(paths: Paths, images: Mapping[str, Array]) -> list[Finding]:
    """Images without a background, and modalities with the same image."""
    warnings, samples = [], {name: _sample(voxels) for name, voxels in images.items()}
    for name, some in samples.items():
        share = _background(some)
        if share < SURELY_BACKGROUND:
            share = _background(images[name])
        if share < LEAST_BACKGROUND:
            found = f"hardly any background: {share:.1%} of its voxels are 0"
            action = "strip the skull and set what is outside to 0, unless this is meant"
            warnings.append(_warning(paths[name], found, "a brain in a background of 0", action))
    for one, other in itertools.combinations(images, 2):
        alike = np.array_equal(samples[one], samples[other])
        if alike and np.array_equal(images[one], images[other]):
            found, expected = f"the same voxels for {other} as for {one}", "different images"
            warnings.append(_warning(paths[other], found, expected, "replace the wrong one"))
    return warnings


def _placement_warnings(paths: Paths, volumes: Mapping[str, Volume]) -> list[Finding]:
    """Headers that leave a volume's place open, and grids that are oblique or not of 1 mm."""
    warnings, by_warning = list[Finding](), dict[str, list[Path]]()
    of_file = {paths[role]: volume.orientation_warning for role, volume in volumes.items()}
    for path, warning in of_file.items():
        if warning:
            by_warning.setdefault(warning, []).append(path)
    for warning, (path, *others) in by_warning.items():
        found = warning + (f" (and {len(others)} more file(s) of the case)" if others else "")
        action = "nothing if that is where it is; else correct the header"
        warnings.append(_warning(path, found, "an sform and a qform of one place", action))
    role, volume = next(iter(volumes.items()))
    geometry = volume.geometry
    if (degrees := degrees_off_axis(geometry)) >= OBLIQUE_DEGREES:
        found = f"an oblique grid, {degrees:.0f}° off the body's axes"
        action = "nothing: masks return to this grid; resample to straight axes if scores are low"
        warnings.append(_warning(paths[role], found, "axes along the body's", action))
    if ToLPS.of(geometry).resamples:
        found = f"voxels of {' × '.join(f'{mm:.4g}' for mm in geometry.spacing_mm)} mm (z, y, x)"
        action = "nothing: it is resampled, and masks return to this grid"
        warnings.append(_warning(paths[role], found, "1 mm a side", action))
    return warnings


def _warning(path: Path, found: str, expected: str, action: str) -> Finding:
    return Finding(str(path), found, expected, action, severity="warning")


class Decided(NamedTuple):
    """A case's label convention, and what decided it."""

    convention: str
    by: DecidedBy


def _decided_without_values(files: CaseFiles, manifest: Manifest) -> Decided:
    """The manifest's convention, else the task's only one, else that of layout or file names."""
    conventions = list(manifest.task.conventions)
    if manifest.label_convention != "auto":
        return Decided(manifest.label_convention, "manifest")
    if len(conventions) == 1 or files.names is None:
        return Decided(conventions[0], "task")
    return Decided(files.names, "layout" if files.stacked else "names")


def _read_label(
    path: Path, voxels: Array, task: Task, known: Decided, images: Iterable[Array]
) -> tuple[NDArray[np.uint8] | None, Decided, list[Finding]]:
    """Canonical labels of a label file, None if its values are not of a convention.

    `images` are the case's, on the same grid; none if some could not be read.
    """
    box = bounding_box(voxels)
    part = voxels[:0] if box is None else extract(voxels, box)  # fewer voxels to look at
    values, findings = _label_values(path, part)
    if findings:
        return None, known, findings
    possible = task.conventions_of(values) - {STACKED_CONVENTION}
    decided = known
    if _values_decide(known, task) and len(possible) == 1:
        decided = Decided(next(iter(possible)), "values")
    if not values <= task.values_of(decided.convention):
        return None, decided, [_other_values(path, values, task, decided)]
    if values == {0}:
        found, action = "no tumour, only zeros", "nothing if this patient has none"
        findings.append(_warning(path, found, "a tumour", action))
    elif values == {0, 1}:
        findings += _one_value(path, voxels, task, decided, list(images))
    elif _values_decide(decided, task):
        findings.append(_assumed(path, values, sorted(possible), decided))
    label = np.zeros(voxels.shape, np.uint8)
    if box is not None:
        extract(label, box)[...] = task.to_canonical(part, decided.convention)
    return label, decided, findings


def _values_decide(decided: Decided, task: Task) -> bool:
    """Whether the label's values decide: they do not overrule the layout or the manifest."""
    return decided.by == "names" or (decided.by == "task" and len(task.conventions) > 1)


def _label_values(path: Path, voxels: NDArray[np.generic]) -> tuple[set[int], list[Finding]]:
    values = np.unique(voxels)
    whole = np.isfinite(values) & (values == np.round(values))
    if not whole.all():
        found = f"label values such as {values[~whole][0]:g}"
        action = "it looks interpolated: export it with nearest neighbour"
        return set(), [Finding(str(path), found, "whole numbers", action)]
    return {0} | {int(value) for value in values}, []


def _other_values(path: Path, values: set[int], task: Task, decided: Decided) -> Finding:
    if _values_decide(decided, task):
        possible = [name for name in task.conventions if name != STACKED_CONVENTION]
        expected = " or ".join(f"{name} {sorted(task.values_of(name))}" for name in possible)
    else:
        own = sorted(task.values_of(decided.convention))
        expected = f"{decided.convention} {own}, decided by {DECIDED_BY[decided.by]}"
    action = "map the values to a convention, or set task or label_convention in the manifest"
    return Finding(str(path), f"label values {sorted(values)}", expected, action)


def _one_value(
    path: Path, voxels: Array, task: Task, decided: Decided, images: list[Array]
) -> list[Finding]:
    """A mask of 1 alone: a brain's, or a whole tumour's, which would be taken for one label."""
    brain = foreground(images) if images else np.zeros(voxels.shape, np.bool_)
    covered = int(np.count_nonzero(brain & (voxels != 0))) / max(1, int(np.count_nonzero(brain)))
    if covered > BRAIN_SHARE:
        found = f"looks like a brain mask: 1 in {covered:.0%} of the brain"
        action = "name the tumour's mask; list this one's ending under companions in the manifest"
        return [Finding(str(path), found, "the tumour's labels", action)]
    if len(task.labels) == 1:
        return []
    of_value = {value: name for name, value in task.conventions[decided.convention].items()}
    label = title(of_value[1]).lower()
    found = f"a mask of 1 alone, which would be read as {label} and nothing else"
    expected = f"a value each for {', '.join(title(name).lower() for name in task.labels)}"
    if decided.by == "manifest":
        return [_warning(path, found, expected, "nothing: the manifest sets label_convention")]
    action = f"if it is {label} alone, set label_convention: {decided.convention} in the manifest"
    return [Finding(str(path), found, expected, action)]


def _assumed(path: Path, values: set[int], possible: list[str], decided: Decided) -> Finding:
    found = (
        f"label values {sorted(values)}, which {' and '.join(possible)} share; taken as "
        f"{decided.convention} by {DECIDED_BY[decided.by]}"
    )
    expected = "values that only one convention has"
    action = "nothing if that is right; else set label_convention in the manifest"
    return _warning(path, found, expected, action)
