"""The quality report: a page that shows what is unusual in a store, to read before training."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from common.files import write_text
from common.pool import FREE_MEMORY, map_in_processes
from common.record import CaseRecord
from common.store import Store, is_remote
from common.store.reader import Contents
from preprocess.quality.measure import measure
from preprocess.quality.page import render
from preprocess.quality.rules import Case, Cohort, raise_flags


def default_path(store_path: str) -> Path:
    """`brats-quality.html` for `brats.zarr`: beside it; in the working folder if it is remote."""
    name = Path(store_path.rstrip("/")).name.removesuffix(".zarr") + "-quality.html"
    return Path(name) if is_remote(store_path) else Path(store_path).parent / name


def measure_cohort(
    store: Store, contents: Contents, workers: int, on_case: Callable[[], None]
) -> Cohort:
    """Read every case once, in several processes, and raise flags."""
    records, failures = contents.records, contents.failures
    placed = {case: name for name, members in contents.splits.items() for case in members}
    cases = []
    results = map_in_processes(
        measure, store, list(records.values()), workers, partial(_lost, store.path)
    )
    for record, result in zip(records.values(), results, strict=True):
        measures, problem = (None, result) if isinstance(result, str) else (result, "")
        split = placed.get(record.case_id, "")
        cases.append(Case(record, store.task, split, measures, problem))
        on_case()
    missing = [case_id for case_id in contents.absent if case_id not in failures]
    return Cohort(store, cases, raise_flags(cases), list(failures.values()), missing)


def _lost(store_path: str, record: CaseRecord, reason: str) -> str:
    return f"{store_path}: case {record.case_id}: {reason}: {FREE_MEMORY}"


def write(cohort: Cohort, path: Path) -> None:
    """Write the page: one file, which needs no other file and no network."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render(cohort))
