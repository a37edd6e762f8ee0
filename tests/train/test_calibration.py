"""How well probabilities are calibrated, on voxels whose probabilities are known."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import validated

from common.store import Store
from common.task import GLIOMA
from train.calibration import BINS, count_voxels, total
from train.evaluate import evaluate
from train.loaded_run import load_run

SHAPE = (10, 10, 10)


def logits_of(probability: float) -> torch.Tensor:
    return torch.full((3, *SHAPE), probability).logit()


@pytest.fixture
def seven_in_ten() -> np.ndarray:
    """A label with seven voxels in ten that are oedema, which is in the whole tumour alone."""
    label = np.zeros(SHAPE, np.uint8)
    label[:7] = 2
    return label


def test_probabilities_that_hold_have_no_error(seven_in_ten: np.ndarray) -> None:
    everywhere = np.ones(SHAPE, bool)
    found = count_voxels(logits_of(0.7), seven_in_ten, everywhere, GLIOMA)
    assert found["wt"].error() == pytest.approx(0, abs=1e-6)
    assert found["tc"].error() == pytest.approx(0.7)
    assert found["wt"].positives.sum() == 700
    sure = count_voxels(logits_of(0.999999), seven_in_ten, everywhere, GLIOMA)["wt"]
    assert sure.error() == pytest.approx(0.3, abs=1e-5)
    assert sure.voxels[BINS - 1] == 1000


def test_only_the_brain_counts_and_cases_add_up(seven_in_ten: np.ndarray) -> None:
    brain = np.zeros(SHAPE, bool)
    brain[:7, :5] = True
    one = count_voxels(logits_of(0.02), seven_in_ten, brain, GLIOMA)
    assert one["wt"].voxels.tolist() == [350, *[0] * (BINS - 1)]
    assert one["wt"].error(1) is None
    both = total([one, count_voxels(logits_of(0.98), seven_in_ten, brain, GLIOMA)])
    assert both["wt"].voxels.sum() == 700
    assert both["wt"].error() == pytest.approx((0.98 + 0.02) / 2, abs=1e-6)


def test_an_evaluation_holds_them(store: Store, tmp_path: Path) -> None:
    validated(store, tmp_path / "run")
    evaluate(load_run(tmp_path / "run"), store, "test")
    held = json.loads((tmp_path / "run/evaluation-test.json").read_text())
    (case,) = held["cases"]
    image, label = store.read_volume(case["case_id"])
    assert label is not None
    assert list(held["calibration"]["regions"]) == ["wt", "tc", "et"]
    wt = held["calibration"]["regions"]["wt"]
    assert sum(wt["voxels"]) == np.count_nonzero(image.any(axis=0))
    assert sum(wt["positives"]) == np.count_nonzero(label)
    assert len(wt["voxels"]) == held["calibration"]["bins"]
    assert 0 < wt["error"] < 1
