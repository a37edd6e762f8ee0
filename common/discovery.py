"""Which files of a folder make a case, by the file names of every release."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import Finding, InputError
from common.manifest import DEFAULT_NAME, Manifest, StackedSection
from common.nifti import LFS_POINTER, check_header
from common.task import Task

VOLUME_SUFFIXES = (".nii.gz", ".nii")
IMAGE_SUFFIXES = (".nii", ".gz", ".mha", ".mhd", ".nrrd", ".nhdr", ".dcm", ".img", ".hdr", ".mgz")
NAMES_OF_2023 = frozenset({"t2f", "t1n", "t1c", "t2w"})
STACKED_CONVENTION = "msd"
"""The label convention of 4-D files; only the layout identifies it, its values are not unique."""

LABEL = "label"
COMPANION = "companion"
STACKED = "4-D image"

NO_CASE = (
    "no usable case",
    "a folder a case, with files named like <case>_flair.nii.gz or <case>-t2f.nii.gz",
    "name another folder, or describe its file names in a manifest",
)
"""Found, expected and action of the finding about a folder without a case."""

Key = tuple[Path, str]
"""A case whose files are being collected: their folder and its id."""


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case."""

    case_id: str
    """The common start of its file names, or its folder's name."""
    patient: str
    images: dict[str, Path]
    """File of each modality of the task; the same 4-D file for all of them if `stacked`."""
    label: Path | None
    """The reference label, if there is one."""
    names: str | None
    """Label convention that the file names or the layout suggest, if the task has it."""
    stacked: bool = False
    """Whether the images are one 4-D file."""


@dataclass
class Discovery:
    """What a data folder holds: usable cases, and findings about everything else."""

    cases: list[CaseFiles] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def discover(root: Path, manifest: Manifest) -> Discovery:
    """Find the cases in a folder and its subfolders, named as in any release.

    Files of cases are listed, not opened. Hidden files and folders, stores and manifests are
    skipped. Every other file that belongs to no case is a finding: a warning if it cannot be an
    image (the tables of a release), else an error, for which `check_header` reads the file.

    Raises:
        InputError: there is no such folder, or its path is not UTF-8.
    """
    root = root.absolute()  # a folder's name may name a case
    discovery = Discovery()
    endings = _endings(manifest)
    groups: dict[Key, list[tuple[str, Path]]] = {}
    for path in _files_below(root, discovery.findings):
        if parsed := _parse(path, endings, manifest.stacked):
            key, role = parsed
            groups.setdefault(key, []).append((role, path))
        else:
            discovery.findings.append(_unused_file(path, root))
    _assign_bare_companions(groups)
    for (_, case_id), files in sorted(groups.items()):
        case = _case(case_id, files, root, manifest)
        if isinstance(case, CaseFiles):
            discovery.cases.append(case)
        else:
            discovery.findings += case
    _drop_repeated_ids(discovery, root)
    return discovery


def _endings(manifest: Manifest) -> dict[str, str]:
    """Ending in lower case to role: a modality, LABEL or COMPANION."""
    roles = {ending.lower(): m for m, group in manifest.modalities.items() for ending in group}
    roles |= {ending.lower(): LABEL for ending in manifest.label}
    return roles | {ending.lower(): COMPANION for ending in manifest.companions}


def _stem(path: Path) -> str | None:
    for suffix in VOLUME_SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return None


def _last_word(path: Path) -> str:
    return re.split(r"[-_]", (_stem(path) or "").lower())[-1]


def _ending(path: Path) -> str:
    """What follows the case's name if that is its folder's; else the last word."""
    stem, case = (_stem(path) or "").lower(), path.parent.name.lower()
    rest = stem[len(case) + 1 :] if stem.startswith((case + "_", case + "-")) else ""
    return rest if rest[:1].isalpha() else _last_word(path)


