"""What a worker does: one case from its files into the store."""

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from distributed import get_worker

from common import __version__
from common.case import prepare
from common.errors import FMNetError
from common.layout import CaseFiles
from common.record import CaseFailure, CaseRecord
from common.store import StoreWriter
from preprocess.lock import Claim

PULSE_SECONDS = 0.05
"""Half of what a nanny waits between two looks at its worker's memory."""
CLEAR_PEAK = "5"
"""What resets the peak in /proc/self/clear_refs (Linux, proc_pid_clear_refs(5))."""


@dataclass(frozen=True)
class Outcome:
    """How one case went.

    Attributes:
        case_id: the case.
        record: its record, if it is stored now.
        failure: why not, if not.
        seconds: time in the worker.
        peak_memory_mb: the most that the worker's process held meanwhile.
        process: the worker's process id.
    """

    case_id: str
    record: CaseRecord | None
    failure: CaseFailure | None
    seconds: float
    peak_memory_mb: float | None
    process: int


class Pulse:
    """Tells the scheduler how a case stands, so that the client knows even if the worker dies.

    A message goes out at each new stage and whenever the peak has grown by a tenth.

    Attributes:
        stage: what is being done: read, prepare or store.
    """

    def __init__(self, claim: Claim, case_id: str) -> None:
        self.stage = "read"
        self._topic = pulse_topic(claim, case_id)
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
                self._worker.log_event(self._topic, sign)
                told_stage, told_peak = stage, peak
            if self._stop.wait(PULSE_SECONDS):
                return


def pulse_topic(claim: Claim, case_id: str) -> str:
    """Where the scheduler keeps a case's signs of life in one run."""
    return f"fmnet-{claim.token}-{case_id}"


def installed_version() -> str:
    """This package's version where it is called; whoever can import this can do the work."""
    return __version__


def process_case(files: CaseFiles, claim: Claim, row: int) -> Outcome:
    """Prepare one case and commit it to its row; whatever goes wrong becomes a failure.

    Args:
        files: the case's.
        claim: the run's on the store. A worker may outlive its run, and must not write then.
        row: where the case's crop goes.
    """
    _reset_peak_memory()
    began = time.perf_counter()
    record, reason = None, ""
    with Pulse(claim, files.case_id) as pulse:
        try:
            store = StoreWriter(claim.store_path)  # anew: a worker outlives a run's manifest too
            case = prepare(files, store.manifest, pulse.on_stage)
            pulse.on_stage("store")
            claim.check()
            record = store.write(case, row)
        except FMNetError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001 - one case's trouble must not end the others' work
            reason = f"{type(error).__name__}: {error}"
    peak = peak_memory_mb()
    failure = None
    if record is None:
        failure = CaseFailure(
            case_id=files.case_id, stage=pulse.stage, reason=reason, peak_memory_mb=peak
        )
    seconds = time.perf_counter() - began
    return Outcome(files.case_id, record, failure, seconds, peak, os.getpid())


def _reset_peak_memory() -> None:
    handle = Path("/proc/self/clear_refs")
    if os.access(handle, os.W_OK):
        handle.write_text(CLEAR_PEAK)


def peak_memory_mb() -> float | None:
    """The most that this process held since the last reset; None where the system cannot say."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    peaks = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(peaks[0].split()[1]) / 1024 if peaks else None
