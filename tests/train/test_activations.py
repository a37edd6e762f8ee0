"""The largest activation of an epoch: what is measured, in which networks, and what a run says."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import begun
from torch import nn

from common.store import Store
from train import trainer
from train.activations import FP16_LIMIT, LargestActivation
from train.config import load_config
from train.data.loader import open_feed
from train.monitor import Monitor
from train.networks import NetworkConfig
from train.run import reopen
from train.session import Session, save

CPU = torch.device("cpu")
PLAIN = ("loader=torch", "workers=0", "epochs=3", "accumulate=2")


def by_hand(model: nn.Module, image: torch.Tensor) -> float:
    """The largest of all convolutions' outputs, each kept."""
    kinds = (nn.Conv3d, nn.ConvTranspose3d, nn.Linear)
    outputs = list[torch.Tensor]()
    handles = [
        layer.register_forward_hook(lambda _layer, _in, out: outputs.append(out.detach().clone()))
        for layer in model.modules()
        if isinstance(layer, kinds)
    ]
    model(image)
    for handle in handles:
        handle.remove()
    return max(float(output.abs().max()) for output in outputs)


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.widths=[4,6]", "model.heads=1"],
        ["model.kind=plain_conv_unet", "model.widths=[4,6]"],
        ["model.kind=dynunet", "model.widths=[4,6,8]", "model.heads=1"],
        ["model.kind=segresnet", "model.width=8", "model.blocks_down=[1,1]", "model.dropout=0"],
        ["model.kind=swin_unetr", "model.width=12"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_it_is_the_largest_output_of_all_layers_in_training(overrides: list[str]) -> None:
    pytest.importorskip("monai")
    pytest.importorskip("dynamic_network_architectures")
    config: NetworkConfig = load_config("fm_net", overrides).model
    model = config.build(2, 3)
    image = torch.randn(1, 2, *(2 * config.stride,) * 3) * 5
    largest = LargestActivation(model, CPU)
    model.eval()(image)
    assert largest.value == 0
    expected = by_hand(model.train(), image)
    assert float(largest.value) == pytest.approx(expected)
    model(image / 100)
    assert float(largest.value) == pytest.approx(expected)


def taken(session: Session, steps: int) -> list[float | None]:
    """Take steps, and the end of each epoch; the epoch's largest activation after each step."""
    found = list[float | None]()
    config = session.config
    with (
        open_feed("torch", session.stream(), session.compute.device, 0) as feed,
        Monitor(session, session.epoch_stream().samples) as monitor,
    ):

        def stop() -> bool:
            found.append(session.at.largest_activation)
            return len(found) == steps

        trainer.train(session, feed, monitor, stop)
    assert config.accumulate == 2
    return found


def test_a_row_has_the_epochs_own_and_a_resume_within_an_epoch_keeps_it(
    five: Store, tmp_path: Path
) -> None:
    straight = begun(five, tmp_path / "straight", *PLAIN)
    taken(straight, 4)
    first = begun(five, tmp_path / "resumed", *PLAIN)
    (after_one,) = taken(first, 1)
    assert after_one
    again = reopen(None, [], five, tmp_path / "resumed")
    assert again.at.largest_activation == after_one
    taken(again, 3)
    rows = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("straight", "resumed")
    ]
    largest = [[row["largest_activation"] for row in each] for each in rows]
    assert largest[0] == largest[1]
    assert largest[0][0] >= after_one
    assert len({*largest[0]}) == 2
    assert [row["skipped_share"] for row in rows[0]] == [0, 0]


def test_one_that_is_not_finite_is_null_and_the_share_of_skipped_steps_is_the_epochs(
    five: Store, tmp_path: Path
) -> None:
    session = begun(five, tmp_path / "run", *PLAIN)
    taken(session, 2)
    bias = next(m for m in session.model.modules() if isinstance(m, nn.Conv3d)).bias
    assert bias is not None
    kept = bias.detach().clone()
    with torch.no_grad():
        bias[0] = float("inf")
    taken(session, 1)
    with torch.no_grad():
        bias.copy_(kept)
    save(session)
    taken(session, 1)
    row = session.at.rows[-1]
    assert (row["largest_activation"], row["skipped_steps"]) == (None, 1)
    assert row["skipped_share"] == pytest.approx(0.5)


def test_a_run_in_fp16_says_once_that_activations_come_near_its_limit(
    five: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = begun(five, tmp_path / "run", *PLAIN)
    taken(session, 4)
    rows = session.at.rows
    with Monitor(session, 1) as monitor:
        for precision, largest, told in (
            ("fp16", 1000.0, False),
            ("fp32", FP16_LIMIT - 1, False),
            ("fp16", FP16_LIMIT - 1, True),
            ("fp16", None, True),
        ):
            session.compute = replace(session.compute, precision=precision)
            rows[0].pop("largest_activation", None)  # as in a run of an earlier version
            rows[1]["largest_activation"] = largest
            capsys.readouterr()
            monitor.epoch(rows[1], best=False)
            assert ("precision=bf16" in capsys.readouterr().err) == told
        rows[0]["largest_activation"] = FP16_LIMIT - 1
        monitor.epoch(rows[1], best=False)
        assert "precision=bf16" not in capsys.readouterr().err
