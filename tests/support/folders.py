"""Folders that are hard to read, and what is no file."""

import os
import socket
from collections.abc import Callable
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


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


NO_FILES: dict[str, Callable[[Path], object]] = {
    "a named pipe": os.mkfifo,
    "a socket": _socket,
    "a folder": Path.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
}
"""Makes what a message calls so, at a path."""