def _parse(path: Path, endings: dict[str, str], stacked: StackedSection) -> tuple[Key, str] | None:
    """Case and role of a file by its name, else by its folder's; None if neither has one."""
    stem = _stem(path)
    if stem is None:
        return None
    for ending in sorted(endings, key=len, reverse=True):
        if stem.lower() == ending:
            return (path.parent, path.parent.name), endings[ending]
        if stem.lower().endswith(("_" + ending, "-" + ending)):
            return (path.parent, stem[: -len(ending) - 1]), endings[ending]
    for role, folders in ((STACKED, stacked.images), (LABEL, stacked.labels)):
        if path.parent.name.lower() in {folder.lower() for folder in folders}:
            return (path.parent.parent, stem), role
    return None


def _assign_bare_companions(groups: dict[Key, list[tuple[str, Path]]]) -> None:
    """A bare `mask.nii.gz` in a folder of one case belongs to that case."""
    for key in [k for k, files in groups.items() if all(r == COMPANION for r, _ in files)]:
        others = [k for k in groups if k[0] == key[0] and k != key]
        if len(others) == 1:
            groups[others[0]] += groups.pop(key)


def _unused_file(path: Path, root: Path) -> Finding:
    shown = str(path.relative_to(root))
    case = path.parent.name if path.parent != root else "-"
    if _stem(path) is None:
        found, expected = _what(path), "a .nii.gz or .nii volume"
        if path.suffix.lower() not in IMAGE_SUFFIXES and found.startswith("file of type"):
            return Finding(shown, found, expected, "nothing, it is not used", case, "warning")
        return Finding(shown, found, expected, "convert or fetch it, or move it away", case)
    found = f"name ends in '{_ending(path)}', which the manifest does not list"
    expected = "an ending under modalities, label or companions"
    action = "rename it, add the ending to the manifest, or move it away"
    try:
        check_header(path)
    except InputError as error:
        damage = error.findings[0]
        found, expected = f"{damage.found}; also, {found}", f"{damage.expected}, with {expected}"
        action = damage.action
    return Finding(shown, found, expected, action, case)


def _what(path: Path) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        return f"unreadable file ({error.strerror})"
    if start.startswith(LFS_POINTER):
        return "git-LFS pointer, the image was not fetched"
    return f"file of type '{path.suffix or 'none'}'"


def _case(
    case_id: str, files: list[tuple[str, Path]], root: Path, manifest: Manifest
) -> CaseFiles | list[Finding]:
    """The case of these files, or findings about why they are none."""
    by_role: dict[str, list[Path]] = {}
    for role, path in files:
        by_role.setdefault(role, []).append(path)
    task = manifest.task
    problems = _doubled(case_id, by_role, root) + _missing(case_id, by_role, root, task)
    if not case_id.strip("-_ "):
        paths = sorted(path for _, path in files)
        found = f"no case id in {', '.join(path.name for path in paths)}"
        expected = "names that start with the case's id"
        action = "rename the files, or move them away"
        problems = [Finding(_folder(paths[0], root), found, expected, action)]
    if problems:
        return problems
    stacked = STACKED in by_role
    images = {m: by_role[STACKED if stacked else m][0] for m in task.modalities}
    is_recent = any(_last_word(path) in NAMES_OF_2023 for path in images.values())
    names = STACKED_CONVENTION if stacked else "brats2023" if is_recent else "brats2021"
    return CaseFiles(
        case_id=case_id,
        patient=manifest.patient_of(case_id),
        images=images,
        label=by_role[LABEL][0] if LABEL in by_role else None,
        names=names if names in task.conventions else None,
        stacked=stacked,
    )


def _folder(path: Path, root: Path) -> str:
    """A file's folder relative to the root; the root's name for the root itself."""
    folder = path.parent
    return root.name if folder == root else str(folder.relative_to(root))


def _doubled(case_id: str, by_role: dict[str, list[Path]], root: Path) -> list[Finding]:
    findings = []
    for role, paths in by_role.items():
        if role == COMPANION or len(paths) == 1:
            continue
        in_one_folder = len({path.parent for path in paths}) == 1
        names = [path.name if in_one_folder else str(path.relative_to(root)) for path in paths]
        found = f"{len(paths)} candidates for {role}: {', '.join(names)}"
        action = "move the others away, or narrow the endings in the manifest"
        shown = str(paths[1].relative_to(root))
        findings.append(Finding(shown, found, f"one {role} file", action, case_id))
    return findings


