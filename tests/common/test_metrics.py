import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common.metrics import Agreement, agreement, summarise
from common.task import REGIONS, to_regions

EMPTY = np.zeros((2, 3, 4), np.uint8)
LABELS = arrays(np.uint8, (2, 3, 4), elements=st.integers(0, 3))


def dice(prediction: np.ndarray, reference: np.ndarray, **missed: int) -> dict[str, float]:
    counts = {region: missed.get(region, 0) for region in REGIONS}
    return {r: a.dice for r, a in agreement(prediction, reference, counts).items()}


def test_dice_worked_out_by_hand() -> None:
    reference = np.array([[[2, 2, 1, 3, 0, 0]]], np.uint8)
    prediction = np.array([[[0, 2, 2, 3, 3, 0]]], np.uint8)
    # WT: 4 and 4 voxels, 3 shared; TC: 2 and 2, 1 shared; ET: 1 and 2, 1 shared.
    assert dice(prediction, reference) == {"wt": 6 / 8, "tc": 2 / 4, "et": 2 / 3}


@given(prediction=LABELS, reference=LABELS)
def test_counts_are_those_of_the_region_masks(
    prediction: np.ndarray, reference: np.ndarray
) -> None:
    found = agreement(prediction, reference)
    for region, a, b in zip(REGIONS, to_regions(prediction), to_regions(reference), strict=True):
        expected = Agreement(int(b.sum()), int(a.sum()), int((a & b).sum()))
        assert found[region] == expected
        assert 0 <= expected.dice <= 1
    assert dice(prediction, reference) == dice(reference, prediction)
    assert set(dice(reference, reference).values()) == {1.0}


def test_both_empty_is_perfect_and_a_miss_or_a_false_alarm_worth_nothing() -> None:
    oedema = EMPTY.copy()
    oedema[0, 0, 0] = 2
    assert dice(EMPTY, EMPTY) == {"wt": 1, "tc": 1, "et": 1}
    assert dice(EMPTY, oedema) == {"wt": 0, "tc": 1, "et": 1}
    assert dice(oedema, EMPTY) == {"wt": 0, "tc": 1, "et": 1}


def test_tumour_outside_the_volume_counts_as_missed() -> None:
    reference = EMPTY.copy()
    reference[0, 0, :3] = 3
    assert dice(reference, reference, wt=2, tc=0, et=3) == {"wt": 6 / 8, "tc": 1, "et": 6 / 9}
    assert dice(EMPTY, EMPTY, wt=1) == {"wt": 0, "tc": 1, "et": 1}


def test_arrays_of_other_shapes_or_values_are_refused() -> None:
    with pytest.raises(ValueError, match="differ"):
        agreement(EMPTY, EMPTY[:1])
    with pytest.raises(ValueError, match="canonical"):
        agreement(EMPTY, np.full_like(EMPTY, 4))


def test_means_come_with_the_counts_that_explain_them() -> None:
    found, half, empty = Agreement(4, 4, 4), Agreement(4, 4, 2), Agreement(0, 0, 0)
    missed, missed_elsewhere, alarm = Agreement(4, 0, 0), Agreement(4, 2, 0), Agreement(0, 3, 0)
    cases = [found, half, empty, missed, missed_elsewhere, alarm]
    for summary in summarise([dict.fromkeys(REGIONS, case) for case in cases]).values():
        assert summary.dice == 2.5 / 6
        assert summary.cases == 6
        assert (summary.both_empty, summary.misses, summary.false_alarms) == (1, 2, 1)


def test_a_mean_of_nothing_is_no_number() -> None:
    assert all(math.isnan(s.dice) and s.cases == 0 for s in summarise([]).values())
