"""Ctrl-C while cases are looked at on several processes: one line, and no process left."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest


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
