"""The losses of a few steps, kept: a refactor changes none of them."""

from pathlib import Path

import pytest

from common.store import Store
from train import trainer
from train.data.loader import open_feed
from train.run import begin

GOLDEN = [5.406514, 5.267042, 5.337039, 5.327562, 5.304529, 5.276336]
"""Through DALI, each augmentation of the paper at p = 0.5: FM-Net of widths [4, 6, 8], float32."""


def test_losses_are_those_on_record(store: Store, tmp_path: Path) -> None:
    of_the_paper = ("zoom", "flip", "noise", "blur", "brightness")
    chances = [f"augment.{name}.probability=0.5" for name in of_the_paper]
    settings = ["model.widths=[4,6,8]", "device=cpu", "precision=fp32", "batch_size=2", *chances]
    session = begin("fm_net", settings, store, tmp_path / "run")
    config = session.config
    with open_feed(config.loader, session.stream(), session.compute.device, 1) as batches:
        losses = [trainer.step(session, next(batches))[0] for _ in range(6)]
    assert losses == pytest.approx(GOLDEN, rel=1e-3)
