"""The job script of docs/slurm.md, on a real SLURM."""

import json
import re
import sys
from pathlib import Path

import pytest
from runs import TINY
from slurm_cluster import Slurm
from waiting import wait_until

from common.store import Store

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "slurm.md").read_text("utf-8")
ENDLESS = ("epochs=1000000", "loader=torch", "workers=1", *TINY)


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_a_job_that_is_stopped_is_queued_again_and_resumes(
    slurm: Slurm, store: Store, tmp_path: Path
) -> None:
    """SIGTERM as at its time limit; `scancel` then ends it for good."""
    (script,) = re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S)
    (tmp_path / "train.sh").write_text(script)
    (tmp_path / "brats.zarr").symlink_to(store.path)
    settings = " ".join(f"--set '{setting}'" for setting in ENDLESS)
    program = tmp_path / "fmnet-train"
    run = f'exec {sys.executable} -m train "$@" {settings}'
    program.write_text(f"#!/bin/bash\nexport PYTHONPATH={ROOT} PATH=/usr/bin:/bin\n{run}\n")
    program.chmod(0o755)
    slurm.environment["PATH"] = f"{tmp_path}:{slurm.environment['PATH']}"
    here = [f"--chdir={tmp_path}", f"--output={tmp_path}/log"]
    small = ["--gres=none", "--cpus-per-task=1", "--mem=2G", "--time=20"]
    job = slurm.call("sbatch", "--parsable", *here, *small, str(tmp_path / "train.sh")).strip()
    folder = tmp_path / "runs" / "fm_net"

    def said() -> str:
        return (tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""

    def epochs() -> list[int]:
        rows = folder / "metrics.jsonl"
        lines = rows.read_text().splitlines() if rows.exists() else []
        return [json.loads(line)["epoch"] for line in lines if line.endswith("}")]

    try:
        wait_until(epochs, "an epoch", 240)
        slurm.call("scancel", "--signal=TERM", job)
        wait_until(lambda: slurm.queue("%T") == ["PENDING"], "queued again", 120)
        # SLURM lets a requeued job wait two minutes. Within the second of its end, the node takes
        # a new start for the one that was revoked, and the job fails.
        before = epochs()[-1]
        slurm.call("scontrol", "update", f"JobId={job}", "StartTime=now+5")
        wait_until(lambda: epochs()[-1] > before, "an epoch after the break", 240)
    except AssertionError as error:
        error.add_note(said())
        error.add_note(slurm.log)
        slurm.call("scancel", "--me")
        raise
    assert epochs() == [*range(1, epochs()[-1] + 1)]
    assert len(json.loads((folder / "run.json").read_text())["sessions"]) == 2
    slurm.call("scancel", job)
    slurm.until_empty()
