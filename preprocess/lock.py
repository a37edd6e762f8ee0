"""One run at a time writes a store: a lock file beside it, kept alive by a heartbeat."""

import getpass
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from common.errors import StoreError
from common.store.paths import check_bucket_exists, filesystem_of, resolved, translate_io_errors

READ_TRIES, READ_PAUSE_SECONDS = 10, 0.05
STALE_SECONDS = 60.0
"""A lock without a heartbeat for this long is nobody's; six beats may be missed before that."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lock.

    Attributes:
        token: of this very run.
        user: its user.
        host: its machine's name, for people.
        machine: where its process id means a process; see `this_machine`.
        process: its process id there.
        since: when it began, in seconds since 1970 on its own clock.
        beat: its last sign of life, likewise.
    """

    token: str
    user: str
    host: str
    machine: str
    process: int
    since: float
    beat: float

    @property
    def name(self) -> str:
        """The owner as people know it."""
        return f"{self.user} on {self.host}, process {self.process}"

    @property
    def has_ended(self) -> bool:
        """Whether the run surely ended without giving its lock back, as can be seen only here."""
        return self.machine == this_machine() and not _is_alive(self.process)

    @property
    def seems_alive(self) -> bool:
        """Whether it may be at work, by two clocks that need not agree; no proof of either."""
        return not self.has_ended and abs(time.time() - self.beat) <= STALE_SECONDS


def this_machine() -> str:
    """Where a process id means one process: a machine since it started, in it a PID namespace.

    Containers may share a host name, and do not see each other's processes.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux
        return socket.gethostname()


class LockFile:
    """A lock's file.

    Attributes:
        filesystem: the store's.
        path: where the file is, there.
    """

    def __init__(self, filesystem: AbstractFileSystem, path: str) -> None:
        self.filesystem, self.path = filesystem, path

    @classmethod
    def of_store(cls, store_path: str) -> Self:
        """The file beside a store.

        Raises:
            StoreError: the store's path has a secret in it.
        """
        filesystem, root = filesystem_of(store_path)
        return cls(filesystem, root + ".lock")

    def for_successor_of(self, owner: Owner) -> "LockFile":
        """What to hold while this file passes from an owner to the next, which only one may do."""
        return LockFile(self.filesystem, f"{self.path}.{owner.token}")

    def holder(self) -> Owner | None:
        """Whoever holds the lock, alive or not; None where there is no lock.

        Raises:
            StoreError: the file is not a lock.
        """
        for _ in range(READ_TRIES):
            try:
                content: dict[str, Any] = json.loads(self.filesystem.cat_file(self.path))
                return Owner(**content)
            except FileNotFoundError:
                return None
            except (ValueError, TypeError):
                time.sleep(READ_PAUSE_SECONDS)  # its owner may be about to write it
        raise StoreError(
            f"{self.path}: not a lock that this program wrote; remove it if no run is at the store"
        )

    def create(self, owner: Owner) -> None:
        """Write the file if there is none; of several that try at once, one does.

        Raises:
            FileExistsError: there is one, of somebody else.
        """
        try:
            if self._is_local:
                self._create_locally(owner)
            else:
                self.filesystem.pipe_file(self.path, _content(owner), mode="create")
        except OSError as error:
            # Services differ in how they refuse, and may refuse a request that was sent twice for
            # the sake of its first copy: who holds the lock is what the file says.
            holder = self.holder()
            if holder is None and not isinstance(error, FileExistsError):
                raise
            if holder is None or holder.token != owner.token:
                raise FileExistsError(self.path) from error

    def replace(self, owner: Owner) -> None:
        """Write the file anew, all or nothing: a full disk must not leave an empty lock."""
        if not self._is_local:  # an object store does just that
            self.filesystem.pipe_file(self.path, _content(owner))
            return
        beside = Path(f"{self.path}.{owner.token}.new")
        try:
            beside.write_bytes(_content(owner))
            beside.replace(self.path)
        except OSError:
            beside.unlink(missing_ok=True)
            raise

    def remove(self) -> None:
        """Take the file away, if it is there."""
        with suppress(FileNotFoundError):
            self.filesystem.rm_file(self.path)

    @property
    def _is_local(self) -> bool:
        return isinstance(self.filesystem, LocalFileSystem)

    def _create_locally(self, owner: Owner) -> None:
        """By the system's own exclusive creation: fsspec asks first and writes then."""
        with Path(self.path).open("xb", buffering=0) as file:
            try:
                file.write(_content(owner))
            except OSError:  # such as a full disk: an empty file would be nobody's lock
                self.remove()
                raise


def _content(owner: Owner) -> bytes:
    return json.dumps(asdict(owner)).encode()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


HEARTBEAT_SECONDS = 10.0

Waiting = Callable[[Owner], None]
"""Told of an owner that seems gone and is now watched for a sign of life."""


