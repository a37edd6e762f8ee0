"""What the values of a label file mean, and which of them are refused."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.discovery import CaseFiles
from common.errors import Finding, warning
from common.manifest import Manifest
from common.record import DecidedBy
from common.task import Task, in_words
from common.volume import bounding_box, extract, foreground

Array = NDArray[np.generic]

BRAIN_SHARE = 0.8
"""A mask that covers more of the brain than this is a brain mask."""

ROUNDING = 1e-3
"""Values this near to whole numbers are those, as after a scale factor in float32."""

INTERPOLATED = 0.1
"""A value that is farther from whole numbers is no rounding's."""

DECIDED_BY = {
    "names": "its file names",
    "layout": "its layout",
    "manifest": "the manifest",
    "task": "the task",
}


class Decided(NamedTuple):
    """A case's label convention, and what decided it."""

    convention: str
    by: DecidedBy


def decide_without_values(files: CaseFiles, manifest: Manifest) -> Decided:
    """The manifest's convention, else the task's only one, else that of layout or file names."""
    conventions = list(manifest.task.conventions)
    if manifest.label_convention != "auto":
        return Decided(manifest.label_convention, "manifest")
    if len(conventions) == 1 or files.names is None:
        return Decided(conventions[0], "task")
    return Decided(files.names, "layout" if files.states_convention else "names")


def read_label(
    path: Path, voxels: Array, task: Task, known: Decided, images: Iterable[Array]
) -> tuple[NDArray[np.uint8] | None, Decided, list[Finding]]:
    """Canonical labels of a label file, None if its values are not of a convention.

    `images` are the case's, on the same grid; none if some could not be read.
    """
    voxels = _rounded(voxels)
    box = bounding_box(voxels)
    part = voxels[:0] if box is None else extract(voxels, box)  # fewer voxels to look at
    values, findings = _label_values(path, part)
    if findings:
        return None, known, findings
    possible = task.conventions_of(values) & set(task.by_values or task.conventions)
    decided = known
    if _values_decide(known, task) and len(possible) == 1:
        decided = Decided(next(iter(possible)), "values")
    if not values <= task.values_of(decided.convention):
        return None, decided, [_other_values(path, values, task, decided)]
    if values == {0}:
        found, action = "no tumour, only zeros", "nothing if this patient has none"
        findings.append(warning(path, found, "a tumour", action))
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
    return decided.by == "names" or (
        decided.by == "task" and len(task.by_values or task.conventions) > 1
    )


def _rounded(voxels: Array) -> Array:
    """The whole numbers that all values are within `ROUNDING` of; else the voxels as they are."""
    if np.issubdtype(voxels.dtype, np.integer):
        return voxels
    whole = np.rint(voxels)
    with np.errstate(invalid="ignore"):
        return whole if np.abs(voxels - whole).max() <= ROUNDING else voxels


def _label_values(path: Path, voxels: Array) -> tuple[set[int], list[Finding]]:
    values = np.unique(voxels)
    with np.errstate(invalid="ignore"):
        off = np.abs(values - np.rint(values))
    if not np.all(off == 0):  # neither of NaN nor of infinity
        worst = int(np.argmax(off))  # a NaN if there is one
        found = f"label values such as {values[worst]!s}"
        looks = "interpolated" if not off[worst] < INTERPOLATED else "rounded, as by a scale factor"
        action = f"it looks {looks}: export it as whole numbers, with nearest neighbour"
        return set(), [Finding(str(path), found, "whole numbers", action)]
    return {0} | {int(value) for value in values}, []


def _other_values(path: Path, values: set[int], task: Task, decided: Decided) -> Finding:
    if _values_decide(decided, task):
        possible = task.by_values or tuple(task.conventions)
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
    label = in_words(task.labels_of(decided.convention)[1])
    found = f"a mask of 1 alone, which would be read as {label} and nothing else"
    expected = f"a value each for {', '.join(in_words(name) for name in task.labels)}"
    if decided.by == "manifest":
        return [warning(path, found, expected, "nothing: the manifest sets label_convention")]
    action = f"if it is {label} alone, set label_convention: {decided.convention} in the manifest"
    return [Finding(str(path), found, expected, action)]


def _assumed(path: Path, values: set[int], possible: list[str], decided: Decided) -> Finding:
    found = (
        f"label values {sorted(values)}, which {' and '.join(possible)} share; taken as "
        f"{decided.convention} by {DECIDED_BY[decided.by]}"
    )
    expected = "values that only one convention has"
    action = "nothing if that is right; else set label_convention in the manifest"
    return warning(path, found, expected, action)
