"""What each command waits for before it begins."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Cohort = Callable[..., Path]
Command = Callable[..., subprocess.CompletedProcess[str]]


def test_only_a_run_waits_for_dask(cohort: Cohort, tmp_path: Path, command: Command) -> None:
    data, store = cohort(3), tmp_path / "s.zarr"
    settings = os.environ | {"PYTHONPROFILEIMPORTTIME": "1"}  # in its worker processes too

    def imported(*arguments: object) -> set[str]:
        done = command(*arguments, env=settings)
        assert done.returncode == 0, done.stdout
        return set(re.findall(r"^import time: .*\| *(\w+)", done.stderr, re.MULTILINE))

    assert {"preprocess", "dask", "distributed"} <= imported("run", data, "--store", store)
    phantoms = ("phantom", tmp_path / "phantoms", "--cases", 3, "--size", "32,32,32")
    readers = ((name, store) for name in ("status", "verify", "report"))
    for arguments in (phantoms, ("check", data), *readers):
        found = imported(*arguments)
        assert {"preprocess", "numpy"} <= found
        assert not {"dask", "distributed"} & found, arguments


def test_only_resampling_waits_for_scipy() -> None:
    code = (
        "import preprocess.cli, preprocess.pipeline, sys; sys.exit('scipy.ndimage' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


SCRIPTS = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [
        (sys.executable, "-m", "preprocess"),
        (sys.executable, "-m", "train"),
        (SCRIPTS / "fmnet-preprocess",),
        (SCRIPTS / "fmnet-train",),
    ],
    ids=str,
)
def test_an_interrupt_while_packages_are_imported_ends_without_a_traceback(
    command: tuple[str | Path, ...],
) -> None:
    whole = [*command, "--help"]
    with subprocess.Popen(whole, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as running:
        maps = Path(f"/proc/{running.pid}/maps")
        while "numpy" not in maps.read_text():
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        assert running.communicate()[0] == b""
        assert running.returncode == -signal.SIGINT
