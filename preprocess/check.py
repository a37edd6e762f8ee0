"""What is wrong with a folder, case by case; writes nothing."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from common.errors import Finding, InputError
from common.intake import LoadedCase, load
from common.labels import MODALITIES, Convention
from common.layout import CaseFiles, Discovery, discover
from common.manifest import Manifest
from common.record import DecidedBy
from preprocess.processes import at_each, available_cores


@dataclass(frozen=True)
class CheckedCase:
    """What there is to say of one case.

    Attributes:
        files: the case's.
        findings: errors if it cannot be used, else notes.
        images: modality to its file's sha256; empty if the case cannot be used.
        convention: how its label is written; None if it cannot be used, or has none.
        convention_from: what decided that.
    """

    files: CaseFiles
    findings: tuple[Finding, ...]
    images: dict[str, str]
    convention: Convention | None = None
    convention_from: DecidedBy | None = None

    @property
    def is_usable(self) -> bool:
        """Whether preprocessing would take it."""
        return all(finding.severity != "error" for finding in self.findings)


def check(
    data: Path, manifest: Manifest, workers: int | None = None
) -> tuple[Discovery, Iterator[CheckedCase]]:
    """Discover a folder's cases, then read each of them completely, several at a time.

    Args:
        data: the folder of cases.
        manifest: the cohort's description.
        workers: processes; None is one a core.

    Returns:
        What discovery found, and an iterator over its cases in their order. Paths in findings are
        relative to `data`.

    Raises:
        InputError: there is no such folder.
    """
    discovery = discover(data, manifest)
    return discovery, _read_cases(data, discovery.cases, manifest, workers or available_cores())


def check_case(manifest: Manifest, files: CaseFiles) -> CheckedCase:
    """Read one case as preprocessing does, and drop what was read.

    Whatever goes wrong is a finding, since one case's trouble must not end the others' reading.
    """
    try:
        loaded = load(files, manifest)
    except InputError as error:
        return CheckedCase(files, error.findings, {})
    except Exception as error:  # noqa: BLE001 - as above
        return CheckedCase(files, (_unforeseen(files, error),), {})
    hashes = {source.role: source.sha256 for source in loaded.sources}
    images = {modality: hashes[modality] for modality in MODALITIES}
    return CheckedCase(files, loaded.notes, images, *_convention(loaded))


def _unforeseen(files: CaseFiles, error: Exception) -> Finding:
    """An error in the words that `run` has for it too."""
    folder = str(files.images[MODALITIES[0]].parent)
    found, expected = f"{type(error).__name__}: {error}", "a case that is read or refused"
    action = "move the case away, and report this line"
    return Finding(folder, " ".join(found.split()), expected, action, files.case_id)


def _convention(loaded: LoadedCase) -> tuple[Convention | None, DecidedBy | None]:
    return (None, None) if loaded.label is None else (loaded.convention, loaded.convention_from)


def _read_cases(
    data: Path, cases: list[CaseFiles], manifest: Manifest, workers: int
) -> Iterator[CheckedCase]:
    for case in at_each(check_case, manifest, cases, workers):
        found = (_relative(finding, data.absolute()) for finding in case.findings)
        yield replace(case, findings=tuple(found))


def _relative(finding: Finding, data: Path) -> Finding:
    return replace(finding, file=str(Path(finding.file).relative_to(data)))
