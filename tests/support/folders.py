"""Folders that are hard to read."""

import os
from pathlib import Path

NAME = "d" * 200


def too_deep(folder: Path) -> None:
    """Make a folder in which one lies so deep that nobody can list it by its path, nor can root."""
    folder.mkdir(parents=True)
    above = os.open(folder, os.O_RDONLY)
    for _ in range(1 + os.pathconf(folder, "PC_PATH_MAX") // len(NAME)):
        os.mkdir(NAME, dir_fd=above)
        below = os.open(NAME, os.O_RDONLY, dir_fd=above)
        os.close(above)
        above = below
    os.close(above)
