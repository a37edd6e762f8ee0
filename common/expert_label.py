"""An expert's label file: its values, the convention that they are written in, and what is odd."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.errors import Finding
from common.labels import Convention, conventions_of, to_canonical
from common.layout import CaseFiles
from common.manifest import Manifest
from common.record import DecidedBy
from common.volume import bounding_box, extract, foreground

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
    values, strange = _values(path, part)
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


def _values(path: Path, voxels: NDArray[np.generic]) -> tuple[set[int], list[Finding]]:
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
