"""Runs: what they leave behind, and that going on changes no number."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from cli import invoke
from runs import SMALL, assert_equal_runs, begun, command, rows, train_until
from waiting import wait_until

from common import nifti
from common.case import prepare
from common.discovery import discover
from common.errors import ConfigError, RunError, StoreError
from common.geometry import Geometry
from common.lock import hold
from common.manifest import Manifest
from common.splits import FractionSplits, ListSplits
from common.store import Store, StoreWriter
from common.task import TASKS, Task
from train import trainer
from train.checkpoint import load
from train.cli import app
from train.config import load_config
from train.data.loader import open_feed
from train.evaluate import evaluate
from train.loaded_run import load_run
from train.loss import RegionLoss
from train.precision import Compute
from train.predict import predict
from train.run import assign_cases, begin, execute, reopen
from train.session import new_session, restore
from train.trainer import End

MakeStore = Callable[..., Store]
IDS = [f"BraTS2021_{index:05d}" for index in range(6)]


def test_a_run_leaves_all_that_is_needed_to_repeat_it(at_once: Path, five: Store) -> None:
    names = {path.name for path in at_once.iterdir()}
    assert names == {
        *("config.yaml", "manifest.yaml", "run.json", "metrics.jsonl", "tensorboard"),
        *("best.json", "best.safetensors", "last.json", "last.safetensors", "previous.safetensors"),
    }
    run = json.loads((at_once / "run.json").read_text())
    assert run["store_fingerprint"] == five.contents().fingerprint
    assert run["cases"] == {"train": IDS[:5], "val": [IDS[5]], "test": []}
    assert run["sessions"][0]["versions"]["torch"] == torch.__version__
    assert yaml.safe_load((at_once / "config.yaml").read_text())["batch_size"] == 2
    found = rows(at_once)
    assert [row["epoch"] for row in found] == [1, 2, 3, 4]
    assert [row["steps"] for row in found] == [3, 6, 9, 12]
    assert all(0 <= row["val_dice_wt"] <= 1 and row["val_loss"] > 0 for row in found)
    validated = {"val_loss", "val_dice_wt", "val_dice_tc", "val_dice_et"}
    assert all({name for name in row if name.startswith("val_")} == validated for row in found)
    best = max(found, key=lambda row: sum(row[f"val_dice_{r}"] for r in ("wt", "tc", "et")))
    assert json.loads((at_once / "best.json").read_text())["best_epoch"] == best["epoch"]
    assert list((at_once / "tensorboard").glob("events.*"))


def test_going_on_for_more_epochs_equals_all_at_once(
    at_once: Path, five: Store, tmp_path: Path
) -> None:
    """And so does the same seed again."""
    folder = tmp_path / "run"
    assert execute(begun(five, folder, "epochs=2")) is End.EPOCHS
    session = reopen("fm_net", ["epochs=4"], five, folder)
    assert session.at.epoch == 3
    assert execute(session) is End.EPOCHS
    assert_equal_runs(at_once, folder)
    assert len(json.loads((folder / "run.json").read_text())["sessions"]) == 2


def test_a_run_stopped_within_an_epoch_equals_one_that_was_not(
    at_once: Path, five: Store, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    assert train_until(begun(five, folder, "epochs=4"), 4) is End.STOPPED
    session = reopen(None, [], five, folder)
    assert session.at.samples == 2
    assert train_until(session, 3) is End.STOPPED
    assert execute(reopen(None, [], five, folder)) is End.EPOCHS
    assert_equal_runs(at_once, folder)


@pytest.mark.parametrize(
    "settings",
    [
        ("optimizer.kind=adamw",),
        ("optimizer.kind=sgd", "schedule.kind=poly", "schedule.warmup_steps=3"),
        ("batch_size=1", "accumulate=2", "schedule.kind=cosine"),
        ("ema=0.9",),
    ],
    ids=" ".join,
)
def test_other_ways_to_learn_go_on_within_an_epoch(
    five: Store, tmp_path: Path, settings: Sequence[str]
) -> None:
    settings = ("loader=torch", "workers=0", "epochs=2", *settings)
    assert execute(begun(five, tmp_path / "one", *settings)) is End.EPOCHS
    assert train_until(begun(five, tmp_path / "other", *settings), 2) is End.STOPPED
    assert execute(reopen(None, [], five, tmp_path / "other")) is End.EPOCHS
    assert_equal_runs(tmp_path / "one", tmp_path / "other")


@pytest.mark.parametrize("loader", ["dali", "torch"])
def test_the_tuned_recipe_trains(five: Store, tmp_path: Path, loader: str) -> None:
    tiny = ("model.widths=[4,6,8]", "device=cpu", "precision=fp32", "workers=1")
    session = begin("fm_net_tuned", (*tiny, f"loader={loader}"), five, tmp_path)
    before = [weight.detach().clone() for weight in session.model.parameters()]
    assert train_until(session, 2) is End.STOPPED
    assert session.at.step == 2
    after = list(session.model.parameters())
    assert all(weight.isfinite().all() for weight in after)
    assert not all(map(torch.equal, after, before))


def test_the_torch_loader_trains_to_the_same_numbers_but_for_rounding(
    at_once: Path, five: Store, tmp_path: Path
) -> None:
    assert execute(begun(five, tmp_path / "torch", "epochs=1", "loader=torch")) is End.EPOCHS
    ours = rows(tmp_path / "torch")[0]
    assert ours["train_loss"] == pytest.approx(rows(at_once)[0]["train_loss"], rel=2e-3)


def test_a_run_on_slices_validates_over_volumes_and_goes_on_within_an_epoch(
    five: Store, tmp_path: Path
) -> None:
    settings = ("model.dims=2", "batch_size=32", "epochs=2")
    assert execute(begun(five, tmp_path / "one", *settings)) is End.EPOCHS
    assert [row["steps"] for row in rows(tmp_path / "one")] == [3, 6]  # 80 planes an epoch
    assert all(0 <= row["val_dice_wt"] <= 1 for row in rows(tmp_path / "one"))
    assert train_until(begun(five, tmp_path / "other", *settings), 2) is End.STOPPED
    session = reopen(None, [], five, tmp_path / "other")
    assert session.at.samples == 64
    assert execute(session) is End.EPOCHS
    assert_equal_runs(tmp_path / "one", tmp_path / "other")


def test_a_run_on_random_windows_goes_on_within_an_epoch(
    at_once: Path, five: Store, tmp_path: Path
) -> None:
    settings = ("window=random", "epochs=2")
    assert execute(begun(five, tmp_path / "one", *settings)) is End.EPOCHS
    assert rows(tmp_path / "one")[0]["train_loss"] != rows(at_once)[0]["train_loss"]
    assert train_until(begun(five, tmp_path / "other", *settings), 2) is End.STOPPED
    assert execute(reopen(None, [], five, tmp_path / "other")) is End.EPOCHS
    assert_equal_runs(tmp_path / "one", tmp_path / "other")


@pytest.mark.parametrize("cache", ["ram", "device"])
def test_a_cache_changes_no_number(at_once: Path, five: Store, tmp_path: Path, cache: str) -> None:
    session = begun(five, tmp_path / "run", f"cache={cache}", "epochs=4")
    assert train_until(session, 4) is End.STOPPED
    assert execute(reopen(None, [], five, tmp_path / "run")) is End.EPOCHS
    assert_equal_runs(at_once, tmp_path / "run")


def test_a_cache_that_cannot_be_leaves_no_run_behind(five: Store, tmp_path: Path) -> None:
    for settings in (("cache=ram", "window=random"), ("cache=device", "loader=torch")):
        with pytest.raises(ConfigError, match=settings[0]):
            begun(five, tmp_path / "run", *settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("modalities", [("flair",), ("t2", "t1", "flair")])
def test_a_run_on_some_modalities(five: Store, tmp_path: Path, modalities: tuple[str, ...]) -> None:
    names = f"modalities=[{','.join(modalities)}]"
    session = begun(five, tmp_path / "run", names, "epochs=1")
    assert execute(session) is End.EPOCHS


def test_modalities_are_the_tasks_unless_named(five: Store, tmp_path: Path) -> None:
    begun(five, tmp_path / "run")
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert written["modalities"] == list(five.task.modalities)
    with pytest.raises(ConfigError, match=r"modalities: t1c is none .*; did you mean t1ce\?"):
        begun(five, tmp_path / "other", "modalities=[flair, t1c]")


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_task_trains_a_step_and_predicts_in_its_files_values(
    task: Task, tmp_path: Path, write_coded_case: Callable[..., None]
) -> None:
    grid = Geometry((20, 26, 24), (1.0, 1.0, 1.0), (0.0, -25.0, 0.0))
    distance = np.linalg.norm(np.indices(grid.shape).T - (10, 13, 12), axis=-1).T
    values = list(task.labels.values())
    label = np.select([distance < 2 + k for k in range(len(values))], values, 0)
    convention = next(iter(task.conventions))
    for case_id, radius in (("a", 9), ("b", 8)):
        folder, brain = tmp_path / "data" / case_id, distance < radius
        write_coded_case(folder, label, brain, grid, task=task, convention=convention)
    splits = ListSplits(kind="lists", train=("a",), val=("b",))
    manifest = Manifest.model_validate(
        {"task": task.name, "crop": (16, 16, 16), "splits": splits.model_dump()}
    )
    cases = discover(tmp_path / "data", manifest).cases
    writer = StoreWriter.create(tmp_path / "cases.zarr", manifest)
    for case, row in zip(cases, writer.allocate(2), strict=True):
        writer.write(prepare(case, manifest), row)
    session = begun(Store.open(tmp_path / "cases.zarr"), tmp_path / "run", "epochs=1")
    assert execute(session) is End.EPOCHS
    assert session.at.step == 1
    (row,) = rows(tmp_path / "run")
    assert {key for key in row if key.startswith("val_dice_")} == {
        f"val_dice_{region}" for region in task.regions
    }
    done = predict(load_run(tmp_path / "run"), tmp_path / "data", tmp_path / "out")
    assert done.clean
    predicted = nifti.read(done.written["a"])
    assert predicted.geometry.matches(grid)
    assert set(np.unique(predicted.voxels).tolist()) <= task.values_of(convention)


def test_validation_every_n_epochs_and_always_the_last_and_the_best_by_loss(
    five: Store, tmp_path: Path
) -> None:
    settings = ("epochs=3", "validate_every=2", "select_by=loss")
    assert execute(begun(five, tmp_path / "run", *settings)) is End.EPOCHS
    found = rows(tmp_path / "run")
    assert [row["val_loss"] is not None for row in found] == [False, True, True]
    best = min(found[1:], key=lambda row: row["val_loss"])
    assert json.loads((tmp_path / "run" / "best.json").read_text())["best_epoch"] == best["epoch"]


def test_a_step_of_several_batches_takes_the_mean_gradient_over_their_samples(
    five: Store, tmp_path: Path
) -> None:
    session = begun(five, tmp_path / "run", "loader=torch", "workers=0", "accumulate=3")
    with open_feed("torch", session.stream(), session.compute.device, 0) as feed:
        batches = [next(feed) for _ in range(3)]  # of 2, 2 and 1 samples
    singly = [
        begun(five, tmp_path / f"{n}", "loader=torch", "workers=0") for n in range(len(batches))
    ]
    losses = [trainer.step(one, batch)[0] for one, batch in zip(singly, batches, strict=True)]
    assert train_until(session, 1) is End.STOPPED
    assert session.at.step == 1
    assert session.at.rows[0]["train_loss"] == pytest.approx(np.average(losses, weights=[2, 2, 1]))
    of_each = [[p.grad for p in one.model.parameters()] for one in singly]
    for ours, one, two, three in zip(session.model.parameters(), *of_each, strict=True):
        assert one is not None
        torch.testing.assert_close(ours.grad, (2 * one + 2 * two + three) / 5)


def test_gradients_are_clipped(five: Store, tmp_path: Path) -> None:
    session = begun(five, tmp_path / "run", "clip_norm=0.01")
    train_until(session, 1)
    norm = torch.nn.utils.get_total_norm([p.grad for p in session.model.parameters()])
    assert norm.item() == pytest.approx(0.01, rel=1e-3)


def test_gradients_that_are_never_finite_end_the_run_and_name_the_cases(
    five: Store, tmp_path: Path
) -> None:
    session = begun(five, tmp_path / "run", "max_bad_steps=2")
    before = [parameter.clone() for parameter in session.model.parameters()]

    class Broken(RegionLoss):
        def supervised(self, outputs: Any, label: Any) -> Any:
            total, main = super().supervised(outputs, label)
            return total * float("nan"), main * float("nan")

    session.loss = Broken(session.config.loss, five.task.regions)
    with pytest.raises(trainer.DivergedError, match=r"2 steps in a row .*, case\(s\) BraTS2021_"):
        train_until(session, 10)
    for old, new in zip(before, session.model.parameters(), strict=True):
        assert torch.equal(old, new)


def test_a_device_that_is_too_small_is_said_with_what_to_do(five: Store, tmp_path: Path) -> None:
    session = begun(five, tmp_path / "run")

    class Hungry(RegionLoss):
        def supervised(self, outputs: Any, label: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory")

    session.loss = Hungry(session.config.loss, five.task.regions)
    words = r"out of memory .* with a batch of 2 × \(4, 16, 16, 16\); .*lower batch_size"
    with pytest.raises(trainer.OutOfMemoryError, match=words):
        train_until(session, 10)


def test_what_would_change_the_numbers_is_refused_on_resuming(
    at_once: Path, five: Store, make_store: MakeStore, tmp_path: Path
) -> None:
    for change in ("batch_size=1", "optimizer.lr=0.1", "augment.flip.probability=0.1", "seed=3"):
        with pytest.raises(ConfigError, match=rf"{change.split('=')[0].split('.')[0]}: cannot"):
            reopen(None, [change], five, at_once)
    with pytest.raises(ConfigError, match="began with preset fm_net, not unet"):
        reopen("unet", [], five, at_once)
    with pytest.raises(RunError, match="now holds other"):
        reopen(None, [], make_store(margin=5), at_once)
    with pytest.raises(RunError, match="leave --resume out"):
        reopen(None, [], five, tmp_path / "nothing")
    with pytest.raises(RunError, match="holds a run: resume it with --resume"):
        begun(five, at_once)


def test_a_run_whose_learning_rate_falls_to_its_end_keeps_its_epochs(
    five: Store, tmp_path: Path
) -> None:
    begun(five, tmp_path / "run", "schedule.kind=cosine")
    with pytest.raises(ConfigError, match="epochs: cannot"):
        reopen(None, ["epochs=4"], five, tmp_path / "run")
    assert reopen(None, ["epochs=2", "patience=1"], five, tmp_path / "run").config.patience == 1
    begun(five, tmp_path / "warm", "schedule.warmup_steps=5")
    assert reopen(None, ["epochs=4"], five, tmp_path / "warm").config.epochs == 4
    with pytest.raises(ConfigError, match=r"warmup_steps: 5, .* 3 step"):
        reopen(None, ["epochs=1"], five, tmp_path / "warm")


def test_the_splits_of_a_run_are_its_own(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store()
    folds = "splits={kind: folds, folds: 3}"
    validated = []
    for fold in range(3):
        session = begun(store, tmp_path / f"fold-{fold}", folds, f"fold={fold}")
        assert len(session.training) == 4
        validated += session.validation
        with pytest.raises(ConfigError, match="split 'test' is empty"):
            evaluate(session.as_trained(), store, "test")
    assert sorted(validated) == IDS
    with pytest.raises(ConfigError, match="folds are 0 to 2"):
        begun(store, tmp_path / "run", folds, "fold=3")
    with pytest.raises(ConfigError, match="fold 0: the splits are lists of cases"):
        begun(store, tmp_path / "run", "fold=0")
    with pytest.raises(ConfigError, match="splits, fold: cannot change"):
        reopen(None, ["splits={kind: fractions}", "fold=1"], store, tmp_path / "fold-0")


def test_a_resumed_run_keeps_its_cases(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(splits=FractionSplits())
    begun(store, tmp_path / "run")
    cases = json.loads((tmp_path / "run" / "run.json").read_text())["cases"]
    assert sorted(case for some in cases.values() for case in some) == IDS
    assert all(cases.values())
    lists = ListSplits(kind="lists", train=(IDS[0],), val=(IDS[1],))
    StoreWriter.create(
        store.path, store.manifest.model_copy(update={"splits": lists}), store.expected
    )
    session = reopen(None, [], Store.open(store.path), tmp_path / "run")
    assert session.splits.cases == cases


def test_a_network_that_the_crops_do_not_fit_is_refused(five: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a multiple of 16"):
        begun(five, tmp_path / "run", "model.widths=[4,4,4,4,4]")
    with pytest.raises(ConfigError, match="needs a multiple of 16"):
        begun(five, tmp_path / "run", "model.widths=[4,4,4,4,4]", "model.dims=2")
    assert not (tmp_path / "run").exists()


def test_a_copied_store_trains_and_a_deleted_last_checkpoint_falls_back_to_the_best(
    five: Store, tmp_path: Path
) -> None:
    shutil.copytree(five.path, tmp_path / "elsewhere.zarr")
    copy = Store.open(tmp_path / "elsewhere.zarr")
    folder = tmp_path / "run"
    assert execute(begun(copy, folder, "epochs=1")) is End.EPOCHS
    (folder / "last.safetensors").unlink()
    assert execute(reopen(None, ["epochs=2"], five, folder)) is End.EPOCHS
    assert [row["epoch"] for row in rows(folder)] == [1, 2]


@pytest.fixture
def running(five: Store, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    settings = [part for value in [*SMALL, "epochs=500"] for part in ("--set", value)]
    with subprocess.Popen(
        command("run", "--store", five.path, "--out", tmp_path / "run", *settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield process
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_a_request_to_stop_leaves_a_checkpoint_to_go_on_from(
    running: subprocess.Popen[str], tmp_path: Path, five: Store, number: int
) -> None:
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_until(lambda: metrics.exists() or running.poll() is not None, "an epoch", 120)
    with (
        pytest.raises(StoreError, match=rf"run: .*process {running.pid} "),
        hold(f"{tmp_path}/run"),
    ):
        pass  # nobody else trains into this folder meanwhile
    os.killpg(running.pid, number)  # as a terminal does: every process of the group
    output, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert "Traceback" not in errors
    assert "--resume" in output
    done = len(rows(tmp_path / "run"))
    session = reopen(None, [f"epochs={done + 1}"], five, tmp_path / "run")
    assert session.at.epoch == done + 1
    assert execute(session) is End.EPOCHS


def test_the_command_line_explains_itself(tmp_path: Path, five: Store) -> None:
    def failing(*arguments: object) -> str:
        done = invoke(app, *arguments)
        assert done.returncode == 2, done.stdout + done.stderr
        return done.stderr

    assert "fmnet-preprocess run " in failing("run", "--store", tmp_path / "no.zarr")
    assert "did you mean fm_net" in failing("run", "fmnet", "--store", five.path)
    typo = failing("run", "--store", five.path, "--set", "optimiser.lr=1")
    assert "optimiser" in typo
    assert "did you mean optimizer.lr" in typo
    assert "epochs" in failing("run", "--store", five.path, "--set", "epochs=0")
    assert "no such run" in failing("evaluate", tmp_path / "nothing", "--store", five.path)


def test_a_validation_that_fails_costs_no_training(
    at_once: Path, make_store: MakeStore, tmp_path: Path
) -> None:
    splits = ListSplits(kind="lists", train=tuple(IDS[:5]), val=(IDS[5],))
    store, folder = make_store(splits=splits), tmp_path / "run"
    shard = Path(store.path, "cases", IDS[5], "label", "c")
    shard.rename(tmp_path / "label")
    with pytest.raises(StoreError, match=IDS[5]):
        execute(begun(store, folder, "epochs=4"))
    assert reopen(None, [], store, folder).at.samples == 5
    (tmp_path / "label").rename(shard)
    assert execute(reopen(None, [], Store.open(store.path), folder)) is End.EPOCHS
    assert_equal_runs(at_once, folder)


def test_checkpoints_within_an_epoch_come_by_the_clock(
    at_once: Path, five: Store, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    session = begun(five, folder, "epochs=4", "checkpoint_minutes=1e-9")
    batches_seen = 0

    class KilledError(Exception):
        pass

    def killed() -> bool:
        nonlocal batches_seen
        batches_seen += 1
        if batches_seen == 2:  # asked once a step: before the second step's checkpoint
            raise KilledError
        return False

    with pytest.raises(KilledError):
        train_until(session, 100, killed)
    assert load(folder, "last").state["samples"] == 2
    assert execute(reopen(None, [], five, folder)) is End.EPOCHS
    assert_equal_runs(at_once, folder)


def test_a_checkpoint_without_a_scale_goes_on_in_half_precision(
    five: Store, tmp_path: Path
) -> None:
    session = begun(five, tmp_path / "run")
    compute = Compute(session.compute.device, "fp16")
    half = new_session(session.run_dir, session.config, compute, five, session.splits)
    restore(half)
    assert half.scaler.is_enabled()


def test_a_store_that_is_not_finished_is_said(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store()
    gone = IDS[0]
    StoreWriter(store.path).remove(gone)
    arguments = ["run", "demo", "--store", store.path, "--out", tmp_path / "run"]
    arguments += ["--set", "epochs=1", "--set", "model.widths=[4,6,8]"]
    ran = invoke(app, *arguments)
    assert ran.returncode == 0, ran.stderr
    assert f"1 of 6 expected case(s) are not in the store, such as {gone}" in ran.stderr
    again = invoke(app, *arguments, "--resume")
    assert "nothing is left to train" in again.stdout
    StoreWriter(store.path).remove(IDS[4])
    with pytest.raises(ConfigError, match=r"2 of 6 expected case\(s\) are not stored: preprocess"):
        begun(Store.open(store.path), tmp_path / "other")


def test_a_rule_that_puts_one_image_into_two_splits_is_refused(store: Store) -> None:
    contents = store.contents()
    train, val = contents.splits["train"][0], contents.splits["val"][0]
    same = {name: getattr(contents.records[train], name) for name in ("mean", "std")}
    copy = contents.records[val].model_copy(update=same)
    contents = replace(contents, cases={**contents.cases, val: copy})
    with pytest.raises(ConfigError, match=rf"{train} \(train\) and {val} \(val\)"):
        assign_cases(load_config("demo"), contents)
    others = [case for case in contents.records if case not in {train, val}]
    rule = {"kind": "lists", "train": [train, val, *others[1:]], "val": others[:1]}
    found = assign_cases(load_config("demo", [f"splits={json.dumps(rule)}"]), contents)
    assert {train, val} <= set(found.cases["train"])
