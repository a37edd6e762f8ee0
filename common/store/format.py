"""The store's format: its arrays, their codecs, and the files that describe them."""

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import zarrs  # noqa: F401 - registers the codec pipeline that reads local stores
from isal import isal_zlib
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.group import GroupMetadata
from zarr.core.metadata import ArrayV3Metadata
from zarr.dtype import ZDType, parse_dtype

from common.manifest import Manifest
from common.names import show
from common.record import CaseRecord, hash_of

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

CHECKSUM = "checksum"
"""The attribute that has the checksum of a group's other attributes."""
ROOT_ATTRIBUTES = {"schema_version", "manifest", "parameters", "parameter_hash", "expected"}
ATTRIBUTES = {*ROOT_ATTRIBUTES, "record", "failure", CHECKSUM}
GROUP_KEYS = {"zarr_format", "node_type", "attributes", "consolidated_metadata"}


def is_remote(path: str | Path) -> bool:
    """Whether a path is a URL that fsspec opens."""
    return "://" in str(path)


def shard_files(record: CaseRecord) -> list[str]:
    """Names in the store of the files that hold a case's voxels: each of its arrays has one."""
    files = []
    for name in record.checksums:
        volume = name.removeprefix("crops/")
        folder = f"cases/{record.case_id}/{name}/c" if volume == name else f"{name}/c/{record.row}"
        files.append(folder + "/0" * len(VOLUME_DIMENSIONS[volume]))
    return files


def volume_shapes(record: CaseRecord, manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """Array to shape, of the whole volumes that a case has."""
    shapes = {
        "image": (len(manifest.task.modalities), *record.box.shape),
        "label": record.box.shape,
        "reference": record.geometry.shape,
    }
    return {name: shape for name, shape in shapes.items() if name in record.checksums}


def checksum(array: NDArray[Any]) -> str:
    """CRC-32 of an array's bytes in C order."""
    return f"{isal_zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data):08x}"


def array_metadata(
    name: str, shape: tuple[int, ...], dtype: str, rows: int | None = None
) -> ArrayV3Metadata:
    """The metadata of an array, as zarr would make it: of one of a case's volumes, or of crops.

    `shape` is a case's, `rows` the number of crops. A volume has one shard. Its inner chunks are
    whole planes, so that nothing is padded in them. zarr would first look for an existing array,
    which takes a hundredth of a case's time.
    """
    whole, shard, chunk = _sides(shape, rows)
    is_image = name == "image"
    codecs = (BytesCodec(), *(IMAGE_CODECS if is_image else LABEL_CODECS))
    return ArrayV3Metadata(
        shape=whole,
        data_type=_zarr_type(np.dtype(dtype)),
        chunk_grid={"name": "regular", "configuration": {"chunk_shape": shard}},
        chunk_key_encoding={"name": "default"},
        fill_value=np.nan if is_image else UNWRITTEN_LABEL,
        codecs=(ShardingCodec(chunk_shape=chunk, codecs=codecs),),
        attributes={},
        dimension_names=(*(() if rows is None else ("case",)), *VOLUME_DIMENSIONS[name]),
    )


def _sides(
    shape: tuple[int, ...], rows: int | None
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The shapes of an array, of its shards and of their inner chunks."""
    *channels, depth, height, width = shape
    planes = PLANES if rows is None else math.gcd(depth, PLANES)
    shard = (*channels, -(-depth // planes) * planes, height, width)
    chunk = (*(1 for _ in channels), planes, height, width)
    return (shape, shard, chunk) if rows is None else ((rows, *shape), (1, *shard), (1, *chunk))


@cache  # zarr tries each of its types in turn: a third of the time that a description takes
def _zarr_type(dtype: np.dtype[Any]) -> ZDType[Any, Any]:
    return parse_dtype(dtype, zarr_format=3)


def crop_shape(name: str, manifest: Manifest) -> tuple[int, ...]:
    """The shape of one row of the crops' `image` or `label`."""
    return (len(manifest.task.modalities), *manifest.crop) if name == "image" else manifest.crop


def dtype_of(name: str, manifest: Manifest) -> str:
    """The type of an array of this name."""
    return manifest.dtype if name == "image" else "uint8"


def described(metadata: ArrayV3Metadata | GroupMetadata) -> bytes:
    """The content of the `NODE_FILE` of an array or a group."""
    content: bytes = metadata.to_buffer_dict(default_buffer_prototype())[NODE_FILE].to_bytes()
    return content


def described_group(attributes: dict[str, Any]) -> bytes:
    """The content of the `NODE_FILE` of a group with these attributes and their checksum."""
    if attributes:
        plain = json.loads(json.dumps(attributes))  # as a reader gets them
        attributes = attributes | {CHECKSUM: hash_of(plain)}
    return described(GroupMetadata(attributes=attributes))


def node_of(content: bytes) -> dict[str, Any]:
    """What a `NODE_FILE` says.

    Raises:
        ValueError: it is no JSON object.
    """
    try:
        node = json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested without end") from error
    if not isinstance(node, dict):
        raise ValueError("it describes nothing")
    return node


def attributes_of(content: bytes) -> dict[str, Any]:
    """The attributes of a group from its `NODE_FILE`, with their checksum if they have one.

    Stores of earlier versions have none.

    Raises:
        ValueError: the file is damaged.
    """
    node = node_of(content)
    attributes = node.get("attributes", {})
    is_group = (node.get("zarr_format"), node.get("node_type")) == (3, "group")
    if not is_group or node.keys() - GROUP_KEYS or not isinstance(attributes, dict):
        raise ValueError("it describes no group")
    if unknown := attributes.keys() - ATTRIBUTES:
        raise ValueError(f"it has the attribute {show(min(unknown))}, which no store has")
    others = {name: value for name, value in attributes.items() if name != CHECKSUM}
    if CHECKSUM in attributes and attributes[CHECKSUM] != hash_of(others):
        raise ValueError("it is not what was written")
    return attributes


def rows_in(content: bytes) -> int:
    """The number of crops from the `NODE_FILE` of their array; `describes` checks the rest.

    Raises:
        ValueError: the file is damaged.
    """
    match node_of(content).get("shape"):
        case [int(rows), *_] if rows >= 0:
            return rows
    raise ValueError("it has no shape")


def describes(
    content: bytes, name: str, shape: tuple[int, ...], dtype: str, rows: int | None = None
) -> bool:
    """Whether a `NODE_FILE` is that of the array which `array_metadata` describes."""
    template = _template(name, dtype, is_crops=rows is not None)
    whole, shard, chunk = map(list, _sides(shape, rows))
    (sharding,) = template["codecs"]
    inner = sharding["configuration"] | {"chunk_shape": chunk}
    expected = template | {
        "shape": whole,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard}},
        "codecs": [sharding | {"configuration": inner}],
    }
    try:
        node = node_of(content)
        return node == expected or _as_zarr_writes(node) == _as_zarr_writes(expected)
    except Exception:  # noqa: BLE001 - zarr raises whatever its parsers do
        return False


@cache
def _template(name: str, dtype: str, *, is_crops: bool) -> dict[str, Any]:
    """The `NODE_FILE` of an array of any shape: zarr takes a millisecond for one."""
    shape = (1,) * len(VOLUME_DIMENSIONS[name])
    template: dict[str, Any] = json.loads(
        described(array_metadata(name, shape, dtype, 0 if is_crops else None))
    )
    return template


def _as_zarr_writes(node: dict[str, Any]) -> bytes:
    """An array's description in the words of the installed zarr: another version has others."""
    return described(ArrayV3Metadata.from_dict(node))
