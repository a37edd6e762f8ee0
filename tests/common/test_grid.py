"""From any grid to LPS at 1 mm, and back."""

import itertools

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the library's own habit
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.grid import ToLPS
from common.nifti import Geometry

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


@pytest.mark.parametrize("degrees", [-30, 12, 40])
@pytest.mark.parametrize("direction", DIRECTIONS[::5])
def test_an_oblique_grid_takes_its_nearest_axes(
    degrees: float, direction: NDArray[np.floating]
) -> None:
    angle = np.radians(degrees)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    straight = ToLPS.of(geometry((4, 5, 6), direction))
    assert ToLPS.of(geometry((4, 5, 6), turn @ direction)) == straight


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
