"""What must hold of every pair of masks, whatever the values are."""

from itertools import permutations
from math import isclose

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common.metrics import METRICS, RULE_SETS, CaseScores, score_case
from common.task import GLIOMA

few = settings(max_examples=10)

LABELS = arrays(np.uint8, (4, 5, 6), elements=st.integers(0, 3))
SPACING = st.tuples(*[st.sampled_from((0.5, 1.0, 3.0))] * 3)
YEARS = sorted({name.partition("-")[0] for name in RULE_SETS})


def values(scores: CaseScores) -> list[float]:
    """All numbers that do not say where something is."""
    return [
        value
        for region in scores.regions.values()
        for found in (region, region.lesions)
        if found is not None
        for value in found.values.values()
    ]


@few
@given(LABELS, LABELS, SPACING)
def test_both_ways_round_the_symmetric_metrics_are_the_same(
    reference: np.ndarray, prediction: np.ndarray, spacing_mm: tuple[float, float, float]
) -> None:
    there = score_case(reference, prediction, spacing_mm, rules=None)
    back = score_case(prediction, reference, spacing_mm, rules=None)
    for region, found in there.regions.items():
        for name in ("dice", "hd95_mm", "nsd_0.5mm", "nsd_1mm", "nsd_2mm", "volume_error_ml"):
            assert found.values[name] == pytest.approx(back.regions[region].values[name])


@pytest.mark.parametrize("rules", YEARS)
@few
@given(labels=LABELS, spacing_mm=SPACING)
def test_a_perfect_prediction_has_the_best_value_of_everything(
    rules: str, labels: np.ndarray, spacing_mm: tuple[float, float, float]
) -> None:
    scores = score_case(labels, labels, spacing_mm, rules=rules)
    for found in scores.regions.values():
        assert found.lesions is not None
        best = {metric.name: float(metric.higher_is_better) for metric in METRICS}
        best |= {
            metric.name: float(metric.higher_is_better)
            for metric in RULE_SETS[scores.rules].metrics
        }
        assert found.values | found.lesions.values == {
            name: best[name] for name in found.values | found.lesions.values
        }
        assert (found.lesions.count("fn"), found.lesions.count("fp")) == (0, 0)


@few
@given(
    reference=LABELS,
    prediction=LABELS,
    spacing_mm=SPACING,
    order=st.sampled_from(list(permutations(range(3)))),
    flips=st.sets(st.integers(0, 2)),
)
def test_orientation_does_not_matter(
    reference: np.ndarray,
    prediction: np.ndarray,
    spacing_mm: tuple[float, float, float],
    order: tuple[int, int, int],
    flips: set[int],
) -> None:
    turned = [np.flip(each.transpose(order), tuple(flips)) for each in (reference, prediction)]
    z, y, x = (spacing_mm[axis] for axis in order)
    one = values(score_case(reference, prediction, spacing_mm, rules="brats2023"))
    other = values(score_case(turned[0], turned[1], (z, y, x), rules="brats2023"))
    assert one == pytest.approx(other)


@few
@given(LABELS, LABELS, SPACING, st.sampled_from((0.25, 2.0, 10.0)))
def test_distances_grow_with_the_spacing(
    reference: np.ndarray,
    prediction: np.ndarray,
    spacing_mm: tuple[float, float, float],
    factor: float,
) -> None:
    z, y, x = (factor * mm for mm in spacing_mm)
    one = score_case(reference, prediction, spacing_mm, rules=None)
    other = score_case(reference, prediction, (z, y, x), rules=None)
    for region, found in one.regions.items():
        grown = other.regions[region].values
        if found.reference and found.prediction:
            assert isclose(grown["hd95_mm"], factor * found.values["hd95_mm"])
        assert isclose(grown["volume_error_ml"], factor**3 * found.values["volume_error_ml"])
        assert grown["dice"] == found.values["dice"]


@pytest.mark.parametrize(
    "rules", ["brats2023-gli", "brats2024-gli", "brats2024-men-rt", "brats2026"]
)
@few
@given(reference=LABELS, prediction=LABELS)
def test_nothing_is_ever_nan_and_lesions_add_up(
    rules: str, reference: np.ndarray, prediction: np.ndarray
) -> None:
    scores = score_case(reference, prediction, (1.0, 1.0, 1.0), GLIOMA, rules=rules)
    assert np.isfinite(values(scores)).all()
    for found in scores.regions.values():
        assert found.lesions is not None
        total = sum(lesion.volume_ml for lesion in found.lesions.lesions)
        assert total == pytest.approx(found.reference_ml)
