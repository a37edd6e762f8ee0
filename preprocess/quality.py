"""The quality report: what a data manager should see of a store before anyone trains on it."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

from common.errors import ConfigError, FMNetError
from common.record import CaseRecord
from common.store import Store, is_remote
from preprocess.cluster import WORKER_ENVIRONMENT
from preprocess.report_cohort import Case, Cohort
from preprocess.report_measure import Measures, measure
from preprocess.report_page import render
from preprocess.report_rules import raise_flags

ONE_THREAD = WORKER_ENVIRONMENT | {"RAYON_NUM_THREADS": "1"}
"""zarrs reads with a pool of its own, which Rayon sizes."""


def default_path(store_path: str) -> Path:
    """`brats.zarr` is reported in `brats-quality.html`, beside it or, if it is remote, here."""
    name = Path(store_path.rstrip("/")).name.removesuffix(".zarr") + "-quality.html"
    return Path(name) if is_remote(store_path) else Path(store_path).parent / name


def refuse_unwritable(path: Path) -> None:
    """Before the whole store is read, and not after.

    Raises:
        ConfigError: no page can be written there.
    """
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigError(
            f"{path}: no page can be written there; name a file in a folder of yours with --out"
        )


def look(store: Store, workers: int, on_case: Callable[[], None]) -> Cohort:
    """Read every case once, several at a time, and say what stands out.

    Args:
        store: the store.
        workers: processes.
        on_case: called after each case.

    Raises:
        ConfigError: the manifest's splits divide a patient.
    """
    records = store.records()
    failures = store.failures()
    placed = {case: name for name, members in store.splits().items() for case in members}
    cases = []
    for record, seen in zip(
        records.values(), _measure_all(store, list(records.values()), workers), strict=True
    ):
        split = placed.get(record.case_id, "")
        if isinstance(seen, str):
            cases.append(Case(record, split, None, seen))
        else:
            cases.append(Case(record, split, seen))
        on_case()
    missing = sorted(set(store.expected) - set(records) - set(failures))
    return Cohort(store, cases, raise_flags(cases), list(failures.values()), missing)


def write(cohort: Cohort, path: Path) -> None:
    """Write the page in one piece: one file, which needs nothing else and no network."""
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_text(render(cohort), "utf-8")
    unfinished.replace(path)


def _measure_all(store: Store, records: list[CaseRecord], workers: int) -> Iterator[Measures | str]:
    context = get_context("spawn")
    with (
        _environment(ONE_THREAD),
        ProcessPoolExecutor(max(1, min(workers, len(records))), context) as pool,
    ):
        try:
            yield from pool.map(measure, repeat(store), records)
        except BrokenProcessPool as error:
            raise FMNetError(
                "a process that was reading cases died, as it does when memory runs out; "
                "use fewer of them with --workers"
            ) from error


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
