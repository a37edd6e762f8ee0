"""Zarr arrays of the store: how they are laid out, opened, and read."""

import math
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

from common.labels import MODALITIES
from common.manifest import Manifest

PLANES = 16
"""Planes of one inner chunk: what is decoded for one slice."""
UNWRITTEN_LABEL = 255
CHANNELS = len(MODALITIES)

BLOCK_BYTES = 32 << 10
"""What Blosc compresses at a time: less than its own choice, it is read faster (decision 11)."""

IMAGE_CODECS = (
    BloscCodec(cname="lz4", clevel=5, shuffle="shuffle", blocksize=BLOCK_BYTES),
    Crc32cCodec(),
)
LABEL_CODECS = (BloscCodec(cname="zstd", clevel=3, shuffle="noshuffle"), Crc32cCodec())

NODE_FILE = "zarr.json"
"""What a group or an array is, stands in this file of its folder."""

UNFINISHED = ".partial"
"""Suffix of a file whose writing, here, by zarr or as a copy, had only begun when it was killed."""

ZARRS_PIPELINE = "zarrs.ZarrsCodecPipeline"

READ_ERRORS = (OSError, ValueError, RuntimeError, LookupError)
"""What the two codec pipelines raise on damaged or missing chunks, and zarr on a missing row."""


def is_remote(path: str | Path) -> bool:
    """Whether a path is a URL that fsspec opens."""
    return "://" in str(path)


def open_for_reading(root: zarr.Group, path: str, name: str) -> Any:  # noqa: ANN401 - zarr's indexing yields a union that says nothing
    """An array as it is read: by zarrs where the store is local, since it is faster."""
    pipeline = {} if is_remote(path) else {"codec_pipeline.path": ZARRS_PIPELINE}
    with zarr.config.set(pipeline):
        return root[name]


def checksum(array: NDArray[Any]) -> str:
    """CRC-32 of an array's bytes in C order."""
    return f"{isal_zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data):08x}"


def create_arrays(path: str, manifest: Manifest) -> None:
    """Everything of an empty store but its attributes.

    Training crops lie in two arrays, so far without a row: one shard a case.
    """
    root = zarr.open_group(path, mode="a")
    depth, height, width = manifest.crop
    planes = math.gcd(depth, PLANES)
    root.create_array(
        "crops/image",
        shape=(0, CHANNELS, *manifest.crop),
        shards=(1, CHANNELS, *manifest.crop),
        chunks=(1, 1, planes, height, width),
        dtype=manifest.dtype,
        compressors=IMAGE_CODECS,
        fill_value=np.nan,
        overwrite=True,
    )
    root.create_array(
        "crops/label",
        shape=(0, *manifest.crop),
        shards=(1, *manifest.crop),
        chunks=(1, planes, height, width),
        dtype="uint8",
        compressors=LABEL_CODECS,
        fill_value=UNWRITTEN_LABEL,
        overwrite=True,
    )
    root.require_group("cases")


def volume_metadata(array: NDArray[Any]) -> ArrayV3Metadata:
    """The description of an array with one shard, as zarr would make it.

    Its inner chunks are whole planes, so that nothing is padded in them. zarr would first look for
    what may be there, which takes a hundredth of a case.
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
        dimension_names=None,
    )


@cache  # zarr asks each of its types in turn: a third of the time that a description takes
def _zarr_type(dtype: np.dtype[Any]) -> ZDType[Any, Any]:
    return parse_dtype(dtype, zarr_format=3)


def described(metadata: ArrayV3Metadata | GroupMetadata) -> bytes:
    """What stands in the `NODE_FILE` of an array or a group."""
    content: bytes = metadata.to_buffer_dict(default_buffer_prototype())[NODE_FILE].to_bytes()
    return content
