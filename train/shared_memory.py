"""Shared memory, through which worker processes hand samples over."""

import os
from pathlib import Path

from common.errors import ConfigError

FOLDER = Path("/dev/shm")  # noqa: S108 - POSIX shared memory, not a temporary file
MARGIN_BYTES = 16 * 2**20
"""For the queues and for whatever else of this process lies there."""


def refuse_small(needed_bytes: int, folder: Path = FOLDER) -> None:
    """Make sure that what the loader will keep in shared memory fits.

    Without it a process that writes beyond the end dies of SIGBUS and says nothing.

    Raises:
        ConfigError: there is less; Docker gives 64 MB unless told otherwise.
    """
    if not folder.is_dir():  # a system that keeps shared memory elsewhere, and does not bound it
        return
    state = os.statvfs(folder)
    free, needed = state.f_bavail * state.f_frsize, needed_bytes + MARGIN_BYTES
    if free < needed:
        raise ConfigError(
            f"{folder} has {free / 1e6:.0f} MB free, the loader needs {needed / 1e6:.0f} MB; "
            "enlarge it (docker run --shm-size=1g, or mount -o remount,size=1g /dev/shm), or lower "
            "batch_size or workers"
        )
