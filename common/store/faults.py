"""In what a case's record and arrays contradict themselves, each other and the store's manifest."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.geometry import ToLPS
from common.layouts import LABEL
from common.manifest import Manifest
from common.record import CaseRecord, TumourVoxels
from common.store.format import UNWRITTEN_LABEL, checksum
from common.volume import Box, extract

MOST_VOXELS = 1 << 30
"""Of a grid in a record: more would take all memory before a file is found too short."""

Arrays = dict[str, NDArray[Any]]
"""A case's arrays by their names in its record's `checksums`; its row of `crops/label` always."""


def record_faults(record: CaseRecord, manifest: Manifest) -> Iterator[str]:
    """In what a record contradicts itself or the manifest, as far as it takes no arithmetic."""
    modalities = {*manifest.task.modalities}
    if record.row is None or record.row < 0:
        yield f"its row, {record.row}, is not in the crops"
    if record.crop.shape != manifest.crop:
        yield f"its record names a crop of {record.crop.shape}, the store's is {manifest.crop}"
    roles = {source.role for source in record.sources}
    expected = modalities | ({LABEL} if record.has_label else set())
    if roles != expected:
        yield f"its record names files for {sorted(roles)}, not for {sorted(expected)}"
    if record.has_label != (record.tumour_voxels is not None):
        yield "its record contradicts itself on whether the case has a label"
    if not record.mean.keys() == record.std.keys() == modalities:
        yield f"its record has statistics of {sorted(record.mean)}, not of {sorted(modalities)}"
    if not all(map(math.isfinite, [*record.mean.values(), *record.std.values()])):
        yield "its record has statistics that are NaN or infinite"
    written = {"image", "crops/image"} | ({LABEL, "crops/label"} if record.has_label else set())
    if record.checksums.keys() - {"reference"} != written:
        yield f"its record has checksums of {sorted(record.checksums)}, not of {sorted(written)}"
    for grid in (record.geometry.shape, record.grid_shape, record.box.shape):
        if min(grid) < 1 or math.prod(grid) > MOST_VOXELS:
            yield f"its record has a grid of {grid} voxels"
    if 0 in record.box.overlap(Box((0, 0, 0), record.grid_shape)).shape:
        yield f"its record has a box at {record.box.start}, outside of its grid"
    if record.tumour_voxels:
        yield from _count_faults(record.tumour_voxels, manifest.task.labels)


def _count_faults(counts: TumourVoxels, labels: dict[str, int]) -> Iterator[str]:
    for name in ("box", "crop", "centred_crop"):
        part: dict[str, int] = getattr(counts, name)
        if not part.keys() == counts.native.keys() == labels.keys():
            yield f"its record counts voxels of {sorted(part)}, labels are {sorted(labels)}"
        elif any(not 0 <= part[label] <= counts.native[label] for label in labels):
            yield f"its record counts {part} voxels in the {name} and {counts.native} in all"


def geometry_faults(record: CaseRecord) -> Iterator[str]:
    """In what the record's two grids contradict each other, and what follows from them."""
    try:
        shape = ToLPS.of(record.geometry, record.spacing_mm).shape
        stores_reference = record.stores_reference
    except (ArithmeticError, ValueError) as error:  # such as a spacing of 0
        yield f"its record has a geometry without meaning ({error})"
        return
    if shape != record.grid_shape:
        yield f"its record has a grid of {record.grid_shape}, its files' gives {shape}"
    if stores_reference != ("reference" in record.checksums):
        yield "its record contradicts itself on whether the label's own grid is stored"


def case_faults(record: CaseRecord, arrays: Arrays, manifest: Manifest) -> Iterator[str]:
    """Everything in which a case's arrays differ from its record and the store's manifest.

    The shapes and types of the arrays are the record's: readers accept no others.
    """
    for name, expected in record.checksums.items():
        if checksum(arrays[name]) != expected:
            yield f"{name} is not what was written"
    for name in ("image", "crops/image"):
        if not np.isfinite(arrays[name]).all():
            yield f"{name} has voxels that are NaN or infinite"
    counts = record.tumour_voxels
    if counts is None:
        if (arrays["crops/label"] != UNWRITTEN_LABEL).any():  # a reader would take it for a label
            yield "crops/label holds something, but the case has no label"
    else:
        labels: dict[str, dict[str, int] | None] = {
            "label": counts.box,
            "crops/label": counts.crop,
        }
        if "reference" in arrays:
            labels["reference"] = None if record.to_lps.resamples else counts.native
        for name, voxels in labels.items():
            yield from _label_faults(name, arrays[name], voxels, manifest)
    window = extract(arrays["image"], record.crop.relative_to(record.box))
    if not np.array_equal(arrays["crops/image"], window):
        yield "its crop is not the window of the whole volume that its record names"


def _label_faults(
    name: str, label: NDArray[Any], counts: dict[str, int] | None, manifest: Manifest
) -> Iterator[str]:
    found = manifest.task.label_voxels(label)
    if sum(found.values()) != np.count_nonzero(label):
        values = {0, *manifest.task.labels.values()}
        unknown = min({*np.unique(label).tolist()} - values)
        yield f"{name} has the value {unknown}, labels are {sorted(values)}"
    elif counts is not None and found != counts:
        yield f"{name} has {found} voxels, the record says {counts}"
