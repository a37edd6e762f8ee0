"""Cases on several processes of this machine, for what needs no cluster; Dask is not imported."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from common.errors import FMNetError
from common.interrupts import interrupts_held_back

WORKER_ENVIRONMENT = {
    # One task, one thread: zarr's and the codecs' own pools would fight over the cores.
    "ZARR_THREADING__MAX_WORKERS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1",
    # A case's arrays are used again for the next one: Dask's own setting gives each back to the
    # system at once, and fetching fresh pages then takes two fifths of a worker's time. A thread's
    # own arena, which tasks would run in, is made of heaps of 64 MB, which go back when they are
    # empty whatever is set here.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(512 << 20),
}

ONE_THREAD = WORKER_ENVIRONMENT | {"RAYON_NUM_THREADS": "1"}
"""zarrs reads with a pool of its own, which Rayon sizes."""

Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cores() -> int:
    """Cores that this process may use; a container or a scheduler may have bound it to some."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_processes(
    work: Callable[[Shared, Item], Result], shared: Shared, items: Sequence[Item], workers: int
) -> Iterator[Result]:
    """What `work` gives for each item, in their order, from several processes at a time.

    Args:
        work: a function of a module.
        shared: what it is given with each, such as a store or a manifest; a process gets it once.
        items: cases, as `work` takes them.
        workers: processes.

    Raises:
        FMNetError: a process died.
    """
    # Spawned: zarrs hangs in a process that was forked from one that has read.
    context = multiprocessing.get_context("spawn")
    with (
        _environment(ONE_THREAD),
        ProcessPoolExecutor(
            max(1, min(workers, len(items))), context, _begin, (work, shared)
        ) as pool,
    ):
        try:
            with interrupts_held_back():  # it starts the processes, which leave Ctrl-C to this one
                results = pool.map(_do, items)
            yield from results
        except BrokenProcessPool as error:
            raise FMNetError(
                "a process died at a case, as it does when memory runs out; free some, or use "
                "fewer processes with --workers"
            ) from error


_bound: list[Callable[[Any], Any]] = []
"""In a process of the pool, its work, bound to what is shared."""


def _begin(work: Callable[[Shared, Item], Result], shared: Shared) -> None:
    """A process ends when its parent was killed."""
    _bound.append(partial(work, shared))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _do(item: Item) -> Any:  # noqa: ANN401 - as the work gives it
    return _bound[0](item)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Environment variables for processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
