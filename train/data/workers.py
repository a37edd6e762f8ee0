"""Worker processes of a loader: the memory they share, what each is doing, and when they end."""

import atexit
import faulthandler
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import NoReturn

from common import hints
from common.errors import ConfigError, FMNetError, LoaderError
from common.interrupts import interrupts_held_back

SHARED = Path("/dev/shm")  # noqa: S108 - POSIX shared memory, not a temporary file
MARGIN_BYTES = 16 * 2**20
"""For the queues, and for whatever else of this process lies there."""
NOTE_BYTES = 256
"""Of a worker's note; longer names are cut."""


def check_shared_memory(needed_bytes: int) -> None:
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


class WorkerStatus:
    """What one worker process says of itself, in two files of a folder that its feed watches.

    The file named by its process id says which sample it is at, and is there as soon as the
    stacks of its threads can be asked for by SIGUSR1, which go into the other file.
    """

    def __init__(self, status_folder: Path) -> None:
        self._stacks = stacks_file(status_folder, os.getpid()).open("w")
        faulthandler.register(signal.SIGUSR1, self._stacks)
        self._note = note_file(status_folder, os.getpid()).open("wb", buffering=0)

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


def note_file(status_folder: Path, pid: int) -> Path:
    """Where a worker says which sample it is at, padded with zero bytes."""
    return status_folder / str(pid)


def stacks_file(status_folder: Path, pid: int) -> Path:
    """Where a worker's stacks are written when they are asked for."""
    return status_folder / f"{pid}.stacks"


@cache
def set_up_worker(status_folder: Path) -> WorkerStatus:
    """Make this worker end at once, and when the process that started it does; its desk.

    An interpreter that shuts down orderly can abort in a thread that hands a sample over, and takes
    its time; there is nothing to put in order. And DALI's own workers would wait for their next
    task for ever if the process that started them was killed. A second call does nothing.
    """
    atexit.register(_leave, status_folder)
    Thread(target=_wait_for_parent, args=[status_folder], daemon=True).start()
    return WorkerStatus(status_folder)


def _wait_for_parent(status_folder: Path) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        _leave(status_folder)


