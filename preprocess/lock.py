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
from typing import Any

from fsspec.core import url_to_fs

from common.errors import StoreError

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


class Lock:
    """A held lock; `check` fails once somebody else has taken it.

    Attributes:
        taken_over: the run that left it behind, if there was one.
    """

    def __init__(self, store_path: str) -> None:
        self._store = store_path
        self._filesystem, root = url_to_fs(store_path)
        self._path = root.rstrip("/") + ".lock"
        now = time.time()
        self._owner = Owner(
            uuid.uuid4().hex, getpass.getuser(), socket.gethostname(), os.getpid(), now, now
        )
        self._stop = threading.Event()
        self.taken_over = self._acquire()
        self._heart = threading.Thread(target=self._beat, name="store lock", daemon=True)
        self._heart.start()

    def check(self) -> None:
        """Go on only while the lock is ours.

        Raises:
            StoreError: another run took it, because this one showed no sign of life.
        """
        holder = self._read()
        if holder is None or holder.token != self._owner.token:
            by = holder.name if holder else "nobody: its file was removed"
            raise StoreError(
                f"{self._store}: the lock of this run is now held by {by}; this run stops, what it "
                "committed stays"
            )

    def release(self) -> None:
        """Give the lock back, unless another run has taken it."""
        self._stop.set()
        self._heart.join()
        holder = self._read()
        if holder is not None and holder.token == self._owner.token:
            self._filesystem.rm_file(self._path)

    def _acquire(self) -> Owner | None:
        parent = self._filesystem._parent(self._path)
        self._filesystem.makedirs(parent, exist_ok=True)
        holder = self._read()
        if holder is not None and not holder.is_gone:
            raise _held(self._store, self._path, holder)
        if holder is not None:
            self._filesystem.rm_file(self._path)
        try:
            self._filesystem.pipe_file(self._path, self._content(), mode="create")
        except FileExistsError as error:
            winner = self._read()
            if winner is None:
                raise StoreError(
                    f"{self._store}: another run is starting on this store; try again"
                ) from error
            raise _held(self._store, self._path, winner) from error
        return holder

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            holder = self._read()
            if holder is None or holder.token != self._owner.token:
                return
            with suppress(OSError):  # a beat may be missed; `check` tells if too many were
                self._filesystem.pipe_file(self._path, self._content())

    def _content(self) -> bytes:
        return json.dumps(asdict(self._owner) | {"beat": time.time()}).encode()

    def _read(self) -> Owner | None:
        for _ in range(READ_TRIES):
            self._filesystem.invalidate_cache()
            try:
                content: dict[str, Any] = json.loads(self._filesystem.cat_file(self._path))
                return Owner(**content)
            except FileNotFoundError:
                return None
            except (ValueError, TypeError):
                time.sleep(READ_PAUSE_SECONDS)  # its owner may be in the middle of a beat
        raise StoreError(
            f"{self._path}: not a lock that this program wrote; remove it if no run is at the store"
        )


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
