"""How this program is called from where it runs."""

import shlex
import shutil
import sys
from pathlib import Path


def command(*words: str) -> str:
    """A command line of this program's, to be pasted where this process was started.

    `python` alone is another one, or none, where an environment is used without being activated, as
    `make` does: then its path is named.

    Args:
        words: what follows `python -m`.
    """
    return shlex.join([_python(), "-m", *words])


def _python() -> str:
    python = Path(sys.executable or "python")
    found = shutil.which(python.name)
    if found and Path(found) == python:
        return python.name
    try:
        shown = python.relative_to(Path.cwd())
    except (OSError, ValueError):  # no folder to stand in any more, or none above it
        return str(python)
    return str(shown) if len(shown.parts) > 1 else f"./{shown}"
