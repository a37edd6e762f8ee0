"""Boxes, windows, statistics and normalisation."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from common.volume import (
    Box,
    Triple,
    bounding_box,
    brain_box,
    crop_window,
    enclosing_box,
    extract,
    foreground,
    foreground_slabs,
    foreground_statistics,
    normalise,
    place_back,
    z_scores,
)

sides = st.tuples(*[st.integers(1, 12)] * 3)
starts = st.tuples(*[st.integers(-15, 15)] * 3)
boxes = st.builds(Box, starts, sides)


@st.composite
def inside(draw: st.DrawFn, grid: Triple) -> Box:
    """A box within a grid."""
    first = [draw(st.integers(0, side - 1)) for side in grid]
    shape = [draw(st.integers(1, side - f)) for side, f in zip(grid, first, strict=True)]
    return Box((first[0], first[1], first[2]), (shape[0], shape[1], shape[2]))


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Triple, Box, Box | None, Triple]:
    """A grid, the brain in it, a tumour anywhere in it or none, and the size of a window."""
    grid = draw(st.tuples(*[st.integers(1, 24)] * 3))
    return grid, draw(inside(grid)), draw(st.none() | inside(grid)), draw(sides)


def mask_of(box: Box, grid: Triple) -> NDArray[np.bool_]:
    index = np.meshgrid(*[np.arange(side) for side in grid], indexing="ij")
    ranges = zip(index, box.start, box.stop, strict=True)
    return np.logical_and.reduce([(i >= first) & (i < last) for i, first, last in ranges])


@given(sides, boxes, st.booleans())
def test_a_window_is_what_the_grid_has_there_and_zeros(
    grid: Triple, box: Box, channels: bool
) -> None:
    volume = np.arange(1, 1 + int(np.prod(grid))).reshape(grid)
    volume = np.stack([volume, -volume]) if channels else volume
    patch = extract(volume, box)
    assert patch.shape == (*volume.shape[:-3], *box.shape)
    kept = volume * mask_of(box, grid)
    assert patch.sum() == kept.sum()
    assert np.array_equal(place_back(patch, box, grid), kept)


@given(sides, boxes)
def test_what_two_boxes_share(grid: Triple, box: Box) -> None:
    whole = Box((0, 0, 0), grid)
    shared = box.overlap(whole)
    assert np.prod(shared.shape) == mask_of(box, grid).sum()
    volume = np.arange(int(np.prod(grid))).reshape(grid)
    outer = extract(volume, box)
    assert np.array_equal(extract(outer, shared.relative_to(box)), extract(volume, shared))


KINDS = st.sampled_from(["?", "u1", "i2", ">i2", "i8", "u8", "f4"])


@given(st.data(), sides)
def test_a_bounding_box_is_tight(data: st.DataObject, grid: Triple) -> None:
    kinds = data.draw(st.lists(KINDS, min_size=1, max_size=4))
    volumes = [data.draw(arrays(kind, grid)) for kind in kinds]
    mask = foreground(volumes)
    box = bounding_box(*volumes)
    if box is None:
        assert not mask.any()
        return
    assert extract(mask, box).sum() == mask.sum()
    for axis in range(3):
        faces = np.moveaxis(extract(mask, box), axis, 0)
        assert faces[0].any()
        assert faces[-1].any()


@given(scenes(), st.integers(0, 3))
def test_the_brain_box(scene: tuple[Triple, Box, Box | None, Triple], margin: int) -> None:
    grid, brain, _, least = scene
    box = brain_box(brain, margin, least, grid)
    for axis, side in enumerate(grid):
        assert box.shape[axis] >= least[axis]
        assert box.start[axis] <= max(0, brain.start[axis] - margin)
        assert box.stop[axis] >= min(side, brain.stop[axis] + margin)
        if least[axis] <= side:
            assert box.start[axis] >= 0
            assert box.stop[axis] <= side


@given(scenes())
def test_the_crop_holds_the_tumour_and_stays_in_the_grid(
    scene: tuple[Triple, Box, Box | None, Triple],
) -> None:
    grid, brain, tumour, size = scene
    crop = crop_window(brain, tumour, size, grid)
    assert crop.shape == size
    for axis, side in enumerate(grid):
        start, stop = crop.start[axis], crop.stop[axis]
        if size[axis] <= side:
            assert 0 <= start <= stop <= side
        else:
            assert start <= 0
            assert stop >= side
        if tumour is not None and tumour.shape[axis] <= size[axis] <= side:
            assert start <= tumour.start[axis]
            assert stop >= tumour.stop[axis]


@given(scenes())
def test_no_window_that_holds_the_tumour_is_nearer_to_the_brains_centre(
    scene: tuple[Triple, Box, Box | None, Triple],
) -> None:
    grid, brain, tumour, size = scene
    crop = crop_window(brain, tumour, size, grid)
    for axis, side in enumerate(grid):
        if size[axis] > side or (tumour and tumour.shape[axis] > size[axis]):
            continue
        centre = (brain.start[axis] + brain.stop[axis] - size[axis]) // 2
        allowed = [
            start
            for start in range(side - size[axis] + 1)
            if tumour is None
            or (start <= tumour.start[axis] and start + size[axis] >= tumour.stop[axis])
        ]
        nearest = min(abs(start - centre) for start in allowed)
        assert abs(crop.start[axis] - centre) == nearest


def test_a_tumour_larger_than_the_crop_is_centred_in_it() -> None:
    brain, tumour = Box((0, 0, 0), (40, 40, 40)), Box((10, 4, 0), (20, 30, 40))
    assert crop_window(brain, tumour, (10, 10, 10), (40, 40, 40)).start == (15, 14, 15)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
@given(seed=st.integers(0, 1000), parts=st.integers(1, 3))
def test_statistics_are_those_of_the_nonzero_voxels(
    dtype: type[np.generic], seed: int, parts: int
) -> None:
    generator = np.random.default_rng(seed)
    low = 0 if np.issubdtype(dtype, np.unsignedinteger) else -100
    volume = (generator.integers(low, 250, (3, 4, 5)) * generator.integers(0, 2, (3, 4, 5))).astype(
        dtype
    )
    mean, std = foreground_statistics(list(np.array_split(volume, parts)))
    values = volume[volume != 0].astype(np.float64)
    if values.size:
        assert mean == pytest.approx(values.mean(), rel=1e-12, abs=1e-12)
        assert std == pytest.approx(values.std(), rel=1e-9, abs=1e-9)
    else:
        assert np.isnan(mean)
        assert np.isnan(std)


def test_a_large_constant_image_has_no_spread_at_all() -> None:
    planes = list(np.full((60, 240, 240), 65535, np.uint16))
    assert foreground_statistics(planes) == (65535.0, 0.0)


@pytest.mark.parametrize("stored", [np.float16, np.float32])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32])
def test_the_z_score_of_the_foreground(dtype: type[np.generic], stored: type[np.floating]) -> None:
    generator = np.random.default_rng(0)
    volume = (generator.integers(1, 250, (6, 7, 8)) * generator.integers(0, 2, (6, 7, 8))).astype(
        dtype
    )
    mean, std = foreground_statistics([volume])
    scaled = np.full(volume.shape, np.nan, stored)
    normalise([volume[:2], volume[2:]], mean, std, [scaled[:2], scaled[2:]])
    expected = np.where(volume != 0, (volume.astype(np.float64) - mean) / std, 0)
    assert np.allclose(scaled, expected, rtol=0, atol=2e-3 if stored is np.float16 else 1e-6)
    assert not scaled[volume == 0].any()
    assert not np.signbit(scaled[volume == 0]).any()
    inner = scaled[volume != 0].astype(np.float64)
    assert inner.mean() == pytest.approx(0, abs=1e-3)
    assert inner.std() == pytest.approx(1, abs=1e-3)


def test_views_and_other_byte_strides_are_normalised_alike() -> None:
    volume = np.arange(-300, 300, dtype=np.int16).reshape(10, 10, 6)
    turned = np.flip(volume.transpose(2, 0, 1), 0)
    plain, scaled = np.empty((2, *turned.shape), np.float16)
    normalise([np.ascontiguousarray(turned)], 3.0, 90.0, [plain])
    normalise([turned], 3.0, 90.0, [scaled])
    assert np.array_equal(scaled, plain)


def test_the_foreground_can_be_given() -> None:
    volume = np.array([[[0.0, 1.0, 2.0]]], np.float32)
    foreground = np.array([[[True, False, True]]])
    assert z_scores(volume, 1.0, 0.5, foreground).tolist() == [[[-2.0, 0.0, 2.0]]]


@given(st.data(), st.tuples(st.integers(1, 20), st.integers(1, 6), st.integers(1, 6)))
def test_slabs_hold_all_of_the_foreground_and_lie_in_its_box(
    data: st.DataObject, grid: Triple
) -> None:
    images = [data.draw(arrays(kind, grid)) for kind in data.draw(st.lists(KINDS, min_size=1))]
    brain = foreground(images)
    slabs = foreground_slabs(images)
    assert sum(int(extract(brain, slab).sum()) for slab in slabs) == brain.sum()
    assert (enclosing_box(slabs) if slabs else None) == bounding_box(brain)
    for below, above in pairwise(slabs):
        assert below.stop[0] <= above.start[0]
