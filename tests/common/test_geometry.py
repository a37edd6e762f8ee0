"""From any grid to LPS at one spacing, and back."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the library's own habit
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.geometry import Geometry, Orientation, ToLPS, degrees_off_axis, offset_voxels, reorient

DIRECTIONS = [
    np.diag(signs) @ np.eye(3)[list(axes)]
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1.0, -1.0), repeat=3)
]
"""Every orientation that a file can have."""

directions = st.sampled_from(DIRECTIONS)
shapes = st.tuples(*[st.integers(1, 7)] * 3)
spacings = st.tuples(*[st.floats(1.0, 4.0)] * 3)


def geometry(
    shape: tuple[int, int, int],
    direction: NDArray[np.floating],
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Geometry:
    return Geometry(shape, spacing_mm, (3.0, -7.0, 11.0), tuple(direction.ravel().tolist()))


def numbered(shape: tuple[int, int, int]) -> NDArray[np.int16]:
    return np.arange(np.prod(shape), dtype=np.int16).reshape(shape)


@given(shapes, directions)
def test_every_orientation_comes_back(
    shape: tuple[int, int, int], direction: NDArray[np.floating]
) -> None:
    to_lps = ToLPS.of(geometry(shape, direction), 1.0)
    voxels = numbered(shape)
    oriented = to_lps.orient(voxels)
    assert oriented.shape == to_lps.oriented_shape == to_lps.shape
    assert np.array_equal(to_lps.unorient(oriented), voxels)


@given(shapes, directions)
def test_orienting_does_as_itk_does(
    shape: tuple[int, int, int], direction: NDArray[np.floating]
) -> None:
    voxels = numbered(shape)
    image = sitk.GetImageFromArray(voxels)
    image.SetDirection(direction.ravel().tolist())
    expected = sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS"))
    assert np.array_equal(Orientation.of(geometry(shape, direction)).orient(voxels), expected)


def places(grid: Geometry) -> NDArray[np.float64]:
    """(D, H, W, 3): where in the world each voxel is, in mm."""
    kji = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), axis=-1)
    return kji[..., ::-1] @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def tilted(direction: NDArray[np.floating], degrees: tuple[float, ...]) -> NDArray[np.floating]:
    for axis, angle in enumerate(np.radians(degrees)):
        rotation = np.eye(3)
        first, second = [other for other in range(3) if other != axis]
        rotation[first, first] = rotation[second, second] = np.cos(angle)
        rotation[first, second], rotation[second, first] = -np.sin(angle), np.sin(angle)
        direction = rotation @ direction
    return direction


tilts = st.tuples(*[st.floats(-20, 20)] * 3)


@given(shapes, directions, spacings, tilts)
def test_orienting_leaves_every_voxel_where_it_is(
    shape: tuple[int, int, int],
    direction: NDArray[np.floating],
    spacing_mm: tuple[float, float, float],
    degrees: tuple[float, float, float],
) -> None:
    grid = geometry(shape, tilted(direction, degrees), spacing_mm)
    orientation, where = Orientation.of(grid), places(grid)
    moved = np.stack([orientation.orient(where[..., axis]) for axis in range(3)], axis=-1)
    assert np.allclose(moved, places(orientation.oriented(grid)), atol=1e-9)


def permuted(grid: Geometry, axes: list[int], flips: list[bool]) -> Geometry:
    """The same voxels, stored with array axes in another order and some of them backwards."""
    spacing, shape = [grid.spacing_mm[a] for a in axes], [grid.shape[a] for a in axes]
    columns = [2 - a for a in reversed(axes)]
    corner = np.array([0.0, 0.0, 0.0, 1.0])
    for axis, flip in zip(axes, flips, strict=True):
        corner[2 - axis] = (grid.shape[axis] - 1) if flip else 0
    signs = [-1.0 if flip else 1.0 for flip in reversed(flips)]
    cosines = np.reshape(grid.direction, (3, 3))[:, columns] * signs
    x, y, z = (np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine @ corner)[:3]
    return Geometry(
        (shape[0], shape[1], shape[2]),
        (spacing[0], spacing[1], spacing[2]),
        (float(x), float(y), float(z)),
        tuple(cosines.ravel().tolist()),
    )


@given(
    shapes,
    directions,
    spacings,
    tilts,
    st.tuples(st.permutations(range(3)), st.lists(st.booleans(), min_size=3, max_size=3)),
)
def test_a_volume_turns_onto_every_order_of_its_axes_and_back(
    shape: tuple[int, int, int],
    direction: NDArray[np.floating],
    spacing_mm: tuple[float, float, float],
    degrees: tuple[float, float, float],
    order: tuple[list[int], list[bool]],
) -> None:
    axes, flips = order
    grid = geometry(shape, tilted(direction, degrees), spacing_mm)
    onto = permuted(grid, axes, flips)
    stored = np.flip(numbered(shape).transpose(axes), [a for a in range(3) if flips[a]])
    assert offset_voxels(onto, grid) == pytest.approx(0, abs=1e-9)
    turned = reorient(stored, onto, grid)
    assert np.array_equal(turned, numbered(shape))
    assert np.array_equal(reorient(turned, grid, onto), stored)


TURNED = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    "other",
    [
        Geometry((4, 5, 6), (1.0, 1.0, 1.1), (3.0, -7.0, 11.0)),
        Geometry((4, 6, 5), (1.0, 1.0, 1.0), (3.0, -7.0, 11.0)),
        Geometry((4, 5, 6), (1.0, 1.0, 1.0), (3.0, -7.0, 11.0), TURNED),
    ],
)
def test_grids_that_differ_in_more_than_their_place_have_no_offset(other: Geometry) -> None:
    assert offset_voxels(other, geometry((4, 5, 6), np.eye(3))) is None


@given(shapes, directions, spacings, tilts, st.tuples(*[st.floats(-5, 5)] * 3))
def test_how_far_two_grids_are_apart(
    shape: tuple[int, int, int],
    direction: NDArray[np.floating],
    spacing_mm: tuple[float, float, float],
    degrees: tuple[float, float, float],
    shift: tuple[float, float, float],
) -> None:
    grid = geometry(shape, tilted(direction, degrees), spacing_mm)
    x, y, z = np.diag([-1, -1, 1]) @ (grid.affine @ (*shift, 1))[:3]
    moved = replace(grid, origin_mm=(float(x), float(y), float(z)))
    assert offset_voxels(moved, grid) == pytest.approx(max(map(abs, shift)), abs=1e-9)


@pytest.mark.parametrize("degrees", [0.0, 3.0, 17.5, -40.0])
@pytest.mark.parametrize("direction", DIRECTIONS[::7])
def test_how_oblique_a_grid_is(degrees: float, direction: NDArray[np.floating]) -> None:
    grid = geometry((4, 5, 6), tilted(direction, (0.0, degrees, 0.0)))
    assert degrees_off_axis(grid) == pytest.approx(abs(degrees), abs=1e-4)


@pytest.mark.parametrize("degrees", [-30, 12, 40])
@pytest.mark.parametrize("direction", DIRECTIONS[::5])
def test_an_oblique_grid_takes_its_nearest_axes(
    degrees: float, direction: NDArray[np.floating]
) -> None:
    angle = np.radians(degrees)
    reorient = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    straight = Orientation.of(geometry((4, 5, 6), direction))
    assert Orientation.of(geometry((4, 5, 6), reorient @ direction)) == straight


ANY_SPACING = st.floats(0.5, 4.0)


@given(shapes, directions, st.integers(0, 2), ANY_SPACING, ANY_SPACING)
def test_regions_come_back_from_a_grid_that_is_finer_along_an_axis(
    shape: tuple[int, int, int],
    direction: NDArray[np.floating],
    axis: int,
    thick_mm: float,
    spacing_mm: float,
) -> None:
    file_mm = tuple(max(thick_mm, spacing_mm) if a == axis else spacing_mm for a in range(3))
    to_lps = ToLPS.of(geometry(shape, direction, file_mm), spacing_mm)
    label = (numbered(shape) % 4).astype(np.uint8)
    oriented = to_lps.orient(label)
    fine = to_lps.resample_labels(oriented)
    assert fine.shape == to_lps.shape
    for value in range(4):
        back = to_lps.unresample(np.where(fine == value, 1.0, -1.0))
        assert np.array_equal(back > 0, oriented == value)


@given(shapes, st.tuples(*[ANY_SPACING] * 3), ANY_SPACING, st.data())
def test_any_grid_is_as_large_as_its_file_and_holds_nothing_else(
    shape: tuple[int, int, int],
    file_mm: tuple[float, float, float],
    spacing_mm: float,
    data: st.DataObject,
) -> None:
    to_lps = ToLPS.of(geometry(shape, np.eye(3), file_mm), spacing_mm)
    for size, mm, count in zip(shape, file_mm, to_lps.shape, strict=True):
        assert abs(size * mm - count * spacing_mm) <= max(spacing_mm / 2 + 1e-3 * size, spacing_mm)
    values = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=3))
    label = np.resize(np.asarray(values, np.uint8), shape)
    stored, image = to_lps.resample_labels(label), to_lps.resample(label)
    assert stored.shape == image.shape == to_lps.shape
    assert set(np.unique(stored)) <= set(values)
    assert label.min() - 1e-5 <= image.min() <= image.max() <= label.max() + 1e-5
    back = to_lps.unresample(image)
    assert back.shape == shape
    assert image.min() - 1e-5 <= back.min() <= back.max() <= image.max() + 1e-5


@pytest.mark.parametrize("factor", [2, 3])
def test_a_voxel_of_a_coarser_grid_is_the_mean_of_all_that_it_covers(factor: int) -> None:
    shape = (6, 12, 6)
    to_lps = ToLPS.of(geometry(shape, np.eye(3)), float(factor))
    voxels = np.random.default_rng(0).integers(0, 900, shape)
    blocks = voxels.reshape(6 // factor, factor, 12 // factor, factor, 6 // factor, factor)
    assert np.allclose(to_lps.resample(voxels), blocks.mean(axis=(1, 3, 5)))
    label = np.zeros(shape, np.uint8)
    label[:factor, :factor, :factor] = 2
    label[0, 0, 0] = 1
    label[factor, :factor, :factor] = 3  # the half of a voxel, or a third
    stored = to_lps.resample_labels(label)
    assert stored[0, 0, 0] == 2
    assert stored[1, 0, 0] == (3 if factor == 2 else 0)
    assert np.count_nonzero(stored) == (2 if factor == 2 else 1)


def test_a_grid_of_the_stores_spacing_is_left_alone() -> None:
    for spacing_mm in (1.0, 0.8):
        nearly = (spacing_mm + 1e-7, spacing_mm - 5e-5, spacing_mm)
        to_lps = ToLPS.of(geometry((3, 4, 5), np.eye(3), nearly), spacing_mm)
        assert not to_lps.resamples
        assert to_lps.shape == (3, 4, 5)
    assert ToLPS.of(geometry((3, 4, 5), np.eye(3)), 0.8).resamples


def test_both_grids_have_the_same_outer_edges() -> None:
    to_lps = ToLPS.of(geometry((4, 4, 4), np.eye(3), (2.0, 2.0, 2.0)), 1.0)
    assert to_lps.resamples
    assert to_lps.shape == (8, 8, 8)
    # Where it is, in mm from the outer edge; a linear ramp survives linear interpolation.
    ramp = np.broadcast_to(2.0 * np.arange(4) + 1.0, (4, 4, 4)).astype(np.float32)
    fine = to_lps.resample(ramp)
    assert np.allclose(fine[0, 0, 1:-1], np.arange(1, 7) + 0.5, atol=1e-5)
