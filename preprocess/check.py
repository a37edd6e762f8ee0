"""What is wrong with a folder, case by case; writes nothing."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from common.case import prepare
from common.errors import Finding, InputError
from common.layout import CaseFiles, Discovery, discover
from common.manifest import Manifest
from common.nifti import read
from preprocess.cluster import available_cores


def findings_of(case: CaseFiles, manifest: Manifest) -> list[Finding]:
    """All that preprocessing would refuse of one case: it is prepared, and the result dropped."""
    try:
        prepare(case, manifest)
    except InputError as error:
        return list(error.findings)
    return []


def check(data: Path, manifest: Manifest) -> tuple[Discovery, Iterator[list[Finding]]]:
    """Discover a folder's cases, then read each of them completely, several at a time.

    Returns:
        What discovery found, and an iterator with the findings of each case in turn. Paths are
        relative to `data`.

    Raises:
        InputError: there is no such folder.
    """
    discovery = look(data, manifest)
    return discovery, _read_cases(data, discovery.cases, manifest)


def look(data: Path, manifest: Manifest) -> Discovery:
    """Discover a folder's cases; a stray volume that is damaged too says so.

    Raises:
        InputError: there is no such folder.
    """
    discovery = discover(data, manifest)
    discovery.findings = [_with_damage(finding, data) for finding in discovery.findings]
    return discovery


def _read_cases(data: Path, cases: list[CaseFiles], manifest: Manifest) -> Iterator[list[Finding]]:
    # Spawned, since the parent may have threads; a worker reads whole cases and keeps none.
    context = get_context("spawn")
    with ProcessPoolExecutor(min(available_cores(), len(cases) or 1), context) as pool:
        for findings in pool.map(findings_of, cases, [manifest] * len(cases)):
            yield [_relative(finding, data) for finding in findings]


def _with_damage(finding: Finding, data: Path) -> Finding:
    """It may be stray because it is damaged."""
    path = data / finding.file
    if not path.is_file() or not path.name.lower().endswith((".nii", ".nii.gz")):
        return finding
    try:
        read(path)
    except InputError as error:
        found = f"{error.findings[0].found}; also, {finding.found}"
        return replace(finding, found=found, action="fetch it again under a name the manifest has")
    return finding


def _relative(finding: Finding, data: Path) -> Finding:
    path = Path(finding.file)
    return replace(finding, file=str(path.relative_to(data))) if path.is_absolute() else finding
