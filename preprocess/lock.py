"""One run at a time writes a store: a lock file beside it, kept alive by a heartbeat."""

import getpass
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from common.errors import StoreError
from common.store.place import reachable, refuse_missing_bucket, resolved
from preprocess.lock_file import STALE_SECONDS, LockFile, Owner, this_machine

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
        with reachable(self.store_path, "read"):
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
        with reachable(store_path, "written"):
            self._file = LockFile.of_store(store_path)
            filesystem, path = self._file.filesystem, self._file.path
            refuse_missing_bucket(store_path, filesystem, path.removesuffix(".lock"))
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
            with suppress(StoreError), reachable(self.claim.store_path, "written"):
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
