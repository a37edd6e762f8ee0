"""What the values of a label file mean, and which of them are refused."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common import anatomy
from common.dataset_json import NAME as DATASET_JSON
from common.discovery import CaseFiles
from common.errors import Finding, warning
from common.manifest import Manifest
from common.record import DecidedBy
from common.task import ENHANCING, GLIOMA, TASKS, Task, in_words
from common.volume import Box, bounding_box, extract, foreground

Array = NDArray[np.generic]
Images = Mapping[str, Array]
"""Modality to voxels, on the label's grid."""

BRAIN_SHARE = 0.8
"""A mask that covers more of the brain than this is a brain mask."""

OUTSIDE_SHARE = 0.01
"""A larger share of a tumour outside the brain is a warning; in eleven real cases it is 0."""

ROUNDING = 1e-3
"""Values this near to whole numbers are those, as after a scale factor in float32."""

INTERPOLATED = 0.1
"""A value that is farther from whole numbers is no rounding's."""

FEW_VALUES = 9
"""Values up to this are looked for one by one."""

SHOWN_VALUES = 10
"""So many values of a label at most are shown."""

UNLIKE_ANATOMY = "labels that contradict anatomy: "
"""How the finding about `common.anatomy` begins, by which a cohort's are counted."""

EXCHANGED = "t1 and t1ce look exchanged"

DECIDED_BY = {
    "values": "its label values",
    "names": "its file names",
    "layout": "its layout",
    "manifest": "the manifest",
    "task": "the task",
}


class KnownIds(NamedTuple):
    """What the ids of a release say about its labels."""

    pattern: str
    """How the ids begin, in upper or lower case."""
    cases: str
    tasks: tuple[str, ...]
    """Packaged tasks that read these labels rightly."""
    convention: str = ""
    """Convention of the files, whatever their endings; empty if the ids do not tell."""
    advice: str = ""
    """What to write beside the task."""


KNOWN_IDS = (
    KnownIds(
        "BraTS-PEDs?-",
        "paediatric tumours",
        ("pediatric",),
        advice=" (with label_convention: brats2023-ped for the files of 2023)",
    ),
    KnownIds("BraTS-MEN-RT-", "meningiomas before radiotherapy", ("meningioma-rt",)),
    KnownIds(
        "BraTS-(GLI|SSA|GoAT|MEN|MET)-",
        "BraTS since 2023",
        ("glioma", "post-treatment", "metastases"),
        "brats2023",
    ),
    KnownIds(
        "BraTS2021_|BraTS(20|1[6-9])_|FeTS|UPENN-GBM-|UCSF-PDGM-",
        "gliomas whose enhancing tumour is 4",
        ("glioma",),
        "brats2021",
    ),
    KnownIds("BraTS_(2013|TCIA)_|VSD", "gliomas of BraTS 2012 to 2015", ("glioma",)),
)
"""The first that fits counts."""

UNDECIDED = {
    frozenset({3}): (
        "if 3 is enhancing tumour, set label_convention: brats2023 in the manifest; if it is "
        "non-enhancing core, as from 2012 to 2015, set label_convention: brats2015"
    ),
    frozenset({4}): (
        "if 4 is a resection cavity, set task: post-treatment in the manifest, or label_map: "
        "{4: background}; if it is enhancing tumour, as until 2021, set label_convention: brats2021"
    ),
    frozenset({3, 4}): (
        "if 4 is a resection cavity, set task: post-treatment in the manifest, or label_map: "
        "{4: background}; if it is enhancing tumour and 3 non-enhancing core, as from 2012 to "
        "2015, set label_convention: brats2015"
    ),
}
"""What to do where names and values of a glioma disagree, by which of 3 and 4 the file has."""


class Decided(NamedTuple):
    """A case's label convention, and what decided it."""

    convention: str
    by: DecidedBy


