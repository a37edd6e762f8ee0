"""Worker processes of a loader: the memory they share, and when they end."""

import atexit
import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing import resource_tracker
from pathlib import Path
from threading import Thread

from common.errors import ConfigError

SHARED = Path("/dev/shm")  # noqa: S108 - POSIX shared memory, not a temporary file
MARGIN_BYTES = 16 * 2**20
"""For the queues, and for whatever else of this process lies there."""


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


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Processes started meanwhile never see Ctrl-C, which reaches all processes of a terminal.

    They end when their feed is closed, after whatever the main process wants to do first. A Ctrl-C
    that comes meanwhile reaches the main process afterwards.
    """
    resource_tracker.ensure_running()  # which, when it is started, unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@cache
def set_up_worker() -> None:
    """Make this worker end at once, and when the process that started it does.

    An interpreter that shuts down orderly can abort in a thread that hands a sample over, and takes
    its time; there is nothing to put in order. And DALI's own workers would wait for their next
    task for ever if the process that started them was killed. A second call does nothing.
    """
    atexit.register(os._exit, 0)
    Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _gigabytes(count: int) -> int:
    return -(-count // 10**9)
