"""The lowest versions that the project allows, in an environment of their own."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STEPS = (
    ("phantom", "data", "--cases", "3", "--size", "40,48,44"),
    ("check", "data"),
    ("run", "data", "--store", "s.zarr", "--set", "crop=[32,32,32]", "--workers", "1"),
    ("verify", "s.zarr"),
    ("report", "s.zarr"),
)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_preprocessing_works_with_the_lowest_versions(tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    allowed = project["dependencies"] + project["optional-dependencies"]["preprocess"]
    lowest = [requirement.partition(",")[0].replace(">=", "==") for requirement in allowed]
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *lowest], check=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    for step in STEPS:
        done = subprocess.run(
            [python, "-m", "preprocess", *step],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            check=False,
            text=True,
        )
        assert done.returncode == 0, f"{step}\n{done.stdout}{done.stderr}"
