"""What a cohort's labels are read as, and what only the cohort as a whole shows of them."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from common.errors import Finding, cohort_warning
from common.labels import UNLIKE_ANATOMY
from common.record import CaseRecord, DecidedBy
from common.task import ENHANCING, GLIOMA, Task, in_words

SAME_VALUES = {
    "metastases": r"BraTS-MET-",
    "post-treatment": r"BraTS-GLI-\d+-[1-9]\d\d",
}
"""Task to the start of its ids, whose 1, 2 and 3 mean the same in gliomas."""


@dataclass(frozen=True)
class LabelledCase:
    """What the cohort's summary needs of a case with a label."""

    case_id: str
    convention: str
    decided_by: DecidedBy
    ml: Mapping[str, float]
    """Of each label; voxels would count differently in the file's grid and the stored one."""
    warnings: tuple[str, ...]
    """What its warnings found."""


@dataclass(frozen=True)
class LabelCount:
    """A label of a convention."""

    values: tuple[int, ...]
    """In its files."""
    label: str
    cases: int
    """How many have it."""
    ml: float


@dataclass(frozen=True)
class ConventionCount:
    """A convention of a cohort's labels."""

    convention: str
    cases: int
    decided_by: dict[DecidedBy, int]
    labels: list[LabelCount]

    def __str__(self) -> str:
        by = " and ".join(self.decided_by)
        labels = ", ".join(
            f"{' and '.join(map(str, one.values))} {in_words(one.label)} in {one.cases:,} "
            f"({one.ml:,.1f} ml)"
            for one in self.labels
        )
        return f"{self.convention}, {self.cases:,} case(s) by {by}: {labels}"


def in_ml(voxels: Mapping[str, int], mm3: float) -> dict[str, float]:
    """The volume of each label, of voxels of this size."""
    return {label: count * mm3 / 1000 for label, count in voxels.items()}


def labelled_cases(records: Iterable[CaseRecord]) -> list[LabelledCase]:
    """The stored cases that have a label."""
    return [
        LabelledCase(
            record.case_id,
            record.convention,
            record.convention_from,
            in_ml(record.tumour_voxels.native, record.spacing_mm**3),
            tuple(warning.found for warning in record.warnings),
        )
        for record in records
        if record.tumour_voxels
    ]


def count_conventions(task: Task, cases: Sequence[LabelledCase]) -> list[ConventionCount]:
    """The conventions of some cases, the most frequent first, with what their values mean."""
    by_convention: dict[str, list[LabelledCase]] = {}
    for case in cases:
        by_convention.setdefault(case.convention, []).append(case)
    return [
        ConventionCount(
            convention,
            len(members),
            dict(Counter(case.decided_by for case in members)),
            [
                LabelCount(
                    task.file_values(convention, label),
                    label,
                    sum(case.ml[label] > 0 for case in members),
                    sum(case.ml[label] for case in members),
                )
                for label in dict.fromkeys(task.labels_of(convention).values())
            ],
        )
        for convention, members in sorted(by_convention.items(), key=lambda item: -len(item[1]))
    ]


def label_findings(
    task: Task, cases: Sequence[LabelledCase], refused: Iterable[str]
) -> list[Finding]:
    """Warnings about a cohort's labels; `refused` has what was found in the cases left out."""
    found = _conventions(cases) + _both_three_and_four(task, cases, refused)
    found += _against_anatomy(cases) + _ids_of_other_tasks(task, cases)
    return [cohort_warning(*texts) for texts in found]


Texts = tuple[str, str, str]
"""Found, expected and action of a finding."""


def _conventions(cases: Sequence[LabelledCase]) -> list[Texts]:
    with_tumour = [case for case in cases if any(case.ml.values())]
    counts = Counter((case.convention, case.decided_by) for case in with_tumour)
    if len({convention for convention, _ in counts}) < 2:
        return []
    found = ", ".join(f"{n} {convention} (by {by})" for (convention, by), n in counts.most_common())
    action = "nothing if that is right; label_convention in the manifest sets one for all cases"
    return [(f"labels of {found}", "one convention", action)]


def _both_three_and_four(
    task: Task, cases: Sequence[LabelledCase], refused: Iterable[str]
) -> list[Texts]:
    """Files with 3 and 4 beside some whose 4 was taken for enhancing tumour."""
    if ENHANCING not in task.labels:
        return []
    both = sum(bool(re.search(r"label values \[[^]]*\b3, 4\b", text)) for text in refused)
    of_four = {name for name in task.conventions if 4 in task.file_values(name, ENHANCING)}
    fours = [case for case in cases if case.convention in of_four and case.ml[ENHANCING]]
    if not both or not fours:
        return []
    found = (
        f"{len(fours)} case(s) whose 4 is read as enhancing tumour, such as {fours[0].case_id}, "
        f"and {both} that have both 3 and 4"
    )
    action = (
        "if 4 is a resection cavity in all of them, set task: post-treatment in the manifest, or "
        "label_map: {4: background}; if 3 is non-enhancing core, label_convention: brats2015"
    )
    return [(found, "one meaning of 4", action)]


def _against_anatomy(cases: Sequence[LabelledCase]) -> list[Texts]:
    count = sum(any(w.startswith(UNLIKE_ANATOMY) for w in case.warnings) for case in cases)
    if not count or len(cases) == 1:
        return []
    found = f"labels of {count} of {len(cases)} labelled case(s) contradict anatomy"
    action = "if these are most cases, set what their lines say; else look at each of them"
    return [(found, "oedema outermost, enhancing tumour brightest", action)]


def _ids_of_other_tasks(task: Task, cases: Sequence[LabelledCase]) -> list[Texts]:
    found = []
    for other, pattern in SAME_VALUES.items() if task.name == GLIOMA.name else ():
        if count := sum(bool(re.match(pattern, case.case_id)) for case in cases):
            action = f"nothing: 1, 2 and 3 mean the same; task: {other} has resection cavities too"
            found.append((f"{count} case(s) with ids of {other}", f"task {other}", action))
    return found
