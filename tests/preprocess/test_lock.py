"""One run at a time writes a store."""

import getpass
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.errors import StoreError
from preprocess import lock as locks
from preprocess.lock import STALE_SECONDS, Lock, hold


def owner(**changes: object) -> str:
    """A lock file of another run on this machine that is alive."""
    now = time.time()
    fields = {
        "token": "another",
        "user": "ada",
        "host": socket.gethostname(),
        "process": os.getppid(),
        "since": now - 5,
        "beat": now,
    }
    return json.dumps(fields | changes)


def finished_process() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait(timeout=60)
    return done.pid


def test_it_is_there_while_held_and_gone_after(tmp_path: Path) -> None:
    path = str(tmp_path / "deep" / "s.zarr")
    with hold(path) as lock:
        lock.check()
        content = json.loads(Path(path + ".lock").read_text())
        assert content["user"] == getpass.getuser()
        assert content["process"] == os.getpid()
    assert not Path(path + ".lock").exists()


def test_it_is_given_back_when_work_fails(tmp_path: Path) -> None:
    path = str(tmp_path / "s.zarr")
    with pytest.raises(RuntimeError), hold(path):
        raise RuntimeError
    assert not Path(path + ".lock").exists()


def test_a_second_run_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    path = str(tmp_path / "s.zarr")
    name = f"{getpass.getuser()} on {socket.gethostname()}, process {os.getpid()}"
    with hold(path) as lock:
        with pytest.raises(StoreError, match=f"{name} has been writing this store since"):
            Lock(path)
        lock.check()


@pytest.mark.parametrize("far_away", [False, True])
def test_a_lock_that_a_dead_run_left_is_taken_over(far_away: bool, tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    if far_away:  # nobody here can see whether that process lives: its silence tells
        text = owner(host="elsewhere", beat=time.time() - STALE_SECONDS - 1)
    else:
        text = owner(process=finished_process())
    Path(f"{path}.lock").write_text(text)
    with hold(str(path)) as lock:
        assert lock.taken_over is not None
        assert lock.taken_over.user == "ada"
        lock.check()


def test_a_far_away_run_that_still_beats_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    Path(f"{path}.lock").write_text(owner(host="elsewhere", process=1))
    with pytest.raises(StoreError, match="ada on elsewhere, process 1"):
        Lock(str(path))


def test_a_run_whose_lock_was_taken_stops_and_leaves_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    file = Path(f"{path}.lock")
    with hold(str(path)) as lock:
        file.write_text(owner())
        with pytest.raises(StoreError, match="now held by ada"):
            lock.check()
    assert json.loads(file.read_text())["user"] == "ada"
    file.unlink()
    with hold(str(path)) as lock:
        file.unlink()
        with pytest.raises(StoreError, match="its file was removed"):
            lock.check()


def test_it_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.02)
    path = tmp_path / "s.zarr"
    file = Path(f"{path}.lock")
    with hold(str(path)):
        first = json.loads(file.read_text())["beat"]
        deadline = time.monotonic() + 10
        beat = first
        while beat <= first:
            assert time.monotonic() < deadline
            time.sleep(0.02)
            text = file.read_text()
            beat = json.loads(text)["beat"] if text else first


@pytest.mark.parametrize("text", ["", "not json", "{}", '{"token": "x"}'])
def test_a_file_that_is_no_lock_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    Path(f"{path}.lock").write_text(text)
    with pytest.raises(StoreError, match=r"s.zarr.lock: not a lock that this program wrote"):
        Lock(str(path))
