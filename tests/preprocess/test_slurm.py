"""`--cluster slurm`, with stand-ins for SLURM's programs that start the job on this machine."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from common.store import Store

Cohort = Callable[..., Path]

SBATCH = """#!/bin/bash
if [ "$1" = --test-only ]; then
  if grep -q "^#SBATCH -p nowhere$"; then
    echo "sbatch: error: invalid partition specified: nowhere" >&2
    exit 1
  fi
  exit 0
fi
cp "$1" "$SLURM_STAND_IN/job.sh"
cd /
setsid bash "$SLURM_STAND_IN/job.sh" > "$SLURM_STAND_IN/job.log" 2>&1 &
echo "Submitted batch job $!"
"""

SCANCEL = """#!/bin/bash
echo "$1" >> "$SLURM_STAND_IN/cancelled"
kill -- "-$1"
"""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """An environment with an `sbatch` that runs the job here, in another folder."""
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "SLURM_STAND_IN": str(tmp_path)}


def run(
    folder: Path, environment: dict[str, str], *settings: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "preprocess", "run", "data", "--store", "s.zarr"]
    options = [word for setting in settings for word in ("--set", f"cluster.{setting}")]
    return subprocess.run(
        [*command, "--cluster", "slurm", *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=folder,
        env=environment | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )


@pytest.mark.slow
def test_jobs_do_the_work_wherever_they_stand(
    cohort: Cohort, tmp_path: Path, slurm: dict[str, str]
) -> None:
    cohort(4)
    done = run(tmp_path, slurm, "cores=2", "jobs=1", "memory=3GB", "queue=short", "account=brain")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(Store.open(tmp_path / "s.zarr").records()) == 4
    script = (tmp_path / "job.sh").read_text()
    for line in ("-p short", "-A brain", "--cpus-per-task=2", "--mem=3G", "-t 04:00:00"):
        assert f"#SBATCH {line}\n" in script
    assert "export OMP_NUM_THREADS=1" in script
    assert "--nworkers 2" in script
    assert (tmp_path / "cancelled").read_text().strip()


def test_a_job_that_slurm_refuses_ends_the_run(
    cohort: Cohort, tmp_path: Path, slurm: dict[str, str]
) -> None:
    cohort(3)
    refused = run(tmp_path, slurm, "queue=nowhere")
    assert refused.returncode == 2
    assert "invalid partition specified: nowhere" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_no_slurm_here(cohort: Cohort, tmp_path: Path) -> None:
    cohort(3)
    refused = run(tmp_path, os.environ | {"PATH": str(tmp_path)})
    assert refused.returncode == 2
    assert "no sbatch is here" in refused.stderr
