"""A run's folder that is torn, changed or made by hand: one line, and no default in silence."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import begun, train_until

from common.errors import CheckpointError, ConfigError, FMNetError, RunError
from common.store import Store
from train import checkpoint
from train.checkpoint import Checkpoint
from train.loaded_run import load_run
from train.postprocess import PostprocessConfig
from train.precision import told_as_out_of_memory
from train.run import begin, execute, reopen
from train.run_folder import write_tuned
from train.trainer import End

FILES = ("config.yaml", "manifest.yaml", "run.json", "last.safetensors")
ABSENT = ("missing", "a dangling link", "a circular link")


@pytest.fixture(scope="module")
def whole(five: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run after its first step."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train_until(begun(five, folder), 1)
    return folder


@pytest.fixture
def run_dir(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    shutil.copytree(whole, tmp_path / "run", ignore=shutil.ignore_patterns("tensorboard"))
    return tmp_path / "run"


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def in_place(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "torn": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "without its last line": lambda path: path.write_bytes(
        path.read_bytes().rstrip(b"\n").rpartition(b"\n")[0]
    ),
    "a byte": flipped,
    "binary": lambda path: path.write_bytes(bytes(range(256))),
    "JSON of another type": lambda path: path.write_text("[1, 2]"),
    "foreign JSON": lambda path: path.write_text('{"a": 1}'),
    "pickled": lambda path: path.write_bytes(pickle.dumps({"a": 1})),
    "a folder": in_place(Path.mkdir),
    "a pipe": in_place(os.mkfifo),
    "a dangling link": in_place(lambda path: path.symlink_to("nowhere")),
    "a circular link": in_place(lambda path: path.symlink_to(path)),
    "endless": in_place(lambda path: path.symlink_to("/dev/zero")),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_one_line_that_names_it(
    run_dir: Path, five: Store, name: str, damage: str
) -> None:
    DAMAGE[damage](run_dir / name)
    before = sorted(run_dir.iterdir())
    commands: list[Callable[[], object]] = [lambda: load_run(run_dir, "last")]
    if name != "last.safetensors" or damage not in ABSENT:  # else it goes on from the previous
        commands.append(lambda: reopen(None, [], five, run_dir))
    for read in commands:
        with pytest.raises(FMNetError) as refused:
            read()
        assert name in str(refused.value)
        assert "\n" not in str(refused.value)
    assert sorted(run_dir.iterdir()) == before


@pytest.mark.parametrize("damage", [name for name in DAMAGE if name != "missing"])
def test_tuned_values_that_are_damaged_are_not_left_out(run_dir: Path, damage: str) -> None:
    path = write_tuned(run_dir, PostprocessConfig(threshold={"et": 0.4}), "Picked.")
    assert load_run(run_dir, "last").postprocess.threshold == {"et": 0.4}
    DAMAGE[damage](path)
    with pytest.raises(RunError, match=path.name):
        load_run(run_dir, "last")


def test_a_missing_checkpoint_is_said_when_the_one_before_takes_its_place(
    run_dir: Path, five: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_dir / "last.safetensors").unlink()
    assert reopen(None, [], five, run_dir).at.step == 0
    assert "last.safetensors is missing; going on from previous" in capsys.readouterr().err


def test_a_run_without_its_configuration_is_not_begun_anew(run_dir: Path, five: Store) -> None:
    (run_dir / "config.yaml").unlink()
    with pytest.raises(RunError, match=r"holds a run whose config\.yaml is missing"):
        begun(five, run_dir)


def changed(run_dir: Path, change: Callable[[Checkpoint], Checkpoint]) -> None:
    """Write a checkpoint that is whole, of this version, and not what a run would write."""
    checkpoint.save(run_dir, change(checkpoint.load(run_dir, "last")), best=False)


def with_tensor(part: str, make: Callable[[torch.Tensor], torch.Tensor]) -> Callable:
    def change(saved: Checkpoint) -> Checkpoint:
        name = next(name for name in saved.tensors if part in name)
        return Checkpoint(saved.tensors | {name: make(saved.tensors[name])}, saved.state)

    return change


def with_state(**state: object) -> Callable:
    return lambda saved: Checkpoint(saved.tensors, saved.state | state)


BY_HAND: dict[str, Callable] = {
    "weights of another shape": with_tensor("model.", lambda value: torch.zeros(3, 1)),
    "weights of another type": with_tensor("model.", torch.Tensor.double),
    "weights that are no numbers": with_tensor("model.", lambda value: value * np.nan),
    "no weights": lambda saved: Checkpoint({}, saved.state),
    "an epoch in words": with_state(epoch="two"),
    "no such epoch": with_state(epoch=0),
    "NaN": lambda saved: Checkpoint(saved.tensors, saved.state | {"rows": {"epoch": 1}}),
    "rows of nobody": with_state(epoch=3, rows=[{"epoch": 1, "val_loss": 1.0}]),
    "an unknown key": with_state(colour="red"),
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_a_checkpoint_made_by_hand_is_refused(run_dir: Path, five: Store, kind: str) -> None:
    changed(run_dir, BY_HAND[kind])
    for read in (lambda: load_run(run_dir, "last"), lambda: reopen(None, [], five, run_dir)):
        with pytest.raises(CheckpointError) as refused:
            read()
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "change",
    [
        with_tensor("exp_avg", lambda value: torch.zeros(())),
        with_tensor("exp_avg", torch.Tensor.double),
        with_tensor("rng.cpu", lambda value: value[:5]),
        with_state(samples=10**6, seconds=1.0),
        lambda saved: Checkpoint(
            {name: value for name, value in saved.tensors.items() if "mu_product" not in name},
            saved.state,
        ),
    ],
)
def test_a_checkpoint_that_cannot_be_resumed_is_refused(
    run_dir: Path, five: Store, change: Callable
) -> None:
    changed(run_dir, change)
    with pytest.raises(CheckpointError):
        reopen(None, [], five, run_dir)


def test_a_network_that_no_machine_has_room_for_is_refused_before_it_is_made(
    five: Store, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"GB are free: take fewer or smaller model\.widths"):
        begun(five, tmp_path / "run", "model.widths=[4096,4096,4096]")
    with pytest.raises(ConfigError, match=r"model\.widths"):
        begun(five, tmp_path / "run", "model.widths=[1000000000,8]")
    assert not (tmp_path / "run").exists()


def test_memory_that_is_too_small_is_one_error() -> None:
    for take in (torch.empty, np.empty):
        with pytest.raises(torch.OutOfMemoryError), told_as_out_of_memory():
            take(1 << 58)
    with pytest.raises(RuntimeError, match="size"), told_as_out_of_memory():
        torch.ones(2) + torch.ones(3)


def test_curves_that_cannot_be_written_do_not_end_a_run(
    five: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = begun(five, tmp_path / "run", "epochs=1")
    (tmp_path / "run" / "tensorboard").touch()
    assert execute(session) is End.EPOCHS
    said = capsys.readouterr().err
    assert said.count("warning: ") == 1
    assert "tensorboard: no more curves (File exists)" in said.replace("\n", "")


def test_a_folder_that_is_gone_is_one_line_and_nothing_is_left_elsewhere(
    five: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    session = begun(five, tmp_path / "run", "epochs=4")
    asked = 0

    def remove() -> bool:
        nonlocal asked
        asked += 1
        if asked == 2:
            shutil.rmtree(tmp_path / "run")
        return False

    with pytest.raises(CheckpointError, match="folder is gone"):
        train_until(session, 100, remove)
    assert "Traceback" not in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_half_written_is_removed(run_dir: Path, five: Store) -> None:
    (run_dir / ".last.safetensors.0123abcd.partial").touch()
    (run_dir / ".run.json.0123abcd.partial").touch()
    reopen(None, [], five, run_dir)
    assert not list(run_dir.glob(".*"))


def test_a_runs_configuration_is_a_preset_for_others(
    run_dir: Path, five: Store, tmp_path: Path
) -> None:
    session = begin(str(run_dir / "config.yaml"), ["epochs=3"], five, tmp_path / "other")
    assert session.config.epochs == 3
    assert session.config.model.widths == (4, 6, 8)


def test_a_metrics_file_that_cannot_be_replaced_is_one_line(run_dir: Path, five: Store) -> None:
    (run_dir / "metrics.jsonl").mkdir()
    with pytest.raises(RunError, match="cannot be written"):
        reopen(None, [], five, run_dir)
