"""Where a command may write its results: asked before any long work, of every command."""

import os
import re
import stat
from pathlib import Path
from typing import Literal

from common.errors import ConfigError
from common.files import KINDS, check_outside

ALLOWED = {"file": stat.S_IFREG, "folder": stat.S_IFDIR}
ADDRESS = re.compile(r"::|^[A-Za-z][A-Za-z0-9+.-]*:/")
"""Of another machine's files; a `Path` has dropped one of two slashes."""
EVERY_KIND = KINDS | {stat.S_IFREG: "a file", stat.S_IFLNK: "a symbolic link"}


def check_output(path: Path, kind: Literal["file", "folder"], *apart: str | Path) -> None:
    """Check that a file, or files in a folder, can be written at `path`; nothing is made.

    What is there already is a regular file, or a folder or a link to one: nothing else is replaced
    or followed. Missing folders above it are made by whoever writes. `apart` are the folders of the
    data, where results would be taken for a part of them.

    Raises:
        ConfigError: it cannot, or should not.
    """
    if ADDRESS.search(str(path)):
        raise ConfigError(f"{path}: an address; results are written to a path of this machine")
    try:
        check_outside(path, *apart)
        mode = _mode(path, follow=kind == "folder")
        above = path if mode and kind == "folder" else _nearest(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); name another") from error
    if mode and stat.S_IFMT(mode) != ALLOWED[kind]:
        found = EVERY_KIND.get(stat.S_IFMT(mode), "no file")
        raise ConfigError(f"{path}: {found} is there; name a new {kind}")
    if not above.is_dir():
        raise ConfigError(f"{path}: cannot be written, {above} is no folder; name another")
    if not os.access(above, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{path}: cannot be written, {above} is not writable; name another, or make it writable"
        )


def _mode(path: Path, *, follow: bool) -> int:
    """Kind and permissions of what is at a path; 0 if nothing is."""
    try:
        return path.stat(follow_symlinks=follow).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return path.lstat().st_mode if path.is_symlink() else 0


def _nearest(path: Path) -> Path:
    """The nearest folder above that is there; the others can be made in it."""
    return next(above for above in path.absolute().parents if _mode(above, follow=False))