def decide_without_values(files: CaseFiles, manifest: Manifest) -> Decided:
    """The manifest's convention, else that of layout, case id or file names, else the first."""
    task = manifest.task
    if manifest.label_convention != "auto":
        return Decided(manifest.label_convention, "manifest")
    if files.suggested_convention and files.states_convention:
        return Decided(files.suggested_convention, "layout")
    known = _known_ids(files.case_id)
    named = files.suggested_convention
    if known and known.convention in task.conventions:
        named = known.convention
    return Decided(named, "names") if named else Decided(next(iter(task.conventions)), "task")


def _known_ids(case_id: str) -> KnownIds | None:
    return next((k for k in KNOWN_IDS if re.match(k.pattern, case_id, re.IGNORECASE)), None)


def read_label(
    files: CaseFiles, voxels: Array, manifest: Manifest, images: Images
) -> tuple[NDArray[np.uint8] | None, Decided, list[Finding]]:
    """Canonical labels of the voxels of a case's label file, None if it cannot be read so.

    `images` are the case's, on the same grid; none if some cannot be used.
    """
    path = files.label or Path()
    task, suggested = manifest.task, decide_without_values(files, manifest)
    box, part = _labelled(voxels)
    part = _narrow(part)
    values, findings = _label_values(path, part)
    findings = findings or _brain_mask(path, part, values, box, images)
    if findings:
        return None, suggested, findings
    unmapped = values - set(manifest.label_map)
    traits = _traits(part, values, box, task, images)
    decided = _decide(suggested, unmapped, task)
    findings = []
    if unmapped != {0} or values == {0}:  # else label_map says it all
        findings = check_ids(files.case_id, path, manifest, certain=unmapped != {0})
    if values != {0, 1}:  # there `_one_value` says more
        findings = findings or _check_stated(files, path, unmapped, manifest)
    if decided is None:
        findings = findings or [_disagreement(path, unmapped, suggested, task, traits)]
    else:
        one_value = values == unmapped == {0, 1}  # not where label_map explains others
        doubts = _one_value(path, task, decided) if one_value else []
        findings = findings or doubts
    if decided is None or any(finding.severity == "error" for finding in findings):
        return None, suggested, findings
    findings += _unlike_anatomy(path, decided, manifest, traits)
    if not findings and suggested.by == "task":
        shapes = None if images else traits
        findings += _doubtful_values(path, unmapped, decided, task, shapes)
    canonical = _canonical(part, decided.convention, manifest)
    label = np.zeros(voxels.shape, np.uint8)
    extract(label, box)[...] = canonical
    findings += _outside_brain(path, canonical, box, images)
    return label, decided, findings + _no_tumour(path, canonical, values)


def _labelled(voxels: Array) -> tuple[Box, Array]:
    """The box around all that is not 0 and its voxels: fewer to look at.

    Where all values are within `ROUNDING` of whole numbers, they are those numbers.
    """
    box = bounding_box(voxels) or Box((0, 0, 0), (0, 0, 0))
    part = extract(voxels, box)
    if np.issubdtype(voxels.dtype, np.integer):
        return box, part
    with np.errstate(invalid="ignore"):
        off = np.abs(part - np.rint(part)).max(initial=0)
    return _labelled(np.rint(voxels)) if 0 < off <= ROUNDING else (box, part)


def _narrow(voxels: Array) -> Array:
    """The voxels as uint8 where that changes none: what follows is several times as fast."""
    with np.errstate(invalid="ignore"):
        narrow = voxels.astype(np.uint8)
    return narrow if np.array_equal(narrow, voxels) else voxels


def _distinct(voxels: Array) -> Array:
    """All values, sorted; `np.unique` takes ten times as long for the few of a label."""
    if voxels.dtype != np.uint8 or not voxels.size or voxels.max() > FEW_VALUES:
        return np.unique(voxels)
    return np.array([value for value in range(FEW_VALUES + 1) if (voxels == value).any()])


