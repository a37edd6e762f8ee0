"""Check a folder of cases: each case, and the cohort as a whole. Writes nothing."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from common import hints
from common.discovery import NO_CASE, CaseFiles, Discovery, discover
from common.duplicates import doubles, identities
from common.errors import WHOLE, ConfigError, Finding, InputError, cohort_warning
from common.manifest import Manifest
from common.pool import available_cores, map_in_processes
from common.splits import SPLITS, ListSplits, assign, resolve
from common.validate import load_case
from preprocess.cohort_labels import (
    ConventionCount,
    LabelledCase,
    count_conventions,
    in_ml,
    label_findings,
)


@dataclass(frozen=True)
class CheckedCase:
    """One case and its findings."""

    files: CaseFiles
    findings: tuple[Finding, ...]
    """Errors if the case cannot be used, else warnings."""
    images: dict[str, str]
    """Modality to what identifies its image; empty if the case cannot be used."""
    label: LabelledCase | None = None
    """None if the case cannot be used, or has no label."""

    @property
    def is_usable(self) -> bool:
        """Whether preprocessing would store it."""
        return all(finding.severity != "error" for finding in self.findings)


def check(
    data: Path, manifest: Manifest, workers: int | None = None
) -> tuple[Discovery, Iterator[CheckedCase]]:
    """Find a folder's cases, then read each completely, in several processes.

    Cases are read in order, as the caller iterates. Paths in findings are relative to `data`.

    Raises:
        InputError: there is no such folder.
    """
    discovery = discover(data, manifest)
    return discovery, _read_cases(data, discovery.cases, manifest, workers or available_cores())


def check_case(manifest: Manifest, files: CaseFiles) -> CheckedCase:
    """Read one case as preprocessing does.

    Every error becomes a finding: one case must not stop the others.
    """
    try:
        loaded = load_case(files, manifest)
    except InputError as error:
        return CheckedCase(files, error.findings, {})
    except Exception as error:  # noqa: BLE001 - as above
        found = " ".join(f"{type(error).__name__}: {error}".split())
        return _unread(files, found, "move the case away, and report this error")
    images = identities(loaded.images, {source.role: source.image for source in loaded.sources})
    label = None
    if loaded.label is not None:
        label = LabelledCase(
            files.case_id,
            loaded.convention,
            loaded.convention_from,
            in_ml(manifest.task.label_voxels(loaded.label), math.prod(loaded.geometry.spacing_mm)),
            tuple(warning.found for warning in loaded.warnings),
        )
    return CheckedCase(files, loaded.warnings, images, label)


def _unread(files: CaseFiles, found: str, action: str) -> CheckedCase:
    folder = str(next(iter(files.images.values())).parent)
    finding = Finding(folder, found, "a case that can be read", action, files.case_id)
    return CheckedCase(files, (finding,), {})


def _lost(files: CaseFiles, reason: str) -> CheckedCase:
    return _unread(files, reason, f"free some memory, or add {hints.option('--workers', '1')}")


def _read_cases(
    data: Path, cases: list[CaseFiles], manifest: Manifest, workers: int
) -> Iterator[CheckedCase]:
    for case in map_in_processes(check_case, manifest, cases, workers, _lost):
        relative = [
            replace(finding, file=str(Path(finding.file).relative_to(data.absolute())))
            for finding in case.findings
        ]
        yield replace(case, findings=tuple(relative))


def cohort_findings(
    discovery: Discovery, cases: Sequence[CheckedCase], manifest: Manifest
) -> list[Finding]:
    """Findings about label conventions, splits, and images that several cases share."""
    if not cases and all(finding.severity == "warning" for finding in discovery.findings):
        return [Finding(WHOLE, *NO_CASE)]
    usable = [case for case in cases if case.is_usable]
    refused = [finding.found for case in cases if not case.is_usable for finding in case.findings]
    labels = [case.label for case in usable if case.label]
    findings = label_findings(manifest.task, labels, refused) + _stacked(usable, manifest)
    findings += _splits(cases, manifest) + _lists(discovery, cases, manifest)
    return findings + _shared(usable, manifest)


@dataclass(frozen=True)
class Summary:
    """What `check` understood of a folder."""

    cases: int
    """That can be used; all other numbers are of these."""
    patients: int
    labelled: int
    layouts: dict[str, int]
    """Layout to its cases."""
    conventions: list[ConventionCount]
    label_map: dict[int, str]
    """The manifest's."""
    unused: dict[str, int]
    """Kind of file that no case uses, such as `*_mask.nii.gz`, to how many there are."""

    def lines(self) -> Iterator[str]:
        """The same in words."""
        layouts = ", ".join(f"{name} ({count:,})" for name, count in self.layouts.items())
        yield f"{self.cases:,} case(s) of {self.patients:,} patient(s); layout: {layouts or 'none'}"
        yield f"labels in {self.labelled:,} of {self.cases:,} cases"
        yield from (f"  {convention}" for convention in self.conventions)
        if self.label_map:
            pairs = ", ".join(f"{value} {name}" for value, name in self.label_map.items())
            yield f"  by label_map in all of them: {pairs}"
        if self.unused:
            files = ", ".join(f"{count:,} × {kind}" for kind, count in self.unused.items())
            yield f"files not used: {files}"


