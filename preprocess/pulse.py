"""Signs of life of the cases at work: a worker gives them, the client of its run keeps the last."""

import os
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any, Self

from distributed import Client, get_worker

from preprocess.lock import Claim

PULSE_SECONDS = 0.05
"""Half of what a nanny waits between two looks at its worker's memory."""
TOPIC = "fmnet-signs-of-life"
"""One for all runs and cases: of each topic, the scheduler keeps a thousand events for ever."""


class Pulse:
    """Tells a run's client how a case stands, so that it knows even if the worker dies.

    A message goes out at each new stage and whenever the peak has grown by a tenth.

    Attributes:
        stage: what is being done: read, prepare or store.
    """

    def __init__(self, claim: Claim, case_id: str) -> None:
        self.stage = "read"
        self._of = {"run": claim.token, "case": case_id}
        self._worker = get_worker()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="case pulse", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def on_stage(self, name: str) -> None:
        """A stage begins."""
        self.stage = name

    def _beat(self) -> None:
        told_stage, told_peak = "", 0.0
        while True:  # first told, then waited: a worker may die before its first wait is over
            stage, peak = self.stage, peak_memory_mb() or 0.0
            if stage != told_stage or peak > 1.1 * told_peak:
                process = (self._worker.address, os.getpid())
                sign = {"process": process, "stage": stage, "peak_memory_mb": peak or None}
                self._worker.log_event(TOPIC, self._of | sign)
                told_stage, told_peak = stage, peak
            if self._stop.wait(PULSE_SECONDS):
                return


class Signs:
    """The signs of life that a run's client has heard of the cases that are not over yet."""

    def __init__(self, client: Client, claim: Claim) -> None:
        self._run = claim.token
        self._of_case: dict[str, list[dict[str, Any]]] = defaultdict(list)
        client.subscribe_topic(TOPIC, self._hear)

    def take(self, case_id: str) -> list[dict[str, Any]]:
        """Those of a case that is over, oldest first, to be kept no longer.

        The scheduler tells of a worker's signs before it tells of its death.
        """
        return self._of_case.pop(case_id, [])

    def _hear(self, event: tuple[float, dict[str, Any]]) -> None:
        _, sign = event
        if sign["run"] == self._run:
            self._of_case[sign["case"]].append(sign)


def peak_memory_mb() -> float | None:
    """The most that this process held since the last reset; None where the system cannot say."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    peaks = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(peaks[0].split()[1]) / 1024 if peaks else None
