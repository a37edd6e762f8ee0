"""Read a whole store: what is damaged, what is missing, and what killed writers left behind."""

import errno
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from common.errors import StoreError, UnsafeError
from common.files import UNFINISHED
from common.pool import FREE_MEMORY
from common.record import CaseFailure
from common.store.files import rows_of
from common.store.format import CHECKSUM, NODE_FILE, attributes_of, described_group
from common.store.paths import damaged, translate_io_errors
from common.store.reader import Store
from common.store.writer import StoreWriter

State = Literal["stored", "stale", "failed", "unfinished", "damaged", "unreadable"]


@dataclass(frozen=True)
class CaseAudit:
    """What is in a case's folder."""

    case_id: str
    state: State
    """`stale` cases are intact, of other parameters than the store's; `unfinished` ones are left by
    a killed writer; of `unreadable` ones disk or network did not give the bytes, or they have a
    link or a name that leads elsewhere."""
    row: int | None = None
    """In the crops; None if its record could not be read."""
    what: str = ""
    """What is wrong with it."""


@dataclass(frozen=True)
class Audit:
    """What is in a store."""

    cases: tuple[CaseAudit, ...]
    """By id."""
    missing: tuple[str, ...]
    """Ids of expected cases that are not stored."""
    leftovers: tuple[str, ...]
    """Files that belong to no case; they only take room."""
    unchecked: tuple[str, ...]
    """Files of earlier versions that have no checksum: a change in them may not be seen."""

    def of(self, *states: State) -> list[CaseAudit]:
        """The cases in any of these states."""
        return [case for case in self.cases if case.state in states]

    @property
    def sound(self) -> bool:
        """Whether every expected case is stored and nothing is damaged."""
        return not self.missing and not self.of("damaged", "unreadable")


def case_folders(store: Store) -> list[str]:
    """The case folders of a store, after a check of the arrays and groups that all cases share.

    Raises:
        StoreError: these are damaged or do not fit the manifest.
    """
    store.check_frame()
    with translate_io_errors(store.path, "read"):
        return store.files.case_folders()


def audit_case(store: Store, case_id: str) -> CaseAudit:
    """Read everything of one case and compare it with its record and the contract."""
    try:
        return _audit(store, case_id)
    except UnsafeError as error:
        return CaseAudit(case_id, "unreadable", what=str(error))
    except StoreError:
        pass  # damaged or unreadable: the second try decides
    row = store.row_if_known(case_id)
    try:
        with translate_io_errors(store.path, "read"):
            _read_bytes(store, case_id, row)
    except StoreError as error:
        return CaseAudit(case_id, "unreadable", row, str(error))
    try:
        return _audit(store, case_id)
    except StoreError as error:
        return CaseAudit(case_id, "damaged", row, str(error))


def lost_case(store: Store, case_id: str, reason: str) -> CaseAudit:
    """The audit of a case that could not be read to its end."""
    what = f"{store.path}: case {case_id}: {reason}: {FREE_MEMORY}"
    return CaseAudit(case_id, "unreadable", store.row_if_known(case_id), what)


def conclude(store: Store, cases: Iterable[CaseAudit]) -> Audit:
    """The audit of a store from the audits of all its cases."""
    audited = list(cases)
    intact = {"stored", "stale"}
    counts = Counter(case.row for case in audited if case.state in intact)
    for index, case in enumerate(audited):
        if case.state in intact and counts[case.row] > 1:
            what = damaged(store.path, case.case_id, "another case's record names its row too")
            audited[index] = replace(case, state="damaged", what=str(what))
    stored = {case.case_id for case in audited if case.state == "stored"}
    missing = sorted(set(store.expected) - stored)
    with translate_io_errors(store.path, "read"):
        files = store.files.all()
    leftovers, unchecked = tuple(_leftovers(audited, files)), tuple(_unchecked(store, audited))
    return Audit(tuple(audited), tuple(missing), leftovers, unchecked)


def repair(store: StoreWriter, audit: Audit) -> Iterator[str]:
    """Remove what is damaged or left over, and yield the name of each; the caller holds the lock.

    What could not be read stays: it may be sound. Files without a checksum get one.

    Raises:
        StoreError: the store cannot be written.
    """
    kept = {case.row for case in audit.of("stored", "stale", "unreadable")}
    with translate_io_errors(store.path, "written"):
        for case in audit.of("damaged", "unfinished"):
            store.files.remove_case(case.case_id)
            if case.row is not None and case.row not in kept:
                store.free(case.row)
            yield f"case {case.case_id}"
        for name in audit.leftovers:
            store.files.remove(name)
            yield name
        for name in audit.unchecked:
            store.files.write(name, [described_group(attributes_of(store.files.read(name)))])


def _audit(store: Store, case_id: str) -> CaseAudit:
    with translate_io_errors(store.path, "read"):
        case = store.case(case_id)
        if case is None:
            return CaseAudit(case_id, "unfinished")
        if isinstance(case, CaseFailure):
            return CaseAudit(case_id, "failed", what=case.reason)
        store.files.of_case(case_id, case.row)  # refuses links
        store.verify_record(case)
        is_own = case.parameter_hash == store.parameter_hash
        return CaseAudit(case_id, "stored" if is_own else "stale", case.row)


def _read_bytes(store: Store, case_id: str, row: int | None) -> None:
    """Read a case's files; an unreadable sector is damage, any other error is not the case's."""
    for name in store.files.of_case(case_id, row):
        try:
            store.files.read(name)
        except OSError as error:
            if error.errno != errno.EIO:
                raise


def _unchecked(store: Store, cases: list[CaseAudit]) -> Iterator[str]:
    """Files with attributes and no checksum."""
    names = [f"cases/{c.case_id}/{NODE_FILE}" for c in cases if c.state in {"stored", "stale"}]
    names.append(NODE_FILE)
    for name, content in zip(names, store.files.contents(names), strict=True):
        if isinstance(content, bytes) and CHECKSUM not in attributes_of(content):
            yield name


def _leftovers(cases: list[CaseAudit], files: list[str]) -> Iterator[str]:
    """Rows that no record names, and files whose writing was killed."""
    named = {case.row for case in cases}
    rows_are_known = all(case.row is not None for case in cases if case.state == "unreadable")
    if rows_are_known:
        yield from (name for row, name in rows_of(files) if row not in named)
    dropped = {case.case_id for case in cases if case.state in {"damaged", "unfinished"}}
    for name in files:
        parts = name.split("/")
        if name.endswith(UNFINISHED) and not (parts[0] == "cases" and parts[1] in dropped):
            yield name
