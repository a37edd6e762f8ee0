"""Where the tasks run: local processes, a Dask scheduler at an address, or SLURM jobs."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from types import ModuleType

import dask
from distributed import Client, LocalCluster

from common.console import out
from common.errors import ConfigError
from common.manifest import ClusterSection

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
    # Whether a SLURM job has ended SLURM says, and not the silence of its workers.
    "distributed.deploy.lost-worker-timeout": "1000 days",
    # Before a worker's process begins: its memory allocator looks only then.
    "distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT,
}


WATCH_SECONDS = 5.0
"""How often the workers are looked after: the least that a SLURM controller should be asked."""


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
        slurm = _slurm()
        with (
            slurm.start(section, WORKER_ENVIRONMENT) as jobs,
            Client(jobs.cluster) as client,
            _watched(client, jobs.look),
        ):
            yield client
    elif "://" in cluster:
        with _existing(cluster) as client:
            yield client
    else:
        raise ConfigError(
            f"--cluster {cluster}: expected local, slurm, or an address such as tcp://host:8786"
        )


@contextmanager
def _watched(client: Client, look: Callable[[list[str]], str], usual: str = "") -> Iterator[None]:
    """While the caller waits for results, say how the workers are, and end it if none can come.

    Args:
        client: whose workers they are.
        look: given the names of the workers that are there, what there is to say of them; it
            raises what is to end the caller's wait.
        usual: what needs no saying.

    Raises:
        ConfigError: what `look` raised.
    """
    over, errors = threading.Event(), list[ConfigError]()

    def watch() -> None:
        said = usual
        while not over.wait(WATCH_SECONDS):
            try:
                workers = client.scheduler_info()["workers"].values()
                told = look([str(worker["name"]) for worker in workers])
            except ConfigError as error:
                errors.append(error)
                client.close()  # whoever waits for its futures waits no longer
                return
            if told != said:
                out.print(told, markup=False, soft_wrap=True)
            said = told

    thread = threading.Thread(target=watch, name="workers' watch", daemon=True)
    thread.start()
    try:
        yield
    except (CancelledError, ConfigError) as error:
        if errors:
            raise errors[0] from error
        raise
    finally:
        over.set()
        thread.join()


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


def _slurm() -> ModuleType:
    """The module of SLURM jobs, imported so that Ctrl-C still does what it did.

    dask-jobqueue's import makes SIGINT and SIGTERM end the process in silence, with success.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    from preprocess import slurm

    for number, handler in handlers.items():
        signal.signal(number, handler)
    return slurm


@contextmanager
def _existing(address: str) -> Iterator[Client]:
    try:
        client = Client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--cluster {address}: no Dask scheduler answers there ({error}); start one with "
            "`dask scheduler`, or leave --cluster out"
        ) from error
    present = f"there are workers at {address}"
    none = f"waiting for workers at {address}: start some with `dask worker {address}`"
    with client, _watched(client, lambda workers: present if workers else none, present):
        yield client
