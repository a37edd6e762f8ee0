"""What goes wrong under a run: nothing learnt is lost, and going on changes no number."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from runs import SMALL, assert_equal_runs, begun, command, rows, train_until
from waiting import Gate, wait_until

from common.errors import CheckpointError, ConfigError, LoaderError, StoreError
from common.store import Store
from train.checkpoint import load
from train.run import execute, reopen
from train.trainer import End

pytestmark = pytest.mark.slow

SmallDisk = Callable[[str], Path]


@pytest.fixture
def own(five: Store, tmp_path: Path) -> Store:
    """A copy of the store, to be spoilt."""
    shutil.copytree(five.path, tmp_path / "own.zarr")
    return Store.open(tmp_path / "own.zarr")


def after(calls: int, do: Callable[[], object]) -> Callable[[], bool]:
    """Something to be done when a run asks for the n-th time whether it is to stop."""
    left = calls

    def stopping() -> bool:
        nonlocal left
        left -= 1
        if left == 0:
            do()
        return False

    return stopping


@contextmanager
def away(path: Path) -> Iterator[None]:
    """Something that is not where it was, and comes back."""
    path.rename(path.with_name("away"))
    try:
        yield
    finally:
        path.with_name("away").rename(path)


def test_a_shard_that_is_damaged_under_training_is_named_and_nothing_learnt_is_lost(
    at_once: Path, own: Store, tmp_path: Path
) -> None:
    last = own.contents().split("train")[-1]
    shard = Path(own.path, "crops", "image", "c", str(own.record(last).row), "0", "0", "0", "0")
    whole = shard.read_bytes()

    def spoil() -> None:
        shard.write_bytes(whole[: len(whole) // 2])

    session = begun(own, tmp_path / "run", "epochs=4")
    with pytest.raises(StoreError, match=f"{last}.*preprocess again|{last}.*verify"):
        train_until(session, 100, after(1, spoil))
    assert load(tmp_path / "run", "last").state["step"] == session.at.step > 0
    shard.write_bytes(whole)
    assert execute(reopen(None, [], own, tmp_path / "run")) is End.EPOCHS
    assert_equal_runs(at_once, tmp_path / "run")


def test_a_store_that_vanishes_is_named_and_nothing_learnt_is_lost(
    at_once: Path, own: Store, tmp_path: Path
) -> None:
    session = begun(own, tmp_path / "run", "epochs=4")
    place = Path(own.path)
    gone = place.with_name("gone.zarr")
    with pytest.raises(StoreError, match=own.path):
        train_until(session, 100, after(1, lambda: place.rename(gone)))
    assert load(tmp_path / "run", "last").state["step"] == session.at.step > 0
    gone.rename(place)
    assert execute(reopen(None, [], Store.open(place), tmp_path / "run")) is End.EPOCHS
    assert_equal_runs(at_once, tmp_path / "run")


@pytest.mark.parametrize("loader", ["dali", "torch"])
def test_a_loaders_worker_that_is_killed_is_said_and_nothing_learnt_is_lost(
    at_once: Path, five: Store, tmp_path: Path, loader: str
) -> None:
    def kill() -> None:
        for process in psutil.Process().children():
            if "spawn_main" in " ".join(process.cmdline()):
                process.kill()

    session = begun(five, tmp_path / "run", "epochs=4", f"loader={loader}")
    with pytest.raises(LoaderError, match=r"worker process \(\d+\) died"):
        train_until(session, 100, after(1, kill))
    assert load(tmp_path / "run", "last").state["step"] == session.at.step > 0
    going_on = reopen(None, ["loader=dali"], five, tmp_path / "run")
    assert execute(going_on) is End.EPOCHS
    if loader == "dali":
        assert_equal_runs(at_once, tmp_path / "run")


def test_a_full_disk_costs_the_checkpoint_and_not_the_one_before(
    at_once: Path, five: Store, tmp_path: Path, small_disk: SmallDisk
) -> None:
    disk = small_disk("size=8m")
    folder, filler = disk / "run", disk / "filler"
    session = begun(five, folder, "epochs=4", "checkpoint_minutes=1e-9")

    def fill() -> None:
        with filler.open("ab", buffering=0) as file:
            while file.write(bytes(min(4096, shutil.disk_usage(disk).free))):
                pass

    with pytest.raises(CheckpointError, match=r"cannot be written .*0 MB are free there; make"):
        train_until(session, 100, after(2, fill))
    assert load(folder, "last").state["step"] == 1
    filler.unlink()
    assert not list(folder.glob("*.tmp"))
    assert execute(reopen(None, [], five, folder)) is End.EPOCHS
    assert_equal_runs(at_once, folder)


def test_a_folder_that_cannot_be_written_is_said_before_anything_starts(
    five: Store, small_disk: SmallDisk
) -> None:
    disk = small_disk("size=8m")
    small_disk("ro")
    with pytest.raises(ConfigError, match=r"disk is not writable"):
        begun(five, disk / "run")


def test_a_file_in_the_folders_place_is_refused(five: Store, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ConfigError, match="a file is there"):
        begun(five, tmp_path / "run")
    assert (tmp_path / "run").read_text() == "mine"


def run_of(store: str, folder: Path, *overrides: str) -> subprocess.Popen[str]:
    settings = [part for value in [*SMALL, *overrides] for part in ("--set", value)]
    return subprocess.Popen(
        command("run", "--store", store, "--out", folder, *settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # as here: other threads add up otherwise
    )


def test_a_run_that_is_killed_goes_on_from_its_last_checkpoint(
    at_once: Path, five: Store, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with run_of(five.path, folder, "epochs=4", "checkpoint_minutes=1e-9") as process:
        metrics = folder / "metrics.jsonl"
        wait_until(lambda: metrics.exists() or process.poll() is not None, "an epoch", 120)
        os.killpg(process.pid, signal.SIGKILL)
    assert load(folder, "last").state["step"] >= 3
    assert execute(reopen(None, [], five, folder)) is End.EPOCHS
    assert_equal_runs(at_once, folder)


def test_a_stuck_loader_ends_the_run_with_its_stacks(
    at_once: Path, own: Store, tmp_path: Path
) -> None:
    folder, last = tmp_path / "run", own.contents().split("train")[-1]
    shard = Path(own.path, "crops", "image", "c", str(own.record(last).row), "0", "0", "0", "0")
    gate = Gate(shard)
    with run_of(own.path, folder, "epochs=4", "stuck_minutes=0.4") as process:
        output, errors = process.communicate(timeout=120)
    gate.open()
    assert process.returncode == 2, output + errors
    assert "Traceback" not in errors
    assert "the loader is stuck: no batch for 24 s; worker" in errors
    assert f"is reading case {last}" in errors
    stacks = (folder / "stuck.txt").read_text()
    assert "read_crop" in stacks
    assert "in train" in stacks
    assert execute(reopen(None, [], own, folder)) is End.EPOCHS
    assert rows(folder) == rows(at_once)
