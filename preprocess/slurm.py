"""Workers as SLURM jobs: submit, watch, replace and cancel them."""

import math
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dask
from dask_jobqueue.slurm import SLURMCluster, SLURMJob
from distributed import Security, Status

from common.console import out
from common.errors import ConfigError
from common.manifest import ClusterSection

LOGS, JOB_NAME = Path("slurm-logs"), "fmnet-preprocess"

REFUSED, FORGOTTEN = "refused", "gone from the queue"
ENDED = {
    REFUSED,
    FORGOTTEN,
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
}
"""Final states of a job: two of ours, and SLURM's (squeue(1))."""

UNFINISHED = {"queued", "no-worker", "processing"}
"""States of a task that is not done (distributed.scheduler.TaskState)."""

ALLOWED_DEATHS = 10
"""Workers that may die at one case before it has failed.

More than elsewhere: the workers of a job or a node die together, Dask notices one after the other,
and meanwhile gives the case to other dead workers, about ln N times for N of them.
"""


class _Job(SLURMJob):
    """Keeps SLURM's answer when it refuses a job; dask-jobqueue logs it and waits for ever."""

    refusal = ""

    async def start(self) -> None:
        try:
            await super().start()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            self.refusal = " ".join(str(error).rpartition("stderr:")[2].split())
            self.status = Status.running  # so that the cluster lists it, where `update` finds it

    async def close(self) -> None:
        await super().close()  # type: ignore[no-untyped-call]
        self.status = Status.closed  # the cluster asserts this, and dask-jobqueue does not set it


class Jobs:
    """The SLURM jobs of one run.

    Their number is decided here: dask-jobqueue does not replace jobs that ended, and Dask's
    adaptive scaling cancels a whole job to remove one of its workers.
    """

    def __init__(self, cluster: SLURMCluster, section: ClusterSection) -> None:
        self.cluster = cluster
        least, self._most = section.adapt or (section.jobs, section.jobs)
        self._least = max(least, 1)  # a run starts only if there is work
        self._cores = section.cores
        self._had_workers: set[str] = set()
        self._reported_ended: set[str] = set()

    def submit(self) -> None:
        """Submit the first jobs.

        Raises:
            ConfigError: SLURM refuses them.
        """
        self.cluster.scale(jobs=self._least)
        self.cluster.sync(self._wait_for_cluster)
        self.update([])

    def update(self, workers: list[str]) -> str:
        """Replace, add and cancel jobs as needed, and describe their states in one sentence.

        A job that ended after its workers connected reached its time limit, was cancelled, or lost
        its node: it is replaced. A job that ended before that would end so again: it is not.
        `workers` are the names of the connected ones.

        Raises:
            ConfigError: every job ended before a worker of it connected.
        """
        names = self.cluster.worker_spec.keys()  # without the jobs that we cancelled
        jobs = {name: job for name, job in list(self.cluster.workers.items()) if name in names}
        self._had_workers |= {job for job in jobs for name in workers if _is_of(name, job)}
        try:
            states = _states(jobs)
        except subprocess.CalledProcessError as error:
            return f"SLURM does not answer: {' '.join(error.stderr.split())}"
        ended = {name for name, (state, _) in states.items() if state in ENDED}
        new = sorted(ended - self._reported_ended)
        if new and len(ended - self._had_workers) == len(jobs):
            cause = _cause(jobs[new[0]], states[new[0]])
            raise ConfigError(
                f"--cluster slurm: no job is left: {cause}; see `cluster` in the manifest"
            )
        for name in new:
            if name in self._had_workers:
                message = f"{_ended(jobs[name], states[name])}; another one replaces it"
            else:
                message = _cause(jobs[name], states[name])
            out.print(message, soft_wrap=True)
        self._reported_ended |= ended
        self.cluster.sync(self._adjust, ended & self._had_workers)
        return ("" if workers else "waiting for workers; ") + _summary(states)

    async def _wait_for_cluster(self) -> None:
        await self.cluster

    async def _adjust(self, ended: set[str]) -> None:
        """Forget jobs that ended, add jobs for the work that is left, and cancel idle ones."""
        scheduler, jobs = self.cluster.scheduler, set(self.cluster.worker_spec)
        assert scheduler is not None  # noqa: S101 - the cluster has started
        left = sum(task.state in UNFINISHED for task in scheduler.tasks.values())
        wanted = min(self._most, max(self._least, math.ceil(left / self._cores)))
        excess = len(jobs - ended) - wanted
        if excess < 0:
            # Before the old jobs go, so that no new one gets a name that Dask still knows.
            self.cluster.scale(jobs=len(jobs) - excess)
        busy = {str(worker.name) for worker in scheduler.workers.values() if worker.processing}
        idle = [j for j in sorted(jobs - ended) if not any(_is_of(name, j) for name in busy)]
        if over := ended.union(idle[: max(excess, 0)]):
            await self.cluster.scale_down(over)


