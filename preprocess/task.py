"""What a worker does: one case from its files into the store."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from common.case import prepare
from common.errors import FMNetError
from common.layout import CaseFiles
from common.record import CaseFailure, CaseRecord
from common.store import StoreWriter

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


def process_case(files: CaseFiles, store_path: str, row: int) -> Outcome:
    """Prepare one case and commit it to its row; whatever goes wrong becomes a failure."""
    _reset_peak_memory()
    began = time.perf_counter()
    stage = "read"

    def on_stage(name: str) -> None:
        nonlocal stage
        stage = name

    record, reason = None, ""
    try:
        store = StoreWriter(store_path)  # anew: a worker outlives a run and its manifest
        case = prepare(files, store.manifest, on_stage)
        stage = "store"
        record = store.write(case, row)
    except FMNetError as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001 - one case's trouble must not end the others' work
        reason = f"{type(error).__name__}: {error}"
    peak = peak_memory_mb()
    failure = None
    if record is None:
        failure = CaseFailure(
            case_id=files.case_id, stage=stage, reason=reason, peak_memory_mb=peak
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