def _label_values(path: Path, voxels: Array) -> tuple[set[int], list[Finding]]:
    values = _distinct(voxels)
    with np.errstate(invalid="ignore"):
        off = np.abs(values - np.rint(values))
    if not np.all(off == 0):  # neither of NaN nor of infinity
        worst = int(np.argmax(off))  # a NaN if there is one
        found = f"label values such as {values[worst]!s}"
        looks = "interpolated" if not off[worst] < INTERPOLATED else "rounded, as by a scale factor"
        action = f"it looks {looks}: export it as whole numbers, with nearest neighbour"
        return set(), [Finding(str(path), found, "whole numbers", action)]
    return {0} | {int(value) for value in values}, []


def _brain_mask(
    path: Path, part: Array, values: set[int], box: Box, images: Images
) -> list[Finding]:
    if values != {0, 1} or not images:
        return []
    brain = foreground(images.values())
    inside = int(np.count_nonzero(part[extract(brain, box)]))
    covered = inside / max(1, int(np.count_nonzero(brain)))
    if covered <= BRAIN_SHARE:
        return []
    found = f"looks like a brain mask: 1 in {covered:.0%} of the brain"
    action = "name the tumour's mask; list this one's ending under companions in the manifest"
    return [Finding(str(path), found, "the tumour's labels", action)]


def _outside_brain(
    path: Path, canonical: NDArray[np.uint8], box: Box, images: Images
) -> list[Finding]:
    """A tumour that is partly where no image has anything, as one that is mirrored or shifted."""
    if not images:
        return []
    tumour = canonical != 0
    brain = foreground(extract(image, box) for image in images.values())
    share = int(np.count_nonzero(tumour & ~brain)) / max(1, int(np.count_nonzero(tumour)))
    if share <= OUTSIDE_SHARE:
        return []
    found = f"{share:.0%} of the tumour is where all images are 0"
    action = "look at the label over the images: it may be mirrored, shifted or another case's"
    return [warning(path, found, "a tumour inside the brain", action)]


def _no_tumour(path: Path, canonical: NDArray[np.uint8], values: set[int]) -> list[Finding]:
    if canonical.any():
        return []
    found, action = "no tumour, only zeros", "nothing if this patient has none"
    found = found if values == {0} else "no tumour: label_map makes all of it background"
    return [warning(path, found, "a tumour", action)]


def _possible(unmapped: set[int], task: Task) -> list[str]:
    """Conventions that values may decide for, and that have all of these."""
    having = task.conventions_of(unmapped)
    return [name for name in task.told_by_values if name in having]


def _mean_the_same(values: set[int], conventions: list[str], task: Task) -> bool:
    """Whether all of these conventions, which have the values, read them as the same labels."""
    meanings = {tuple(task.labels_of(c)[v] for v in sorted(values - {0})) for c in conventions}
    return len(meanings) < 2


def _decide(suggested: Decided, unmapped: set[int], task: Task) -> Decided | None:
    """The convention of a file with these values; None if names and values disagree."""
    possible = _possible(unmapped, task)
    if suggested.by == "task" and possible:
        several = len(task.told_by_values) > 1
        return Decided(possible[0], "values" if several and len(possible) == 1 else "task")
    if not unmapped <= task.values_of(suggested.convention):
        return None
    if suggested.by == "names" and possible == [suggested.convention]:
        return Decided(suggested.convention, "values")
    return suggested


def check_ids(
    case_id: str, path: Path, manifest: Manifest, *, certain: bool = False
) -> list[Finding]:
    """A case id of a release whose labels are another task's, unless the manifest decides.

    A warning, as of a case whose label is empty or not read; an error if a label is `certain` to be
    misread.
    """
    task, known = manifest.task, _known_ids(case_id)
    if manifest.label_convention != "auto" or known is None:
        return []
    if task.name in known.tasks or task.name not in TASKS:
        return []
    found = f"a case id of {known.cases} under task {task.name}"
    tasks = " or ".join(known.tasks)
    action = (
        f"set task: {tasks} in the manifest{known.advice}, or, if its values are those of "
        f"{task.name}, label_convention: {' or '.join(task.told_by_values)}"
    )
    severity: Literal["error", "warning"] = "error" if certain else "warning"
    return [Finding(str(path), found, f"task {tasks}", action, severity=severity)]


