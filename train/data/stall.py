"""Notices a loader that is stuck: its stacks are kept, and the run ends instead of hanging."""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from common import hints
from train.data.feed import Batch, Feed

STACKS = "stuck.txt"
"""In the run's folder: where every thread of every process was."""
STACKS_SECONDS = 20.0
"""What writing them may take."""
GRACE_SECONDS = 30.0
"""What the main thread has to come to its senses once the loader's workers are gone."""


class StallDetector(Iterator[Batch]):
    """A feed's batches under a limit of time for each; a context manager.

    Raises LoaderError when a batch is waited for in vain.

    Args:
        feed: where they come from.
        seconds: the limit.
        run_dir: where the stacks go.
    """

    def __init__(self, feed: Feed, seconds: float, run_dir: Path) -> None:
        self._feed, self._seconds, self._file = feed, seconds, run_dir / STACKS
        self._since: float | None = None
        self._written = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="loader's watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def __next__(self) -> Batch:
        self._since = time.monotonic()
        try:
            return next(self._feed)
        finally:
            self._since = None

    def _look(self) -> None:
        while not self._over.wait(min(1.0, self._seconds / 4)):
            since = self._since
            if since is not None and time.monotonic() - since > self._seconds:
                self._give_up(since)

    def _give_up(self, since: float) -> None:
        """Write the stacks, end the workers, and with them the main thread's wait.

        Args:
            since: when that wait began; another one, or none, is a run that goes on.
        """
        # The folder's disk may hang as the store's does.
        writing = threading.Thread(target=self._write, name="loader's stacks", daemon=True)
        writing.start()
        writing.join(STACKS_SECONDS)
        busy = [f"worker {pid} is at {sample}" for pid, sample in self._feed.at().items() if sample]
        reason = (
            f"the loader is stuck: no batch for {self._seconds:.0f} s; "
            f"{', '.join(busy) or 'no worker is at a case'}. Is the store's disk there? The stacks "
            f"{f'are in {self._file}' if self._written else 'could not be written'}; resume "
            f"with {hints.option('--resume')}"
        )
        if self._since != since:
            return
        self._feed.kill(reason)
        self._over.wait(GRACE_SECONDS)
        if self._since == since:
            sys.stderr.write(f"error: {reason}; not even that ended the wait\n")
            os._exit(1)

    def _write(self) -> None:
        try:
            workers = self._feed.stacks()
            with self._file.open("w", encoding="utf-8") as file:
                file.write(f"No batch for {self._seconds:.0f} s.\n\nmain process:\n")
                file.flush()
                faulthandler.dump_traceback(file)
                file.write(f"\n{workers}\n")
            self._written = True
        except OSError:  # which the error's message says
            self._written = False
