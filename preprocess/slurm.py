"""Workers as SLURM jobs: submitted, watched, replaced when they end, and taken back."""

import math
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dask
from dask_jobqueue.slurm import SLURMCluster, SLURMJob
from distributed import Status

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
"""States that a job does not leave again: two of ours, and SLURM's (squeue(1))."""

UNFINISHED = {"queued", "no-worker", "processing"}
"""States of a task that somebody has yet to do, or is at (distributed.scheduler.TaskState)."""

ALLOWED_DEATHS = 10
"""Workers that may die at one case before it is given up.

More than elsewhere, because the workers of a job, or of a node, die together: while Dask finds out
about one after the other, a case is handed from dead to dead, of N about ln N times.
"""


class _Job(SLURMJob):
    """Keeps what SLURM says when it refuses a job; dask-jobqueue logs it and waits for ever."""

    refusal = ""

    async def start(self) -> None:
        try:
            await super().start()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            self.refusal = " ".join(str(error).rpartition("stderr:")[2].split())
            self.status = Status.running  # so that the cluster lists it, where `look` finds it

    async def close(self) -> None:
        await super().close()  # type: ignore[no-untyped-call]
        self.status = Status.closed  # which dask-jobqueue forgets, and the cluster asserts


class Jobs:
    """The SLURM jobs of one run.

    How many there are is decided here: dask-jobqueue replaces no job that ended, and Dask's
    adaptive scaling ends a whole job where it finds one worker of it too many.

    Attributes:
        cluster: the Dask cluster that their workers belong to.
    """

    def __init__(self, cluster: SLURMCluster, section: ClusterSection) -> None:
        self.cluster = cluster
        least, self._most = section.adapt or (section.jobs, section.jobs)
        self._least = max(least, 1)  # a run begins because there is work
        self._cores = section.cores
        self._worked: set[str] = set()
        self._reported_ended: set[str] = set()

    def submit(self) -> None:
        """Ask SLURM for the first jobs.

        Raises:
            ConfigError: SLURM refuses them.
        """
        self.cluster.scale(jobs=self._least)
        self.cluster.sync(self._settle)
        self.look([])

    def look(self, workers: list[str]) -> str:
        """What SLURM says of the jobs, in a sentence; replaces, adds and ends some as needed.

        A job that ended at work did so by its time limit, by `scancel`, or with its node, and is
        replaced. One that ended before a worker of it came would end so again, and is not.

        Args:
            workers: names of those that are there now.

        Raises:
            ConfigError: every job ended before a worker of it came.
        """
        names = self.cluster.worker_spec.keys()  # a job that is no longer here ends by our will
        jobs = {name: job for name, job in list(self.cluster.workers.items()) if name in names}
        self._worked |= {job for job in jobs for name in workers if _is_of(name, job)}
        try:
            states = _states(jobs)
        except subprocess.CalledProcessError as error:
            return f"SLURM does not answer: {' '.join(error.stderr.split())}"
        ended = {name for name, (state, _) in states.items() if state in ENDED}
        new = sorted(ended - self._reported_ended)
        if new and len(ended - self._worked) == len(jobs):
            cause = _cause(jobs[new[0]], states[new[0]])
            raise ConfigError(
                f"--cluster slurm: no job is left to work: {cause}; see `cluster` in the manifest"
            )
        for name in new:
            if name in self._worked:
                said = f"{_end(jobs[name], states[name])}; another takes its place"
            else:
                said = _cause(jobs[name], states[name])
            out.print(said, soft_wrap=True)
        self._reported_ended |= ended
        self.cluster.sync(self._adjust, ended & self._worked)
        return ("" if workers else "waiting for workers; ") + _sentence(states)

    async def _settle(self) -> None:
        await self.cluster

    async def _adjust(self, ended: set[str]) -> None:
        """Drop jobs that ended, add what the work asks for, and end what stands idle beyond it."""
        scheduler, jobs = self.cluster.scheduler, set(self.cluster.worker_spec)
        assert scheduler is not None  # noqa: S101 - the cluster has begun
        left = sum(task.state in UNFINISHED for task in scheduler.tasks.values())
        wanted = min(self._most, max(self._least, math.ceil(left / self._cores)))
        excess = len(jobs - ended) - wanted
        if excess < 0:
            # Before the old ones go, lest the new get names that Dask may still know.
            self.cluster.scale(jobs=len(jobs) - excess)
        busy = {str(worker.name) for worker in scheduler.workers.values() if worker.processing}
        idle = [j for j in sorted(jobs - ended) if not any(_is_of(name, j) for name in busy)]
        if over := ended.union(idle[: max(excess, 0)]):
            await self.cluster.scale_down(over)


@contextmanager
def start(section: ClusterSection, environment: dict[str, str]) -> Iterator[Jobs]:
    """Submit the jobs; whatever happens then, none is left in SLURM's hands.

    Args:
        section: what SLURM is asked for.
        environment: variables of every worker.

    Raises:
        ConfigError: there is no SLURM here, or it refuses such jobs.
    """
    if shutil.which("sbatch") is None:
        raise ConfigError("--cluster slurm: no sbatch is here; run this on a SLURM login node")
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
            scheduler_options={"dashboard_address": ":0"},
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
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
        known = {job: (state, reason) for job, state, reason in map(_fields, told.splitlines())}
    return {
        name: (REFUSED, job.refusal) if job.refusal else known.get(str(job.job_id), (FORGOTTEN, ""))
        for name, job in jobs.items()
    }


def _fields(line: str) -> tuple[str, str, str]:
    job, state, reason = line.split(maxsplit=2)
    return job, state, "" if reason == "None" else f"({reason})"


def _sentence(states: dict[str, tuple[str, str]]) -> str:
    counts = Counter(" ".join(state).strip() for state in states.values())
    listed = ", ".join(f"{count} job(s) {state}" for state, count in sorted(counts.items()))
    return f"SLURM has {listed or 'no job of this run yet'}"


def _is_of(worker: str, job: str) -> bool:
    """Whether a worker is one of a job's; several in a job are numbered."""
    return worker == job or worker.startswith(f"{job}-")


def _end(job: _Job, state: tuple[str, str]) -> str:
    return f"SLURM job {job.job_id} ended, {' '.join(state).strip()}"


def _cause(job: _Job, state: tuple[str, str]) -> str:
    """Why a job ended that never worked: SLURM's words, or the last that its workers wrote."""
    if job.refusal:
        return f"SLURM refuses such a job ({job.refusal})"
    log = LOGS / f"{JOB_NAME}-{job.job_id}.err"
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
    return f"{_end(job, state)}; its log {log} ends: {last}"
