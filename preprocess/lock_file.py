"""The file beside a store that says who writes it: made by one alone, whole at any moment."""

import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from common.errors import StoreError
from common.store.place import filesystem_of

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
