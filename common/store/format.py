"""The store's format: its arrays, their codecs and metadata, and what a case must be."""

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr
import zarrs  # noqa: F401 - registers the codec pipeline that reads local stores
from isal import isal_zlib
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.group import GroupMetadata
from zarr.core.metadata import ArrayV3Metadata
from zarr.dtype import ZDType, parse_dtype

from common.layouts import LABEL
from common.manifest import Manifest
from common.record import CaseRecord
from common.volume import extract

SCHEMA_VERSION = 2
"""Raised when older stores can no longer be read."""

PLANES = 16
"""Planes of one inner chunk: what is decoded for one slice."""
UNWRITTEN_LABEL = 255
"""Fill value of labels, so that what was never written is no label."""

CROP_ARRAYS = ("crops/image", "crops/label")

VOLUME_DIMENSIONS = {
    "image": ("modality", "z", "y", "x"),
    "label": ("z", "y", "x"),
    "reference": ("k", "j", "i"),
}
"""Names of the axes of a case's volumes; a reference's are the file's own, slowest first."""

BLOCK_BYTES = 32 << 10
"""Bytes that Blosc compresses at a time: fewer than by default, for faster reads (decision 11)."""

IMAGE_CODECS = (
    BloscCodec(cname="lz4", clevel=5, shuffle="shuffle", blocksize=BLOCK_BYTES),
    Crc32cCodec(),
)
LABEL_CODECS = (BloscCodec(cname="zstd", clevel=3, shuffle="noshuffle"), Crc32cCodec())

NODE_FILE = "zarr.json"
"""The file that describes a group or an array, in its folder."""

ZARRS_PIPELINE = "zarrs.ZarrsCodecPipeline"

READ_ERRORS = (OSError, ValueError, RuntimeError, LookupError)
"""Raised by the two codec pipelines on damaged or missing chunks, and by zarr on a missing row."""


def is_remote(path: str | Path) -> bool:
    """Whether a path is a URL that fsspec opens."""
    return "://" in str(path)


def array_files(record: CaseRecord) -> list[str]:
    """Names in the store of the files that hold a case's arrays: each has one shard."""
    written = ["image", *(["label"] if record.has_label else [])]
    volumes = written + (["reference"] if record.stores_reference else [])
    folders = {name: f"cases/{record.case_id}/{name}" for name in volumes}
    shards = [f"{folders[n]}/c" + "/0" * len(VOLUME_DIMENSIONS[n]) for n in volumes]
    crops = [f"crops/{n}/c/{record.row}" + "/0" * len(VOLUME_DIMENSIONS[n]) for n in written]
    return [f"{folder}/{NODE_FILE}" for folder in folders.values()] + shards + crops


def checksum(array: NDArray[Any]) -> str:
    """CRC-32 of an array's bytes in C order."""
    return f"{isal_zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data):08x}"


def create_arrays(path: str, manifest: Manifest) -> None:
    """Make an empty store, but for its attributes."""
    root = zarr.open_group(path, mode="a")
    _create_crops(root, "image", (len(manifest.task.modalities), *manifest.crop), manifest.dtype)
    _create_crops(root, "label", manifest.crop, "uint8")
    root.require_group("cases")


def _create_crops(root: zarr.Group, name: str, shape: tuple[int, ...], dtype: str) -> None:
    """An array of crops of this shape, so far without a row: one shard a case."""
    *channels, depth, height, width = shape
    root.create_array(
        f"crops/{name}",
        shape=(0, *shape),
        shards=(1, *shape),
        chunks=(1, *(1 for _ in channels), math.gcd(depth, PLANES), height, width),
        dtype=dtype,
        compressors=IMAGE_CODECS if channels else LABEL_CODECS,
        fill_value=np.nan if channels else UNWRITTEN_LABEL,
        dimension_names=("case", *VOLUME_DIMENSIONS[name]),
        overwrite=True,
    )


