"""A lock file beside a store or a run, with a heartbeat: one process at a time writes it."""

import getpass
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.console import out
from common.errors import InputError, StoreError
from common.files import read_bytes, reason_of, write_parts
from common.names import show
from common.settings import explain
from common.store.paths import check_bucket_exists, filesystem_of, resolved, translate_io_errors

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
"""A lock without a heartbeat for this long is abandoned; six heartbeats may be missed."""
READ_TRIES, READ_PAUSE_SECONDS = 10, 0.05
MOST_BYTES = 1 << 16


Seconds = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]
"""Since 1970, on some machine's clock."""


class Owner(BaseModel):
    """The run that holds a lock."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    token: str = Field(pattern=r"^\w{1,64}$")
    """Unique to the run."""
    user: str
    host: str
    machine: str
    """Where its process id is valid; see `this_machine`."""
    process: int = Field(gt=0, lt=2**31)
    since: Seconds
    """When the run began."""
    heartbeat: Seconds
    """When it last wrote the lock."""

    @property
    def name(self) -> str:
        """For messages."""
        return show(f"{self.user} on {self.host}, process {self.process}")

    @property
    def has_ended(self) -> bool:
        """Whether its process is gone, which can only be seen on the same machine."""
        return self.machine == this_machine() and not _is_alive(self.process)

    @property
    def seems_alive(self) -> bool:
        """Whether its heartbeat is recent; two machines' clocks may differ, so this is no proof."""
        return not self.has_ended and abs(time.time() - self.heartbeat) <= STALE_SECONDS


def this_machine() -> str:
    """Identifies where a process id is valid: one boot of a machine, and a PID namespace in it.

    Containers may share a host name, and do not see each other's processes.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return socket.gethostname()


def _user_name() -> str:
    """Who runs this; a container may run under a user id that has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the latter since Python 3.13
        return f"uid {os.getuid()}"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class LockFile:
    """A lock's file, on the store's file system."""

    def __init__(self, filesystem: AbstractFileSystem, path: str) -> None:
        self.filesystem, self.path = filesystem, path

    @classmethod
    def of_store(cls, store_path: str) -> Self:
        """The file beside a store."""
        filesystem, root = filesystem_of(store_path)
        return cls(filesystem, root + ".lock")

    def owner(self) -> Owner | None:
        """The run that holds the lock, alive or not; None if there is no lock.

        Raises:
            StoreError: the file is not a lock.
        """
        found = ""
        for _ in range(READ_TRIES):
            try:
                return Owner.model_validate_json(self._content())
            except FileNotFoundError:
                return None
            except InputError as error:
                found = reason_of(error)
                break
            except ValidationError as error:
                found = explain(error)
            time.sleep(READ_PAUSE_SECONDS)  # its owner may be writing it
        raise StoreError(
            f"{self.path}: not a lock that this program wrote ({found}); remove it if no run is "
            "using it"
        )

    def _content(self) -> bytes:
        if self._is_local:
            return read_bytes(self.path, MOST_BYTES)
        content: bytes = self.filesystem.cat_file(self.path)
        return content

    def create(self, owner: Owner) -> None:
        """Write the file if there is none; of several processes that try at once, one succeeds.

        Raises:
            FileExistsError: another run has the lock.
        """
        try:
            if self._is_local:
                self._create_locally(owner)
            else:
                self.filesystem.pipe_file(self.path, _written(owner), mode="create")
        except OSError as error:
            # Services refuse in different ways, and may refuse the second copy of a request that
            # was sent twice. Only the file's content shows who holds the lock.
            holder = self.owner()
            if holder is None and not isinstance(error, FileExistsError):
                raise
            if holder is None or holder.token != owner.token:
                raise FileExistsError(self.path) from error

    def replace(self, owner: Owner) -> None:
        """Overwrite the file atomically: a full disk must not leave an empty lock."""
        if not self._is_local:  # an object store writes atomically
            self.filesystem.pipe_file(self.path, _written(owner))
            return
        write_parts(Path(self.path), [_written(owner)])

    def remove(self) -> None:
        """Remove the file, if it is there."""
        with suppress(FileNotFoundError):
            self.filesystem.rm_file(self.path)

    @property
    def _is_local(self) -> bool:
        return isinstance(self.filesystem, LocalFileSystem)

    def _create_locally(self, owner: Owner) -> None:
        """Create the file exclusively; fsspec's own `create` tests first and writes later."""
        with Path(self.path).open("xb", buffering=0) as file:
            try:
                left = _written(owner)
                while left:  # the last bytes of a disk take only a part, without an error
                    left = left[file.write(left) :]
            except OSError:  # such as a full disk, which would leave an empty file
                self.remove()
                raise


def _written(owner: Owner) -> bytes:
    return owner.model_dump_json().encode()