def _missing(case_id: str, by_role: dict[str, list[Path]], root: Path, task: Task) -> list[Finding]:
    there = [modality for modality in task.modalities if modality in by_role]
    missing = [modality for modality in task.modalities if modality not in by_role]
    expected, action = f"all of {', '.join(task.modalities)}", f"add {', '.join(missing)}"
    if STACKED in by_role:
        if not there:
            return []
        there.insert(0, STACKED)
        expected, action = f"a {STACKED}, or a file for each modality", "keep one of the two"
    elif not missing:
        return []
    paths = sorted(path for paths in by_role.values() for path in paths)
    found = f"has {', '.join(there) or 'no modality'} ({', '.join(path.name for path in paths)})"
    action += ", or move the files away"
    return [Finding(_folder(paths[0], root), found, expected, action, case_id)]


def _drop_repeated_ids(discovery: Discovery, root: Path) -> None:
    """Drop the cases whose id several folders have."""
    by_id: dict[str, list[CaseFiles]] = {}
    for case in discovery.cases:
        by_id.setdefault(case.case_id, []).append(case)
    for case_id, cases in by_id.items():
        if len(cases) == 1:
            continue
        folders = [_folder(next(iter(case.images.values())), root) for case in cases]
        found, action = f"{len(cases)} folders make this case id", "rename or move away all but one"
        discovery.findings.append(
            Finding(", ".join(folders), found, "one folder for a case", action, case_id)
        )
    discovery.cases = [case for case in discovery.cases if len(by_id[case.case_id]) == 1]


def _files_below(root: Path, findings: list[Finding]) -> Iterator[Path]:
    """The files of a folder and its subfolders, folder by folder, sorted; links are followed.

    `findings` gets one for each folder that cannot be listed, each name that is not UTF-8, and each
    link to a folder above it, which would be followed without end.
    """
    if wrong := _check_root(root) or _check_utf8(root, root.parent):
        raise InputError(wrong)

    def not_listed(error: OSError) -> None:
        shown = str(Path(error.filename).relative_to(root))
        found, expected = f"unreadable folder: {error.strerror}", "a folder that can be listed"
        action = "change who may read it, or move it away"
        findings.append(Finding(shown, found, expected, action))

    for folder, subfolders, names in os.walk(root, onerror=not_listed, followlinks=True):
        folders = [Path(folder, n) for n in sorted(subfolders) if n[0] != "." and ".zarr" not in n]
        files = [Path(folder, n) for n in sorted(names) if n[0] != "." and n != DEFAULT_NAME]
        refused = {path: _check_utf8(path, root) or _check_link(path, root) for path in folders}
        refused |= {path: _check_utf8(path, root) for path in files}
        findings.extend(finding for finding in refused.values() if finding)
        subfolders[:] = [path.name for path in folders if not refused[path]]
        yield from (path for path in files if not refused[path])


def _check_root(root: Path) -> Finding | None:
    if not root.exists():
        found, action = "no such folder", "check the path"
    elif not root.is_dir():
        found, action = "a file", "name the folder that it is in; an archive has to be unpacked"
    elif (root / "zarr.json").is_file():
        found, action = "a store", "name the folder that it was made from"
    else:
        return None
    return Finding(str(root), found, "the folder that holds the cases", action)


def _check_utf8(path: Path, root: Path) -> Finding | None:
    """A name that is not UTF-8, as in old archives: ITK ends the process at such a path."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path.relative_to(root)).decode(errors="backslashreplace")
        return Finding(shown, "a name that is not UTF-8", "a name in UTF-8", "rename it")
    return None


def _check_link(path: Path, root: Path) -> Finding | None:
    """A link to a folder above it."""
    if not os.path.islink(path):  # noqa: PTH114 - Path's raises where a path is too long
        return None
    target = path.stat()
    if not any(os.path.samestat(target, above.stat()) for above in path.parents):
        return None
    found, expected = "a link to a folder that it is in", "a link to another folder"
    action = "nothing, it is not followed"
    return Finding(str(path.relative_to(root)), found, expected, action, severity="warning")
