"""Where the tasks run: local processes, a Dask scheduler at an address, or SLURM jobs."""

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from types import ModuleType

import dask
from distributed import Client, LocalCluster, Security
from distributed.comm.core import connect as dask_connect

from common import __version__
from common.console import out
from common.errors import ConfigError
from common.interrupts import interrupts_held_back
from common.manifest import ClusterSection
from preprocess.pipeline import installed_version
from preprocess.pool import WORKER_ENVIRONMENT

SILENT = logging.CRITICAL + 1
"""Dask logs even a connection that an interrupt closes as critical, with a traceback.

What goes wrong with a case comes back as its failure, with the cluster as an exception.
"""

QUIET: dict[str, object] = {
    # A sample of the stack a hundred times a second, for a dashboard that nobody has open, and a
    # look at the clock fifty times, for a log that is silent: each takes the interpreter's lock
    # from the case at work.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "5s",
}

DASK_SETTINGS = QUIET | {
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


HANDSHAKE_SECONDS = 12.0
"""For connecting, which Dask itself gives up after ten, and the first word."""

Look = Callable[[dict[str, str]], str]
"""From the workers that are there, address to name, what there is to say of them."""


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
    for part in ("", ".client", ".scheduler", ".nanny", ".worker"):
        logging.getLogger(f"distributed{part}").setLevel(SILENT)
    if cluster == "local":
        with _local(workers) as local, Client(local) as client:
            yield client
    elif cluster == "slurm":
        slurm = _slurm()
        with (
            slurm.start(section, WORKER_ENVIRONMENT | as_variables(QUIET)) as jobs,
            Client(jobs.cluster) as client,
            _watched(client, lambda workers: jobs.look(list(workers.values()))),
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
def _watched(client: Client, look: Look, usual: str = "") -> Iterator[None]:
    """While the caller waits for results, say how the workers are, and end it if none can come.

    Args:
        client: whose workers they are.
        look: given the workers that are there, what there is to say of them; it raises what is
            to end the caller's wait.
        usual: what needs no saying.

    Raises:
        ConfigError: what `look` raised.
    """
    over, errors = threading.Event(), list[ConfigError]()

    def watch() -> None:
        said = usual
        while not over.wait(WATCH_SECONDS):
            try:
                told = look(_workers(client))
            except ConfigError as error:
                errors.append(error)
                client.close()  # whoever waits for its futures waits no longer
                return
            if told != said:
                out.print(told, soft_wrap=True)
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


def _workers(client: Client) -> dict[str, str]:
    """Address to name; nothing where the client has given the scheduler up."""
    workers = client.scheduler_info(n_workers=-1).get("workers", {})
    return {address: str(worker["name"]) for address, worker in workers.items()}


@contextmanager
def _local(workers: int) -> Iterator[LocalCluster]:
    with ExitStack() as stack:
        with interrupts_held_back():
            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    dashboard_address=":0",
                    silence_logs=SILENT,
                    preload=["preprocess.pipeline"],
                )
            )
        yield cluster


def as_variables(settings: dict[str, object]) -> dict[str, str]:
    """Dask's settings as environment variables, for processes that this one does not start."""
    return {
        f"DASK_{name.replace('.', '__').replace('-', '_').upper()}": str(value)
        for name, value in settings.items()
    }


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
        asyncio.run(_shake_hands(address))
        client = Client(address, timeout="10s")
    except (OSError, ValueError, TypeError) as error:  # the last for tls:// without certificates
        raise ConfigError(
            f"--cluster {address}: no Dask scheduler answers there ({error}); start one with "
            "`dask scheduler`, or leave --cluster out"
        ) from error
    present = f"there are workers at {address}"
    none = f"waiting for workers at {address}: start some with `dask worker {address}`"
    known = set[str]()

    def look(workers: dict[str, str]) -> str:
        if new := sorted(workers.keys() - known):
            _check_workers(client, address, new)
        known.update(workers)
        return present if workers else none

    with client:
        look(_workers(client))
        with _watched(client, look, present):
            yield client


async def _shake_hands(address: str) -> None:
    """Find out whether a Dask process listens: `Client` waits for its first word without end.

    Raises:
        OSError, ValueError, TypeError: none does, or it is no such address.
    """
    settings = Security().get_connection_args("client")
    try:
        comm = await asyncio.wait_for(dask_connect(address, **settings), HANDSHAKE_SECONDS)
    except TimeoutError as error:
        raise OSError("what listens there is something else, such as a dashboard") from error
    await comm.close()


def _check_workers(client: Client, address: str, workers: list[str]) -> None:
    """Where it can be said which worker it is, and before the store takes a run's manifest.

    Raises:
        ConfigError: a worker lacks this package, or has another version of it.
    """
    try:
        found = client.run(installed_version, workers=workers, on_error="return")
    except OSError:
        return  # no scheduler answers, which whoever waits for its tasks is told
    for worker, version in found.items():
        if isinstance(version, OSError) or version == __version__:
            continue  # it is gone meanwhile, or it is fit
        told = f"version {version}" if isinstance(version, str) else str(version)
        raise ConfigError(
            f"--cluster {address}: the worker at {worker} needs this package of version "
            f"{__version__}, with its extra preprocess; found {told}"
        )
