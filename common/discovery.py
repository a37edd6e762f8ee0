"""Which files of a folder make a case, by the names and places that every release gives them."""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from common.dataset_json import NAME as DATASET_JSON
from common.dataset_json import DatasetJson, Datasets
from common.drafts import (
    Draft,
    Problem,
    check_channels,
    check_doubled,
    check_id,
    check_missing,
    convention_of,
    has_near_label,
    is_prediction,
)
from common.errors import Finding, cohort_warning
from common.folder import files_below
from common.grouping import File, Group, Grouping, without_suffix
from common.layouts import (
    BY_NAMES,
    CHANNEL,
    COMPANION,
    LABEL,
    MASK,
    OTHER_MASK,
    STACKED,
    ids_like_sessions,
)
from common.manifest import Manifest
from common.unused_files import other_format, stray_volume

UNNAMED = {CHANNEL, STACKED}
"""Roles of images that are not known to be one modality."""

MIXED = "mixed"
"""The layout of a case whose files are named as in several releases."""

MANY_CASES = 4
"""Of one patient, from which it is said if they are most of a cohort."""

NO_CASE = (
    "no usable case",
    f"cases in one of the layouts {', '.join(BY_NAMES)}",
    "name another folder, or describe its file names in a manifest",
)
"""Found, expected and action of the finding about a folder without a case."""


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case."""

    case_id: str
    """The common start of its file names, or its folder's name."""
    patient: str
    images: dict[str, Path]
    """File of each modality of the task, but for one that may lack; the same 4-D file for all of
    them if `stacked`."""
    label: Path | None
    """The reference label, if there is one."""
    layout: str
    """The layout that it was recognised by; `manifest` for endings that the manifest lists."""
    suggested_convention: str | None
    """Label convention that the layout or its dataset.json suggests, if the task has it."""
    states_convention: bool = False
    """Whether that is certain, so that label values do not overrule it."""
    lacks_statement: bool = False
    """Whether its label's dataset.json should say what the values mean, and does not."""
    stacked: bool = False
    """Whether the images are one 4-D file."""


@dataclass
class Discovery:
    """What a data folder holds: usable cases, and findings about everything else."""

    cases: list[CaseFiles] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    unused: Counter[str] = field(default_factory=Counter)
    """Files that are not used and need no finding, such as `*_mask.nii.gz`, with their number."""

    @property
    def layouts(self) -> dict[str, int]:
        """Layout to the number of its cases, most first."""
        return dict(Counter(case.layout for case in self.cases).most_common())

    @property
    def layout_line(self) -> str:
        """The same in words."""
        return "layout: " + ", ".join(f"{name} ({count:,})" for name, count in self.layouts.items())


def discover(
    root: Path, manifest: Manifest, *, labels: bool = True, may_lack: Collection[str] = ()
) -> Discovery:
    """Find the cases in a folder and its subfolders, in the layout of any release.

    Files of cases are listed, not opened, but for `dataset.json`. Hidden files and folders, stores
    and manifests are skipped. A volume that belongs to no case is a finding, and so is an image of
    another format. All other files are counted in `unused`; labels too, without `labels`. A case
    that lacks one image of `may_lack` is a case without it, with a warning.

    Raises:
        InputError: there is no such folder, or its path is not UTF-8.
    """
    root = root.absolute()  # a folder's name may name a case
    found = Discovery()
    grouping = Grouping(manifest)
    for path in files_below(root, found.findings):
        grouping.add(path)
    builder = _Builder(root, manifest, found, labels=labels, may_lack=may_lack)
    builder.join(grouping.groups())
    builder.adopt(grouping.strays)
    builder.build()
    builder.sort_others(grouping.others)
    if labels:
        found.findings += builder.missing_labels() + builder.far_labels()
    found.findings += _doubtful_patients(found.cases, manifest.patient_pattern)
    return found


