"""What a case's record and arrays must be, and where they are not."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.labels import MODALITIES, region_voxels
from common.layout import LABEL
from common.manifest import Manifest
from common.record import CaseRecord
from common.store.arrays import CHANNELS, UNWRITTEN_LABEL, checksum
from common.volume import extract

LARGEST_LABEL = 3


Arrays = dict[str, NDArray[Any]]
"""A case's arrays as `checksums` in its record names them, and its row of `crops/label` always."""


def case_faults(record: CaseRecord, arrays: Arrays, manifest: Manifest) -> Iterator[str]:
    """Everything in which a case is not what its record and the store's contract say.

    Args:
        record: the case's.
        arrays: as they were read.
        manifest: the store's.
    """
    yield from _record_faults(record, manifest)
    yield from _byte_faults(record, arrays)
    shapes = {"crops": record.crop.shape, "whole": record.box.shape}
    for name, array in arrays.items():
        shape = shapes["crops" if name.startswith("crops") else "whole"]
        if name.endswith("image"):
            yield from _image_faults(name, array, shape, manifest.dtype)
        elif record.has_label:
            yield from _label_faults(name, array, shape, record)
        elif (array != UNWRITTEN_LABEL).any():  # readers refuse the case by that
            yield f"{name} holds something, but the case has no label"
    if "image" in arrays:
        window = extract(arrays["image"], record.crop.relative_to(record.box))
        if not np.array_equal(arrays["crops/image"], window):
            yield "its crop is not the window of the whole volume that its record names"


def _record_faults(record: CaseRecord, manifest: Manifest) -> Iterator[str]:
    if record.crop.shape != manifest.crop:
        yield f"its record names a crop of {record.crop.shape}, the store's is {manifest.crop}"
    roles = {source.role for source in record.sources}
    expected = {*MODALITIES} | ({LABEL} if record.has_label else set())
    if roles != expected:
        yield f"its record names files for {sorted(roles)}, not for {sorted(expected)}"
    if record.has_label != (record.tumour_voxels is not None):
        yield "its record contradicts itself on whether the case has a label"


def _byte_faults(record: CaseRecord, arrays: Arrays) -> Iterator[str]:
    written = {name for name in arrays if record.has_label or name.endswith("image")}
    if written != set(record.checksums):
        yield f"its record has checksums of {sorted(record.checksums)}, not of {sorted(written)}"
    for name in sorted(written):
        if checksum(arrays[name]) != record.checksums.get(name):
            yield f"{name} is not what was written"


def _image_faults(
    name: str, image: NDArray[Any], shape: tuple[int, ...], dtype: str
) -> Iterator[str]:
    if image.shape != (CHANNELS, *shape) or image.dtype != np.dtype(dtype):
        expected = f"{dtype} {(CHANNELS, *shape)}"
        yield f"{name} is {image.dtype} {image.shape}, the record says {expected}"
    elif not np.isfinite(image).all():
        yield f"{name} has voxels that are NaN or infinite"


def _label_faults(
    name: str, label: NDArray[Any], shape: tuple[int, ...], record: CaseRecord
) -> Iterator[str]:
    if label.shape != shape or label.dtype != np.uint8:
        yield f"{name} is {label.dtype} {label.shape}, the record says uint8 {shape}"
    elif label.max() > LARGEST_LABEL:
        yield f"{name} has the value {label.max()}, labels are 0 to {LARGEST_LABEL}"
    elif record.tumour_voxels is not None:
        counts = record.tumour_voxels
        counted = counts.crop if name.startswith("crops") else counts.box
        found = region_voxels(label)
        if found != counted:
            yield f"{name} has {found} voxels of tumour, the record says {counted}"
