import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common.metrics import (
    METRICS,
    MaskPair,
    Metric,
    RegionScore,
    score_case,
    score_masks,
)
from common.task import GLIOMA, TASKS, Task

MM = (1.0, 1.0, 1.0)
EMPTY = np.zeros((2, 3, 4), np.uint8)
LABELS = arrays(np.uint8, (2, 3, 4), elements=st.integers(0, 3))


def dice(prediction: np.ndarray, reference: np.ndarray, task: Task = GLIOMA) -> dict[str, float]:
    found = score_case(reference, prediction, MM, task, rules=None)
    return {region: each.values["dice"] for region, each in found.regions.items()}


def test_dice_worked_out_by_hand() -> None:
    reference = np.array([[[2, 2, 1, 3, 0, 0]]], np.uint8)
    prediction = np.array([[[0, 2, 2, 3, 3, 0]]], np.uint8)
    # WT: 4 and 4 voxels, 3 shared; TC: 2 and 2, 1 shared; ET: 1 and 2, 1 shared.
    assert dice(prediction, reference) == {"wt": 6 / 8, "tc": 2 / 4, "et": 2 / 3}


@given(prediction=LABELS, reference=LABELS)
def test_scores_are_those_of_the_region_masks(
    prediction: np.ndarray, reference: np.ndarray
) -> None:
    found = score_case(reference, prediction, MM, rules=None).regions
    masks = zip(GLIOMA.to_regions(prediction), GLIOMA.to_regions(reference), strict=True)
    for each, (a, b) in zip(found.values(), masks, strict=True):
        counts = int(b.sum()), int(a.sum()), int((a & b).sum())
        assert (each.reference, each.prediction, each.intersection) == counts
        total = counts[0] + counts[1]
        assert each.values["dice"] == (2 * counts[2] / total if total else 1)
    assert dice(prediction, reference) == dice(reference, prediction)
    assert set(dice(reference, reference).values()) == {1.0}


def test_both_empty_is_perfect_and_a_miss_or_a_false_alarm_worth_nothing() -> None:
    oedema = EMPTY.copy()
    oedema[0, 0, 0] = 2
    assert dice(EMPTY, EMPTY) == {"wt": 1, "tc": 1, "et": 1}
    assert dice(EMPTY, oedema) == {"wt": 0, "tc": 1, "et": 1}
    assert dice(oedema, EMPTY) == {"wt": 0, "tc": 1, "et": 1}


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_every_region_of_every_task_is_scored(task: Task) -> None:
    label = EMPTY.copy()
    values = list(task.labels.values())
    label.flat[: len(values)] = values
    assert dice(label, label, task) == dict.fromkeys(task.regions, 1.0)
    assert dice(EMPTY, label, task) == dict.fromkeys(task.regions, 0.0)


def test_a_metric_is_a_value() -> None:
    """It sees masks cut to a box around both and the spacing; an empty mask is not its business."""
    seen = []

    def extent_mm(pair: MaskPair) -> float:
        seen.append((pair.reference.shape, pair.reference_voxels, pair.prediction_voxels))
        return float(pair.reference.shape[1] * pair.spacing_mm[1])

    extent = Metric("extent", "Extent", "", extent_mm, 0.0, 374.0, higher_is_better=False)
    prediction, reference = np.zeros((2, 40, 50, 60), np.uint8)
    prediction[10, 20:22, 30] = 3
    reference[10:13, 20:25, 30] = 3
    reference[12, 22, 31] = 2

    def extents(reference: np.ndarray, prediction: np.ndarray) -> dict[str, RegionScore]:
        metrics = (*METRICS, extent)
        return score_case(reference, prediction, (1, 2, 3), rules=None, metrics=metrics).regions

    found = extents(reference, prediction)
    assert [each.values["extent"] for each in found.values()] == [10] * 3
    assert seen[0] == ((3, 5, 2), 16, 2)
    only = extents(0 * reference, prediction)
    assert [each.values["extent"] for each in only.values()] == [374] * 3
    none = extents(0 * reference, 0 * prediction)
    assert [each.values["extent"] for each in none.values()] == [0] * 3


def test_arrays_of_other_shapes_or_values_are_refused() -> None:
    with pytest.raises(ValueError, match="differ"):
        score_case(EMPTY, EMPTY[:1], MM)
    with pytest.raises(ValueError, match=r"glioma.*found \[4\]"):
        score_case(EMPTY, np.full_like(EMPTY, 4), MM)


def test_masks_are_scored_as_labels_are() -> None:
    reference, prediction = np.zeros((2, 6, 7, 8), np.uint8)
    reference[1:4, 1:5, 1:6], prediction[2:5, 1:5, 2:6] = 3, 3
    prediction[0, 0, 7] = 2
    masks = [
        dict(zip(GLIOMA.regions, GLIOMA.to_regions(labels), strict=True))
        for labels in (reference, prediction)
    ]
    spacing_mm = (2.0, 1.0, 1.0)
    assert score_masks(*masks, spacing_mm) == score_case(reference, prediction, spacing_mm)
    with pytest.raises(ValueError, match="wt"):
        score_masks(masks[0], {"wt": masks[1]["wt"]}, spacing_mm)


def test_each_lesion_has_a_row() -> None:
    """Found, missed, too small to count, and predicted where there is none."""
    reference, prediction = np.zeros((2, 12, 30, 40), np.uint8)
    reference[2:6, 2:6, 2:6] = 3
    prediction[2:6, 2:6, 2:4] = 3
    reference[2:6, 20:24, 2:6] = 3
    reference[10, 10, 30] = 3
    prediction[3, 25, 35:37] = 3
    found = score_case(reference, prediction, (1.0, 1.0, 2.0)).regions["et"].lesions
    assert found is not None
    rows = {
        lesion.centre: (lesion.status, lesion.volume_ml, lesion.predicted_ml, lesion.values["dice"])
        for lesion in found.lesions
    }
    assert rows == {
        (3.5, 3.5, 3.5): ("tp", 0.128, 0.064, 2 / 3),
        (3.5, 21.5, 3.5): ("fn", 0.128, 0, 0),
        (10, 10, 30): ("ignored", 0.002, 0, 0),
        (3, 25, 35.5): ("fp", 0, 0.004, 0),
    }
    assert found.values["dice"] == pytest.approx(2 / 9)
    assert found.values["hd95_mm"] == pytest.approx((4 + 374 + 374) / 3)
    assert found.f1 == 0.5


def test_a_spacing_that_is_none_is_refused() -> None:
    for spacing_mm in ((0.0, 1.0, 1.0), (math.nan, 1.0, 1.0)):
        with pytest.raises(ValueError, match="spacing"):
            score_case(EMPTY, EMPTY, spacing_mm)
