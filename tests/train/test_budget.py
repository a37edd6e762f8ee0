import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.errors import ConfigError
from common.geometry import Geometry
from train.budget import WAYS, Budget
from train.ensemble import Ensemble
from train.inference import window_count
from train.loaded_run import LoadedRun
from train.predict import predict
from train.predictions import PREDICTIONS

MODALITIES = ("flair", "t1", "t1ce", "t2")


class Clock(nn.Module):
    """A network for which each batch of windows takes a second of a clock of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def forward(self, tiles: Tensor) -> tuple[Tensor, ...]:
        self.seconds += 1
        return (tiles[:, :3],)


@pytest.fixture
def timed(copying: Callable, monkeypatch: pytest.MonkeyPatch) -> LoadedRun:
    clock = Clock()
    monkeypatch.setattr("train.budget.time.perf_counter", lambda: clock.seconds)
    return replace(copying(), model=clock)


def volume() -> np.ndarray:
    """24 voxels a side, of which one corner is no background."""
    image = np.zeros((4, 24, 24, 24), np.float16)
    image[:, :9, :9, :9] = 1
    return image


def test_the_best_way_that_fits_is_picked_and_takes_as_long_as_was_said(timed: LoadedRun) -> None:
    least, previous = Budget(timed, 0).choose(volume(), MODALITIES).seconds, 0.0
    seen = set()
    for seconds in (0, 1, 2, 4, 8, 16, 32, 64, 128):
        choice = Budget(timed, seconds).choose(volume(), MODALITIES)
        how = choice.predictor.members[0].config.inference
        seen.add((how.flips, how.overlap))
        assert choice.seconds <= max(seconds, least)
        assert choice.seconds >= previous
        previous = choice.seconds
        before = timed.model.seconds
        choice.predictor.logits(volume())
        assert timed.model.seconds - before == choice.seconds
    assert WAYS[0] in seen
    assert len(seen) > 3


def test_a_budget_that_is_no_time_is_refused(timed: LoadedRun) -> None:
    for seconds in (float("nan"), float("inf"), -1.0):
        with pytest.raises(ConfigError, match="budget"):
            Budget(timed, seconds)


def test_all_members_of_an_ensemble_count(timed: LoadedRun) -> None:
    alone = Budget(timed, 1e6).choose(volume(), MODALITIES)
    both = Budget(Ensemble((timed, timed)), 1e6).choose(volume(), MODALITIES)
    assert both.seconds == 2 * alone.seconds
    assert str(both) == str(alone)


@pytest.mark.parametrize("dims", [2, 3])
def test_windows_of_background_are_not_counted(dims: int) -> None:
    image = torch.zeros(1, 24, 24, 24)
    assert window_count(image, (8, 8, 8), 0.5, dims) == 0
    image[:, 3, 3, 3] = 1
    assert window_count(image, (8, 8, 8), 0.0, dims) == 1


def test_what_was_picked_is_kept_with_the_masks(
    timed: LoadedRun, tmp_path: Path, write_coded_case: Callable
) -> None:
    z, y, x = np.indices((18, 20, 18))
    brain = ((z - 9) / 8) ** 2 + ((y - 10) / 9) ** 2 + ((x - 9) / 8) ** 2 < 1
    grid = Geometry((18, 20, 18), (1.0, 1.0, 1.0), (0, 0, 0))
    for name in ("a", "b"):
        write_coded_case(tmp_path / "data" / name, brain * (1 + (x > 9)), brain, grid)
    out = tmp_path / "out"
    done = predict(timed, tmp_path / "data", out, budget_seconds=1e6)
    assert done.clean, done.failures
    assert done.picked == ["a, b: predicted with flips=8, overlap=0.5, fp32"]
    kept = json.loads((out / PREDICTIONS).read_text())
    assert {case["picked"] for case in kept["cases"].values()} == {"flips=8, overlap=0.5, fp32"}
    again = predict(timed, tmp_path / "data", out, budget_seconds=1e6)
    assert (again.kept, again.picked) == (["a", "b"], done.picked)
    least = predict(timed, tmp_path / "data", out, budget_seconds=0)
    assert least.kept == []
    assert "flips=1" in least.picked[0]
    assert all("budget of 0 s" in late.expected for late in least.findings)
    assert len(least.findings) == 2
