"""The files below a folder, and findings about those that cannot be read."""

import errno
import os
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

from common.errors import Finding, InputError
from common.files import KINDS
from common.grouping import stem_of
from common.manifest import DEFAULT_NAME
from common.names import shortened

Identity = tuple[int, int]
"""Device and number of a folder, whatever path leads to it."""


def files_below(root: Path, findings: list[Finding]) -> Iterator[Path]:
    """The files of a folder and its subfolders, folder by folder, sorted; links are followed.

    `findings` gets one for each folder that cannot be listed or is in place of a volume, each name
    that is not UTF-8, each link that would be followed again and again, and each manifest below the
    root.
    """
    if wrong := _check_root(root) or _check_utf8(root, root.parent):
        raise InputError(wrong)
    targets: set[Identity] = set()

    def not_listed(error: OSError) -> None:
        shown = str(Path(error.filename).relative_to(root))
        found, expected = f"unreadable folder: {error.strerror}", "a folder that can be listed"
        action = "change who may read it, or move it away"
        findings.append(Finding(shown, found, expected, action))

    for folder, subfolders, names in os.walk(root, onerror=not_listed, followlinks=True):
        folders = [Path(folder, n) for n in sorted(subfolders) if n[0] != "." and ".zarr" not in n]
        files = [Path(folder, n) for n in sorted(names) if n[0] != "."]
        refused = {
            path: _check_utf8(path, root) or _check_link(path, root, targets) for path in folders
        }
        refused |= {path: _check_utf8(path, root) or _check_manifest(path, root) for path in files}
        findings.extend(finding for finding in refused.values() if finding)
        if stem_of(Path(folder).name) and not any(map(stem_of, names)) and Path(folder) != root:
            findings.append(_no_volume(str(Path(folder).relative_to(root))))
        subfolders[:] = [path.name for path in folders if not refused[path]]
        own = root / DEFAULT_NAME
        yield from (path for path in files if not refused[path] and path != own)


def _check_root(root: Path) -> Finding | None:
    try:
        kind = stat.S_IFMT(root.stat().st_mode)
        is_store = (root / "zarr.json").is_file()
    except OSError as error:
        known = {errno.ENOENT: "no such folder"}
        found = known.get(error.errno or 0, f"unreadable: {error.strerror}")
        action = "check the path"
    else:
        if kind == stat.S_IFDIR and not is_store:
            return None
        found, action = "a store", "name the folder that it was made from"
        if kind != stat.S_IFDIR:
            found = KINDS.get(kind, "a file")
            action = "name the folder that it is in; an archive has to be unpacked"
    return Finding(shortened(str(root)), found, "the folder that holds the cases", action)


def _check_utf8(path: Path, root: Path) -> Finding | None:
    """A name that is not UTF-8, as in old archives: a store cannot keep it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path.relative_to(root)).decode(errors="backslashreplace")
        return Finding(shown, "a name that is not UTF-8", "a name in UTF-8", "rename it")
    return None


def _no_volume(shown: str) -> Finding:
    found = "a folder with the name of a file, and no volume in it"
    return Finding(shown, found, "a NIfTI file", "put the file in its place, or rename the folder")


def _check_link(path: Path, root: Path, targets: set[Identity]) -> Finding | None:
    """A link to a folder above it, or to one of `targets`, which gets that of any other.

    Links to folders of links to folders of links would be followed in ever more ways.
    """
    if not os.path.islink(path):  # noqa: PTH114 - Path's raises where a path is too long
        return None
    target = _identity(path)
    if target in targets:
        found, expected = "a link to a folder that another link leads to", "one link to a folder"
    elif target in map(_identity, path.parents):
        found, expected = "a link to a folder that it is in", "a link to another folder"
    else:
        targets.add(target)
        return None
    shown, action = str(path.relative_to(root)), "nothing, it is not followed"
    return Finding(shown, found, expected, action, severity="warning")


def _identity(path: Path) -> Identity:
    state = path.stat()
    return state.st_dev, state.st_ino


def _check_manifest(path: Path, root: Path) -> Finding | None:
    """A manifest below the root, which may have been meant for the cases beside it."""
    if path.name != DEFAULT_NAME or path.parent == root:
        return None
    shown, found = (
        str(path.relative_to(root)),
        "a manifest in a subfolder, which counts only if it is named",
    )
    action = f"nothing if that is right; else name it: --manifest {shlex.quote(str(path))}"
    expected = f"{DEFAULT_NAME} beside the folders of the cases"
    return Finding(shown, found, expected, action, severity="warning")
