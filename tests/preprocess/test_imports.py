"""What each command waits for before it begins."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from storing import preprocess

Cohort = Callable[..., Path]
SUPPORT = Path(__file__).parents[1] / "support"

COMMANDS = """
import sys
from cli import invoke
from preprocess.cli import app

phantoms, data, store = sys.argv[1:]
for arguments in (
    ("phantom", phantoms, "--cases", 3, "--size", "32,32,32"),
    ("check", data, "--workers", 1),
    ("status", store),
    ("verify", store, "--workers", 1),
    ("report", store, "--workers", 1),
):
    done = invoke(app, *arguments)
    assert done.returncode == 0, done.stderr
"""


def test_only_a_run_waits_for_dask(cohort: Cohort, tmp_path: Path) -> None:
    data, store = cohort(3), tmp_path / "s.zarr"
    preprocess(data, store)
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, tmp_path / "phantoms", data, store],
        env=os.environ | {"PYTHONPROFILEIMPORTTIME": "1", "PYTHONPATH": str(SUPPORT)},
        capture_output=True,
        text=True,
        check=False,
    )
    imported = set(re.findall(r"^import time: .*\| *(\w+)", done.stderr, re.MULTILINE))
    assert done.returncode == 0, done.stderr[-2000:]
    assert {"preprocess", "numpy"} <= imported  # in its worker processes too
    assert not {"dask", "distributed"} & imported


def test_only_resampling_waits_for_scipy() -> None:
    code = (
        "import preprocess.cli, preprocess.pipeline, sys; sys.exit('scipy.ndimage' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


SCRIPTS = Path(sys.executable).parent


@pytest.mark.parametrize("script", ["fmnet-preprocess", "fmnet-train"])
def test_an_interrupt_while_packages_are_imported_ends_without_a_traceback(script: str) -> None:
    whole = [SCRIPTS / script, "--help"]
    with subprocess.Popen(whole, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as running:
        maps = Path(f"/proc/{running.pid}/maps")
        while "numpy" not in maps.read_text():
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        assert running.communicate()[0] == b""
        assert running.returncode == -signal.SIGINT
