"""Worker processes of a loader: the memory they share, what each is reading, and how they end."""

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

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - POSIX shared memory, not a temporary file
MARGIN_BYTES = 16 * 2**20  # of shared memory, for the loader's queues and other uses
NAME_BYTES = 256  # of a sample's name in a worker's status file; longer names are cut
DYING_SECONDS = 1.0  # a killed process loses its connections one by one; its end may show last
CLOSING_SECONDS = 5.0  # how long a loader may take to end its workers
STACKS_SECONDS = 2.0
"""How long a worker may take to write its stacks; milliseconds unless the disk hangs."""
CAUSES = {
    signal.SIGKILL: "as the system does when memory runs out; resume with "
    f"{hints.option('--resume')} and fewer workers, or begin again with a lower batch_size",
    signal.SIGBUS: "as the system does when shared memory (/dev/shm) or a mapped file ends early; "
    f"make it larger, then resume with {hints.option('--resume')}",
}


def check_shared_memory(needed_bytes: int) -> None:
    """Check that what a loader will keep in shared memory fits there.

    A process that writes beyond its end dies of SIGBUS, and DALI's message does not say so.

    Raises:
        ConfigError: there is less; Docker gives 64 MB by default.
    """
    if not SHARED_MEMORY.is_dir():  # a system that keeps it elsewhere does not bound it
        return
    state = os.statvfs(SHARED_MEMORY)
    free, needed = state.f_bavail * state.f_frsize, needed_bytes + MARGIN_BYTES
    if free < needed:
        size = f"{-(-needed // 10**9)}g"
        raise ConfigError(
            f"{SHARED_MEMORY} has {free / 1e6:.0f} MB free, the loader needs {needed / 1e6:.0f} "
            f"MB; enlarge it (docker run --shm-size={size}, or as root: mount -o "
            f"remount,size={size} {SHARED_MEMORY}), or lower batch_size, or with loader=torch "
            "workers"
        )


# In a worker