def summarise(discovery: Discovery, cases: Sequence[CheckedCase], manifest: Manifest) -> Summary:
    """What the usable cases are, and which files belong to none."""
    usable = [case for case in cases if case.is_usable]
    labels = [case.label for case in usable if case.label]
    return Summary(
        len(usable),
        len({case.files.patient for case in usable}),
        len(labels),
        dict(Counter(case.files.layout for case in usable).most_common()),
        count_conventions(manifest.task, labels),
        manifest.label_map,
        dict(discovery.unused.most_common()),
    )


def _patients(cases: Iterable[CheckedCase]) -> dict[str, str]:
    return {case.files.case_id: case.files.patient for case in cases}


def _shared(cases: Sequence[CheckedCase], manifest: Manifest) -> list[Finding]:
    """Images that several cases share: an error if the cases are in different splits."""
    splits = assign(manifest.splits, _patients(case for case in cases if case.label))
    findings = []
    for double in doubles({case.files.case_id: case.images for case in cases}, splits):
        found = f"{', '.join(double.modalities)} have the same voxels as those of {double.other}"
        if double.splits:
            one, other = double.splits
            expected, action = (
                "each image in one split",
                (f"move one away: {double.other} is in {one} and {double.case_id} in {other}"),
            )
            findings.append(Finding(WHOLE, found, expected, action, double.case_id))
        else:
            expected = "each image in one case"
            action = "move one away, unless the case should count twice"
            findings.append(Finding(WHOLE, found, expected, action, double.case_id, "warning"))
    return findings


def _stacked(cases: Sequence[CheckedCase], manifest: Manifest) -> list[Finding]:
    labels = [case.label for case in cases if case.label and case.files.stacked]
    count = Counter(label.convention for label in labels if label.decided_by == "layout")
    if not count:
        return []
    order = ", ".join(manifest.stacked.channels)
    values = " or ".join(map(manifest.task.legend, count))
    found = f"{count.total()} case(s) of one 4-D file, read as {order}, and their labels as "
    found += values
    action = "nothing if that is right; otherwise set stacked.channels or label_convention"
    return [cohort_warning(found, "channels and values in this order", action)]


def _splits(cases: Sequence[CheckedCase], manifest: Manifest) -> list[Finding]:
    """Messages of the manifest's rule about the usable labelled cases."""
    usable = _patients(case for case in cases if case.label)
    if not usable:
        return []
    expected = "labelled patients for every split, each in one split"
    action = "nothing to store the cases; to train, add cases or name other splits"
    try:
        found = list(resolve(manifest.splits, usable).messages)
    except ConfigError as error:
        found = [str(error)]
    return [cohort_warning(line, expected, action) for line in found]


def _lists(discovery: Discovery, cases: Sequence[CheckedCase], manifest: Manifest) -> list[Finding]:
    """Listed cases that are not there, and labelled cases that are in no list."""
    if not isinstance(manifest.splits, ListSplits) or not manifest.splits.requested:
        return []
    listed = [case for name in SPLITS for case in getattr(manifest.splits, name)]
    ids = [case.files.case_id for case in cases] + [f.case for f in discovery.findings]
    findings = []
    if unknown := sorted(set(listed) - set(ids)):
        nearest = get_close_matches(unknown[0], ids, 1)
        hint = f" (is it {nearest[0]}?)" if nearest else ""
        found = f"splits name {len(unknown)} case(s) that are not here, such as {unknown[0]}{hint}"
        action = "correct the lists, unless the cases are elsewhere"
        findings.append(cohort_warning(found, "ids of these cases", action))
    labelled = {case.files.case_id for case in cases if case.files.label}
    if left_out := sorted(labelled - set(listed)):
        found = f"{len(left_out)} labelled case(s) in no split, such as {left_out[0]}"
        action = "nothing if they should only be stored; otherwise list them"
        findings.append(cohort_warning(found, "all cases listed", action))
    return findings
