"""What a whole store comes to: its cases read in full, what is missing, and what nobody needs."""

import errno
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import ValidationError

from common.errors import StoreError
from common.files import UNFINISHED
from common.record import CaseFailure, CaseRecord
from common.settings import explain
from common.store.format import CROP_ARRAYS
from common.store.paths import (
    StoreFiles,
    damaged,
    open_store,
    rows_of,
    translate_io_errors,
)
from common.store.reader import Store
from common.store.writer import StoreWriter

State = Literal["stored", "failed", "unfinished", "damaged", "unreadable"]


@dataclass(frozen=True)
class CaseAudit:
    """What lies in a case's folder.

    Attributes:
        case_id: the folder's name.
        state: `stored` and as its record and the contract say; `failed`, with the reason kept;
            `unfinished`, what a killed writer left; `damaged`; or `unreadable`, where disk or
            network did not give the bytes, so that nobody can tell.
        row: the one in the crops that its record names, as far as that could be read.
        what: what is wrong with it.
    """

    case_id: str
    state: State
    row: int | None = None
    what: str = ""


@dataclass(frozen=True)
class Audit:
    """What a whole store comes to.

    Attributes:
        cases: what lies in it, by id.
        missing: ids of expected cases that are not stored as they should be.
        leftovers: files that belong to no case; they do no harm but take room.
    """

    cases: tuple[CaseAudit, ...]
    missing: tuple[str, ...]
    leftovers: tuple[str, ...]

    def of(self, *states: State) -> list[CaseAudit]:
        """The cases in any of these states."""
        return [case for case in self.cases if case.state in states]

    @property
    def sound(self) -> bool:
        """Whether every expected case is there and nothing is damaged."""
        return not self.missing and not self.of("damaged", "unreadable")


def case_folders(store: Store) -> list[str]:
    """What there is to audit: the folders of a store whose frame holds.

    Raises:
        StoreError: the arrays and groups that all cases share are damaged or not as the manifest
            says; no case can be told from that, and no repair would be one.
    """
    root = open_store(store.path)
    shapes = {
        "crops/image": (len(store.task.modalities), *store.crop),
        "crops/label": store.crop,
    }
    for name in ("cases", *CROP_ARRAYS):
        try:
            member: Any = root[name]
        except (ValueError, LookupError) as error:
            raise _broken(store, name, f"damaged ({error})") from error
        if name in shapes and member.shape[1:] != shapes[name]:
            raise _broken(
                store, name, f"of shape {member.shape}, the manifest has crop {store.crop}"
            )
    with translate_io_errors(store.path, "read"):
        return store.files.case_folders()


def audit_case(store: Store, case_id: str) -> CaseAudit:
    """Read everything of one case and compare it with its record and the contract."""
    try:
        return _look(store, case_id)
    except StoreError:
        pass  # judged below, after asking whether its bytes can be had at all
    row = _row_of(store, case_id)
    try:
        with translate_io_errors(store.path, "read"):
            _read_bytes(store.files, case_id, row)
    except StoreError as error:
        return CaseAudit(case_id, "unreadable", row, str(error))
    try:
        return _look(store, case_id)
    except StoreError as error:
        return CaseAudit(case_id, "damaged", row, str(error))


def conclude(store: Store, cases: Iterable[CaseAudit]) -> Audit:
    """All that can be said only once every case has been looked at."""
    audited = list(cases)
    shared = Counter(case.row for case in audited if case.state == "stored")
    for index, case in enumerate(audited):
        if case.state == "stored" and shared[case.row] > 1:
            what = damaged(store.path, case.case_id, "another case's record names its row too")
            audited[index] = replace(case, state="damaged", what=str(what))
    stored = {case.case_id for case in audited if case.state == "stored"}
    missing = sorted(set(store.expected) - stored)
    with translate_io_errors(store.path, "read"):
        files = store.files.all()
    return Audit(tuple(audited), tuple(missing), tuple(_leftovers(audited, files)))


def repair(store: StoreWriter, audit: Audit) -> Iterator[str]:
    """Take away what is damaged or left over, and say of each what it was.

    The caller holds the store's lock. What could not be read stays: it may be sound.

    Raises:
        StoreError: the store cannot be written.
    """
    kept = {case.row for case in audit.of("stored", "unreadable")}
    with translate_io_errors(store.path, "written"):
        for case in audit.of("damaged", "unfinished"):
            store.files.remove_case(case.case_id)
            if case.row is not None and case.row not in kept:
                store.free(case.row)
            yield f"case {case.case_id}"
        for name in audit.leftovers:
            store.files.remove(name)
            yield name


def _look(store: Store, case_id: str) -> CaseAudit:
    with translate_io_errors(store.path, "read"):
        attributes = store.attributes(case_id) or {}
        if "record" in attributes:
            record = store.record(case_id)
            for fault in _misplaced(store, case_id, record):
                raise damaged(store.path, case_id, fault)
            store.verify_record(record)
            return CaseAudit(case_id, "stored", record.row)
        if "failure" in attributes:
            return CaseAudit(case_id, "failed", what=_reason(store, case_id, attributes["failure"]))
        return CaseAudit(case_id, "unfinished")


def _reason(store: Store, case_id: str, failure: object) -> str:
    try:
        return CaseFailure.model_validate(failure).reason
    except ValidationError as error:
        what = f"its failure is not readable: {explain(error)}"
        raise damaged(store.path, case_id, what) from error


def _misplaced(store: Store, case_id: str, record: CaseRecord) -> Iterator[str]:
    if record.case_id != case_id:
        yield f"its record is that of {record.case_id}"
    if record.parameter_hash != store.parameter_hash:
        made_with, wanted = record.parameter_hash, store.parameter_hash
        yield f"made with parameters {made_with}, the store's are {wanted}"


def _row_of(store: Store, case_id: str) -> int | None:
    try:
        return store.record(case_id).row
    except StoreError:
        return None


def _read_bytes(files: StoreFiles, case_id: str, row: int | None) -> None:
    """Read a case's files; an unreadable sector is damage, any other error is none of the case."""
    for name in files.of_case(case_id, row):
        try:
            files.read(name)
        except OSError as error:
            if error.errno != errno.EIO:
                raise


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


def _broken(store: Store, name: str, what: str) -> StoreError:
    return StoreError(
        f"{store.path}: its {name} is {what}; fetch {name}/zarr.json from a copy of the store, or "
        "preprocess into a new one"
    )
