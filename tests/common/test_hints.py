"""How messages name this program's command lines."""

import platform
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from common.hints import command


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Python of an environment that is not activated, below where we are."""
    path = tmp_path / "an env" / "bin" / "python3"
    path.parent.mkdir(parents=True)
    path.symlink_to(Path(sys.executable).resolve())
    monkeypatch.setattr(sys, "executable", str(path))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    return path


def test_an_activated_environment_is_called_by_name(
    python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(python.parent))
    assert command("train", "run", "a b") == "python3 -m train run 'a b'"


@pytest.mark.parametrize("below", ["", "an env", "an env/bin", "elsewhere"])
def test_what_is_named_can_be_called(
    below: str, python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / below).mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / below)
    named = command("platform")
    whole = shlex.split(named)[0] == str(python)
    assert whole is (below == "elsewhere")
    told = subprocess.run(  # noqa: S602 - as it would be pasted
        named, shell=True, check=True, capture_output=True, text=True
    )
    assert told.stdout.startswith(platform.system())


def test_messages_come_where_there_is_no_folder_to_stand_in(
    python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert shlex.split(command("train"))[0] == str(python)


def test_a_process_that_knows_no_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    assert command("train") == "python -m train"