@dataclass(frozen=True)
class LockToken:
    """Lets a worker check that its run still holds the lock."""

    store_path: str
    token: str
    """The run's."""

    def check(self) -> None:
        """Check that the run holds the lock.

        Raises:
            StoreError: another run took it, because this one's heartbeat stopped.
        """
        with translate_io_errors(self.store_path, "read"):
            owner = LockFile.of_store(self.store_path).owner()
        if owner is None or owner.token != self.token:
            by = owner.name if owner else "nobody: its file was removed"
            raise StoreError(
                f"{self.store_path}: the lock of this run is now held by {by}; this run stops, "
                "the cases it stored stay"
            )


class Lock:
    """The lock of a store or of a run's folder, held from its construction to its release.

    `on_wait` is called with an owner that seems gone, before the wait for its heartbeat.

    Raises:
        StoreError: another run holds the lock and seems alive.
    """

    token: LockToken
    """What workers check."""
    taken_over: Owner | None
    """The run that left the lock behind, if one did."""

    def __init__(self, store_path: str, on_wait: Callable[[Owner], None] = lambda _: None) -> None:
        store_path, now = resolved(store_path), time.time()
        self._owner = Owner(
            token=uuid.uuid4().hex,
            user=_user_name(),
            host=socket.gethostname(),
            machine=this_machine(),
            process=os.getpid(),
            since=now,
            heartbeat=now,
        )
        self.token = LockToken(store_path, self._owner.token)
        self._on_wait = on_wait
        self._stop = threading.Event()
        with translate_io_errors(store_path, "written"):
            self._file = LockFile.of_store(store_path)
            filesystem, path = self._file.filesystem, self._file.path
            check_bucket_exists(store_path, filesystem, path.removesuffix(".lock"))
            filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
            self.taken_over = self._acquire(self._file)
        self._thread = threading.Thread(target=self._beat, name="lock heartbeat", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Remove the lock, unless another run has taken it."""
        self._stop.set()
        self._thread.join()
        # Where it cannot be removed, it must not hide why the work failed; the next run takes it.
        with suppress(StoreError), translate_io_errors(self.token.store_path, "written"):
            if self._is_ours():
                self._file.remove()

    def _acquire(self, file: LockFile) -> Owner | None:
        """Make the file ours; returns the owner that it was taken over from, if there was one."""
        owner = file.owner()
        if owner is not None and not owner.has_ended:
            owner = self._wait_for_heartbeat(file, owner)
        if owner is not None:
            self._take_over(file, owner)
            return owner
        try:
            file.create(self._alive_now())
        except FileExistsError as error:
            raise self._refusal(file, file.owner()) from error
        return None

    def _wait_for_heartbeat(self, file: LockFile, owner: Owner) -> Owner | None:
        """The owner, if it sent no heartbeat while we waited; None if it gave the lock back.

        Two machines' clocks may differ by more than `STALE_SECONDS`. So only our clock counts, and
        only whether the heartbeat changes.
        """
        if owner.seems_alive:
            raise self._refusal(file, owner)
        self._on_wait(owner)
        deadline = time.monotonic() + STALE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(HEARTBEAT_SECONDS / 10)
            current = file.owner()
            if current is None:
                return None
            if current != owner:
                raise self._refusal(file, current)
        return owner

    def _take_over(self, file: LockFile, owner: Owner) -> None:
        """Replace an owner that is gone.

        Several runs may try. The right to do so is another lock, named after the old owner's token;
        a run that gets it too late finds another token in the file.
        """
        right = LockFile(file.filesystem, f"{file.path}.{owner.token}")
        self._acquire(right)
        try:
            current = file.owner()
            if current is None or current.token != owner.token:
                raise self._refusal(file, current)
            file.replace(self._alive_now())
        finally:
            right.remove()

    def _beat(self) -> None:
        """Send heartbeats until the lock is released or lost."""
        while not self._stop.wait(HEARTBEAT_SECONDS):
            # A heartbeat may fail, as on a full disk; `check` notices if too many did.
            with suppress(StoreError), translate_io_errors(self.token.store_path, "written"):
                if not self._is_ours():
                    return
                self._file.replace(self._alive_now())

    def _is_ours(self) -> bool:
        owner = self._file.owner()
        return owner is not None and owner.token == self._owner.token

    def _alive_now(self) -> Owner:
        return self._owner.model_copy(update={"heartbeat": time.time()})

    def _refusal(self, file: LockFile, owner: Owner | None) -> StoreError:
        store_path = self.token.store_path
        if owner is None:
            return StoreError(f"{store_path}: another run is starting there; try again")
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner.since))
        return StoreError(
            f"{store_path}: {owner.name} has been writing it since {since}; wait for it "
            f"to end, or remove {file.path} if that process is gone"
        )


@contextmanager
def hold(path: str) -> Iterator[Lock]:
    """Hold the lock of a store or of a run's folder, and print whom it waits for or follows.

    Raises:
        StoreError: another run holds it and seems alive.
    """
    with Lock(path, _print_wait) as lock:
        if lock.taken_over:
            out.print(f"taking over the lock that {lock.taken_over.name} left behind")
        yield lock


def _print_wait(owner: Owner) -> None:
    out.print(
        f"locked by {owner.name}, which seems to be gone; waiting {STALE_SECONDS:.0f} s for a "
        "heartbeat …"
    )
