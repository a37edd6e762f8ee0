import numpy as np
import pytest

from common.images import DARKEST, intensity_window, paint, plane_with_most, shown_channel, to_grey


def test_flair_is_shown_or_else_the_first_modality() -> None:
    assert shown_channel(("t1", "flair")) == 1
    assert shown_channel(("t1ce",)) == 0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_plane_with_the_most_of_the_first_mask_that_is_not_empty(axis: int) -> None:
    nothing = np.zeros((5, 6, 7), np.bool_)
    mask = nothing.copy()
    mask[3, 1, 2] = mask[3, 2, 2] = mask[3, 1, 5] = mask[4, 1, 2] = True
    assert plane_with_most(axis, nothing, mask, ~mask) == (3, 1, 2)[axis]
    assert plane_with_most(axis, nothing) == nothing.shape[axis] // 2


def test_the_window_leaves_out_extremes_and_no_brain_is_as_dark_as_background() -> None:
    image = np.zeros((20, 20, 20), np.float32)
    image[2:18, 2:18, 2:18] = np.linspace(1, 2, 16**3).reshape(16, 16, 16)
    image[2, 2, 2] = 1e6
    low, high = intensity_window(image)
    assert 0.9 < low < high < 2.1
    grey = to_grey(image[2], (low, high))
    assert grey[2, 2] == 255
    assert grey[image[2] != 0].min() == DARKEST
    assert not grey[image[2] == 0].any()
    assert intensity_window(0 * image) == (0, 1)


def test_masks_are_painted_in_order_with_their_outlines() -> None:
    grey = np.full((9, 9), 100, np.uint8)
    outer, inner = np.zeros((2, 9, 9), np.bool_)
    outer[1:8, 1:8], inner[3:6, 3:6] = True, True
    picture = paint(grey, [outer, inner], ["#ff0000", "#0000ff"], 0.5, outlined=True)
    assert picture[0, 0].tolist() == [100, 100, 100]
    assert picture[1, 1].tolist() == [255, 0, 0]
    assert picture[2, 2].tolist() == [177, 50, 50]
    assert picture[3, 3].tolist() == [0, 0, 255]
    assert picture[4, 4].tolist() == [50, 50, 177]
    filled = paint(grey, [outer], ["#ff0000"], 0.5)
    assert filled[1, 1].tolist() == [177, 50, 50]