@contextmanager
def status_folder() -> Iterator[Path]:
    """A temporary folder for the status files of a loader's workers."""
    with tempfile.TemporaryDirectory(prefix="fmnet-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _sample_file(folder: Path, pid: int) -> Path:
    return folder / str(pid)


def _stacks_file(folder: Path, pid: int) -> Path:
    return folder / f"{pid}.stacks"


class WorkerStatus:
    """Two files that a loader reads: which sample a worker reads, and its stacks after SIGUSR1.

    Once the file of the sample is there, the worker handles SIGUSR1.
    """

    def __init__(self, folder: Path) -> None:
        self._stacks = _stacks_file(folder, os.getpid()).open("w")
        faulthandler.register(signal.SIGUSR1, self._stacks)
        self._sample = _sample_file(folder, os.getpid()).open("wb", buffering=0)

    @contextmanager
    def working_on(self, sample: str) -> Iterator[None]:
        """Name the sample that this process reads, until it is done."""
        self._write(sample)
        try:
            yield
        finally:
            self._write("")

    def _write(self, sample: str) -> None:
        # One write of one length: a reader sees this sample's name or the one before.
        os.pwrite(self._sample.fileno(), sample.encode()[:NAME_BYTES].ljust(NAME_BYTES, b"\0"), 0)


@cache
def set_up_worker(folder: Path) -> WorkerStatus:
    """Make this worker end at once, and with the process that started it. Later calls do nothing.

    An orderly end of the interpreter takes time, and can abort in a thread that hands a sample
    over. DALI's own workers would wait for ever if the process that started them was killed.
    """
    atexit.register(_end_process, folder)
    Thread(target=_end_with_parent, args=[folder], daemon=True).start()
    return WorkerStatus(folder)


def _end_with_parent(folder: Path) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        _end_process(folder)


def _end_process(folder: Path) -> NoReturn:
    # A loader may see its parent's end before the thread that waits for it does.
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


# In the main process


class WorkerMonitor:
    """The worker processes of one loader, by their status files; messages name the store's path."""

    def __init__(self, folder: Path, store: str) -> None:
        self._folder, self._store = folder, store
        self._processes: Sequence[BaseProcess] = ()
        self._reason = ""
        self._in_loader = False

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
        """Watch these processes, which have started, until the context ends; main thread only.

        `close` ends the loader and its workers. If the loader `polls`, it checks every few seconds
        that they are alive; if not, a signal interrupts its wait when one dies.
        """
        self._processes = processes
        # Set in any case: torch's own handler would raise, wherever the main thread is.
        handler = signal.SIG_DFL if polls else self._on_death
        before = signal.signal(signal.SIGCHLD, handler)
        try:
            yield
        finally:
            with ExitStack() as last:
                last.callback(signal.signal, signal.SIGCHLD, before)
                last.callback(self._close, close)
                if self._dead():  # the others may be stuck, or wait for what the dead one held
                    self._end()

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Around the main thread's wait for a batch: raise what went wrong in a worker.

        A loader's own queues can block their reader for ever when a process dies.

        Raises:
            LoaderError: a worker is dead or dies, or the loader fails with all of them alive.
        """
        self._in_loader = True
        try:
            self.check_alive()
            yield
        except (FMNetError, StopIteration):
            raise
        except Exception as error:
            self.check_alive(DYING_SECONDS)  # a loader's own error does not name the dead worker
            raise LoaderError(
                f"{self._store}: the loader failed ({type(error).__name__}: {error}); resume "
                f"with {hints.option('--resume')}, with the other loader if it fails again"
            ) from error
        finally:
            self._in_loader = False

    def current_samples(self) -> dict[int, str]:
        """Ids of the processes, and the sample that each is reading; empty between two."""
        return {pid: self._sample(pid) for pid in self._pids()}

    def stacks(self) -> str:
        """Where each worker's threads are, as text; from any thread, in a second or two."""
        pids = [pid for pid in self._pids() if _sample_file(self._folder, pid).exists()]
        sizes = {pid: _stacks_file(self._folder, pid).stat().st_size for pid in pids}
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)
        return "\n".join(
            f"worker {pid}, reading {self._sample(pid) or 'nothing'}:\n{self._stacks(pid, size)}"
            for pid, size in sizes.items()
        )

    def kill(self, reason: str) -> None:
        """End all workers, so that a wait for a batch ends with LoaderError(reason); any thread."""
        self._reason = reason
        for pid in self._pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def check_alive(self, within_seconds: float = 0) -> None:
        """Check that all workers are alive.

        Raises:
            LoaderError: one is dead, or turns out to be within some seconds.
        """
        deadline = time.monotonic() + within_seconds
        while dead := self._dead(deadline - time.monotonic()):
            if self._reason:
                raise LoaderError(self._reason)
            # When one dies, DALI asks the others to end, and theirs may show first.
            first = [process for process in dead if _exit_code(process) != -signal.SIGTERM]
            if first or time.monotonic() > deadline:
                raise LoaderError("; ".join(self._death_message(each) for each in first or dead))
            time.sleep(0.01)

    def _on_death(self, _: int, __: FrameType | None) -> None:
        if self._in_loader:
            self.check_alive()

    def _death_message(self, process: BaseProcess) -> str:
        code, pid = _exit_code(process), process.pid or 0
        sample = self._sample(pid)
        where = f"while it read {sample}" if sample else "between two samples"
        how = f"exit code {'unknown' if code is None else code}"
        if code is not None and code < 0:
            number = signal.Signals(-code)
            how = f"{number.name} ended it"
            how += f", {CAUSES[number]}" if number in CAUSES else ""
        return f"{self._store}: a loader's worker process ({pid}) died {where}: {how}"

    def _dead(self, within_seconds: float = 0) -> list[BaseProcess]:
        # Not by `is_alive`: a thread of DALI's calls it too, and only one of both gets the code.
        ended = wait([process.sentinel for process in self._processes], max(0, within_seconds))
        return [process for process in self._processes if process.sentinel in ended]

    def _close(self, close: Callable[[], None]) -> None:
        # A process that was killed may hold a lock of the loader's.
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

    def _sample(self, pid: int) -> str:
        try:
            name = _sample_file(self._folder, pid).read_bytes()
        except FileNotFoundError:  # the worker is still starting
            return ""
        return name.rstrip(b"\0").decode(errors="replace")

    def _stacks(self, pid: int, before: int) -> str:
        """What was added to a file of stacks, once nothing more is."""
        file, deadline = _stacks_file(self._folder, pid), time.monotonic() + STACKS_SECONDS
        size = before
        while time.monotonic() < deadline:
            time.sleep(0.1)
            last, size = size, file.stat().st_size
            if before < last == size:
                break
        with file.open("rb") as stacks:
            stacks.seek(before)
            return stacks.read().decode(errors="replace")


def _exit_code(process: BaseProcess) -> int | None:
    """Of a process that has ended; another thread may be about to store it."""
    deadline = time.monotonic() + 1
    while process.exitcode is None and time.monotonic() < deadline:
        time.sleep(0.001)
    return process.exitcode
