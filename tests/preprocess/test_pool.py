"""Processes that are killed at a case, as the system does when memory runs out."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from storing import preprocess

from common.pool import MOST_DEATHS

Cohort = Callable[..., Path]
Command = Callable[..., subprocess.CompletedProcess[str]]

SUICIDE = """
import os, signal, sys

def at(event, arguments):
    if event == "open" and os.environ["KILL_AT"] in str(arguments[0]):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(at)
"""
TWO = "BraTS2021_00001"


@pytest.fixture
def killed_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has every process that starts from now on killed when it opens a file of such a name."""

    def kill(name: str) -> None:
        (tmp_path / "sitecustomize.py").write_text(SUICIDE)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setenv("KILL_AT", name)

    return kill


def test_check_names_the_case_at_which_a_process_dies_and_goes_on(
    cohort: Cohort, command: Command, killed_at: Callable[[str], None]
) -> None:
    data = cohort(3)
    (data / "BraTS2021_00000" / "BraTS2021_00000_t1.nii.gz").write_bytes(b"")
    (data / "BraTS2021_00002" / "BraTS2021_00002_t2.nii.gz").write_bytes(b"")
    killed_at(f"{TWO}_t1ce")
    done = command("check", data, "--workers", 1)
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "process" in line]
    assert TWO in line
    assert "--workers" in line
    assert done.stdout.count("an empty file") == 2
    assert "0 usable case(s) of 3, 3 error(s)" in done.stdout


@pytest.mark.slow
def test_check_gives_up_where_every_case_kills_its_process(
    cohort: Cohort, command: Command, killed_at: Callable[[str], None]
) -> None:
    data = cohort(MOST_DEATHS + 1)
    killed_at("_t1ce")
    done = command("check", data, "--workers", 1)
    assert done.returncode == 1, done.stderr
    assert "not read" in done.stdout
    assert f"0 usable case(s) of {MOST_DEATHS + 1}, {MOST_DEATHS + 1} error(s)" in done.stdout


@pytest.mark.slow
def test_verify_and_report_name_the_case_too(
    cohort: Cohort, command: Command, killed_at: Callable[[str], None], tmp_path: Path
) -> None:
    store = tmp_path / "s.zarr"
    preprocess(cohort(4), store)
    (store / "cases" / "BraTS2021_00003" / "zarr.json").write_text("{")
    killed_at(f"cases/{TWO}/")
    verified = command("verify", store, "--workers", 2)
    assert verified.returncode == 1
    assert f"case {TWO}: its process" in verified.stdout
    assert "BraTS2021_00003" in verified.stdout
    reported = command("report", store, "--workers", 2)
    assert reported.returncode == 0, reported.stderr
    assert f"case {TWO}: its process" in (tmp_path / "s-quality.html").read_text()
