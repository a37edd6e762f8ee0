"""Waiting for what other processes do, and files that make them wait."""

import fcntl
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def wait_until(condition: Callable[[], object], what: str = "", seconds: float = 60) -> None:
    """Until a condition holds; where that takes too long, the test fails by its description."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)


class Gate:
    """Holds whoever opens a file until it is opened: we hold a lease on it (`man 2 fcntl`)."""

    def __init__(self, path: Path) -> None:
        with suppress(OSError):  # without, others have 45 s, in which tests usually end too
            Path("/proc/sys/fs/lease-break-time").write_text("300")
        self._path, self._content = path, path.read_bytes()
        self._lease = self._held_copy()

    def wait(self, seconds: float = 120) -> None:
        """Until somebody has come to read."""
        wait_until(self._reached, f"somebody reads {self._path}", seconds)

    def restore(self) -> None:
        """Give the file to everybody who comes from now on; whoever waits goes on waiting."""
        copy = self._path.with_name("copy.tmp")
        copy.write_bytes(self._content)
        copy.replace(self._path)

    def open(self) -> None:
        """Give the file to whoever waits for it, and to everybody who comes later."""
        os.close(self._lease)
        self._lease = os.open(os.devnull, os.O_RDONLY)

    def expect_another(self) -> None:
        """Wait for somebody new, once the one who came is dead."""
        earlier, self._lease = self._lease, self._held_copy()
        os.close(earlier)

    def _held_copy(self) -> int:
        copy = self._path.with_name("copy.tmp")
        copy.write_bytes(self._content)
        lease = os.open(copy, os.O_RDONLY)
        fcntl.fcntl(lease, fcntl.F_SETSIG, signal.SIGURG)  # SIGIO would end the tests
        fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        copy.replace(self._path)
        return lease

    def _reached(self) -> bool:
        return fcntl.fcntl(self._lease, fcntl.F_GETLEASE) != fcntl.F_WRLCK