def _leave(status_folder: Path) -> NoReturn:
    """End; a loader may see its parent's end before the thread that waits for it does."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        shutil.rmtree(status_folder, ignore_errors=True)
    os._exit(0)


def _gigabytes(count: int) -> int:
    return -(-count // 10**9)


DYING_SECONDS = 1.0
"""A process that is killed loses its connections one by one; its end may be the last to show."""
CLOSING_SECONDS = 5.0
"""How long a loader may take to end its workers."""
STACKS_SECONDS = 2.0
"""How long a worker may take to write its stacks; it takes milliseconds unless the disk hangs."""
REMEDY = (
    f"as the system does when memory runs out; resume with {hints.option('--resume')} and lower "
    "workers, or begin again with a lower batch_size"
)
HINTS = {
    signal.SIGKILL: REMEDY,
    signal.SIGBUS: "as the system does when shared memory (/dev/shm) or a mapped file ends early",
}


class WorkerMonitor:
    """The worker processes of one feed.

    Args:
        board: the folder where each says what it is at (`train.data.workers.WorkerStatus`).
        store: path of what they read, for messages.
    """

    def __init__(self, status_folder: Path, store: str) -> None:
        self.status_folder = status_folder
        self._store = store
        self._processes: Sequence[BaseProcess] = ()
        self._reason = ""
        self._waiting = False

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Around what starts the processes.

        Raises:
            LoaderError: one ended meanwhile.
        """
        try:
            with interrupts_held_back():
                yield
        except RuntimeError as error:
            raise LoaderError(
                f"{self._store}: a loader's worker process did not start ({error})"
            ) from error

    @contextmanager
    def watching(
        self, processes: Sequence[BaseProcess], close: Callable[[], None], *, polls: bool
    ) -> Iterator[None]:
        """StallDetector these, which have started, until the context ends; main thread only.

        Args:
            processes: the workers.
            close: ends the loader, and them with it, which a loader itself does when it is
                collected: an error's traceback delays that.
            polls: whether the loader itself looks every few seconds if they are alive. If it does
                not, a signal breaks off its wait when one dies, with whatever it was just doing.
        """
        self._processes = processes
        # Set in any case: torch's own handler would raise, wherever the main thread is.
        on_death = signal.SIG_DFL if polls else self._on_death
        before = signal.signal(signal.SIGCHLD, on_death)
        try:
            yield
        finally:
            with ExitStack() as last:
                last.callback(signal.signal, signal.SIGCHLD, before)
                last.callback(self._close, close)
                if self._dead():  # the others may be stuck, or wait for what the dead one held
                    self._end()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Where the main thread waits for a batch: a worker that is dead or dies ends it.

        A loader's own queues can hold their reader for ever when a process dies at them.

        Raises:
            LoaderError: one is, or does, or the loader fails with all of them alive.
        """
        self._waiting = True
        try:
            self.check_alive()
            yield
        except (FMNetError, StopIteration):
            raise
        except Exception as error:
            self.check_alive(DYING_SECONDS)  # of which a loader's own error says nothing
            raise LoaderError(
                f"{self._store}: the loader failed ({type(error).__name__}: {error}); resume "
                f"with {hints.option('--resume')}, with the other loader if it fails again"
            ) from error
        finally:
            self._waiting = False

    def at(self) -> dict[int, str]:
        """Ids of the processes and the sample each is at; empty between two."""
        return {pid: self._note(pid) for pid in self._pids()}

    def stacks(self) -> str:
        """Where each worker's threads are, as text; from any thread."""
        asked = [pid for pid in self._pids() if note_file(self.status_folder, pid).exists()]
        sizes = {pid: stacks_file(self.status_folder, pid).stat().st_size for pid in asked}
        for pid in asked:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)
        return "\n".join(
            f"worker {pid}, at {self._note(pid) or 'no sample'}:\n{self._written(pid, size)}"
            for pid, size in sizes.items()
        )

    def kill(self, reason: str) -> None:
        """End all of them, so that whoever waits for a batch gets a LoaderError; any thread.

        Args:
            reason: the error's message.
        """
        self._reason = reason
        for pid in self._pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def check_alive(self, within_seconds: float = 0) -> None:
        """Make sure that all are alive.

        Args:
            within_seconds: how long one may take to turn out to be dead.

        Raises:
            LoaderError: one is not.
        """
        deadline = time.monotonic() + within_seconds
        while dead := self._dead(deadline - time.monotonic()):
            if self._reason:
                raise LoaderError(self._reason)
            # When one dies, DALI asks the others to end, and theirs may show first.
            first = [process for process in dead if _code(process) != -signal.SIGTERM]
            if first or time.monotonic() > deadline:
                raise LoaderError("; ".join(self._death_message(each) for each in first or dead))
            time.sleep(0.01)

    def _on_death(self, _: int, __: FrameType | None) -> None:
        if self._waiting:
            self.check_alive()

    def _death_message(self, process: BaseProcess) -> str:
        code, pid = _code(process), process.pid or 0
        sample = self._note(pid)
        where = f"while it read {sample}" if sample else "between two samples"
        how = f"it ended with exit code {code}" if code is not None else "nobody was told how"
        if code is not None and code < 0:
            number = signal.Signals(-code)
            how = f"{number.name} from outside ended it"
            how += f", {HINTS[number]}" if number in HINTS else ""
        return f"{self._store}: a loader's worker process ({pid}) died {where}: {how}"

    def _dead(self, within_seconds: float = 0) -> list[BaseProcess]:
        # Not by `is_alive`: a thread of DALI's asks as well, and only one of both is told at once.
        ended = wait([process.sentinel for process in self._processes], max(0, within_seconds))
        return [process for process in self._processes if process.sentinel in ended]

    def _close(self, close: Callable[[], None]) -> None:
        """A process that was killed may have held a lock of the loader's: nobody waits for that."""
        closing = Thread(target=close, daemon=True)
        closing.start()
        closing.join(CLOSING_SECONDS)
        if closing.is_alive():
            self._end()

    def _end(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()

    def _pids(self) -> list[int]:
        return [process.pid for process in self._processes if process.pid is not None]

    def _note(self, pid: int) -> str:
        try:
            note = note_file(self.status_folder, pid).read_bytes()
        except FileNotFoundError:  # it has not come to its first sample
            return ""
        return note.rstrip(b"\0").decode(errors="replace")

    def _written(self, pid: int, before: int) -> str:
        """What was added to a file of stacks, once nothing more is."""
        file, deadline = stacks_file(self.status_folder, pid), time.monotonic() + STACKS_SECONDS
        size = before
        while time.monotonic() < deadline:
            time.sleep(0.1)
            last, size = size, file.stat().st_size
            if before < last == size:
                break
        with file.open("rb") as stacks:
            stacks.seek(before)
            return stacks.read().decode(errors="replace")


@contextmanager
def status_folder() -> Iterator[Path]:
    """A folder for workers' desks."""
    with tempfile.TemporaryDirectory(prefix="fmnet-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _code(process: BaseProcess) -> int | None:
    """Of a process that has ended; another thread may be about to write it down."""
    deadline = time.monotonic() + 1
    while process.exitcode is None and time.monotonic() < deadline:
        time.sleep(0.001)
    return process.exitcode