class _Builder:
    """Makes cases of groups of files, and findings of what does not fit."""

    def __init__(
        self,
        root: Path,
        manifest: Manifest,
        found: Discovery,
        *,
        labels: bool,
        may_lack: Collection[str],
    ) -> None:
        self._root, self._manifest, self._found, self._takes_labels = root, manifest, found, labels
        self._may_lack = may_lack
        self._task = manifest.task
        self._drafts: list[Draft] = []
        self._by_id: dict[str, Draft] = {}
        self._in_folder: dict[str, list[Draft]] = {}
        self._datasets = Datasets()
        self._unread: Counter[Path] = Counter()

    def join(self, groups: list[Group]) -> None:
        """Bring together what one or several folders have of each case id."""
        _name_bare_files(groups)
        by_id: dict[str, list[Group]] = {}
        for group in groups:
            by_id.setdefault(group.case_id, []).append(group)
        for case_id, members in sorted(by_id.items()):
            used = _preferred(members)
            owners = [group for group in used if group.images]
            roles = Counter(role for group in owners for role in {f.role for f in group.images})
            if roles and max(roles.values()) > 1:
                self._report_repeated(case_id, owners)
                continue
            images = [file for group in owners for file in group.images]
            labels = [file for group in used for file in group.used if file.role == LABEL]
            draft = Draft(
                case_id,
                (owners or used)[0],
                images,
                self._of_one_dataset(labels, images, case_id),
                [file for group in used for file in group.companions]
                + [file for group in members if group not in used for file in group.files],
            )
            self._count(draft.companions, case_id)
            if not self._takes_labels:
                self._count(draft.labels, case_id)
                draft.labels = []
            self._check_predictions(draft)
            if draft.files:
                self._drafts.append(draft)

    def _check_predictions(self, draft: Draft) -> None:
        """Labels in folders of predictions count only without any other, and with a warning."""
        if not draft.images:
            return
        predicted = [file for file in draft.labels if is_prediction(file.path, draft.images)]
        others = [file for file in draft.labels if file not in predicted]
        for file in predicted:
            found = "a label in a folder of predictions, "
            if others:
                what, action = "not used", "nothing if that is right; else move the other away"
            else:
                what, action = "taken for this case's", "move it out of the data if it is predicted"
            self._warn(file.path, found + what, action, draft.case_id)
        draft.labels = others or draft.labels

    def _warn(
        self, path: Path, found: str, action: str, case: str, expected: str = "a reference label"
    ) -> None:
        finding = Finding(self._shown(path), found, expected, action, case, "warning")
        self._found.findings.append(finding)

    def adopt(self, strays: list[Path]) -> None:
        """Take masks of unknown names as labels, where there is no doubt whose they are.

        Releases have such names: in BraTS 2020 one label is `W39_1998.09.19_Segm.nii`.
        """
        masks: dict[str, list[Path]] = {}
        with_images = [draft for draft in self._drafts if draft.images]
        self._by_id = {draft.case_id: draft for draft in with_images}
        for draft in with_images:
            for folder in draft.group.folders:
                self._in_folder.setdefault(folder, []).append(draft)
        drafts = [draft for draft in self._drafts if not draft.images and len(draft.labels) == 1]
        alone = {draft.labels[0].path: draft for draft in drafts}
        for path in strays:
            owner = self._owner(path)
            case_id = owner.case_id if owner else "-"
            if owner and not owner.labels and _is_mask(path, case_id):
                masks.setdefault(case_id, []).append(path)
            else:
                self._found.findings.append(stray_volume(path, self._shown(path), case_id))
        for path, lone in alone.items():
            owner = self._owner(path) or self._only_session(lone)
            if owner is None:
                continue
            if not self._of_one_dataset(lone.labels, owner.images, owner.case_id):
                self._drafts.remove(lone)
                continue
            other = OTHER_MASK.search(path.name.removeprefix(owner.case_id))
            if other or owner.labels:
                found = f"a mask called '{other[0]}'" if other else "a second label of this case"
                action = f"nothing if that is right; else call it {owner.case_id}_seg, and no other"
                self._warn(path, f"{found}, not used", action, owner.case_id)
            else:
                masks.setdefault(owner.case_id, []).append(path)
            self._drafts.remove(lone)
        for draft in with_images:
            if paths := masks.get(draft.case_id):
                self._adopt_mask(draft, paths)

    def _adopt_mask(self, draft: Draft, paths: list[Path]) -> None:
        finding = Finding(
            self._shown(paths[0]),
            "taken for the label of this case, which has no other",
            "a label with a name that says so",
            "nothing if that is right; else move it away",
            draft.case_id,
            "warning",
        )
        if not self._takes_labels:
            self._found.unused.update(_unused_name(path, draft.case_id) for path in paths)
            return
        if len(paths) == 1:
            draft.labels = [File(paths[0], LABEL, paths[0].name)]
        else:
            names = " and ".join(path.name for path in paths)
            action = f"rename the right one to {draft.case_id}_seg, and move the others away"
            found = f"no label: {names} are not used"
            finding = replace(finding, found=found, action=action, severity="error")
        self._found.findings.append(finding)

    def build(self) -> None:
        """Make a case of every draft that has what a case needs."""
        for draft in self._drafts:
            self._explain_channels(draft)
            problems = check_id(draft) or check_doubled(draft, self._shown)
            problems = problems or self._check_missing(draft) or self._check_channels(draft)
            where = self._shown(min(file.path for file in draft.files).parent)
            case_id = draft.case_id if draft.case_id.strip("-_ ") else "-"
            for found, expected, action in problems:
                self._report(where, found, expected, action, case_id)
            if not problems:
                self._found.cases.append(self._case(draft))
        for folder, dataset in self._datasets.items():
            if dataset.problem:
                expected = f"the {DATASET_JSON} of the cases beside it"
                action = "correct it, or move it away"
                self._report(self._shown(folder / DATASET_JSON), dataset.problem, expected, action)
        for folder, count in self._unread.items():
            stated = ", ".join(self._datasets[folder].labels)
            conventions = ", ".join(self._task.conventions)
            found = f"labels {stated}; {count} label(s) are not used"
            expected = f"labels of task {self._task.name} in the values of {conventions}"
            action = "set task or label_convention in the manifest, or correct this file"
            self._report(self._shown(folder / DATASET_JSON), found, expected, action)

    def sort_others(self, paths: list[Path]) -> None:
        """Findings about images of other formats, one for each format; count all other files."""
        alike: dict[tuple[str, str], list[Path]] = {}
        for path in paths:
            if path.name == DATASET_JSON and path.parent in self._datasets:
                continue
            if what := other_format(path):
                alike.setdefault(what, []).append(path)
            else:
                self._found.unused["*" + path.suffix if path.suffix else path.name] += 1
        for (found, action), files in alike.items():
            more = f" (and {len(files) - 1} more)" if len(files) > 1 else ""
            self._report(self._shown(files[0]), found + more, "a .nii.gz or .nii volume", action)

    def missing_labels(self) -> list[Finding]:
        """A warning if cases have no label but files beside them that may be one."""
        labelled = sum(case.label is not None for case in self._found.cases)
        alone = [draft for draft in self._drafts if draft.images and not draft.labels]
        files = [
            (draft.case_id, file)
            for draft in alone
            for file in draft.companions
            if MASK.fullmatch(file.part)
        ]
        if not files:
            return []
        names = ", ".join(sorted({_unused_name(file.path, case_id) for case_id, file in files}))
        endings = ", ".join(sorted({file.part.lower() for _, file in files}))
        count = f"labels in {labelled} of {len(self._found.cases)} cases"
        found = f"{count}; {len(files)} file(s) not used: {names}"
        action = f"if they are the tumours' masks, set label: [{endings}] in the manifest"
        return [cohort_warning(found, "a label for cases to train on", action)]

    def far_labels(self) -> list[Finding]:
        """A warning if labels are where none are expected: they might be predictions."""
        far = [
            draft.labels[0].path
            for draft in self._drafts
            if draft.labels
            and draft.images
            and not has_near_label(draft)
            and not is_prediction(draft.labels[0].path, draft.images)
        ]
        if not far:
            return []
        found = f"{len(far)} label(s) in another folder than their images, as {self._shown(far[0])}"
        action = "nothing if these are reference labels; else move them out of the data"
        return [cohort_warning(found, "labels beside the images", action)]

    def _case(self, draft: Draft) -> CaseFiles:
        layout = draft.group.layout()
        images = {file.role: file.path for file in draft.images}
        stacked = images.get(STACKED)
        there = [m for m in self._task.modalities if stacked or m in images]
        label = draft.labels[0].path if draft.labels else None
        folder = self._dataset_of(label) if label else None
        if label is None and layout and layout.has_dataset:
            folder = draft.dataset_folder
        dataset = self._datasets[folder] if folder else None
        convention, is_certain = convention_of(draft, dataset, self._task)
        is_other = dataset is not None and dataset.conventions(self._task) == set()
        if folder and is_other and label and self._manifest.label_convention == "auto":
            self._unread[folder] += 1
            label = None
        return CaseFiles(
            case_id=draft.case_id,
            patient=self._manifest.patient_of(draft.case_id),
            images={m: stacked or images[m] for m in there},
            label=label,
            layout=layout.name if layout else MIXED,
            suggested_convention=convention,
            states_convention=is_certain,
            lacks_statement=dataset is not None and convention is None,
            stacked=stacked is not None,
        )

    def _dataset_of(self, label: Path) -> Path | None:
        """The folder whose dataset.json says what a label's values mean; None if none does."""
        folder = Path(without_suffix(label) or "").parent
        known = [name.lower() for name in self._manifest.stacked.labels]
        return folder.parent if folder.name.lower() in known else None

    def _of_one_dataset(self, labels: list[File], images: list[File], case_id: str) -> list[File]:
        """The labels without those of another dataset than the images', which are reported."""
        kept = []
        for label in labels:
            folder = self._dataset_of(label.path)
            if folder is None or all(image.path.is_relative_to(folder) for image in images):
                kept.append(label)
                continue
            found, expected = "a label of another dataset, not used", "labels beside the images"
            action = "nothing if that is right; else move it to the folder of labels beside them"
            self._warn(label.path, found, action, case_id, expected)
        return kept

    def _explain_channels(self, draft: Draft) -> None:
        """Give channels the roles that their dataset.json states."""
        if CHANNEL not in draft.roles:
            return
        dataset = self._datasets[draft.dataset_folder]
        named = [replace(f, role=dataset.role(f.part, self._task)) for f in draft.images]
        if {*self._task.modalities} - {file.role for file in named}:
            # One of the others may be what is missing.
            named = [replace(f, role=CHANNEL) if f.role == COMPANION else f for f in named]
        draft.images = [file for file in named if file.role != COMPANION]
        self._count([file for file in named if file.role == COMPANION], draft.case_id)

    def _check_missing(self, draft: Draft) -> list[Problem]:
        missing = [m for m in self._task.modalities if m not in draft.roles]
        if len(missing) == 1 and missing[0] in self._may_lack and draft.roles.isdisjoint(UNNAMED):
            action = "nothing: it is predicted without; add it if there is one"
            self._warn(
                draft.files[0].path.parent,
                f"no {missing[0]}",
                action,
                draft.case_id,
                f"an image for each of {', '.join(self._task.modalities)}",
            )
            return []
        folder = draft.dataset_folder if CHANNEL in draft.roles else None
        dataset = self._datasets[folder] if folder else DatasetJson()
        return check_missing(draft, self._task, dataset, all_needed=not self._takes_labels)

    def _check_channels(self, draft: Draft) -> list[Problem]:
        if STACKED not in draft.roles:
            return []
        return check_channels(draft, self._manifest, self._datasets[draft.dataset_folder])

    def _report_repeated(self, case_id: str, groups: list[Group]) -> None:
        folders = ", ".join(self._shown(group.images[0].path.parent) for group in groups)
        found, action = (
            f"{len(groups)} folders make this case id",
            "rename or move away all but one",
        )
        self._report(folders, found, "one folder for a case", action, case_id)

    def _owner(self, path: Path) -> Draft | None:
        """The case of a stray volume: by the start of its name, else the only one in its folder."""
        text = without_suffix(path) or ""
        start = text.rpartition("/")[2]
        while start:
            if start in self._by_id:
                return self._by_id[start]
            start = re.sub(r"(?:^|[-_.])[^-_.]*$", "", start)
        there = self._in_folder.get(text.rpartition("/")[0], [])
        return there[0] if len(there) == 1 else None

    def _only_session(self, alone: Draft | None) -> Draft | None:
        """The case of a label whose id leaves out the session, if there is only one."""
        if alone is None:
            return None
        start = alone.case_id + "_"
        sessions = [draft for case_id, draft in self._by_id.items() if case_id.startswith(start)]
        return sessions[0] if len(sessions) == 1 else None

    def _count(self, files: list[File], case_id: str) -> None:
        self._found.unused.update(_unused_name(file.path, case_id) for file in files)

    def _report(self, file: str, found: str, expected: str, action: str, case: str = "-") -> None:
        self._found.findings.append(Finding(file, found, expected, action, case))

    def _shown(self, path: Path) -> str:
        """A path relative to the root; the root's name for the root itself."""
        return self._root.name if path == self._root else str(path.relative_to(self._root))


