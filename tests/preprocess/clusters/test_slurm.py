"""`--cluster slurm` on a real SLURM: a controller and two nodes, all on this machine."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preprocess.cluster import WATCH_SECONDS

Maker = Callable[..., Any]


@pytest.fixture
def submit(slurm: Any, run: Maker) -> Maker:
    """Starts a run on SLURM, two workers in a job, with these settings of the cluster."""

    def start(*settings: str, **environment: str) -> Any:
        chosen = [f"cluster.{setting}" for setting in ("cores=2", "memory=1GiB", *settings)]
        return run("slurm", *chosen, environment=slurm.environment | environment)

    return start


@pytest.mark.slow
@pytest.mark.parametrize("number", ["jobs=2", "adapt=[0,2]"])
def test_two_nodes_share_the_work(
    number: str, cohort: Maker, slurm: Any, submit: Maker, gate: Maker
) -> None:
    cohort(8)
    gates = [gate(case) for case in range(4)]
    running = submit(number, "directives=[--comment=brains]")
    for one in gates:
        one.wait()  # so many at once that every worker of both jobs holds one
    jobs = slurm.queue("%T %N %C %m %k")
    assert sorted(jobs) == ["RUNNING n1 2 1G brains", "RUNNING n2 2 1G brains"]
    for one in gates:
        one.open()
    assert running.wait() == 0, running.said
    assert "4 worker process(es)" in running.said
    assert running.verified() == 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("queue=nowhere",), "invalid partition specified: nowhere"),
        (("queue=nowhere", "adapt=[1,2]"), "invalid partition specified: nowhere"),
        (("cores=3",), "Requested node configuration is not available"),
        (("memory=99GB",), "Requested node configuration is not available"),
        (("directives=[--nonsense]",), "unrecognized option '--nonsense'"),
    ],
)
def test_jobs_that_slurm_refuses_end_the_run(
    settings: tuple[str, ...], words: str, cohort: Maker, submit: Maker
) -> None:
    cohort(3)
    refused = submit(*settings)
    assert refused.wait(60) == 2
    assert "SLURM refuses the job" in refused.said
    assert words in refused.said


@pytest.mark.slow
def test_whoever_waits_for_jobs_is_told_and_may_go(
    cohort: Maker, slurm: Any, submit: Maker
) -> None:
    cohort(3)
    slurm.call("scontrol", "update", "NodeName=n1,n2", "State=DRAIN", "Reason=test")
    try:
        waiting = submit("jobs=2")
        waiting.until_it_says("waiting for workers; SLURM has ")
        assert "job(s) PENDING (ReqNodeNotAvail, UnavailableNodes:n[1-2])" in waiting.said
        assert waiting.interrupt() == 130
    finally:
        slurm.call("scontrol", "update", "NodeName=n1,n2", "State=RESUME")
    assert "run the same command again" in waiting.said


@pytest.mark.slow
def test_ctrl_c_takes_running_jobs_back(
    cohort: Maker, slurm: Any, submit: Maker, gate: Maker
) -> None:
    cohort(6)
    held = gate(5)
    running = submit("jobs=2")
    held.wait()
    assert running.interrupt() == 130
    slurm.until_empty()
    held.expect_another()
    held.open()
    again = submit("jobs=1")
    assert again.wait() == 0, again.said
    assert again.verified() == 6


@pytest.mark.slow
@pytest.mark.parametrize("number", ["jobs=2", "adapt=[0,2]"])
def test_jobs_that_are_cancelled_at_work_are_replaced(
    number: str, cohort: Maker, slurm: Any, submit: Maker, gate: Maker
) -> None:
    cohort(6)
    gates = [gate(case) for case in range(4)]
    running = submit(number)
    for one in gates:
        one.wait()
    first = slurm.queue()
    running.until_it_says("2 job(s) RUNNING")
    time.sleep(2 * WATCH_SECONDS)  # the run looks so often whose workers are there
    slurm.call("scancel", *first)
    running.until_it_says("CANCELLED", 2)
    running.until_it_says("another one replaces it", 2)
    for one in gates:
        one.expect_another()
    for one in gates:
        one.wait()
    assert not set(slurm.queue()) & set(first)
    for one in gates:
        one.open()
    assert running.wait() == 0, running.said
    assert running.verified() == 6


@pytest.mark.slow
def test_jobs_that_cannot_work_end_the_run(cohort: Maker, submit: Maker) -> None:
    cohort(3)
    lost = submit(DASK_JOBQUEUE__SLURM__PYTHON="/not/there/python")
    assert lost.wait(60) == 2
    assert "no job is left" in lost.said
    assert "FAILED (NonZeroExitCode)" in lost.said
    assert "/not/there/python: No such file or directory" in lost.said


@pytest.mark.slow
def test_jobs_of_a_killed_client_end_by_themselves(
    cohort: Maker, slurm: Any, submit: Maker, gate: Maker
) -> None:
    cohort(6)
    held = gate(5)
    killed = submit()
    held.wait()
    killed.process.kill()
    killed.process.wait(60)
    held.open()
    slurm.until_empty()
    again = submit()
    assert again.wait() == 0, again.said
    assert "taking over the lock" in again.said
    assert again.verified() == 6


def test_no_slurm_here(cohort: Maker, tmp_path: Path, run: Maker) -> None:
    cohort(3)
    refused = run("slurm", environment=os.environ | {"PATH": str(tmp_path)})
    assert refused.wait() == 2
    assert "no sbatch here" in refused.said
