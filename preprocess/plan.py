"""What a run has to do: the cases that are in the data, beside those that are in the store."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common.discovery import LABEL, NO_CASE, CaseFiles, Discovery, discover
from common.errors import Finding, InputError
from common.manifest import Manifest
from common.record import CaseFailure, CaseRecord, Source, hash_of, parameters
from common.store import Store, is_current
from common.store.paths import is_taken, resolved, translate_io_errors
from common.store.writer import check_same_arrays
from preprocess.pool import available_cores


@dataclass(frozen=True)
class Plan:
    """What a run is about to do; until `begin`, nothing is written.

    Attributes:
        data: the folder of cases.
        store_path: where the store is, or will be.
        manifest: the cohort's description.
        present: ids of all cases that are in the data, usable or not.
        absent: ids of cases that the store knows and the data do not hold.
        drop_absent: whether these are to be taken out; else they stay as they are.
        todo: cases to process.
        kept: ids of cases that are stored already, unchanged.
        refused: cases of which discovery says that their files make none.
        findings: what there is to say of the data's files.
    """

    data: Path
    store_path: str
    manifest: Manifest
    present: tuple[str, ...]
    absent: tuple[str, ...]
    drop_absent: bool
    todo: list[CaseFiles]
    kept: list[str]
    refused: list[CaseFailure]
    findings: list[Finding]


def plan(
    data: Path,
    store_path: str,
    manifest: Manifest,
    on_case: Callable[[int, int], None] = lambda *_: None,
    *,
    drop_absent: bool = False,
) -> Plan:
    """Look at the data and the store and decide which cases to process.

    Args:
        data: the folder of cases.
        store_path: the store's path or URL.
        manifest: the cohort's description.
        on_case: told (cases compared, cases to compare) after each that is stored already.
        drop_absent: take out of the store what is not in the data; a folder that is mounted in
            part must not do that unasked.

    Raises:
        InputError: there is no usable case.
        StoreError: the path cannot be this cohort's store.
    """
    # The workers may stand in another folder than this process; they follow its links themselves.
    data, store_path = data.absolute(), resolved(store_path)
    discovery = discover(data, manifest)
    if not discovery.cases:
        raise InputError(Finding(str(data), *NO_CASE), *discovery.findings)
    store = _existing(store_path, manifest)
    contents = store.contents() if store else None
    committed = contents.committed if contents else {}
    known = {*store.expected, *committed, *contents.failures} if store and contents else set()
    usable, refused = {case.case_id for case in discovery.cases}, _refused_cases(discovery)
    kept, unreadable = _unchanged(data, discovery.cases, committed, manifest, on_case)
    return Plan(
        data,
        store_path,
        manifest,
        present=tuple(sorted(usable | refused.keys())),
        absent=tuple(sorted(known - usable - refused.keys())),
        drop_absent=drop_absent,
        todo=[case for case in discovery.cases if case.case_id not in kept],
        kept=sorted(kept),
        # A case that was stored from good files is not lost for what its folder has become.
        refused=[refused[case_id] for case_id in sorted(refused.keys() - committed.keys())],
        findings=discovery.findings + unreadable,
    )


def _refused_cases(discovery: Discovery) -> dict[str, CaseFailure]:
    """By id, the cases that have files which make no usable case."""
    reasons: dict[str, list[str]] = {}
    for finding in discovery.findings:
        if finding.severity == "error" and finding.case not in {"", "-"}:
            reasons.setdefault(finding.case, []).append(str(finding))
    for case in discovery.cases:  # of which a file too many was found
        reasons.pop(case.case_id, None)
    return {
        case_id: CaseFailure(
            case_id=case_id, stage="read", reason="\n".join(found), peak_memory_mb=None
        )
        for case_id, found in reasons.items()
    }


def done(work: Plan) -> set[str]:
    """Ids of the plan's cases that the store holds by now, made as its manifest says."""
    wanted = hash_of(parameters(work.manifest))
    store = _existing(work.store_path, work.manifest)
    committed = store.contents().committed if store else {}
    return {c for c in work.present if c in committed and committed[c].parameter_hash == wanted}


def _existing(store_path: str, manifest: Manifest) -> Store | None:
    """The store that a run goes on with; None where it will be made.

    Raises:
        StoreError: something else is there, or a store with other arrays.
    """
    with translate_io_errors(store_path, "read"):
        try:
            if not is_taken(store_path):
                return None
        except (ValueError, LookupError):
            pass  # its zarr.json is damaged, which opening it says in plain words
    store = Store.open(store_path)
    check_same_arrays(store, manifest)
    return store


def _unchanged(
    data: Path,
    cases: list[CaseFiles],
    records: dict[str, CaseRecord],
    manifest: Manifest,
    on_case: Callable[[int, int], None],
) -> tuple[set[str], list[Finding]]:
    """Ids of the cases whose files are still those of their record; touched ones are read.

    A file that cannot be read, as on a disk that is not mounted, does not cost a stored case: it
    is kept, and the file is a finding.
    """
    compared = [case for case in cases if case.case_id in records]
    kept, unreadable = set(), []
    on_case(0, len(compared))
    with ThreadPoolExecutor(available_cores()) as pool:
        compare = partial(_hashes, data, records)
        for done, (case, (hashes, findings)) in enumerate(
            zip(compared, pool.map(compare, compared), strict=True), 1
        ):
            if is_current(records[case.case_id], hashes, manifest):
                kept.add(case.case_id)
                unreadable += findings
            on_case(done, len(compared))
    return kept, unreadable


def _hashes(
    data: Path, records: dict[str, CaseRecord], case: CaseFiles
) -> tuple[dict[str, str], list[Finding]]:
    """Role to checksum of a case's files; that of the record for those that cannot be read."""
    paths = dict(case.images) | ({LABEL: case.label} if case.label else {})
    known = {source.role: source for source in records[case.case_id].sources}
    hashes, findings = {}, []
    for role, path in paths.items():
        try:
            hashes[role] = _sha256(path, known.get(role))
        except OSError as error:
            if role in known:
                hashes[role] = known[role].sha256
            findings.append(
                Finding(
                    str(path.relative_to(data)),
                    f"unreadable file ({error.strerror})",
                    "the file that the stored case was made from",
                    "restore it, or make it readable; the store keeps the case",
                    case.case_id,
                )
            )
    return hashes, findings


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
