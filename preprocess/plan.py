"""Plan a run: compare the cases in the data with those in the store."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common import hints
from common.discovery import NO_CASE, CaseFiles, Discovery, discover
from common.errors import Finding, InputError
from common.files import reason_of, sha256
from common.labels import decide_without_values
from common.layouts import LABEL
from common.manifest import Manifest
from common.names import name_fault
from common.pool import available_cores
from common.record import CaseFailure, CaseRecord, Source, differences, hash_of, parameters
from common.store import Store, is_current
from common.store.paths import resolved, translate_io_errors
from common.store.root import find_store
from common.store.writer import check_same_arrays


@dataclass(frozen=True)
class Plan:
    """What a run will do; nothing is written before `pipeline.begin`."""

    data: Path
    store_path: str
    manifest: Manifest
    present: tuple[str, ...]
    """Ids of all cases in the data, usable or not."""
    absent: tuple[str, ...]
    """Ids of cases that are in the store and not in the data."""
    drop_absent: bool
    """Whether absent cases are removed from the store."""
    todo: list[CaseFiles]
    kept: list[str]
    """Ids of cases that are stored already, unchanged."""
    refused: list[CaseFailure]
    """Cases whose files discovery refuses."""
    findings: list[Finding]
    """About the data's files."""
    layout: str
    """In which layout the cases were found, in words."""
    changes: tuple[str, ...]
    """Parameters of the store that are others now, in words: its cases are made again."""


def plan(
    data: Path,
    store_path: str,
    manifest: Manifest,
    on_case: Callable[[int, int], None] = lambda *_: None,
    *,
    drop_absent: bool = False,
) -> Plan:
    """Decide which cases to process.

    `on_case` is called with (cases compared, cases to compare). Stored cases that are not in the
    data stay by default: the data may be mounted only in part.

    Raises:
        InputError: there is no usable case.
        StoreError: the path cannot be this cohort's store.
    """
    # Absolute, because workers may run in another folder; they follow links themselves.
    data, store_path = data.absolute(), resolved(store_path)
    discovery = discover(data, manifest)
    if not discovery.cases:
        raise InputError(Finding(str(data), *NO_CASE), *discovery.findings)
    store = _existing(store_path, manifest)
    contents = store.contents() if store else None
    committed = contents.committed if contents else {}
    known = {*store.expected, *committed, *contents.failures} if store and contents else set()
    usable, refused = {case.case_id for case in discovery.cases}, refused_cases(discovery)
    lost = [] if drop_absent else _lost_labels(discovery.cases, committed)
    compared = [case for case in discovery.cases if case.case_id not in {f.case for f in lost}]
    kept, unreadable = _unchanged(data, compared, committed, manifest, on_case)
    kept |= {finding.case for finding in lost}
    return Plan(
        data,
        store_path,
        manifest,
        present=tuple(sorted(usable | refused.keys())),
        absent=tuple(sorted(c for c in known - usable - refused.keys() if not name_fault(c))),
        drop_absent=drop_absent,
        todo=[case for case in discovery.cases if case.case_id not in kept],
        kept=sorted(kept),
        # A stored case stays, even if its files have become unusable.
        refused=[refused[case_id] for case_id in sorted(refused.keys() - committed.keys())],
        findings=discovery.findings + unreadable + lost,
        layout=discovery.layout_line,
        changes=_changes(store, manifest) if store and committed else (),
    )


def refused_cases(discovery: Discovery) -> dict[str, CaseFailure]:
    """Cases whose files make no usable case, by id; without ids that cannot be stored."""
    reasons: dict[str, list[str]] = {}
    for finding in discovery.findings:
        is_case = finding.case != "-" and not name_fault(finding.case)
        if finding.severity == "error" and is_case:
            reasons.setdefault(finding.case, []).append(str(finding))
    for case in discovery.cases:  # usable, with one file too many
        reasons.pop(case.case_id, None)
    return {
        case_id: CaseFailure(
            case_id=case_id, stage="read", reason="\n".join(found), peak_memory_mb=None
        )
        for case_id, found in reasons.items()
    }


def _changes(store: Store, manifest: Manifest) -> tuple[str, ...]:
    found = differences(store.manifest, manifest)
    return tuple(f"{name} {old} → {new}" for name, (old, new) in found.items())


def done(work: Plan) -> set[str]:
    """Ids of the plan's cases that are stored by now, with the manifest's parameters."""
    wanted = hash_of(parameters(work.manifest))
    store = _existing(work.store_path, work.manifest)
    committed = store.contents().committed if store else {}
    return {c for c in work.present if c in committed and committed[c].parameter_hash == wanted}


def _existing(store_path: str, manifest: Manifest) -> Store | None:
    """The store at a path; None if there is none.

    Raises:
        StoreError: something else is there, a damaged store, or one with other arrays.
    """
    with translate_io_errors(store_path, "read"):
        if find_store(store_path) is None:
            return None
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
    """Ids of the cases whose files are still those of their record; modified files are read.

    A stored case whose file cannot be read, as on a disk that is not mounted, is kept.
    """
    compared = [case for case in cases if case.case_id in records]
    kept, unreadable = set(), []
    on_case(0, len(compared))
    with ThreadPoolExecutor(available_cores()) as pool:
        compare = partial(_hashes, data, records)
        results = zip(compared, pool.map(compare, compared), strict=True)
        for count, (case, (hashes, findings)) in enumerate(results, 1):
            record = records[case.case_id]
            if is_current(record, hashes, manifest) and _means_the_same(record, case, manifest):
                kept.add(case.case_id)
                unreadable += findings
            on_case(count, len(compared))
    return kept, unreadable


def _means_the_same(record: CaseRecord, case: CaseFiles, manifest: Manifest) -> bool:
    """Whether a layout or a dataset.json says of the label's values what it said of the stored."""
    old, new = (record.convention, record.convention_from), decide_without_values(case, manifest)
    return old == new or "layout" not in (old[1], new.by)


def _lost_labels(cases: list[CaseFiles], records: dict[str, CaseRecord]) -> list[Finding]:
    """A finding for each case that is stored with a label, and for which none is found now."""
    return [
        Finding(
            source.file,
            "no label to use; the case is stored with one",
            "the file that the stored label was made from",
            "restore it, or mend what is said of it; the stored case is kept with its label. "
            f"{hints.option('--drop-absent')} stores the case again without one",
            case.case_id,
        )
        for case in cases
        if case.case_id in records and not case.label
        for source in records[case.case_id].sources
        if source.role == LABEL
    ]


def _hashes(
    data: Path, records: dict[str, CaseRecord], case: CaseFiles
) -> tuple[dict[str, str], list[Finding]]:
    """Role to checksum of a case's files; the record's for files that cannot be read."""
    paths = dict(case.images) | ({LABEL: case.label} if case.label else {})
    known = {source.role: source for source in records[case.case_id].sources}
    hashes, findings = {}, []
    for role, path in paths.items():
        try:
            hashes[role] = _sha256(path, known.get(role))
        except (InputError, OSError) as error:
            if role in known:
                hashes[role] = known[role].sha256
            findings.append(
                Finding(
                    str(path.relative_to(data)),
                    f"unreadable file ({reason_of(error)})",
                    "the file that the stored case was made from",
                    "restore it, or make it readable; the stored case is kept",
                    case.case_id,
                )
            )
    return hashes, findings


def _sha256(path: Path, known: Source | None) -> str:
    """A file's checksum: the known one if size and modification time are the same."""
    state = path.stat()
    if known and (known.size_bytes, known.modified_ns) == (state.st_size, state.st_mtime_ns):
        return known.sha256
    return sha256(path)
