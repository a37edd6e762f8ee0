"""One shard of an array, encoded and written here: the same format, three fifths of the time.

zarr-python passes each inner chunk through some twenty coroutines and fills a buffer for it first;
with the few hundred chunks of a case that takes longer than compressing them. What is written is
Zarr's `sharding_indexed` codec (https://zarr-specs.readthedocs.io, codecs v1.0), which any reader
of Zarr v3 reads: the inner chunks one after the other, then an index of (offset, length) for each
in C order, then the index's own checksum.
"""

from itertools import product
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.blosc import Blosc
from numpy.typing import NDArray
from zarr.core.buffer.cpu import Buffer
from zarr.core.sync import sync

SHUFFLES = {"noshuffle": Blosc.NOSHUFFLE, "shuffle": Blosc.SHUFFLE}


def write_shard(array: Any, position: int, values: NDArray[Any]) -> str:  # noqa: ANN401 - zarr's arrays say nothing
    """Write the one shard at a position of an array's first axis, and return its name in the store.

    Args:
        array: a zarr array of the store, sharded along its first axis alone.
        position: of the shard.
        values: what the array holds there, without the part of the shard beyond the array's end.
    """
    blosc, _crc32c_codec = array.compressors
    codec = Blosc(blosc.cname.value, blosc.clevel, SHUFFLES[blosc.shuffle.value], blosc.blocksize)
    missing = len(array.shards) - values.ndim
    content = encode(
        values.reshape((1,) * missing + values.shape),
        array.shards,
        array.chunks,
        array.fill_value,
        codec,
    )
    key = array.metadata.encode_chunk_key((position, *(0 for _ in array.shape[1:])))
    place = array.store_path / key
    sync(place.set(Buffer.from_bytes(content)))
    name: str = place.path
    return name


def encode(
    values: NDArray[Any],
    shape: tuple[int, ...],
    chunk: tuple[int, ...],
    fill: object,
    codec: Blosc,
) -> bytes:
    """A shard's bytes.

    Args:
        values: from the shard's first on; it may go on beyond the array's end.
        shape: of the shard.
        chunk: shape of an inner chunk, which divides it.
        fill: what stands beyond the array's end.
        codec: compresses an inner chunk; a CRC-32C follows each.
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
    return b"".join((*parts, table, _crc32c(table)))


def _filled(values: NDArray[Any], chunk: tuple[int, ...], fill: object) -> NDArray[Any]:
    """One inner chunk's values, with the fill value where the array has ended."""
    if values.shape == chunk:
        return np.ascontiguousarray(values)
    whole = np.full(chunk, fill, values.dtype)
    whole[tuple(map(slice, values.shape))] = values
    return whole


def _crc32c(content: bytes) -> bytes:
    checksum: int = google_crc32c.value(content)
    return checksum.to_bytes(4, "little")
