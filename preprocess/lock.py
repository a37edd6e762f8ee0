"""One run at a time writes a store: a lock file beside it, kept alive by a heartbeat."""

import getpass
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from common.errors import StoreError
from common.store.place import filesystem_of, reachable, refuse_missing_bucket, resolved

HEARTBEAT_SECONDS = 10.0
READ_TRIES, READ_PAUSE_SECONDS = 5, 0.05
STALE_SECONDS = 60.0
"""A lock without a heartbeat for this long is nobody's; six beats may be missed before that."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lock.

    Attributes:
        token: of this very run.
        user: its user.
        host: its machine.
        process: its process id there.
        since: when it began, in seconds since 1970.
        beat: its last sign of life, likewise.
    """

    token: str
    user: str
    host: str
    process: int
    since: float
    beat: float

    @property
    def name(self) -> str:
        """The owner as people know it."""
        return f"{self.user} on {self.host}, process {self.process}"

    @property
    def is_gone(self) -> bool:
        """Whether the run ended without giving its lock back."""
        if self.host == socket.gethostname() and not _is_alive(self.process):
            return True
        return time.time() - self.beat > STALE_SECONDS


class LockFile:
    """The file beside a store that says who writes it."""

    def __init__(self, store_path: str) -> None:
        self.filesystem, self.root = filesystem_of(store_path)
        self.path = self.root + ".lock"

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

    def create(self, content: bytes) -> None:
        """Write the file if there is none.

        Raises:
            FileExistsError: there is one.
        """
        try:
            self.filesystem.pipe_file(self.path, content, mode="create")
        except FileExistsError:
            raise
        except OSError:  # such as a full disk: an empty file would be nobody's lock
            self.remove()
            raise

    def replace(self, content: bytes) -> None:
        """Write the file anew, all or nothing: a full disk must not leave an empty lock."""
        if not isinstance(self.filesystem, LocalFileSystem):  # an object store does just that
            self.filesystem.pipe_file(self.path, content)
            return
        beside = f"{self.path}.{os.getpid()}"
        try:
            self.filesystem.pipe_file(beside, content)
            Path(beside).replace(self.path)
        except OSError:
            Path(beside).unlink(missing_ok=True)
            raise

    def remove(self) -> None:
        """Take the file away, if it is there."""
        with suppress(FileNotFoundError):
            self.filesystem.rm_file(self.path)


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
        with reachable(self.store_path, "read"):
            holder = LockFile(self.store_path).holder()
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

    def __init__(self, store_path: str) -> None:
        store_path, now = resolved(store_path), time.time()
        self._owner = Owner(
            uuid.uuid4().hex, getpass.getuser(), socket.gethostname(), os.getpid(), now, now
        )
        self.claim = Claim(store_path, self._owner.token)
        self._stop = threading.Event()
        with reachable(store_path, "written"):
            self._file = LockFile(store_path)
            refuse_missing_bucket(store_path, self._file.filesystem, self._file.root)
            self.taken_over = self._acquire()
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

    def _acquire(self) -> Owner | None:
        store_path, file = self.claim.store_path, self._file
        file.filesystem.makedirs(file.path.rpartition("/")[0], exist_ok=True)
        left = file.holder()
        if left is not None and not left.is_gone:
            raise _held(store_path, file.path, left)
        if left is not None:
            file.remove()
        try:
            file.create(self._content())
        except FileExistsError as error:
            winner = file.holder()
            if winner is None:
                raise StoreError(
                    f"{store_path}: another run is starting on this store; try again"
                ) from error
            raise _held(store_path, file.path, winner) from error
        return left

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            # A beat may be missed, as on a full disk; `check` tells if too many were.
            with suppress(StoreError), reachable(self.claim.store_path, "written"):
                holder = self._file.holder()
                if holder is None or holder.token != self._owner.token:
                    return
                self._file.replace(self._content())

    def _content(self) -> bytes:
        return json.dumps(asdict(self._owner) | {"beat": time.time()}).encode()


@contextmanager
def hold(store_path: str) -> Iterator[Lock]:
    """Hold a store's lock.

    Raises:
        StoreError: a run that shows signs of life holds it.
    """
    lock = Lock(store_path)
    try:
        yield lock
    finally:
        lock.release()


def _held(store_path: str, lock_path: str, holder: Owner) -> StoreError:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.since))
    return StoreError(
        f"{store_path}: {holder.name} has been writing this store since {since}; wait for it to "
        f"end, or, if it is surely gone, remove {lock_path}"
    )


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