@contextmanager
def start(
    section: ClusterSection,
    environment: dict[str, str],
    security: Security,
    scheduler_options: dict[str, object],
) -> Iterator[Jobs]:
    """Submit jobs whose workers have these variables; all are cancelled at the end.

    The workers' certificates lie beside the logs, readable by their user alone, while jobs may run.

    Raises:
        ConfigError: there is no SLURM here, or it refuses the jobs.
    """
    if shutil.which("sbatch") is None:
        raise ConfigError("--cluster slurm: no sbatch here; run this on a SLURM login node")
    LOGS.mkdir(exist_ok=True)
    dask.config.set({"distributed.scheduler.allowed-failures": ALLOWED_DEATHS})
    try:
        cluster = SLURMCluster(
            job_cls=_Job,  # type: ignore[arg-type]  # declared as a Job, used as its class
            job_name=JOB_NAME,
            queue=section.queue,
            account=section.account,
            cores=section.cores,
            processes=section.cores,
            memory=section.memory,
            walltime=section.walltime,
            interface=section.interface,
            job_extra_directives=list(section.directives),
            job_script_prologue=[f"export {key}={value}" for key, value in environment.items()],
            log_directory=str(LOGS.resolve()),
            security=security,
            shared_temp_directory=str(LOGS.resolve()),
            scheduler_options=scheduler_options,
        )
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"--cluster slurm: {error}; see `cluster` in the manifest") from error
    with cluster:
        jobs = Jobs(cluster, section)
        jobs.submit()
        yield jobs


def _states(jobs: dict[str, _Job]) -> dict[str, tuple[str, str]]:
    """State and reason of each job; SLURM keeps an ended one for minutes, by default five."""
    known = {}
    if any(job.job_id for job in jobs.values()):
        command = ["squeue", "--me", "--states=all", "--noheader", "--format=%A %T %r"]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
        for line in listed.splitlines():
            job_id, state, reason = line.split(maxsplit=2)
            known[job_id] = (state, "" if reason == "None" else f"({reason})")
    return {
        name: (REFUSED, job.refusal) if job.refusal else known.get(str(job.job_id), (FORGOTTEN, ""))
        for name, job in jobs.items()
    }


def _summary(states: dict[str, tuple[str, str]]) -> str:
    counts = Counter(" ".join(state).strip() for state in states.values())
    listed = ", ".join(f"{count} job(s) {state}" for state, count in sorted(counts.items()))
    return f"SLURM has {listed or 'no job of this run yet'}"


def _is_of(worker: str, job: str) -> bool:
    """Whether a worker belongs to a job; several workers of a job are numbered."""
    return worker == job or worker.startswith(f"{job}-")


def _ended(job: _Job, state: tuple[str, str]) -> str:
    return f"SLURM job {job.job_id} ended, {' '.join(state).strip()}"


def _cause(job: _Job, state: tuple[str, str]) -> str:
    """Why a job ended before its workers connected: SLURM's refusal, or its log's last line."""
    if job.refusal:
        return f"SLURM refuses the job ({job.refusal})"
    log = LOGS / f"{JOB_NAME}-{job.job_id}.err"
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
    return f"{_ended(job, state)}; its log {log} ends: {last}"
