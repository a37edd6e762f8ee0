"""The running mean of weights: what it is, and that it is what predicts."""

from pathlib import Path

import pytest
import torch
from cli import invoke
from runs import begun
from torch import nn

from common.errors import CheckpointError
from common.store import Store
from train import model_file
from train.average import Average
from train.checkpoint import load
from train.cli import app
from train.loaded_run import load_run
from train.run import execute, reopen
from train.session import Session, save
from train.trainer import End

SETTINGS = ("loader=torch", "workers=0", "epochs=1", "ema=0.3")


def test_a_mean_keeps_less_of_the_first_weights_than_its_decay_says() -> None:
    model = nn.BatchNorm1d(1)
    average = Average(model, 0.3)
    mean = 1.0
    for step, weight in enumerate([2.0, 4.0, 8.0, 16.0, 32.0]):
        nn.init.constant_(model.weight, weight)
        model.running_mean = torch.tensor([weight])
        average.update(model, step)
        decay = min(0.3, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * weight
        assert average.model.weight.item() == pytest.approx(mean)
        assert average.model.running_mean.item() == weight
    assert model.weight.item() == 32.0


@pytest.fixture(scope="module")
def averaged(five: Store, tmp_path_factory: pytest.TempPathFactory) -> Session:
    session = begun(five, tmp_path_factory.mktemp("runs") / "averaged", *SETTINGS)
    assert execute(session) is End.EPOCHS
    return session


def test_the_mean_is_validated_and_predicts_and_both_are_kept(averaged: Session) -> None:
    assert averaged.average is not None
    saved, loaded = load(averaged.run_dir, "best"), load_run(averaged.run_dir, device="cpu")
    for name, mean in averaged.average.model.state_dict().items():
        assert torch.equal(saved.average[name], mean)
        assert torch.equal(loaded.model.state_dict()[name], mean)
        assert torch.equal(saved.weights[name], averaged.model.state_dict()[name])
        assert not torch.equal(saved.weights[name], mean)
    assert averaged.as_trained().model is averaged.average.model


def test_it_is_exported_and_started_from_and_commands_say_so(
    averaged: Session, five: Store, tmp_path: Path
) -> None:
    said = invoke(app, "export", averaged.run_dir, tmp_path / "model.fmnet")
    assert "ema=0.3" in said.stdout
    mean = load(averaged.run_dir, "best").average
    exported = model_file.read(tmp_path / "model.fmnet").weights
    assert all(torch.equal(value, mean[name]) for name, value in exported.items())
    assert "ema=0.3" in invoke(app, "evaluate", averaged.run_dir, "--split", "val").stdout
    said = invoke(app, "predict", averaged.run_dir, five.path, "--out", tmp_path / "masks")
    assert "ema=0.3" in said.stdout
    assert "ema=0.3" in (tmp_path / "masks" / "predictions.json").read_text()
    assert "ema=0.3" in invoke(app, "tune", averaged.run_dir).stdout
    other = begun(five, tmp_path / "run", *SETTINGS, f"init={averaged.run_dir}", "seed=1")
    assert other.average is not None
    for ours in (other.model, other.average.model):
        assert all(torch.equal(value, mean[name]) for name, value in ours.state_dict().items())


def test_a_checkpoint_without_the_mean_is_refused(five: Store, tmp_path: Path) -> None:
    session = begun(five, tmp_path / "run", *SETTINGS)
    session.average = None
    save(session, best=True)
    with pytest.raises(CheckpointError, match="does not fit"):
        reopen(None, [], five, tmp_path / "run")
    with pytest.raises(CheckpointError, match="does not fit"):
        load_run(tmp_path / "run", device="cpu")