def _name_bare_files(groups: list[Group]) -> None:
    """A bare `mask.nii.gz` or `seg.nii.gz` in a folder of one case belongs to that case."""
    cases: dict[str, set[str]] = {}
    for group in groups:
        for folder in group.folders if group.images else ():
            cases.setdefault(folder, set()).add(group.case_id)
    for group in groups:
        there = cases.get(group.place, set())
        is_bare = group.case_id.endswith(Path(group.place).name)
        if not group.images and is_bare and len(there) == 1:
            group.case_id = next(iter(there))


def _preferred(groups: list[Group]) -> list[Group]:
    """The groups without those that another's layout comes before."""
    layouts = [group.layout() for group in groups]
    behind = {layout.before for layout in layouts if layout}
    return [
        g
        for g, layout in zip(groups, layouts, strict=True)
        if not layout or layout.name not in behind
    ]


def _is_mask(path: Path, case_id: str) -> bool:
    """Whether a volume that belongs to a case is called as masks are, or is in such a folder."""
    stem = (without_suffix(path) or "").rpartition("/")[2]
    rest = stem.removeprefix(case_id).lstrip("-_.")
    return bool(MASK.fullmatch(rest or path.parent.name))


def _unused_name(path: Path, case_id: str) -> str:
    return "*" + path.name.removeprefix(case_id) if path.name.startswith(case_id) else path.name


