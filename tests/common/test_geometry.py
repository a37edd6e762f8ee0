"""From any grid to LPS at 1 mm, and back."""

import itertools

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the library's own habit
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.geometry import Geometry, ToLPS, degrees_off_axis, reorient

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
    to_lps = ToLPS.of(geometry(shape, direction))
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
    assert np.array_equal(ToLPS.of(geometry(shape, direction)).orient(voxels), expected)


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
    to_lps, where = ToLPS.of(grid), places(grid)
    moved = np.stack([to_lps.orient(where[..., axis]) for axis in range(3)], axis=-1)
    assert np.allclose(moved, places(to_lps.oriented(grid)), atol=1e-9)


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
    turned = reorient(stored, onto, grid)
    assert turned is not None
    assert np.array_equal(turned, numbered(shape))
    back = reorient(turned, grid, onto)
    assert back is not None
    assert np.array_equal(back, stored)


@pytest.mark.parametrize(
    "other",
    [
        Geometry((4, 5, 6), (1.0, 1.0, 1.0), (3.0, -7.0, 12.0)),
        Geometry((4, 5, 6), (1.0, 1.0, 1.1), (3.0, -7.0, 11.0)),
        Geometry((4, 6, 5), (1.0, 1.0, 1.0), (3.0, -7.0, 11.0)),
        Geometry((4, 5, 6), (1.0, 1.0, 1.0), (3.0, -7.0, 11.0), (-1, 0, 0, 0, -1, 0, 0, 0, 1)),
    ],
)
def test_what_is_not_of_one_place_is_not_turned(other: Geometry) -> None:
    grid = geometry((4, 5, 6), np.eye(3))
    assert reorient(numbered(other.shape), other, grid) is None


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
    straight = ToLPS.of(geometry((4, 5, 6), direction))
    assert ToLPS.of(geometry((4, 5, 6), reorient @ direction)) == straight


@given(shapes, directions, spacings)
def test_labels_come_back_from_a_finer_grid(
    shape: tuple[int, int, int],
    direction: NDArray[np.floating],
    spacing_mm: tuple[float, float, float],
) -> None:
    to_lps = ToLPS.of(geometry(shape, direction, spacing_mm))
    label = (numbered(shape) % 4).astype(np.uint8)
    oriented = to_lps.orient(label)
    fine = to_lps.resample(oriented, linear=False)
    assert fine.shape == to_lps.shape
    assert np.array_equal(to_lps.unresample(fine), oriented)


def test_a_finer_files_labels_come_back_nearly() -> None:
    to_lps = ToLPS.of(geometry((60, 60, 60), np.eye(3), (0.5, 0.7, 0.9)))
    z, y, x = np.ogrid[:60, :60, :60]
    ball = ((z - 30) ** 2 + (y - 30) ** 2 + (x - 30) ** 2 < 400).astype(np.uint8)
    back = to_lps.unresample(to_lps.resample(ball, linear=False))
    assert back.shape == ball.shape
    assert 2 * (back & ball).sum() / (back.sum() + ball.sum()) > 0.95


def test_a_millimetre_grid_is_left_alone() -> None:
    exact = ToLPS.of(geometry((3, 4, 5), np.eye(3), (1.0, 1.0, 1.0)))
    nearly = ToLPS.of(geometry((3, 4, 5), np.eye(3), (1.0000001, 0.99995, 1.0)))
    assert not exact.resamples
    assert not nearly.resamples
    assert nearly.shape == (3, 4, 5)


def test_both_grids_have_the_same_outer_edges() -> None:
    to_lps = ToLPS.of(geometry((4, 4, 4), np.eye(3), (2.0, 2.0, 2.0)))
    assert to_lps.resamples
    assert to_lps.shape == (8, 8, 8)
    # Where it is, in mm from the outer edge; a linear ramp survives linear interpolation.
    ramp = np.broadcast_to(2.0 * np.arange(4) + 1.0, (4, 4, 4)).astype(np.float32)
    fine = to_lps.resample(ramp, linear=True)
    assert np.allclose(fine[0, 0, 1:-1], np.arange(1, 7) + 0.5, atol=1e-5)