def _check_stated(
    files: CaseFiles, path: Path, unmapped: set[int], manifest: Manifest
) -> list[Finding]:
    """Values of several meanings beside a `dataset.json` that should say theirs, and does not.

    nnU-Net numbers labels as each user likes, so neither ids nor values tell what they mean.
    """
    task, having = manifest.task, sorted(manifest.task.conventions_of(unmapped))
    is_stated = not files.lacks_statement or manifest.label_convention != "auto"
    if is_stated or _mean_the_same(unmapped, having, task):
        return []
    return [
        Finding(
            str(path),
            f"label values {_shown(unmapped)}, and no {DATASET_JSON} says what all of them mean",
            f"{DATASET_JSON} beside the folder of labels, with a name that is known for each value",
            f"write it, or set in the manifest {_in_words(having, task)}",
        )
    ]


def _in_words(conventions: Iterable[str], task: Task) -> str:
    return " or ".join(f"label_convention: {name} ({task.legend(name)})" for name in conventions)


def _shown(values: set[int]) -> str:
    """Values in words: all of a few, the first of many, as those of an atlas."""
    first = ", ".join(map(str, sorted(values)[:SHOWN_VALUES]))
    more = f" … {max(values)}: {len(values)} values" if len(values) > SHOWN_VALUES else ""
    return f"[{first}{more}]"


def _disagreement(
    path: Path,
    unmapped: set[int],
    suggested: Decided,
    task: Task,
    traits: Mapping[int, anatomy.Traits],
) -> Finding:
    """Values that are not of the convention that all else suggests."""
    values = f"{suggested.convention} {sorted(task.values_of(suggested.convention))}"
    expected = f"{values}, decided by {DECIDED_BY[suggested.by]}"
    if suggested.by == "task" and len(task.by_values) > 1:
        expected = " or ".join(f"{name} {sorted(task.values_of(name))}" for name in task.by_values)
    having = sorted(task.conventions_of(unmapped))
    unknown = sorted(unmapped - task.values_of(suggested.convention))
    if not having:
        action = (
            f"say what {unknown[0]} is in the manifest, as label_map: {{{unknown[0]}: …}} with one "
            f"of {', '.join(task.labels)} or background; or set task or label_convention"
        )
    elif task.name == GLIOMA.name and suggested.by in {"names", "task"}:
        action = UNDECIDED[frozenset(unmapped & {3, 4})] + _gain_in_words(traits)
    else:
        action = f"set label_convention: {' or '.join(having)} in the manifest"
    return Finding(str(path), f"label values {_shown(unmapped)}", expected, action)


def _gain_in_words(traits: Mapping[int, anatomy.Traits]) -> str:
    if not anatomy.has_gains(traits):
        return ""
    if anatomy.exchanged(traits) is not None:
        return f". In this case {EXCHANGED}"
    brightest = anatomy.brightest(traits)
    which = "no value" if brightest is None else str(brightest)
    return f". In this case {which} gains from T1 to T1CE as enhancing tumour does"


def _doubtful_values(
    path: Path,
    unmapped: set[int],
    decided: Decided,
    task: Task,
    shapes: Mapping[int, anatomy.Traits] | None,
) -> list[Finding]:
    """Values that may mean something else than the convention that was taken says.

    Without images, where shapes are all there is to go by, any convention is possible that these do
    not contradict; but one of more values would show these in other files.
    """
    possible = _possible(unmapped, task)
    if shapes is not None:
        most = len(task.values_of(decided.convention))
        fitting = _not_contradicted(unmapped, shapes, task)
        possible = [name for name in fitting if len(task.values_of(name)) <= most]
    if _mean_the_same(unmapped, possible, task):
        return []
    found = (
        f"label values {_shown(unmapped)}, which {', '.join(sorted(possible))} share; taken as "
        f"{decided.convention} by {DECIDED_BY[decided.by]}"
    )
    others = _in_words((name for name in possible if name != decided.convention), task)
    action = f"nothing if that is right; else set in the manifest {others}"
    return [warning(path, found, "values that only one convention has", action)]


