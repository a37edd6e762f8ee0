"""Post-processing picked on validation cases: of a network whose faults are known."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import describe_run
from torch import Tensor, nn
from typer.testing import CliRunner

from common.case import prepare
from common.discovery import discover
from common.errors import ConfigError
from common.geometry import Geometry
from common.store import Store, StoreWriter
from common.task import GLIOMA
from train.cli import app
from train.evaluate import evaluate
from train.loaded_run import LoadedRun, load_run
from train.postprocess import PostprocessConfig
from train.run_folder import read_tuned, write_config
from train.tune import criterion_named, tune

SHAPE = (20, 24, 22)
CASES = 6


class Faulty(nn.Module):
    """Copies a coded case's label, with `bias` on all logits; a bright T2 is enhancing tumour."""

    def __init__(self, copy: nn.Module, bias: float) -> None:
        super().__init__()
        self.copy, self.bias = copy, bias

    def forward(self, tiles: Tensor) -> tuple[Tensor, ...]:
        (logits,) = self.copy(tiles)
        speck = tiles[:, 3:4] > 1.5
        return (torch.where(speck, 1.0, logits * 0.6) + self.bias,)


@pytest.fixture
def faulty(tmp_path: Path, write_coded_case: Callable, copying: Callable):
    """Makes a run with a store: all cases validate, half of them have a bright speck in T2."""

    def make(bias: float, specks: int) -> tuple[LoadedRun, Store]:
        z, y, x = np.indices(SHAPE)
        brain = ((z - 10) / 9) ** 2 + ((y - 12) / 10) ** 2 + ((x - 11) / 9) ** 2 < 1
        distance = (z - 9) ** 2 + (y - 12) ** 2 + (x - 12) ** 2
        label = np.select([distance < 6, distance < 14, distance < 30], [1, 3, 2], 0)
        data = tmp_path / "data"
        for number in range(CASES):
            folder = data / f"case{number}"
            write_coded_case(folder, label, brain, Geometry(SHAPE, (1.0, 1.0, 1.0), (0, 0, 0)))
            if number < specks:
                brighten(folder / f"{folder.name}_t2.nii.gz")
        ids = tuple(f"case{n}" for n in range(CASES))
        lists = {"kind": "lists", "train": (), "val": ids[:5], "test": ids[5:]}
        loaded = copying(splits=lists)
        cases = discover(data, loaded.manifest).cases
        writer = StoreWriter.create(tmp_path / "s.zarr", loaded.manifest)
        for each, row in zip(cases, writer.allocate(len(cases)), strict=True):
            writer.write(prepare(each, loaded.manifest), row)
        store = Store.open(tmp_path / "s.zarr")
        describe_run(loaded.run_dir, store, val=list(ids[:5]), test=list(ids[5:]))
        write_config(loaded.run_dir, loaded.config)
        return replace(loaded, model=Faulty(loaded.model, bias)), store

    return make


def brighten(path: Path) -> None:
    from common import nifti

    volume = nifti.read(path)
    voxels = volume.voxels.copy()
    voxels[16:18, 11:13, 10:12] = 2000
    nifti.write(path, voxels, volume.geometry)


DICE = criterion_named("dice", GLIOMA)


def test_a_threshold_that_was_too_low_is_raised(faulty: Callable) -> None:
    loaded, store = faulty(bias=0.7, specks=0)  # everything is tumour at 0.5, and right at 0.6
    told = list[tuple[int, int]]()
    found = tune(loaded, store, DICE, lambda *done: told.append(done))
    assert found.after == pytest.approx(1)
    assert found.before < 0.5
    assert found.gain.low > 0
    assert (found.cases, found.patients) == (5, 5)
    assert told[0][0] == 0
    assert told[-1][0] == told[-1][1]
    assert found.file == loaded.run_dir / "postprocessing.yaml"
    assert read_tuned(loaded.run_dir) == found.config
    assert found.config.threshold["wt"] > 0.5


def test_small_false_lesions_are_removed_and_the_gain_is_that_of_evaluate(faulty: Callable) -> None:
    loaded, store = faulty(bias=0.0, specks=5)
    before = evaluate(loaded, store, "val").mean.mean_dice
    found = tune(loaded, store, DICE)
    assert found.before == pytest.approx(before)
    assert found.cases == 5
    assert found.after == pytest.approx(1)
    assert 0 < found.config.minimum_lesion_ml["wt"] < 0.1
    how = loaded.config.inference.model_copy(update={"postprocess": found.config})
    tuned = replace(loaded, config=loaded.config.model_copy(update={"inference": how}))
    assert evaluate(tuned, store, "val").mean.mean_dice == pytest.approx(found.after)


@pytest.mark.parametrize("name", ["hd95_mm", "lesion_dice"])
def test_other_metrics_pick_as_well(faulty: Callable, name: str) -> None:
    loaded, store = faulty(bias=0.0, specks=5)
    criterion = criterion_named(name, GLIOMA)
    found = tune(loaded, store, criterion)
    better = found.after > found.before
    assert better is criterion.metric.higher_is_better
    assert found.gain.low > 0
    assert found.config.minimum_lesion_ml["wt"] > 0


def test_nothing_is_written_without_a_gain(faulty: Callable) -> None:
    loaded, store = faulty(bias=0.0, specks=0)
    found = tune(loaded, store, DICE)
    assert (found.before, found.after, found.gain.mean) == (1, 1, 0)
    assert found.file is None
    assert read_tuned(loaded.run_dir) == PostprocessConfig()


def test_a_gain_in_one_case_alone_may_be_chance(faulty: Callable) -> None:
    loaded, store = faulty(bias=0.0, specks=1)
    found = tune(loaded, store, DICE)
    assert found.gain.mean > 0 >= found.gain.low
    assert found.file is None


def test_a_place_that_cannot_be_written_is_refused_before_predicting(faulty: Callable) -> None:
    loaded, store = faulty(bias=0.7, specks=0)
    (loaded.run_dir / "postprocessing.yaml").symlink_to("elsewhere")
    told = list[int]()
    with pytest.raises(ConfigError, match=r"postprocessing\.yaml: a symbolic link"):
        tune(loaded, store, DICE, lambda done, _: told.append(done))
    assert told == []


def test_test_and_training_cases_are_refused(at_once: Path) -> None:
    for split in ("test", "train"):
        done = CliRunner().invoke(app, ["tune", str(at_once), "--split", split])
        assert isinstance(done.exception, ConfigError)
        assert split in str(done.exception)
    with pytest.raises(ConfigError, match=r"dize is none; .*did you mean dice"):
        criterion_named("dize", GLIOMA)


def test_the_command_says_what_it_found(at_once: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for file in at_once.iterdir():
        if file.is_file():
            (run / file.name).write_bytes(file.read_bytes())
    done = CliRunner().invoke(app, ["tune", str(run), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "interval" in done.output
    assert "only 1 validation patient" in done.output
    written = (run / "postprocessing.yaml").exists()
    assert ("no gain" in done.output) is not written
    load_run(run, device="cpu")
