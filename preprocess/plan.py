"""What a run has to do: the cases that are in the data, beside those that are in the store."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from common.errors import Finding, InputError
from common.layout import LABEL, CaseFiles, Discovery, discover
from common.manifest import Manifest
from common.record import CaseRecord, Source, hash_of, parameters
from common.splits import assign, require
from common.store import Store, is_current
from common.store.place import is_taken, reachable, resolved
from common.store.writer import refuse_other_arrays
from preprocess.processes import available_cores


@dataclass(frozen=True)
class Plan:
    """What a run is about to do; until `begin`, nothing is written.

    Attributes:
        store_path: where the store is, or will be.
        manifest: the cohort's description.
        expected: ids of all usable cases.
        todo: cases to process.
        kept: ids of cases that are stored already, unchanged.
        findings: what discovery had to say.
    """

    store_path: str
    manifest: Manifest
    expected: tuple[str, ...]
    todo: list[CaseFiles]
    kept: list[str]
    findings: list[Finding]


def plan(
    data: Path,
    store_path: str,
    manifest: Manifest,
    on_case: Callable[[int, int], None] = lambda *_: None,
) -> Plan:
    """Look at the data and the store and decide which cases to process.

    Args:
        data: the folder of cases.
        store_path: the store's path or URL.
        manifest: the cohort's description.
        on_case: told (cases compared, cases to compare) after each that is stored already.

    Raises:
        InputError: there is no usable case.
        ConfigError: a split that the manifest asks for would be empty.
        StoreError: the path cannot be this cohort's store.
    """
    # The workers may stand in another folder than this process.
    data, store_path = data.resolve(), resolved(store_path)
    discovery = discover(data, manifest)
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
    kept = _unchanged(discovery.cases, _committed(store_path, manifest), manifest, on_case)
    return Plan(
        store_path,
        manifest,
        tuple(sorted(case.case_id for case in discovery.cases)),
        [case for case in discovery.cases if case.case_id not in kept],
        sorted(kept),
        discovery.findings,
    )


def _refuse_empty_splits(discovery: Discovery, manifest: Manifest) -> None:
    """Before hours of work, not after; a cohort without labels is divided by nobody."""
    patients = {case.case_id: case.patient for case in discovery.cases if case.label}
    if patients:
        placed = assign(manifest.splits, patients)
        for name in manifest.splits.requested:
            require(name, placed, patients)


def done(work: Plan) -> set[str]:
    """Ids of the plan's cases that the store holds by now, made as its manifest says."""
    wanted = hash_of(parameters(work.manifest))
    committed = _committed(work.store_path, work.manifest)
    return {c for c in work.expected if c in committed and committed[c].parameter_hash == wanted}


def _committed(store_path: str, manifest: Manifest) -> dict[str, CaseRecord]:
    """All records of the store that a run goes on with; none where it will be made.

    Raises:
        StoreError: something else is there, or a store with other arrays.
    """
    with reachable(store_path, "read"):
        try:
            if not is_taken(store_path):
                return {}
        except (ValueError, LookupError):
            pass  # its zarr.json is damaged, which opening it says in plain words
    store = Store.open(store_path)
    refuse_other_arrays(store, manifest)
    return store.contents().committed


def _unchanged(
    cases: list[CaseFiles],
    records: dict[str, CaseRecord],
    manifest: Manifest,
    on_case: Callable[[int, int], None],
) -> set[str]:
    """Ids of the cases whose files are still those of their record; touched ones are read."""
    compared = [case for case in cases if case.case_id in records]
    kept = set()
    on_case(0, len(compared))
    with ThreadPoolExecutor(available_cores()) as pool:
        hashes = pool.map(lambda case: _hashes(case, records[case.case_id]), compared)
        for done, (case, found) in enumerate(zip(compared, hashes, strict=True), 1):
            if is_current(records[case.case_id], found, manifest):
                kept.add(case.case_id)
            on_case(done, len(compared))
    return kept


def _hashes(case: CaseFiles, record: CaseRecord) -> dict[str, str]:
    paths = dict(case.images) | ({LABEL: case.label} if case.label else {})
    known = {source.role: source for source in record.sources}
    return {role: _sha256(path, known.get(role)) for role, path in paths.items()}


def _sha256(path: Path, known: Source | None) -> str:
    """A file's checksum: the known one if size and time of change are, else from its bytes."""
    state = path.stat()
    untouched = known and (known.size_bytes, known.modified_ns) == (
        state.st_size,
        state.st_mtime_ns,
    )
    if known and untouched:
        return known.sha256
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
