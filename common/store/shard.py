"""Encode and write one shard of an array: zarr's format in three fifths of its time.

zarr-python passes each inner chunk through some twenty coroutines, which takes longer than
compressing it. The format is Zarr's `sharding_indexed` codec (https://zarr-specs.readthedocs.io,
codecs v1.0): the inner chunks one after the other, then an index of (offset, length) for each in C
order, then the index's checksum.
"""

from itertools import product
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.blosc import Blosc
from numpy.typing import NDArray

from common.store.files import StoreFiles

SHUFFLES = {"noshuffle": Blosc.NOSHUFFLE, "shuffle": Blosc.SHUFFLE}


def write_shard(
    files: StoreFiles,
    array: str,
    metadata: Any,  # noqa: ANN401 - zarr's codecs are unions that say nothing
    position: int,
    values: NDArray[Any],
) -> str:
    """Write the shard at a position of an array's first axis, and return its name in the store.

    The array is sharded along that axis alone; `values` end where the array ends.
    """
    (sharding,) = metadata.codecs
    _bytes_codec, blosc, _crc32c_codec = sharding.codecs
    codec = Blosc(blosc.cname.value, blosc.clevel, SHUFFLES[blosc.shuffle.value], blosc.blocksize)
    shape = metadata.chunk_grid.chunk_shape
    missing = len(shape) - values.ndim
    parts = encode(
        values.reshape((1,) * missing + values.shape),
        shape,
        sharding.chunk_shape,
        metadata.fill_value,
        codec,
    )
    name = f"{array}/{metadata.encode_chunk_key((position, *(0 for _ in shape[1:])))}"
    files.write(name, parts)
    return name


def encode(
    values: NDArray[Any],
    shape: tuple[int, ...],
    chunk: tuple[int, ...],
    fill: object,
    codec: Blosc,
) -> list[bytes]:
    """The parts of a shard: inner chunks of shape `chunk`, each with its CRC-32C, and the index.

    `values` may end before the shard does; the rest is `fill`.
    """
    parts, index, offset = list[bytes](), list[tuple[int, int]](), 0
    counts = (size // side for size, side in zip(shape, chunk, strict=True))
    for where in product(*map(range, counts)):
        window = tuple(slice(i * n, (i + 1) * n) for i, n in zip(where, chunk, strict=True))
        part = codec.encode(_filled(values[window], chunk, fill))
        parts += (part, _crc32c(part))
        index.append((offset, len(part) + 4))
        offset += len(part) + 4
    table = np.asarray(index, "<u8").tobytes()
    return [*parts, table, _crc32c(table)]


def _filled(values: NDArray[Any], chunk: tuple[int, ...], fill: object) -> NDArray[Any]:
    if values.shape == chunk:
        return np.ascontiguousarray(values)
    whole = np.full(chunk, fill, values.dtype)
    whole[tuple(map(slice, values.shape))] = values
    return whole


def _crc32c(content: bytes) -> bytes:
    checksum: int = google_crc32c.value(content)
    return checksum.to_bytes(4, "little")
