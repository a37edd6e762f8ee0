"""Every file below a folder, and what keeps some from being seen."""

import os
from collections.abc import Iterator
from pathlib import Path

from common.errors import Finding, InputError
from common.manifest import DEFAULT_NAME


def files_below(root: Path, findings: list[Finding]) -> Iterator[Path]:
    """The files below a folder, those of one folder together and sorted; links are followed.

    Hidden files and folders, stores and a manifest are passed over.

    Args:
        root: the folder, absolute.
        findings: takes one for each folder that cannot be listed, each name that is not UTF-8, and
            each link back up, which would bring the same files under ever longer paths.

    Raises:
        InputError: there is no such folder, it is a store, or its own path is not UTF-8.
    """
    if wrong := _unfit(root) or _misnamed(root, root.parent):
        raise InputError(wrong)

    def keep(error: OSError) -> None:
        findings.append(_unlisted(error, root))

    for folder, subfolders, names in os.walk(root, onerror=keep, followlinks=True):
        folders = [Path(folder, n) for n in sorted(subfolders) if n[0] != "." and ".zarr" not in n]
        files = [Path(folder, n) for n in sorted(names) if n[0] != "." and n != DEFAULT_NAME]
        refused = {path: _misnamed(path, root) or _leading_back(path, root) for path in folders}
        refused |= {path: _misnamed(path, root) for path in files}
        findings.extend(finding for finding in refused.values() if finding)
        subfolders[:] = [path.name for path in folders if not refused[path]]
        yield from (path for path in files if not refused[path])


def _unfit(root: Path) -> Finding | None:
    """Why a path cannot be the folder that holds the cases."""
    if not root.exists():
        found, action = "no such folder", "check the path"
    elif not root.is_dir():
        found, action = "a file", "name the folder that it is in; an archive has to be unpacked"
    elif (root / "zarr.json").is_file():
        found, action = "a store", "name the one that it was made from"
    else:
        return None
    return Finding(str(root), found, "the folder that holds the cases", action)


def _unlisted(error: OSError, root: Path) -> Finding:
    shown = str(Path(error.filename).relative_to(root))
    found, expected = f"unreadable folder: {error.strerror}", "a folder that can be listed"
    return Finding(shown, found, expected, "change who may read it, or move it away")


def _misnamed(path: Path, root: Path) -> Finding | None:
    """A name that is not UTF-8, as old archives unpack to: ITK ends the process at such a path."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path.relative_to(root)).decode(errors="backslashreplace")
        return Finding(shown, "a name that is not UTF-8", "one that is", "rename it")
    return None


def _leading_back(path: Path, root: Path) -> Finding | None:
    if not os.path.islink(path):  # noqa: PTH114 - Path's raises where a path is too long
        return None
    target = path.stat()
    if not any(os.path.samestat(target, above.stat()) for above in path.parents):
        return None
    found, expected = "a link to a folder that it is in", "a link to another folder"
    action = "nothing, it is not followed"
    return Finding(str(path.relative_to(root)), found, expected, action, severity="note")
