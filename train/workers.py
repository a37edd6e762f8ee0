"""Worker processes of a loader: the memory they share, what each is at, and when they end."""

import atexit
import faulthandler
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Thread
from typing import NoReturn

from common.errors import ConfigError

SHARED = Path("/dev/shm")  # noqa: S108 - POSIX shared memory, not a temporary file
MARGIN_BYTES = 16 * 2**20
"""For the queues, and for whatever else of this process lies there."""
NOTE_BYTES = 256
"""Of a worker's note; longer names are cut."""


def refuse_small_memory(needed_bytes: int) -> None:
    """Make sure that what a loader will keep in shared memory fits there.

    A process that writes beyond its end dies of SIGBUS, and DALI's message does not say so.

    Raises:
        ConfigError: there is less; Docker gives 64 MB unless told otherwise.
    """
    if not SHARED.is_dir():  # a system that keeps shared memory elsewhere, and does not bound it
        return
    state = os.statvfs(SHARED)
    free, needed = state.f_bavail * state.f_frsize, needed_bytes + MARGIN_BYTES
    if free < needed:
        raise ConfigError(
            f"{SHARED} has {free / 1e6:.0f} MB free, the loader needs {needed / 1e6:.0f} MB; "
            f"enlarge it (docker run --shm-size={_gigabytes(needed)}g, or as root: mount -o "
            f"remount,size={_gigabytes(needed)}g {SHARED}), or lower batch_size, or with "
            "loader=torch workers"
        )


class Desk:
    """What one worker process says of itself, in two files of a folder that its feed watches.

    The file named by its process id says which sample it is at, and is there as soon as the
    stacks of its threads can be asked for by SIGUSR1, which go into the other file.
    """

    def __init__(self, board: Path) -> None:
        self._stacks = stacks_file(board, os.getpid()).open("w")
        faulthandler.register(signal.SIGUSR1, self._stacks)
        self._note = note_file(board, os.getpid()).open("wb", buffering=0)

    @contextmanager
    def at(self, sample: str) -> Iterator[None]:
        """Say that this process is at a sample, until it is done."""
        self._say(sample)
        try:
            yield
        finally:
            self._say("")

    def _say(self, sample: str) -> None:
        # One write of one length: whoever reads meanwhile sees this sample or the one before.
        os.pwrite(self._note.fileno(), sample.encode()[:NOTE_BYTES].ljust(NOTE_BYTES, b"\0"), 0)


def note_file(board: Path, pid: int) -> Path:
    """Where a worker says which sample it is at, padded with zero bytes."""
    return board / str(pid)


def stacks_file(board: Path, pid: int) -> Path:
    """Where a worker's stacks are written when they are asked for."""
    return board / f"{pid}.stacks"


@cache
def set_up_worker(board: Path) -> Desk:
    """Make this worker end at once, and when the process that started it does; its desk.

    An interpreter that shuts down orderly can abort in a thread that hands a sample over, and takes
    its time; there is nothing to put in order. And DALI's own workers would wait for their next
    task for ever if the process that started them was killed. A second call does nothing.
    """
    atexit.register(_leave, board)
    Thread(target=_wait_for_parent, args=[board], daemon=True).start()
    return Desk(board)


def _wait_for_parent(board: Path) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        _leave(board)


def _leave(board: Path) -> NoReturn:
    """End; a loader may see its parent's end before the thread that waits for it does."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        shutil.rmtree(board, ignore_errors=True)  # it was killed, or it would have done so itself
    os._exit(0)


def _gigabytes(count: int) -> int:
    return -(-count // 10**9)
