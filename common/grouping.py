"""Groups of files that a layout gives one case id: each file's path is tried in every layout."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from common.layouts import (
    BY_NAME,
    BY_NAMES,
    CHANNEL,
    COMPANION,
    IMAGE_ENDINGS,
    LABEL,
    LABELS_FOLDER,
    LAYOUTS,
    SESSION_ALONE,
    STACKED,
    Layout,
)
from common.manifest import Manifest

VOLUME_SUFFIXES = (".nii.gz", ".nii")


@dataclass(frozen=True)
class File:
    """A file of a case."""

    path: Path
    role: str
    """A modality of the task, `label`, `companion`, `stacked` or `channel`."""
    part: str
    """What the role's expression matched: an ending such as `T1c`, or `0001`."""


@dataclass
class Group:
    """Files to which one kind of path gives one case id, in one place."""

    case_id: str
    place: str
    """The folder that the case lies in, or its path up to the case id."""
    layouts: tuple[Layout, ...]
    """All with this kind of path; endings tell them apart."""
    files: list[File] = field(default_factory=list)

    @property
    def used(self) -> list[File]:
        """Images and labels."""
        return [file for file in self.files if file.role != COMPANION]

    @property
    def companions(self) -> list[File]:
        """Files that are not used."""
        return [file for file in self.files if file.role == COMPANION]

    @property
    def images(self) -> list[File]:
        """Images of any kind."""
        return [file for file in self.used if file.role != LABEL]

    @property
    def is_numbered_by_case(self) -> bool:
        """Whether what looks like numbers of channels are numbers of cases: none of them is 0."""
        channels = [file.part for file in self.files if file.role == CHANNEL]
        return bool(channels) and "0000" not in channels

    @property
    def folders(self) -> set[str]:
        """The folders that its images are in, and its place."""
        texts = [without_suffix(file.path) or "" for file in self.images]
        return {self.place, *(text.rpartition("/")[0] for text in texts)}

    def layout(self) -> Layout | None:
        """The layout that has all the images, and best the label too; None for a mixture."""
        for files in (self.used, self.images):
            for layout in self.layouts:
                if all(fits(layout, file) for file in files):
                    return layout
        return None

    def nearest(self) -> Layout:
        """The layout that has most of these files."""
        return max(self.layouts, key=lambda layout: sum(fits(layout, f) for f in self.used))


class Kind:
    """Layouts with one kind of path, as one regular expression."""

    def __init__(self, layouts: tuple[Layout, ...], manifest: Manifest) -> None:
        self.layouts = layouts
        self._used = {*manifest.task.modalities, *_NO_MODALITIES}
        roles = _roles(layouts, manifest)
        # Companions last: what may be an image is one.
        names = sorted(roles, key=lambda role: role == COMPANION)
        part = "|".join(f"(?P<{name}>{'|'.join(roles[name])})" for name in names)
        folders = {"{images}": manifest.stacked.images, "{labels}": manifest.stacked.labels}
        path = layouts[0].path.replace("{role}", f"(?:{part})")
        for key, listed in folders.items():
            path = path.replace(key, "|".join(map(re.escape, listed)))
        self._expression = re.compile(f"(?:.*/)?{path}", re.IGNORECASE)

    def match(self, path: str) -> tuple[str, str, str, str] | None:
        """Place, case id, role and part of the path of a volume without its suffix."""
        match = self._expression.fullmatch(path)
        if match is None:
            return None
        parts = match.groupdict()
        case_id = parts.pop("case")
        role = next(role for role, part in parts.items() if part is not None)
        if case_id is None:
            place = path.rpartition("/")[0]
            case_id = place.rpartition("/")[2]
        else:
            place = path[: match.start("case")].rstrip("/")
        if self.layouts[0].path == BY_NAME:
            case_id = _with_patient(case_id, place)
        role_used = role if role in self._used else COMPANION
        return place, case_id.replace("/", "_"), role_used, match[role]


def _with_patient(case_id: str, place: str) -> str:
    """The id, with the folders before it that tell whose it is if it names a session alone."""
    *folders, last = place.split("/")
    folders += [last] * (last != case_id)
    parts = [case_id]
    while folders and SESSION_ALONE.fullmatch(parts[0]):
        parts.insert(0, folders.pop())
    return "_".join(parts)


_NO_MODALITIES = frozenset({LABEL, STACKED, CHANNEL})


