"""What is wrong with a folder, case by case and as a cohort; writes nothing."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from common.discovery import NO_CASE, CaseFiles, Discovery, discover
from common.errors import ConfigError, Finding, InputError
from common.manifest import Manifest
from common.record import DecidedBy
from common.splits import SPLITS, ListSplits, assign, resolve
from common.validate import LoadedCase, load_case
from preprocess.pool import available_cores, map_in_processes


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
    convention: str | None = None
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
        loaded = load_case(files, manifest)
    except InputError as error:
        return CheckedCase(files, error.findings, {})
    except Exception as error:  # noqa: BLE001 - as above
        return CheckedCase(files, (_unforeseen(files, error),), {})
    hashes = {source.role: source.sha256 for source in loaded.sources}
    images = {modality: hashes[modality] for modality in manifest.task.modalities}
    return CheckedCase(files, loaded.warnings, images, *_convention(loaded))


def _unforeseen(files: CaseFiles, error: Exception) -> Finding:
    """An error in the words that `run` has for it too."""
    folder = str(next(iter(files.images.values())).parent)
    found, expected = f"{type(error).__name__}: {error}", "a case that is read or refused"
    action = "move the case away, and report this line"
    return Finding(folder, " ".join(found.split()), expected, action, files.case_id)


def _convention(loaded: LoadedCase) -> tuple[str | None, DecidedBy | None]:
    return (None, None) if loaded.label is None else (loaded.convention, loaded.convention_from)


def _read_cases(
    data: Path, cases: list[CaseFiles], manifest: Manifest, workers: int
) -> Iterator[CheckedCase]:
    for case in map_in_processes(check_case, manifest, cases, workers):
        found = (_relative(finding, data.absolute()) for finding in case.findings)
        yield replace(case, findings=tuple(found))


def _relative(finding: Finding, data: Path) -> Finding:
    return replace(finding, file=str(Path(finding.file).relative_to(data)))


WHOLE = "(the cohort)"
EXPECTED_OF_SPLITS = "labelled patients for every split, each in one alone"


def cohort_findings(
    discovery: Discovery, cases: Sequence[CheckedCase], manifest: Manifest
) -> list[Finding]:
    """Images that several cases share, label conventions, and what is wrong with the splits.

    Args:
        discovery: what was found.
        cases: its cases, checked.
        manifest: the cohort's description.
    """
    if not cases and all(finding.severity == "warning" for finding in discovery.findings):
        return [Finding(WHOLE, *NO_CASE)]
    usable = [case for case in cases if case.is_usable]
    findings = _conventions(usable) + _stacked(usable, manifest)
    findings += _splits(cases, manifest) + _lists(cases, manifest)
    return findings + _shared_images(usable, _places(usable, manifest))


def _patients(cases: Iterable[CheckedCase]) -> dict[str, str]:
    return {case.files.case_id: case.files.patient for case in cases}


def _shared_images(cases: Sequence[CheckedCase], splits: dict[str, str]) -> list[Finding]:
    first: dict[str, CheckedCase] = {}
    shared: dict[tuple[str, str], list[str]] = {}
    for case in cases:
        for modality, image in case.images.items():
            other = first.setdefault(image, case)
            if other is not case:
                pair = other.files.case_id, case.files.case_id
                shared.setdefault(pair, []).append(modality)
    return [_twins(one, other, names, splits) for (one, other), names in shared.items()]


def _twins(one: str, other: str, modalities: list[str], splits: dict[str, str]) -> Finding:
    """An error where the two are in different splits, as preprocessing and training have it."""
    found = f"{', '.join(modalities)} have the same bytes as those of {one}"
    places = {splits.get(one), splits.get(other)} - {None}
    if len(places) == 2:
        action = f"move one away: {one} is in {splits[one]} and {other} in {splits[other]}"
        return Finding(WHOLE, found, "an image in one split alone", action, other)
    action = "move one away, unless it shall count twice"
    return Finding(WHOLE, found, "an image under one case id", action, other, "warning")


def _conventions(cases: Sequence[CheckedCase]) -> list[Finding]:
    counts = Counter((c.convention, c.convention_from) for c in cases if c.convention)
    if len({convention for convention, _ in counts}) < 2:
        return []
    told = ", ".join(f"{n} {convention} (by {by})" for (convention, by), n in counts.most_common())
    action = "nothing if so; label_convention in the manifest sets one for all"
    return [Finding(WHOLE, f"labels of {told}", "one convention", action, severity="warning")]


def _stacked(cases: Sequence[CheckedCase], manifest: Manifest) -> list[Finding]:
    count = sum(case.convention_from == "layout" for case in cases)
    if not count:
        return []
    order = ", ".join(manifest.stacked.channels)
    found = (
        f"{count} case(s) of one 4-D file, read as {order}, and their labels as 1 oedema, "
        "2 necrotic core, 3 enhancing tumour (msd)"
    )
    action = "nothing if so; else set stacked.channels or label_convention in the manifest"
    return [
        Finding(WHOLE, found, "the Decathlon's channels and values", action, severity="warning")
    ]


def _splits(cases: Sequence[CheckedCase], manifest: Manifest) -> list[Finding]:
    """What the manifest's rule says of the usable labelled cases; training may name another."""
    usable = _patients(case for case in cases if case.convention)
    if not usable:
        return []
    action = "nothing to store the cases; to train, add cases or name other splits"
    try:
        found = list(resolve(manifest.splits, usable).messages)
    except ConfigError as error:
        found = [str(error)]
    return [Finding(WHOLE, line, EXPECTED_OF_SPLITS, action, severity="warning") for line in found]


def _lists(cases: Sequence[CheckedCase], manifest: Manifest) -> list[Finding]:
    """What lists of cases name in vain, and whom they leave out."""
    if not isinstance(manifest.splits, ListSplits) or not manifest.splits.requested:
        return []
    listed = [case for name in SPLITS for case in getattr(manifest.splits, name)]
    ids = [case.files.case_id for case in cases]
    findings = []
    if unknown := sorted(set(listed) - set(ids)):
        nearest = get_close_matches(unknown[0], ids, 1)
        hint = f" (is it {nearest[0]}?)" if nearest else ""
        found = f"splits name {len(unknown)} case(s) that are not here, such as {unknown[0]}{hint}"
        action = "correct the lists, unless the cases are elsewhere"
        findings.append(Finding(WHOLE, found, "ids of these cases", action, severity="warning"))
    labelled = {case.files.case_id for case in cases if case.files.label}
    if left_out := sorted(labelled - set(listed)):
        found = f"{len(left_out)} labelled case(s) in no split, such as {left_out[0]}"
        action = "nothing if they are to be stored alone; else list them"
        findings.append(Finding(WHOLE, found, "all of them listed", action, severity="warning"))
    return findings


def _places(usable: Sequence[CheckedCase], manifest: Manifest) -> dict[str, str]:
    """Labelled case to its split."""
    placed = assign(manifest.splits, _patients(case for case in usable if case.convention))
    return {case: name for name in placed for case in placed[name]}
