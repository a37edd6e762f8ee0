"""The loss against eq. (1) and (2) worked out in NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.task import GLIOMA, TASKS, Task
from train.loss import LossConfig, RegionLoss, regions_of

LOSS = RegionLoss(LossConfig(), GLIOMA.regions)


def by_hand(logits: NDArray[np.float64], label: NDArray[np.uint8]) -> float:
    """Eq. (1) with ε, and eq. (2) in its binary form as a mean, summed over the regions."""
    total = 0.0
    target = np.stack([GLIOMA.to_regions(case) for case in label]).astype(np.float64)
    for region in range(3):
        p = 1 / (1 + np.exp(-logits[:, region]))
        y = target[:, region]
        dice = 1 - (2 * np.sum(p * y) + 1e-5) / (np.sum(p**2) + np.sum(y**2) + 1e-5)
        entropy = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
        total += dice + entropy
    return total


def random_case(seed: int, batch: int = 2, scale: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(batch, 3, 4, 5, 6, generator=generator)
    label = torch.randint(0, 4, (batch, 4, 5, 6), generator=generator, dtype=torch.uint8)
    return logits, label


@given(seed=st.integers(0, 2**31), batch=st.integers(1, 3), scale=st.floats(0.1, 8))
@settings(max_examples=50, deadline=None)
def test_the_loss_is_the_one_worked_out_by_hand(seed: int, batch: int, scale: float) -> None:
    logits, label = random_case(seed, batch, scale)
    expected = by_hand(logits.numpy().astype(np.float64), label.numpy())
    assert LOSS(logits, label).item() == pytest.approx(expected, rel=1e-4)


def test_a_value_worked_out_on_paper() -> None:
    # One voxel of enhancing tumour and one of background, every probability one half.
    # Dice per region: 1 - 2·0.5/(0.5 + 1) = 1/3; cross-entropy: ln 2.
    label = torch.tensor([3, 0], dtype=torch.uint8).reshape(1, 1, 1, 2)
    loss = LOSS(torch.zeros(1, 3, 1, 1, 2), label)
    assert loss.item() == pytest.approx(3 * (1 / 3 + np.log(2)), rel=1e-4)


def test_an_empty_prediction_of_an_empty_target_costs_nothing() -> None:
    label = torch.zeros(1, 4, 4, 4, dtype=torch.uint8)
    assert LOSS(torch.full((1, 3, 4, 4, 4), -30.0), label).item() < 1e-6


def test_what_is_reported_leaves_out_dice_of_regions_that_are_not_there() -> None:
    """A faint prediction over an empty region costs a Dice term, and so must be learned away."""
    logits = torch.full((1, 3, 32, 32, 32), -6.9)  # a probability of 0.001
    label = torch.zeros(1, 32, 32, 32, dtype=torch.uint8)
    entropy = 3 * -np.log(1 - 1 / (1 + np.exp(6.9)))
    assert LOSS(logits, label).item() > 2.9
    assert LOSS.reported(logits, label).item() == pytest.approx(entropy, rel=1e-3)
    label[0, :8] = 2  # whole tumour alone
    assert LOSS(logits, label).item() > LOSS.reported(logits, label).item() + 1.9
    label[0, :2] = 3  # all regions
    assert LOSS.reported(logits, label) == LOSS(logits, label)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_regions_are_those_of_the_task(task: Task) -> None:
    label = torch.arange(8, dtype=torch.uint8).reshape(1, 2, 2, 2)
    masks = regions_of(label, task.regions)[0].numpy()
    assert np.array_equal(masks, task.to_regions(label[0].numpy()))


def test_heads_are_weighted_by_halves_and_normalised() -> None:
    logits, label = random_case(0)
    others = [random_case(seed)[0] for seed in (1, 2)]
    total, main = LOSS.supervised([logits, *others], label)
    main_loss, first, second = (LOSS(head, label).item() for head in (logits, *others))
    assert main.item() == pytest.approx(main_loss)
    assert total.item() == pytest.approx((4 * main_loss + 2 * first + second) / 7)
    same, _ = LOSS.supervised([logits] * 3, label)
    assert same.item() == pytest.approx(main_loss)


def test_half_precision_logits_are_judged_in_float32() -> None:
    logits, label = random_case(3)
    loss = LOSS(logits.half(), label)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(LOSS(logits.half().float(), label).item())
    # Half a million voxels overflow float16's 65,504.
    large = torch.zeros(1, 3, 80, 80, 80, dtype=torch.float16)
    assert torch.isfinite(LOSS(large, torch.ones(1, 80, 80, 80, dtype=torch.uint8)))


def test_focal_loss_discounts_what_is_right_already() -> None:
    logits, label = random_case(5)
    focal = RegionLoss(LossConfig(voxels="focal"), GLIOMA.regions)(logits, label)
    p = torch.sigmoid(logits.double())
    y = regions_of(label, GLIOMA.regions).double()
    right = torch.where(y > 0, p, 1 - p)
    expected = -((1 - right) ** 2 * right.log()).mean((0, 2, 3, 4)).sum()
    dice = LOSS(logits, label) + (right.log().mean((0, 2, 3, 4))).sum()
    assert focal.item() == pytest.approx((dice + expected).item(), rel=1e-5)
