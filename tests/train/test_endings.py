"""How a run ends by itself, and goes on from there."""

import json
import os
import re
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from rich.console import Console
from runs import SMALL, assert_equal_runs, begun, command, rows, train_until
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.store import Store
from train.checkpoint import load
from train.monitor import next_steps, run_summary
from train.run import execute, reopen
from train.trainer import End

STILL = "optimizer.lr=1e-12"
"""So slow that no validation is better than the first."""


def test_patience_ends_a_run_that_gets_no_better(five: Store, tmp_path: Path) -> None:
    session = begun(five, tmp_path / "run", STILL, "patience=2", "epochs=9")
    assert execute(session) is End.PATIENCE
    assert [row["epoch"] for row in rows(tmp_path / "run")] == [1, 2, 3]
    assert session.at.best_epoch == 1
    assert execute(reopen(None, [], five, tmp_path / "run")) is End.PATIENCE
    assert len(rows(tmp_path / "run")) == 3


def test_patience_counts_validations_and_not_epochs(five: Store, tmp_path: Path) -> None:
    settings = (STILL, "patience=1", "validate_every=2", "epochs=9")
    assert execute(begun(five, tmp_path / "run", *settings)) is End.PATIENCE
    assert [row["epoch"] for row in rows(tmp_path / "run")] == [1, 2, 3, 4]


def test_more_patience_goes_on_to_the_same_numbers(five: Store, tmp_path: Path) -> None:
    assert execute(begun(five, tmp_path / "long", STILL, "epochs=3")) is End.EPOCHS
    folder = tmp_path / "run"
    settings = (STILL, "patience=1", "epochs=3")
    assert execute(begun(five, folder, *settings)) is End.PATIENCE
    session = reopen(None, ["patience=null"], five, folder)
    assert session.at.epoch == 3
    assert execute(session) is End.EPOCHS
    assert_equal_runs(tmp_path / "long", folder)


def test_hours_end_a_run_within_an_epoch_and_it_goes_on_to_the_same_numbers(
    at_once: Path, five: Store, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    session = begun(five, folder, "epochs=4", "max_hours=1e-9")
    assert execute(session) is End.HOURS
    assert load(folder, "last").state["samples"] == 2
    assert execute(reopen(None, [], five, folder)) is End.HOURS
    assert load(folder, "last").state["step"] == 1
    session = reopen(None, ["max_hours=1"], five, folder)
    assert execute(session) is End.EPOCHS
    assert_equal_runs(at_once, folder)


def test_hours_are_those_of_all_sessions_and_of_validation(five: Store, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train_until(begun(five, folder), 1)
    first = load(folder, "last").state["spent_seconds"]
    session = reopen(None, [], five, folder)
    assert execute(session) is End.EPOCHS
    trained = sum(json.loads(line)["seconds"] for line in metrics(folder))
    assert session.at.spent_seconds > trained > 0
    assert session.at.spent_seconds > first > 0


def metrics(folder: Path) -> list[str]:
    return (folder / "metrics.jsonl").read_text().splitlines()


@pytest.mark.parametrize("end", [End.EPOCHS, End.HOURS, End.STOPPED])
def test_the_end_says_what_came_of_it_and_what_to_do(at_once: Path, five: Store, end: End) -> None:
    session = reopen(None, ["max_hours=2"], five, at_once)
    console = Console(record=True, width=200)
    console.print(run_summary(session, end))
    text = console.export_text()
    best = json.loads((at_once / "best.json").read_text())["best_epoch"]
    wt = next(row["val_dice_wt"] for row in rows(at_once) if row["epoch"] == best)
    assert f"epoch {best}, by dice" in text
    assert f"WT {wt:.3f}" in text
    assert "4 of 4" in text
    assert str(at_once / "best.safetensors") in text
    steps = "\n".join(next_steps(session, end))
    assert "--resume" in steps
    assert ("evaluate" in steps) == (end is not End.STOPPED)
    assert ("max_hours=4" in steps) == (end is End.HOURS)


def test_a_deterministic_run_is_the_same_again(five: Store, tmp_path: Path) -> None:
    for name in ("one", "other"):
        session = begun(five, tmp_path / name, "deterministic=true")
        assert execute(session) is End.EPOCHS
    assert_equal_runs(tmp_path / "one", tmp_path / "other")


def test_determinism_is_kept_when_a_run_goes_on(five: Store, tmp_path: Path) -> None:
    begun(five, tmp_path / "run", "deterministic=true")
    begun(five, tmp_path / "other")
    assert not torch.are_deterministic_algorithms_enabled()
    reopen(None, [], five, tmp_path / "run")
    assert torch.are_deterministic_algorithms_enabled()
    begun(five, tmp_path / "last")


def test_pictures_of_the_same_cases_and_curves_are_on_tensorboard(
    at_once: Path, five: Store
) -> None:
    events = EventAccumulator(str(at_once / "tensorboard"), {"images": 0, "scalars": 0}).Reload()
    tags = events.Tags()
    assert len(tags["images"]) == 1
    assert "BraTS2021_00005" in tags["images"][0]
    pictures = events.Images(tags["images"][0])
    assert [picture.step for picture in pictures] == [3, 6, 9, 12]
    image, _ = five.read_volume("BraTS2021_00005")
    assert {picture.width for picture in pictures} == {3 * image.shape[3]}
    curves = set(tags["scalars"])
    assert {"train/loss_step", "val/dice_wt", "run/wait_share", "run/peak_memory_gb"} <= curves
    assert len(events.Scalars("train/loss_step")) == 12


def test_a_terminal_shows_a_panel_while_it_trains_and_the_summary_after(
    five: Store, tmp_path: Path
) -> None:
    # Long enough for pictures of it, four a second, at whatever a fast machine is at.
    settings = [part for value in [*SMALL, "epochs=8"] for part in ("--set", value)]
    reader, writer = os.openpty()
    with subprocess.Popen(
        command("run", "--store", five.path, "--out", tmp_path / "run", *settings),
        stdout=writer,
        stderr=subprocess.STDOUT,
        env=os.environ | {"COLUMNS": "110", "LINES": "40", "TERM": "xterm"},
    ):
        os.close(writer)
        shown = bytearray()
        with suppress(OSError):  # what Linux says when the other side is closed
            while part := os.read(reader, 65536):
                shown += part
    os.close(reader)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert re.search(r"epoch \d+ of 8 .*%", text)
    assert re.search(r"loss [0-9.]+ +[0-9.]+ volumes/s +wait [0-9.]+% +peak [0-9.]+ GB", text)
    assert re.search(r"Dice +WT 0\.\d+ +TC 0\.\d+ +ET 0\.\d+ +in epoch \d", text)
    assert re.search(r"epochs +8 of 8", text)
    assert text.index("★ best") < text.index("weights")
