"""What a worker does: one case from its files into the store."""

import os
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from distributed import get_worker

from common import __version__
from common.case import prepare
from common.errors import ConfigError, FMNetError
from common.layout import CaseFiles
from common.record import CaseFailure
from common.store import StoreWriter
from preprocess.lock import Claim
from preprocess.pulse import Pulse, peak_memory_mb

CLEAR_PEAK = "5"
"""What resets the peak in /proc/self/clear_refs (Linux, proc_pid_clear_refs(5))."""


@dataclass(frozen=True)
class Outcome:
    """How one case went.

    Attributes:
        case_id: the case.
        failure: why it is not stored, if it is not.
        seconds: time in the worker.
        peak_memory_mb: the most that the worker's process held meanwhile.
        process: the worker's process id.
    """

    case_id: str
    failure: CaseFailure | None
    seconds: float
    peak_memory_mb: float | None
    process: int


def installed_version() -> str:
    """This package's version where it is called; whoever can import this can do the work."""
    return __version__


def process_case(files: CaseFiles, claim: Claim, row: int, version: str) -> Outcome:
    """Prepare one case and commit it to its row; whatever goes wrong becomes a failure.

    Args:
        files: the case's.
        claim: the run's on the store. A worker may outlive its run, and must not write then.
        row: where the case's crop goes.
        version: of this package, where the run was started.

    Raises:
        ConfigError: another version is installed here.
    """
    if version != __version__:
        raise ConfigError(f"the worker at {get_worker().address} has version {__version__}")
    _reset_peak_memory()
    began = time.perf_counter()
    reason: str | None = None
    with Pulse(claim, files.case_id) as pulse:
        try:
            store = _store_of(claim)
            case = prepare(files, store.manifest, pulse.on_stage)
            pulse.on_stage("store")
            claim.check()
            store.write(case, row)
        except FMNetError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001 - one case's trouble must not end the others' work
            reason = f"{type(error).__name__}: {error}"
    peak = peak_memory_mb()
    failure = None
    if reason is not None:
        failure = CaseFailure(
            case_id=files.case_id, stage=pulse.stage, reason=reason, peak_memory_mb=peak
        )
    seconds = time.perf_counter() - began
    return Outcome(files.case_id, failure, seconds, peak, os.getpid())


@lru_cache(maxsize=1)
def _store_of(claim: Claim) -> StoreWriter:
    """The store as this run has it: a worker may outlive the run, and its manifest."""
    return StoreWriter(claim.store_path)


def _reset_peak_memory() -> None:
    handle = Path("/proc/self/clear_refs")
    if os.access(handle, os.W_OK):
        handle.write_text(CLEAR_PEAK)
