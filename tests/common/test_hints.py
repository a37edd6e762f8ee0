"""How messages name this program's commands."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from common import hints

ROOT = Path(__file__).parents[2]


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The scripts' folder of an environment that is not activated, below the working folder."""
    folder = tmp_path / "an env" / "bin"
    folder.mkdir(parents=True)
    (folder / "fmnet-train").write_text("#!/bin/sh\necho called\n")
    (folder / "fmnet-train").chmod(0o755)
    monkeypatch.delenv(hints.UNDER_MAKE, raising=False)
    monkeypatch.setattr(sys, "executable", str(folder / "python3"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    return folder


def test_an_activated_environment_is_called_by_name(
    scripts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(scripts))
    assert hints.train("a b", "r") == "fmnet-train run --store 'a b' --out r"


@pytest.mark.parametrize("below", ["", "an env", "an env/bin", "elsewhere"])
def test_what_is_named_can_be_pasted(
    below: str, scripts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / below).mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / below)
    named = hints.evaluate("r")
    whole = shlex.split(named)[0] == str(scripts / "fmnet-train")
    assert whole is (below == "elsewhere")
    assert subprocess.check_output(named, shell=True, text=True) == "called\n"  # noqa: S602 - as it would be pasted


def test_a_working_folder_that_is_gone(
    scripts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert shlex.split(hints.train())[0] == str(scripts / "fmnet-train")


def test_a_process_that_does_not_know_its_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(hints.UNDER_MAKE, raising=False)
    monkeypatch.setattr(sys, "executable", "")
    assert shlex.split(hints.train())[0] == "fmnet-train"


def test_under_make_advice_names_its_targets_and_variables(
    scripts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert scripts.is_dir()
    assert hints.resume("s", "r", "epochs=2").endswith("--store s --out r --resume --set epochs=2")
    assert hints.option("--resume") == "--resume"
    monkeypatch.setenv(hints.UNDER_MAKE, "1")
    told = "make train STORE=s RUN=r RESUME=1 'SET=epochs=2 patience=null'"
    assert hints.resume("s", "r", "epochs=2", "patience=null") == told
    assert hints.verify("a b", repair=True) == "make verify 'STORE=a b' REPAIR=1"
    assert hints.option("--resume") == "RESUME=1"
    assert hints.option("--set", "workers=2") == "SET=workers=2"
    # Make has no variable for it.
    assert hints.evaluate("r", "last").split()[-2:] == ["--checkpoint", "last"]


@pytest.mark.parametrize("stage", ["preprocess", "train"])
@pytest.mark.parametrize("on_path", [False, True], ids=["in the working folder", "on the path"])
def test_scripts_run_where_others_code_lies(stage: str, on_path: bool, tmp_path: Path) -> None:
    for name in ("common", "preprocess"):
        (tmp_path / name).mkdir()
    (tmp_path / "train.py").write_text("raise SystemExit('the wrong program')")
    path = [str(tmp_path)] if on_path else []
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"import fmnet; fmnet.{stage}()", "--help"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([*path, str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "Usage: " in done.stdout