def _doubtful_patients(cases: Sequence[CaseFiles], pattern: str) -> list[Finding]:
    """Warnings if ids may be divided among patients in another way than it is done."""
    findings = []
    ids = [case.case_id for case in cases]
    others = "for patients of one case each set patient_pattern: '(?P<patient>.+)'"
    expected = "all sessions of a patient, and nobody else's, under one patient"

    def warn(found: str, action: str) -> None:
        findings.append(cohort_warning(found, expected, action))

    if pattern == "auto":
        if like := ids_like_sessions(ids):
            fitting, groups = like
            first, second, *_ = groups[0]
            count = sum(map(len, groups))
            found = f"{count} case ids that may be sessions, such as {first} and {second}, "
            action = f"for sessions set patient_pattern: '{fitting}' in the manifest; {others}"
            warn(f"{found}each taken for a patient", action)
    elif unfit := [case_id for case_id in ids if not re.match(pattern, case_id)]:
        found = f"patient_pattern fits {len(ids) - len(unfit)} of {len(ids)} case ids, "
        found += f"not {unfit[0]}; one that it does not fit is taken for a patient"
        warn(found, "correct patient_pattern in the manifest; nothing if these are patients")
    for patient, count in Counter(case.patient for case in cases).most_common(1):
        if count >= MANY_CASES and count > len(ids) / 2:
            found = f"{count} of {len(ids)} cases are taken for one patient, {patient}"
            warn(found, f"nothing if that is right; {others}")
    return findings
