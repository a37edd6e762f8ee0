"""Work on cases in several processes of this machine, without Dask."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NoReturn, TypeVar

from common.errors import FMNetError
from common.interrupts import interrupts_held_back

WORKER_ENVIRONMENT = {
    # One task, one thread: zarr's and the codecs' own pools would compete for the cores.
    "ZARR_THREADING__MAX_WORKERS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1",
    # Memory of one case is reused for the next. Dask's own setting returns it to the system at
    # once, and getting fresh pages then takes two fifths of a worker's time. Threads share one
    # arena: a thread's own consists of heaps of 64 MB, which are returned whatever is set here.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(512 << 20),
}

ONE_THREAD = WORKER_ENVIRONMENT | {"RAYON_NUM_THREADS": "1"}
"""zarrs reads with a pool of its own, whose size Rayon sets."""

DIED = "its process died, twice, as when memory runs out"
NOT_TRIED = "not read: too many processes died before, as when memory runs out"
FREE_MEMORY = "free some memory, or use fewer processes"
MOST_DEATHS = 3
"""Items at which processes die before the rest is given up: each costs two new pools."""

Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cores() -> int:
    """Cores that this process may use; a container or a scheduler may allow only some."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _raise(_: object, reason: str) -> NoReturn:
    raise FMNetError(f"{reason}: {FREE_MEMORY}")


def map_in_processes(
    work: Callable[[Shared, Item], Result],
    shared: Shared,
    items: Sequence[Item],
    workers: int,
    lost: Callable[[Item, str], Result] = _raise,
) -> Iterator[Result]:
    """Call `work(shared, item)` for each item in several processes; results are in order.

    `work` is a function of a module. Each process gets `shared`, such as a store, once. Where a
    process dies, its item is tried again, with no other beside it. If that process dies too, the
    result is `lost(item, why)`, and the others go on; after `MOST_DEATHS` of them they do not.

    Raises:
        FMNetError: an item is lost, without another `lost`.
    """
    rest, deaths = deque(items), 0
    while rest:
        results = _in_pool(work, shared, [*rest], workers)
        with suppress(BrokenProcessPool):
            for result in results:
                rest.popleft()
                yield result
        if not rest:
            return
        item = rest.popleft()
        try:
            (result,) = _in_pool(work, shared, [item], 1)
        except BrokenProcessPool:
            deaths += 1
            result = lost(item, DIED)
        yield result
        if deaths == MOST_DEATHS:
            yield from (lost(item, NOT_TRIED) for item in rest)
            return


def _in_pool(
    work: Callable[[Shared, Item], Result], shared: Shared, items: Sequence[Item], workers: int
) -> Iterator[Result]:
    # Spawned: zarrs hangs in a process that was forked from one that has read.
    context = multiprocessing.get_context("spawn")
    processes = max(1, min(workers, len(items)))
    with (
        _environment(ONE_THREAD),
        ProcessPoolExecutor(processes, context, _initialise, (work, shared)) as pool,
    ):
        with interrupts_held_back():  # the processes that start here leave Ctrl-C to this one
            results = pool.map(_call, items)
        yield from results


_bound_work: list[Callable[[Any], Any]] = []
"""In a process of the pool: its work, bound to what is shared."""


def _initialise(work: Callable[[Shared, Item], Result], shared: Shared) -> None:
    _bound_work.append(partial(work, shared))
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _call(item: Item) -> Any:  # noqa: ANN401 - what the work returns
    return _bound_work[0](item)


def _exit_with_parent() -> None:
    """End this process when its parent was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Environment variables for processes that start inside this context."""
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