def _one_value(path: Path, task: Task, decided: Decided) -> list[Finding]:
    """A mask of 1 alone, often a whole tumour's, which would be taken for one label."""
    if len(task.labels) == 1:
        return []
    label = task.labels_of(decided.convention)[1]
    found = f"a mask of 1 alone, which would be read as {in_words(label)} and nothing else"
    expected = f"a value each for {', '.join(in_words(name) for name in task.labels)}"
    if decided.by == "manifest":
        return [warning(path, found, expected, "nothing: the manifest sets label_convention")]
    action = (
        f"if it is {in_words(label)} alone, set label_convention: {decided.convention} in the "
        f"manifest; if it is another label, set label_map: {{1: {list(task.labels)[-1]}}}"
    )
    return [Finding(str(path), found, expected, action)]


def _traits(
    part: Array, values: set[int], box: Box, task: Task, images: Images
) -> dict[int, anatomy.Traits]:
    """Traits of each value of a label, of its shape alone without images; none of odd values."""
    if anatomy.oedema_of(task) is None or part.dtype != np.uint8:
        return {}
    return anatomy.measure(part.astype(np.uint8, copy=False), values - {0}, box, images)


def _unlike_anatomy(
    path: Path, decided: Decided, manifest: Manifest, traits: Mapping[int, anatomy.Traits]
) -> list[Finding]:
    """Labels that do not look like the tissues that they name, and values that would."""
    task = manifest.task
    meaning = task.labels_of(decided.convention) | manifest.label_map
    found = anatomy.contradictions(task, meaning, traits)
    if not found:
        return []
    expected = "oedema outermost, and enhancing tumour brightest in T1CE beside T1"
    fits = anatomy.fitting(task, meaning, traits)
    if (bright := anatomy.exchanged(traits)) is not None:
        found.append(f"{bright} loses from T1 to T1CE what enhancing tumour gains")
        action = f"look at the images: {EXCHANGED}; if they are, exchange the files' names"
    elif fits:
        action = f"look at the label; this would fit: {_as_setting(task, fits)}"
    elif not anatomy.has_gains(traits):
        action = "look at the label; set label_map or label_convention in the manifest"
        if fitting := _not_contradicted(traits, traits, task):
            action = f"look at the label; this would fit: {_in_words(fitting, task)}"
    else:
        value = next(value for value in traits if meaning.get(value) == ENHANCING)
        other = "task: post-treatment or " if task.name == GLIOMA.name else ""
        action = (
            f"look at the label: no value looks like enhancing tumour; if {value} is a cavity, set "
            f"{other}label_map: {{{value}: background}} in the manifest, if it is core, label_map: "
            f"{{{value}: {next(name for name in task.labels if name in anatomy.CORE)}}}"
        )
    return [warning(path, UNLIKE_ANATOMY + " and ".join(found), expected, action)]


def _not_contradicted(
    values: Iterable[int], traits: Mapping[int, anatomy.Traits], task: Task
) -> list[str]:
    """Conventions that have the values, and by which these look as they should."""
    return [
        name
        for name in sorted(task.conventions_of(values))
        if not anatomy.contradictions(task, task.labels_of(name), traits)
    ]


def _as_setting(task: Task, meaning: Mapping[int, str]) -> str:
    """What to write in a manifest for values that have this meaning."""
    for name in task.conventions:
        if meaning.items() <= task.labels_of(name).items():
            return f"label_convention: {name} ({task.legend(name)})"
    return f"label_map: {{{', '.join(f'{value}: {name}' for value, name in meaning.items())}}}"


def _canonical(part: Array, convention: str, manifest: Manifest) -> NDArray[np.uint8]:
    """File values to canonical labels, by `label_map` and then by the convention."""
    task, pairs = manifest.task, manifest.label_map.items()
    mapped = [(part == value, task.labels.get(name, 0)) for value, name in pairs]
    if mapped:
        part = np.where(np.logical_or.reduce([where for where, _ in mapped]), 0, part)
    label = task.to_canonical(part, convention)
    for where, value in mapped:
        label[where] = value
    return label
