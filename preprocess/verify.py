"""A store read in full: every byte against its checksum, every case against the contract."""

from collections.abc import Callable

from common.store import Store
from common.store.audit import Audit, audit_case, case_folders, conclude
from preprocess.pool import map_in_processes


def audit(store: Store, workers: int, on_case: Callable[[int, int], None]) -> Audit:
    """Look at every case, several at a time, and at what else lies in the store.

    Args:
        store: the store.
        workers: processes.
        on_case: told (cases read, cases to read) after each.

    Raises:
        StoreError: what all cases share is damaged, so that none can be told.
    """
    folders, cases = case_folders(store), []
    on_case(0, len(folders))
    for case in map_in_processes(audit_case, store, folders, workers):
        cases.append(case)
        on_case(len(cases), len(folders))
    return conclude(store, cases)
