"""How this program is called from where it runs."""

import shlex
import shutil
import sys
from pathlib import Path


def command(rest: str) -> str:
    """A command line of this program's, to be pasted where this process was started.

    `python` alone is another one, or none, where an environment is used without being activated, as
    `make` does: then its path is named.

    Args:
        rest: what follows `python -m`.
    """
    python, found = Path(sys.executable), shutil.which("python")
    if found and Path(found).absolute() == python:
        return f"python -m {rest}"
    here = Path.cwd()
    shown = python.relative_to(here) if python.is_relative_to(here) else python
    return f"{shlex.quote(str(shown))} -m {rest}"
