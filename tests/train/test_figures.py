import io
from itertools import product

import matplotlib.image
import numpy as np
import pytest
from samples import sample, shown, volume

from common.names import show
from common.task import GLIOMA, TASKS, Task
from train.figures.samples import Sample, choose_samples, evaluation_figure, overlay
from train.figures.style import as_png


def names(samples: list[Sample]) -> list[tuple[str, str]]:
    return [(name, chosen.case_id) for name, chosen in choose_samples(samples)]


def test_rows_are_the_worst_the_median_the_best_and_one_without_a_tumour() -> None:
    cases = [sample(f"case{i}", dice) for i, dice in enumerate((0.7, 0.2, 0.9, 0.5, 0.8))]
    empty = [
        sample("quiet", 1.0, has_tumour=False),
        sample("alarm", 0.0, has_tumour=False),
    ]
    rows = [("Worst", "case1"), ("Median", "case0"), ("Best", "case2")]
    assert names(cases) == rows
    assert names(empty + cases) == [*rows, ("No tumour", "alarm")]
    assert names(cases[:2]) == [("Worst", "case1"), ("Best", "case0")]
    assert names(cases[:1] + empty[:1]) == [("The case", "case0"), ("No tumour", "quiet")]
    assert names(empty[:1]) == [("No tumour", "quiet")]


def test_the_plane_with_the_most_tumour_is_shown() -> None:
    reference, prediction = np.zeros((2, 9, 16, 12), np.uint8)
    prediction[6, :4, :4] = 1
    assert shown(reference, prediction).plane == 6
    reference[2, 5, 5], reference[3, 5, 5:7] = 1, 2
    chosen = shown(reference, prediction)
    assert (chosen.plane, chosen.planes, chosen.has_tumour) == (3, 9, True)
    assert np.array_equal(chosen.reference, GLIOMA.to_regions(reference[3]))


def test_without_any_tumour_the_plane_with_the_most_brain_is_shown() -> None:
    image, nothing = np.zeros((4, 9, 16, 12), np.float16), np.zeros((9, 16, 12), np.uint8)
    image[:, 7, 2:9, 2:9] = 1
    image[:, 2, 2:4, 2:4] = 2
    chosen = shown(nothing, nothing, image)
    assert (chosen.plane, chosen.has_tumour) == (7, False)
    assert (chosen.grey[image[0, 7] == 0] == 0).all()
    assert (chosen.grey[image[0, 7] != 0] > 0).all()


def drawn(samples: list[tuple[str, Sample]], task: Task = GLIOMA) -> list[list[np.ndarray]]:
    """The pixels of every panel, by row and column."""
    figure = evaluation_figure(samples, "run · test", dict.fromkeys(task.regions, 1.0), task)
    file = io.BytesIO(as_png(figure))
    pixels = (matplotlib.image.imread(file, "png")[..., :3] * 255).round().astype(int)
    height, width = pixels.shape[:2]
    panels = []
    for axes in figure.axes[1:]:
        box = axes.get_position()
        rows = slice(round((1 - box.y1) * height), round((1 - box.y0) * height))
        panels.append(pixels[rows, round(box.x0 * width) : round(box.x1 * width)])
    columns = 1 + 2 * len(task.regions)
    return [panels[row * columns :][:columns] for row in range(len(samples))]


def coloured(panel: np.ndarray, region: str, task: Task = GLIOMA) -> np.ndarray:
    """Where a panel has a region's colour, at the opacity of masks."""
    paint = np.array([int(task.region_colours[region][i : i + 2], 16) for i in (1, 3, 5)])
    over_black = 0.8 * paint
    return ((panel >= over_black - 2) & (panel <= over_black + 30)).all(axis=2)


def test_masks_are_in_their_columns_and_colours_and_predictions_beside_them() -> None:
    one, none = sample("a", 0.5), sample("b", 1.0, has_tumour=False)
    with_tumour, without = drawn([("Best", one), ("No tumour", none)])
    for column, region in product(range(7), GLIOMA.regions):
        expected = column > 0 and GLIOMA.region_names[(column - 1) // 2] == region
        assert coloured(with_tumour[column], region).any() == expected, (column, region)
        assert not coloured(without[column], region).any()
    # The prediction lies one voxel, a sixteenth of the panel, to the right of the reference.
    reference, prediction = (
        np.flatnonzero(coloured(with_tumour[column], "wt").any(axis=0)).max() for column in (1, 2)
    )
    assert prediction - reference == pytest.approx(with_tumour[1].shape[1] / 16, abs=3)


def test_anterior_is_up_and_the_patients_right_on_the_left() -> None:
    """Arrays are LPS: y grows to posterior, x to the patient's left."""
    label = np.zeros((9, 16, 16), np.uint8)
    label[4, 2:5, 10:13] = 3  # anterior, the patient's left
    chosen = shown(label, label, volume((9, 16, 16)))
    panel = drawn([("The case", chosen)])[0][1]
    y, x = (axis.mean() / panel.shape[0] for axis in np.nonzero(coloured(panel, "wt")))
    assert y == pytest.approx(3.5 / 16, abs=0.02)
    assert x == pytest.approx(11.5 / 16, abs=0.02)


@pytest.mark.parametrize("name", ["post-treatment", "meningioma-rt"])
def test_every_region_of_a_task_has_its_columns(name: str) -> None:
    task = TASKS[name]
    label = np.zeros((9, 16, 12), np.uint8)
    label[4, 3:8, 3:7] = min(task.labels.values())
    image = volume()[: len(task.modalities)]
    chosen = shown(label, label, image, task=task)
    (row,) = drawn([("The case", chosen)], task)
    assert len(row) == 1 + 2 * len(task.regions)
    for index, region in enumerate(task.regions):
        expected = label.max() in task.regions[region]
        assert coloured(row[1 + 2 * index], region, task).any() == expected
    assert overlay(chosen, task).shape == (16, 3 * 12, 3)


@pytest.mark.parametrize("name", ["$\\frac$", "a$b", "_^{\\x", "病例", "\x1b[31m\u202e\n"])
def test_any_name_can_be_drawn(name: str) -> None:
    chosen = [("The case", sample(name, 0.5))]
    figure = evaluation_figure(chosen, name, dict.fromkeys(GLIOMA.regions, 1.0), GLIOMA)
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts.count(show(name)) == 2
    assert as_png(figure).startswith(b"\x89PNG")
