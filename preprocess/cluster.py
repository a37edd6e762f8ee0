"""Where the tasks run: local processes, a Dask scheduler at an address, or SLURM jobs."""

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Iterator
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
from common.pool import WORKER_ENVIRONMENT
from preprocess.pipeline import installed_version

SILENT = logging.CRITICAL + 1
"""Dask logs even a connection that Ctrl-C closes as critical; errors arrive as exceptions."""

QUIET: dict[str, object] = {
    # Dask samples the stack a hundred times a second for its dashboard, and the clock fifty times
    # for its log: each takes the interpreter's lock from the case.
    "distributed.worker.profile.enabled": False,
    # Nothing is served over HTTP: Dask's server, which cannot be left out, would show the cases.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "5s",
}

DASK_SETTINGS = QUIET | {
    # A worker gets a task only when it can start it, so that a dying worker takes only the case
    # that it was processing.
    "distributed.scheduler.worker-saturation": 1.0,
    # A case at which a second worker dies has failed.
    "distributed.scheduler.allowed-failures": 1,
    "distributed.comm.timeouts.connect": "10s",
    # SLURM says whether a job has ended; that its workers are silent does not.
    "distributed.deploy.lost-worker-timeout": "1000 days",
    # Set before a worker's process starts: its memory allocator reads them only then.
    "distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT,
}

HTTP_OPTIONS: dict[str, object] = {"dashboard_address": "127.0.0.1:0", "dashboard": False}
"""Of a scheduler: its HTTP server listens on loopback alone."""

WATCH_SECONDS = 5.0
"""Interval between two checks of the workers; a SLURM controller should not be asked more often."""
HANDSHAKE_SECONDS = 12.0
"""For connecting, which Dask gives up after ten seconds, and for the first answer."""

CheckWorkers = Callable[[dict[str, str]], str]
"""From the connected workers (address to name) to a message about them."""


@contextmanager
def connect(cluster: str, workers: int, section: ClusterSection) -> Iterator[Client]:
    """A client of the cluster: `local`, `slurm`, or a scheduler's address (`tcp://host:8786`).

    Raises:
        ConfigError: the name is none of these, no scheduler answers at the address, there is no
            SLURM here, or SLURM refuses the jobs.
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
            slurm.start(section, SLURM_ENVIRONMENT, _own_security(), HTTP_OPTIONS) as jobs,
            Client(jobs.cluster) as client,
            _watch(client, lambda workers: jobs.update(list(workers.values()))),
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
def _watch(client: Client, check: CheckWorkers, silent_message: str = "") -> Iterator[None]:
    """Check the workers while the caller waits for results, and print messages that are new.

    A ConfigError of `check` ends the caller's wait. `silent_message` is not printed at first.
    """
    over, errors = threading.Event(), list[ConfigError]()

    def watch() -> None:
        last = silent_message
        while not over.wait(WATCH_SECONDS):
            try:
                message = check(_workers(client))
            except ConfigError as error:
                errors.append(error)
                client.close()  # ends the caller's wait for its futures
                return
            if message != last:
                out.print(message, soft_wrap=True)
            last = message

    thread = threading.Thread(target=watch, name="worker check", daemon=True)
    thread.start()
    try:
        yield
    except Exception as error:
        if errors:  # whatever a closed client raises; Dask has a NameError for what comes midway
            raise errors[0] from error
        raise
    finally:
        over.set()
        thread.join()


def _workers(client: Client) -> dict[str, str]:
    """Address to name; empty if the client has lost the scheduler."""
    workers = client.scheduler_info(n_workers=-1).get("workers", {})
    return {address: str(worker["name"]) for address, worker in workers.items()}


def _own_security() -> Security:
    """Certificates of this run alone: whoever can call a scheduler can run code as its user."""
    return Security.temporary()  # type: ignore[no-any-return]


@contextmanager
def _local(workers: int) -> Iterator[LocalCluster]:
    with ExitStack() as stack:
        with interrupts_held_back():
            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    security=_own_security(),
                    scheduler_kwargs=HTTP_OPTIONS,
                    silence_logs=SILENT,
                    preload=["preprocess.pipeline"],
                )
            )
        yield cluster


def as_variables(settings: dict[str, object]) -> dict[str, str]:
    """Dask's settings as environment variables, for processes that SLURM starts."""
    return {
        f"DASK_{name.replace('.', '__').replace('-', '_').upper()}": str(value)
        for name, value in settings.items()
    }


SLURM_ENVIRONMENT = WORKER_ENVIRONMENT | as_variables(QUIET) | {"PYTHONSAFEPATH": "1"}
"""Of SLURM's workers. They run `python -m`, which must not import from the working folder."""


def _slurm() -> ModuleType:
    """Import the module of SLURM jobs and keep the signal handlers.

    Importing dask-jobqueue makes SIGINT and SIGTERM end the process silently, with exit code 0.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    from preprocess import slurm

    for number, handler in handlers.items():
        signal.signal(number, handler)
    return slurm


@contextmanager
def _existing(address: str) -> Iterator[Client]:
    try:
        asyncio.run(_check_scheduler(address))
        client = Client(address, timeout="10s")
    except (OSError, ValueError, TypeError) as error:  # the last for tls:// without certificates
        raise ConfigError(
            f"--cluster {address}: no Dask scheduler answers there ({error}); start one with "
            "`dask scheduler`, or leave --cluster out"
        ) from error
    connected = f"workers are connected at {address}"
    waiting = f"waiting for workers at {address}: start some with `dask worker {address}`"
    known = set[str]()

    def check(workers: dict[str, str]) -> str:
        if new := sorted(workers.keys() - known):
            _check_versions(client, address, new)
        known.update(workers)
        return connected if workers else waiting

    with client:
        check(_workers(client))
        with _watch(client, check, connected):
            yield client


async def _check_scheduler(address: str) -> None:
    """Check that a Dask process listens: `Client` would wait for its first answer for ever."""
    settings = Security().get_connection_args("client")
    try:
        comm = await asyncio.wait_for(dask_connect(address, **settings), HANDSHAKE_SECONDS)
    except TimeoutError as error:
        raise OSError("another program listens there, such as a dashboard") from error
    await comm.close()


def _check_versions(client: Client, address: str, workers: list[str]) -> None:
    """Check that workers have this version of this package, before the run changes the store."""
    try:
        found = client.run(installed_version, workers=workers, on_error="return")
    except OSError:
        return  # the scheduler is gone, which waiting for the tasks reports
    for worker, version in found.items():
        if isinstance(version, OSError) or version == __version__:
            continue  # the worker is gone, or has the right version
        found_version = f"version {version}" if isinstance(version, str) else str(version)
        raise ConfigError(
            f"--cluster {address}: the worker at {worker} needs version {__version__} of this "
            f"package, with the extra preprocess; found {found_version}"
        )
