"""One run: discover the cases, give each to a task, keep what comes back."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from distributed import Client, KilledWorker, as_completed

from common.errors import ConfigError, Finding, InputError
from common.layout import LABEL, CaseFiles, Discovery
from common.manifest import Manifest
from common.record import CaseFailure, CaseRecord, Source
from common.splits import assign, require
from common.store import StoreWriter, is_remote
from preprocess.check import look
from preprocess.lock import Lock
from preprocess.task import Outcome, process_case


@dataclass
class Report:
    """What a run came to.

    Attributes:
        findings: what discovery had to say.
        outcomes: the cases that were processed.
        kept: ids of the cases that were in the store already, unchanged.
        seconds: from the first task to the last.
    """

    findings: list[Finding]
    kept: list[str] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failures(self) -> list[CaseFailure]:
        """The cases that are not in the store, by id."""
        failures = [outcome.failure for outcome in self.outcomes if outcome.failure]
        return sorted(failures, key=lambda failure: failure.case_id)

    @property
    def stored(self) -> list[CaseRecord]:
        """The records that this run wrote."""
        return [outcome.record for outcome in self.outcomes if outcome.record]

    @property
    def clean(self) -> bool:
        """Whether every file was understood and every case is in the store."""
        errors = [finding for finding in self.findings if finding.severity == "error"]
        return not errors and not self.failures


@dataclass(frozen=True)
class Plan:
    """What a run is about to do.

    Attributes:
        store: opened for writing, its manifest and expected cases set.
        todo: cases to process.
        kept: ids of cases that are stored already, unchanged.
        findings: what discovery had to say.
    """

    store: StoreWriter
    todo: list[CaseFiles]
    kept: list[str]
    findings: list[Finding]


def plan(data: Path, store_path: str, manifest: Manifest) -> Plan:
    """Look at the data and the store and decide which cases to process.

    Raises:
        InputError: there is no usable case.
        ConfigError: a split that the manifest asks for would be empty.
        StoreError: the path cannot be this cohort's store.
    """
    # The workers may stand in another folder than this process.
    data = data.resolve()
    store_path = store_path if is_remote(store_path) else str(Path(store_path).resolve())
    discovery = look(data, manifest)
    if not discovery.cases:
        raise InputError(
            Finding(
                str(data),
                "no usable case",
                "a folder a case, with files named like <case>_flair.nii.gz or <case>-t2f.nii.gz",
                "name another folder, or describe its file names in a manifest",
            ),
            *discovery.findings,
        )
    _refuse_empty_splits(discovery, manifest)
    expected = tuple(sorted(case.case_id for case in discovery.cases))
    store = StoreWriter.create(store_path, manifest, expected)
    for case_id in store.failures().keys() - set(expected):
        store.remove(case_id)  # its files were moved away or mended under another name
    records = store.records()
    kept = [
        case.case_id
        for case in discovery.cases
        if case.case_id in records and _is_current(store, records[case.case_id], case)
    ]
    todo = [case for case in discovery.cases if case.case_id not in set(kept)]
    return Plan(store, todo, kept, discovery.findings)


def execute(client: Client, work: Plan, lock: Lock) -> Iterator[Outcome]:
    """Process the planned cases, one task a case, and yield each outcome as it comes.

    Raises:
        StoreError: another run took the store over.
    """
    rows = work.store.allocate(len(work.todo))
    futures = {
        client.submit(
            process_case, case, work.store.path, row, key=f"case-{case.case_id}", pure=False
        ): case
        for case, row in zip(work.todo, rows, strict=True)
    }
    for future in as_completed(futures):
        case = futures[future]
        error = future.exception()
        if error is not None and not isinstance(error, KilledWorker):
            raise ConfigError(
                f"the cluster cannot run the tasks: {type(error).__name__}: {error}; its workers "
                "need this package, of this version, and the scheduler must be there"
            ) from error
        outcome = future.result() if error is None else _lost(case, error)
        future.release()
        lock.check()
        if outcome.failure:
            work.store.set_aside(outcome.failure)
        yield outcome


def _lost(case: CaseFiles, error: BaseException) -> Outcome:
    """The outcome of a case whose worker died twice over it: nobody is left to say why."""
    failure = CaseFailure(
        case_id=case.case_id,
        stage="worker",
        reason=f"the worker died at this case twice, as it does when memory runs out ({error})",
        peak_memory_mb=None,
    )
    return Outcome(case.case_id, None, failure, 0.0, None, 0)


def _refuse_empty_splits(discovery: Discovery, manifest: Manifest) -> None:
    """Before hours of work, not after; a cohort without labels is divided by nobody."""
    patients = {case.case_id: case.patient for case in discovery.cases if case.label}
    if patients:
        placed = assign(manifest.splits, patients)
        for name in manifest.splits.requested:
            require(name, placed, patients)


def _is_current(store: StoreWriter, record: CaseRecord, case: CaseFiles) -> bool:
    paths = dict(case.images) | ({LABEL: case.label} if case.label else {})
    known = {source.role: source for source in record.sources}
    hashes = {role: _sha256(path, known.get(role)) for role, path in paths.items()}
    return store.is_current(record, hashes)


def _sha256(path: Path, known: Source | None) -> str:
    """A file's checksum: the known one if size and time of change are, else from its bytes."""
    state = path.stat()
    untouched = known and (known.size_bytes, known.modified_ns) == (
        state.st_size,
        state.st_mtime_ns,
    )
    if known and untouched:
        return known.sha256
    return hashlib.sha256(path.read_bytes()).hexdigest()
