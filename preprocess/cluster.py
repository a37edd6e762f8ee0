"""Where the tasks run: local processes, a Dask scheduler at an address, or SLURM jobs."""

import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import dask
from distributed import Client, LocalCluster

from common.errors import ConfigError
from common.manifest import ClusterSection

if TYPE_CHECKING:
    from dask_jobqueue.slurm import SLURMCluster

SILENT = logging.CRITICAL + 1
"""Dask logs even a connection that an interrupt closes as critical, with a traceback.

What goes wrong with a case comes back as its failure, with the cluster as an exception.
"""

WORKER_ENVIRONMENT = {
    # One task, one thread: zarr's and the codecs' own pools would fight over the cores.
    "ZARR_THREADING__MAX_WORKERS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1",
    # A case's arrays are used again for the next one: Dask's own setting gives each back to the
    # system at once, and fetching fresh pages then takes two fifths of a worker's time.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}

DASK_SETTINGS = {
    # A worker is given a task only when it is free to begin, so that a dying worker takes down
    # the case it was at and no other.
    "distributed.scheduler.worker-saturation": 1.0,
    # The second death of a worker at one case is that case's failure.
    "distributed.scheduler.allowed-failures": 1,
    "distributed.comm.timeouts.connect": "10s",
    # Before a worker's process begins: its memory allocator looks only then.
    "distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT,
}


def available_cores() -> int:
    """Cores that this process may use; a container or a scheduler may have bound it to some."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def connect(cluster: str, workers: int, section: ClusterSection) -> Iterator[Client]:
    """A client of the cluster that tasks are to run on.

    Args:
        cluster: `local`, `slurm`, or the address of a scheduler such as `tcp://host:8786`.
        workers: how many local processes.
        section: what SLURM is asked for.

    Raises:
        ConfigError: the name is none of these, nobody answers at the address, there is no SLURM
            here, or it refuses such a job.
    """
    dask.config.set(DASK_SETTINGS)
    for name in ("distributed", "distributed.scheduler", "distributed.nanny", "distributed.worker"):
        logging.getLogger(name).setLevel(SILENT)
    if cluster == "local":
        with _local(workers) as local, Client(local) as client:
            yield client
    elif cluster == "slurm":
        with _slurm(section) as jobs, Client(jobs) as client:
            yield client
    elif "://" in cluster:
        with _existing(cluster) as client:
            yield client
    else:
        raise ConfigError(
            f"--cluster {cluster}: expected local, slurm, or an address such as tcp://host:8786"
        )


def _local(workers: int) -> LocalCluster:
    # Ctrl-C reaches every process of the terminal; started with it ignored, the workers leave
    # the answer to the client.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=":0",
            silence_logs=SILENT,
            preload=["preprocess.task"],
        )
    finally:
        signal.signal(signal.SIGINT, handler)


def _slurm(section: ClusterSection) -> "SLURMCluster":
    from dask_jobqueue.slurm import SLURMCluster

    if shutil.which("sbatch") is None:
        raise ConfigError("--cluster slurm: no sbatch is here; run this on a SLURM login node")
    logs = Path("slurm-logs").resolve()
    logs.mkdir(exist_ok=True)
    jobs = SLURMCluster(
        queue=section.queue,
        account=section.account,
        cores=section.cores,
        processes=section.cores,
        memory=section.memory,
        walltime=section.walltime,
        interface=section.interface,
        job_extra_directives=list(section.directives),
        job_script_prologue=[f"export {key}={value}" for key, value in WORKER_ENVIRONMENT.items()],
        log_directory=str(logs),
        scheduler_options={"dashboard_address": ":0"},
    )
    _try(jobs.job_script())
    if section.adapt:
        least, most = section.adapt
        jobs.adapt(minimum_jobs=least, maximum_jobs=most)
    else:
        jobs.scale(jobs=section.jobs)
    return jobs


def _try(script: str) -> None:
    """A job that SLURM refuses would never be heard of again: dask-jobqueue only logs it."""
    tried = subprocess.run(
        ["sbatch", "--test-only"],  # noqa: S607 - the site's own
        input=script,
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode:
        raise ConfigError(
            f"--cluster slurm: SLURM refuses such a job ({tried.stderr.strip()}); see `cluster` in "
            "the manifest"
        )


@contextmanager
def _existing(address: str) -> Iterator[Client]:
    try:
        client = Client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--cluster {address}: no Dask scheduler answers there ({error}); start one with "
            "`dask scheduler`, or leave --cluster out"
        ) from error
    with client:
        yield client
