"""How messages name this program's command lines."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from common.program import command


def test_an_activated_environment_is_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert command("train run") == "python -m train run"


@pytest.mark.parametrize("folder", ["", "a b"])
def test_what_is_named_can_be_called(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment below this folder, as `make` has it, is named from here."""
    python = tmp_path / folder / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(Path(sys.executable).resolve())
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    named = command("platform")
    assert shlex.split(named) == [str(Path(folder, "env/bin/python")), "-m", "platform"]
    told = subprocess.run(  # noqa: S602 - as it would be pasted
        named, shell=True, check=True, capture_output=True, text=True
    )
    assert told.stdout.startswith("Linux")


def test_an_environment_elsewhere_is_named_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    assert command("train") == f"{sys.executable} -m train"