def volume_metadata(name: str, array: NDArray[Any]) -> ArrayV3Metadata:
    """The metadata of one of a case's volumes, an array with one shard, as zarr would make it.

    Its inner chunks are whole planes, so that nothing is padded in them. zarr would first look for
    an existing array, which takes a hundredth of a case's time.
    """
    *channels, depth, height, width = array.shape
    shard = (*channels, -(-depth // PLANES) * PLANES, height, width)
    chunk = (*(1 for _ in channels), PLANES, height, width)
    codecs = (BytesCodec(), *(IMAGE_CODECS if channels else LABEL_CODECS))
    return ArrayV3Metadata(
        shape=array.shape,
        data_type=_zarr_type(array.dtype),
        chunk_grid={"name": "regular", "configuration": {"chunk_shape": shard}},
        chunk_key_encoding={"name": "default"},
        fill_value=np.nan if channels else UNWRITTEN_LABEL,
        codecs=(ShardingCodec(chunk_shape=chunk, codecs=codecs),),
        attributes={},
        dimension_names=VOLUME_DIMENSIONS[name],
    )


@cache  # zarr tries each of its types in turn: a third of the time that a description takes
def _zarr_type(dtype: np.dtype[Any]) -> ZDType[Any, Any]:
    return parse_dtype(dtype, zarr_format=3)


def described(metadata: ArrayV3Metadata | GroupMetadata) -> bytes:
    """The content of the `NODE_FILE` of an array or a group."""
    content: bytes = metadata.to_buffer_dict(default_buffer_prototype())[NODE_FILE].to_bytes()
    return content


def described_group(attributes: dict[str, Any]) -> bytes:
    """The content of the `NODE_FILE` of a group with these attributes."""
    return described(GroupMetadata(attributes=attributes))


Arrays = dict[str, NDArray[Any]]
"""A case's arrays by their names in its record's `checksums`; its row of `crops/label` always."""


def case_faults(record: CaseRecord, arrays: Arrays, manifest: Manifest) -> Iterator[str]:
    """Everything in which a case's arrays differ from its record and the store's manifest."""
    yield from _record_faults(record, manifest)
    yield from _checksum_faults(record, arrays)
    counts = record.tumour_voxels
    for name in ("image", "crops/image"):
        shape = record.box.shape if name == "image" else record.crop.shape
        yield from _image_faults(name, arrays[name], shape, manifest)
    if counts is None:
        if (arrays["crops/label"] != UNWRITTEN_LABEL).any():  # a reader would take it for a label
            yield "crops/label holds something, but the case has no label"
    else:
        expected: dict[str, tuple[tuple[int, ...], dict[str, int] | None]] = {
            "label": (record.box.shape, counts.box),
            "crops/label": (record.crop.shape, counts.crop),
        }
        if record.stores_reference:
            resampled = record.to_lps.resamples
            expected["reference"] = (record.geometry.shape, None if resampled else counts.native)
        for name in expected.keys() & arrays.keys():
            yield from _label_faults(name, arrays[name], *expected[name], manifest)
    window = extract(arrays["image"], record.crop.relative_to(record.box))
    if not np.array_equal(arrays["crops/image"], window):
        yield "its crop is not the window of the whole volume that its record names"


def _record_faults(record: CaseRecord, manifest: Manifest) -> Iterator[str]:
    if record.crop.shape != manifest.crop:
        yield f"its record names a crop of {record.crop.shape}, the store's is {manifest.crop}"
    roles = {source.role for source in record.sources}
    expected = {*manifest.task.modalities} | ({LABEL} if record.has_label else set())
    if roles != expected:
        yield f"its record names files for {sorted(roles)}, not for {sorted(expected)}"
    if record.has_label != (record.tumour_voxels is not None):
        yield "its record contradicts itself on whether the case has a label"


def _checksum_faults(record: CaseRecord, arrays: Arrays) -> Iterator[str]:
    written = {name for name in arrays if record.has_label or name.endswith("image")}
    if written != set(record.checksums):
        yield f"its record has checksums of {sorted(record.checksums)}, not of {sorted(written)}"
    for name in sorted(written):
        if checksum(arrays[name]) != record.checksums.get(name):
            yield f"{name} is not what was written"


def _image_faults(
    name: str, image: NDArray[Any], window: tuple[int, ...], manifest: Manifest
) -> Iterator[str]:
    shape = (len(manifest.task.modalities), *window)
    if image.shape != shape or image.dtype != np.dtype(manifest.dtype):
        expected = f"{manifest.dtype} {shape}"
        yield f"{name} is {image.dtype} {image.shape}, the record says {expected}"
    elif not np.isfinite(image).all():
        yield f"{name} has voxels that are NaN or infinite"


def _label_faults(
    name: str,
    label: NDArray[Any],
    shape: tuple[int, ...],
    counts: dict[str, int] | None,
    manifest: Manifest,
) -> Iterator[str]:
    if label.shape != shape or label.dtype != np.uint8:
        yield f"{name} is {label.dtype} {label.shape}, the record says uint8 {shape}"
        return
    found = manifest.task.label_voxels(label)
    if sum(found.values()) != np.count_nonzero(label):
        values = {0, *manifest.task.labels.values()}
        unknown = min({*np.unique(label).tolist()} - values)
        yield f"{name} has the value {unknown}, labels are {sorted(values)}"
    elif counts is not None and found != counts:
        yield f"{name} has {found} voxels, the record says {counts}"
