"""Learning rates over a run."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from runs import begun, train_until

from common.store import Store
from train.schedule import ScheduleConfig


def factors(steps: int, **values: object) -> list[float]:
    schedule = ScheduleConfig.model_validate(values)
    return [schedule.factor(step, steps) for step in range(steps)]


def test_a_constant_rate_is_the_optimisers_own() -> None:
    assert factors(4) == [1.0] * 4


@pytest.mark.parametrize("kind", ["constant", "cosine", "poly"])
def test_a_rate_rises_linearly_then_is_the_whole_one(kind: str) -> None:
    found = factors(20, kind=kind, warmup_steps=4)
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_a_rate_falls_from_the_whole_one_towards_0() -> None:
    assert factors(4, kind="cosine") == pytest.approx(
        [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    )
    assert factors(4, kind="poly") == pytest.approx([1, 0.75**0.9, 0.5**0.9, 0.25**0.9])
    for kind in ("cosine", "poly"):
        found = factors(1000, kind=kind)
        assert all(earlier > later for earlier, later in itertools.pairwise(found))
        assert 0 < found[-1] < 0.01


def test_steps_are_taken_at_the_rate_of_the_schedule(five: Store, tmp_path: Path) -> None:
    settings = ("loader=torch", "workers=0", "optimizer.kind=sgd", "optimizer.weight_decay=0")
    schedule = ("schedule.kind=cosine", "schedule.warmup_steps=2", "epochs=2")
    session = begun(five, tmp_path / "run", *settings, *schedule)
    before = [parameter.detach().clone() for parameter in session.model.parameters()]
    train_until(session, 1)
    rate, momentum = 0.01 / 3, 0.99
    for old, new in zip(before, session.model.parameters(), strict=True):
        assert new.grad is not None
        torch.testing.assert_close(new.detach(), old - rate * (1 + momentum) * new.grad)
    train_until(session, 2)
    assert session.at.rows[0]["learning_rate"] == pytest.approx(0.01)
