"""Requests to stop: one line, and no process left. And users that a machine does not know."""

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from common.store import Store


@pytest.mark.parametrize("begun", [False, True], ids=["while they start", "at work"])
def test_one_that_stops_a_check_is_said(
    begun: bool, cohort: Callable[..., Path], gate: Callable[..., object], tmp_path: Path
) -> None:
    data = cohort(6)
    held = gate(0)
    command = [sys.executable, "-m", "preprocess", "check", str(data), "--workers", "2"]
    with (tmp_path / "said").open("w+") as said:
        running = psutil.Popen(command, stdout=said, stderr=said, start_new_session=True)
        if begun:
            held.wait()
        while not running.children():
            assert running.poll() is None
        family = running.children()
        os.killpg(running.pid, signal.SIGINT)
        held.open()
        assert running.wait(60) == 130
        said.seek(0)
        text = said.read()
        assert text.splitlines()[-1] == "interrupted"
        assert "Traceback" not in text
    assert not psutil.wait_procs(family, timeout=20)[1]


def test_three_in_a_row_end_a_run_without_a_traceback(
    cohort: Callable[..., Path], gate: Callable[..., object], tmp_path: Path
) -> None:
    data, held = cohort(4), gate(0)
    command = [sys.executable, "-m", "preprocess", "run", str(data), "--store"]
    with (tmp_path / "said").open("w+") as said:
        running = psutil.Popen(
            [*command, str(tmp_path / "s.zarr")], stdout=said, stderr=said, start_new_session=True
        )
        held.wait()
        family = running.children(recursive=True)
        for _ in range(3):
            os.killpg(running.pid, signal.SIGINT)
            time.sleep(0.05)
        assert running.wait(60) == 130
        held.open()
        said.seek(0)
        text = said.read()
    assert "Traceback" not in text
    assert "interrupted" in text
    assert not psutil.wait_procs(family, timeout=20)[1]


def test_a_terminal_that_closes_ends_a_run_as_ctrl_c_does(
    cohort: Callable[..., Path], gate: Callable[..., object], tmp_path: Path
) -> None:
    data, held, path = cohort(4), gate(0), tmp_path / "s.zarr"
    command = [sys.executable, "-m", "preprocess", "run", str(data), "--store", str(path)]
    terminal, inner = pty.openpty()
    in_terminal = "import os, sys; os.login_tty(0); os.execv(sys.argv[1], sys.argv[1:])"
    running = subprocess.Popen([sys.executable, "-c", in_terminal, *command], stdin=inner)
    os.close(inner)
    held.wait()
    os.close(terminal)
    assert running.wait(60) == 130
    assert Store.open(path).contents().expected
    assert not Path(f"{path}.lock").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_user_without_a_name_and_a_home_preprocesses(
    cohort: Callable[..., Path], tmp_path: Path
) -> None:
    data, path = cohort(3), tmp_path / "s.zarr"
    unnamed = {"HOME": "/nonexistent", "PATH": os.environ["PATH"]}
    for command in (("run", data, "--store", path), ("verify", path, "--repair")):
        done = subprocess.run(
            ["unshare", "-U", "--map-user=54321", sys.executable, "-m", "preprocess", *command],
            env=unnamed,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert not done.stderr