def kinds(manifest: Manifest) -> list[Kind]:
    """The kinds of paths that a manifest allows, in the order of their layouts."""
    if any(manifest.modalities.values()):
        own = Layout("manifest", _endings(manifest))
        layouts = [own, BY_NAMES["msd"]]
    elif manifest.layout == "auto":
        layouts = list(LAYOUTS)
    else:
        layouts = [BY_NAMES[manifest.layout]]
    by_path: dict[str, list[Layout]] = {}
    for layout in (*layouts, LABELS_FOLDER):
        by_path.setdefault(layout.path, []).append(layout)
    return [Kind(tuple(group), manifest) for group in by_path.values()]


def _endings(manifest: Manifest) -> dict[str, tuple[str, ...]]:
    """Roles of the endings that a manifest lists, and of the layouts' where it lists none."""
    known = _union(layout for layout in LAYOUTS if layout.path == BY_NAME)
    # Images that the cohort does without are known, and not used.
    others = {m: known[m] for m in IMAGE_ENDINGS if m not in manifest.task.modalities}
    listed = {m: tuple(map(re.escape, endings)) for m, endings in manifest.modalities.items()}
    return {LABEL: known[LABEL]} | others | {m: own or known[m] for m, own in listed.items()}


def _union(layouts: Iterable[Layout]) -> dict[str, tuple[str, ...]]:
    roles: dict[str, tuple[str, ...]] = {}
    for layout in layouts:
        for role, parts in layout.roles.items():
            roles[role] = (*roles.get(role, ()), *parts)
    return roles


def _roles(layouts: tuple[Layout, ...], manifest: Manifest) -> dict[str, tuple[str, ...]]:
    """Roles of several layouts together, with the labels and companions of the manifest."""
    roles = _union(layouts)
    if manifest.label and roles.get(LABEL, ("",)) != ("",):
        roles[LABEL] = tuple(map(re.escape, manifest.label))
    if layouts[0].path == BY_NAME:
        listed = tuple(map(re.escape, manifest.companions))
        roles[COMPANION] = (*roles.get(COMPANION, ()), *listed)
    return {role: parts for role, parts in roles.items() if parts}


def fits(layout: Layout, file: File) -> bool:
    """Whether a layout has a file of this role and part."""
    parts = layout.roles.get(file.role, ())
    return any(re.fullmatch(part, file.part, re.IGNORECASE) for part in parts)


class Grouping:
    """All files of a folder, sorted into groups."""

    def __init__(self, manifest: Manifest) -> None:
        self._kinds = kinds(manifest)
        self._groups: dict[tuple[int, str, str], Group] = {}
        self.strays: list[Path] = []
        """Volumes that no layout knows."""
        self.others: list[Path] = []
        """Files that are no volumes."""

    def add(self, path: Path) -> None:
        """Sort one file; several groups may claim it until `groups` decides."""
        text = without_suffix(path)
        if text is None:
            self.others.append(path)
            return
        known = False
        for index, kind in enumerate(self._kinds):
            if match := kind.match(text):
                place, case_id, role, part = match
                new = Group(case_id, place, kind.layouts)
                group = self._groups.setdefault((index, place, case_id), new)
                group.files.append(File(path, role, part))
                known = True
        if not known:
            self.strays.append(path)

    def groups(self) -> list[Group]:
        """The groups, each file in the one that it makes most complete; some may be empty."""
        in_order = [self._groups[key] for key in sorted(self._groups)]
        in_order = [group for group in in_order if not group.is_numbered_by_case]
        by_size = sorted(in_order, key=lambda g: (len(g.images), len(g.used)), reverse=True)
        owner: dict[Path, Group] = {}
        pick: Callable[[Group], list[File]]
        for pick in (lambda group: group.used, lambda group: group.companions):
            for group in by_size:
                for file in pick(group):
                    owner.setdefault(file.path, group)
        for group in in_order:
            group.files = [file for file in group.files if owner[file.path] is group]
        return [group for group in in_order if group.files]


def without_suffix(path: Path) -> str | None:
    """A volume's path without its suffix; None for other files.

    Some copies have a folder named as the file, with a file of any name in it:
    `p_flair.nii/00000057_brain_flair.nii`.
    """
    stem = stem_of(path.name)
    if stem is None:
        return None
    folder = stem_of(path.parent.name)
    return str(path.with_name(stem)) if folder is None else str(path.parent.with_name(folder))


def stem_of(name: str) -> str | None:
    """A volume's name without its suffix; None for other files."""
    for suffix in VOLUME_SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return None
