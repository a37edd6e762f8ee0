"""The files below a folder, and findings about those that cannot be read."""

import os
from collections.abc import Iterator
from pathlib import Path

from common.errors import Finding, InputError
from common.manifest import DEFAULT_NAME


def files_below(root: Path, findings: list[Finding]) -> Iterator[Path]:
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
