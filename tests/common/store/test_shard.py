"""Shards encoded here are the ones that zarr-python would write."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
import zarrs  # noqa: F401 - registers its codec pipeline
from hypothesis import given, settings
from hypothesis import strategies as st

from common.store.files import StoreFiles
from common.store.format import (
    IMAGE_CODECS,
    LABEL_CODECS,
    PLANES,
    VOLUME_DIMENSIONS,
    ZARRS_PIPELINE,
    array_metadata,
    described,
)
from common.store.shard import write_shard

SIDES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))


def make(
    path: Path,
    shape: tuple[int, ...],
    kind: str,
    planes: int,
    dimensions: tuple[str, ...] | None = None,
) -> Any:
    """A volume as the store has it: its one shard reaches beyond its last plane."""
    *channels, depth, height, width = shape
    return zarr.create_array(
        store=str(path),
        shape=shape,
        shards=(*channels, -(-depth // planes) * planes, height, width),
        chunks=(*(1 for _ in channels), planes, height, width),
        dtype=kind,
        compressors=LABEL_CODECS if kind == "uint8" else IMAGE_CODECS,
        fill_value=255 if kind == "uint8" else np.nan,
        dimension_names=dimensions,
    )


def chunks_of(file: Path, count: int) -> list[bytes]:
    """The inner chunks of a shard, in the order of its index."""
    content = file.read_bytes()
    index = struct.unpack(f"<{2 * count}Q", content[-16 * count - 4 : -4])
    pairs = zip(index[::2], index[1::2], strict=True)
    return [content[offset : offset + length] for offset, length in pairs]


def shard_file(path: Path) -> Path:
    (file,) = (p for p in (path / "c").rglob("*") if p.is_file())
    return file


@given(sides=SIDES, kind=st.sampled_from(["float16", "float32", "uint8"]), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_the_same_chunks_as_zarr_python_and_both_readers_agree(
    tmp_path_factory: Any, sides: tuple[int, int, int, int], kind: str, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("shard")
    channels, planes, height, width = sides
    depth = 2 * planes + seed % planes + 1
    shape = (depth, height, width) if kind == "uint8" else (channels, depth, height, width)
    values = np.random.default_rng(seed).integers(0, 9, shape).astype(kind)
    ours, theirs = (make(folder / name, shape, kind, planes) for name in ("ours", "theirs"))
    write_shard(StoreFiles(str(folder)), "ours", ours.metadata, 0, values)
    theirs[...] = values
    for pipeline in ("zarr.core.codec_pipeline.BatchedCodecPipeline", ZARRS_PIPELINE):
        with zarr.config.set({"codec_pipeline.path": pipeline}):
            assert np.array_equal(zarr.open_array(folder / "ours", mode="r")[...], values)
    count = (1 if kind == "uint8" else channels) * -(-depth // planes)
    written = chunks_of(shard_file(folder / "ours"), count)
    assert written == chunks_of(shard_file(folder / "theirs"), count)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((4, 37, 6, 5), "float16"), ((4, 32, 6, 5), "float32"), ((37, 6, 5), "uint8")],
)
def test_a_volume_is_described_as_zarr_would(
    tmp_path: Path, shape: tuple[int, ...], kind: str
) -> None:
    name = "label" if kind == "uint8" else "image"
    make(tmp_path / "theirs", shape, kind, PLANES, VOLUME_DIMENSIONS[name])
    ours = described(array_metadata(name, shape, np.dtype(kind).name))
    assert ours == (tmp_path / "theirs" / "zarr.json").read_bytes()


def test_only_its_own_row_is_written(tmp_path: Path) -> None:
    rows = zarr.create_array(
        store=str(tmp_path / "rows"),
        shape=(3, 4, 5, 6),
        shards=(1, 4, 5, 6),
        chunks=(1, 2, 5, 6),
        dtype="uint8",
        compressors=LABEL_CODECS,
        fill_value=255,
    )
    values = np.arange(120, dtype=np.uint8).reshape(4, 5, 6)
    write_shard(StoreFiles(str(tmp_path)), "rows", rows.metadata, 1, values)
    assert np.array_equal(rows[1], values)
    assert (rows[0] == 255).all()
    assert (rows[2] == 255).all()