@dataclass(frozen=True)
class Claim:
    """What a worker needs to see whether its run still holds the store.

    Attributes:
        store_path: the store.
        token: the run's.
    """

    store_path: str
    token: str

    def check(self) -> None:
        """Go on only while the run holds the lock.

        Raises:
            StoreError: another run took it, because this one showed no sign of life.
        """
        with translate_io_errors(self.store_path, "read"):
            holder = LockFile.of_store(self.store_path).holder()
        if holder is None or holder.token != self.token:
            by = holder.name if holder else "nobody: its file was removed"
            raise StoreError(
                f"{self.store_path}: the lock of this run is now held by {by}; this run stops, "
                "what it committed stays"
            )


class Lock:
    """A held lock, kept alive by a heartbeat.

    Attributes:
        claim: fails once somebody else has taken the lock.
        taken_over: the run that left it behind, if there was one.
    """

    def __init__(self, store_path: str, on_wait: Waiting = lambda _: None) -> None:
        store_path, now = resolved(store_path), time.time()
        self._owner = Owner(
            token=uuid.uuid4().hex,
            user=getpass.getuser(),
            host=socket.gethostname(),
            machine=this_machine(),
            process=os.getpid(),
            since=now,
            beat=now,
        )
        self.claim = Claim(store_path, self._owner.token)
        self._on_wait = on_wait
        self._stop = threading.Event()
        with translate_io_errors(store_path, "written"):
            self._file = LockFile.of_store(store_path)
            filesystem, path = self._file.filesystem, self._file.path
            check_bucket_exists(store_path, filesystem, path.removesuffix(".lock"))
            filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
            self.taken_over = self._take(self._file)
        self._heart = threading.Thread(target=self._beat, name="store lock", daemon=True)
        self._heart.start()

    def check(self) -> None:
        """Go on only while the lock is ours.

        Raises:
            StoreError: another run took it, because this one showed no sign of life.
        """
        self.claim.check()

    def release(self) -> None:
        """Give the lock back, unless another run has taken it."""
        self._stop.set()
        self._heart.join()
        holder = self._file.holder()
        if holder is not None and holder.token == self._owner.token:
            self._file.remove()

    def _take(self, file: LockFile) -> Owner | None:
        """Make the file ours, and say whom it was taken from if it was there."""
        left = file.holder()
        if left is not None and not left.has_ended:
            left = self._watch(file, left)
        if left is not None:
            self._succeed(file, left)
            return left
        try:
            file.create(self._sign())
        except FileExistsError as error:
            raise self._refused(file, file.holder()) from error
        return None

    def _watch(self, file: LockFile, left: Owner) -> Owner | None:
        """The owner, if it gave no sign of life while it was watched; None once it is not there.

        Two machines' clocks may differ by more than a run may be silent. So only this one's is
        asked, and only how long a beat stays what it is.

        Raises:
            StoreError: the owner lives, or seems to.
        """
        if left.seems_alive:
            raise self._refused(file, left)
        self._on_wait(left)
        until = time.monotonic() + STALE_SECONDS
        while time.monotonic() < until:
            time.sleep(HEARTBEAT_SECONDS / 10)
            seen = file.holder()
            if seen is None:
                return None
            if seen != left:
                raise self._refused(file, seen)
        return left

    def _succeed(self, file: LockFile, left: Owner) -> None:
        """Put our name into the place of one that is gone.

        Another run may be at the same. The right to do it is a lock of its own, named after the
        one that is gone, and whoever comes to it late sees that the name is another now.
        """
        right = file.for_successor_of(left)
        self._take(right)
        try:
            holder = file.holder()
            if holder is None or holder.token != left.token:
                raise self._refused(file, holder)
            file.replace(self._sign())
        finally:
            right.remove()

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            # A beat may be missed, as on a full disk; `check` tells if too many were.
            with suppress(StoreError), translate_io_errors(self.claim.store_path, "written"):
                holder = self._file.holder()
                if holder is None or holder.token != self._owner.token:
                    return
                self._file.replace(self._sign())

    def _sign(self) -> Owner:
        """Ourselves, alive now."""
        return replace(self._owner, beat=time.time())

    def _refused(self, file: LockFile, holder: Owner | None) -> StoreError:
        store_path = self.claim.store_path
        if holder is None:
            return StoreError(f"{store_path}: another run is starting on this store; try again")
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.since))
        return StoreError(
            f"{store_path}: {holder.name} has been writing this store since {since}; wait for it "
            f"to end, or, if it is surely gone, remove {file.path}"
        )


@contextmanager
def hold(store_path: str, on_wait: Waiting = lambda _: None) -> Iterator[Lock]:
    """Hold a store's lock.

    Args:
        store_path: the store.
        on_wait: told of an owner that seems gone and is now watched for a sign of life.

    Raises:
        StoreError: a run that shows signs of life holds it.
    """
    lock = Lock(store_path, on_wait)
    try:
        yield lock
    finally:
        lock.release()
