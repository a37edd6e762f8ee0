"""Preprocess the cases of a plan: one Dask task per case, and the outcome of each."""

import os
import pickle
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from distributed import Client, Future, KilledWorker, as_completed, get_worker

from common import __version__
from common.case import prepare
from common.discovery import CaseFiles
from common.errors import ConfigError, FMNetError, StoreError
from common.lock import Lock, LockToken
from common.record import CaseFailure
from common.store import StoreWriter
from common.store.paths import translate_io_errors
from preprocess.plan import Plan

REPORT_SECONDS = 0.05
"""Half the interval at which a Dask nanny measures its worker's memory."""
TOPIC = "fmnet-progress"
"""One topic for all runs and cases: the scheduler keeps a thousand events per topic for ever."""


@dataclass(frozen=True)
class Outcome:
    """The result of one case's task."""

    case_id: str
    failure: CaseFailure | None
    """Why the case is not stored; None if it is."""
    seconds: float
    """Time in the worker."""
    peak_memory_mb: float | None
    """Peak memory of the worker's process during the task."""
    process: int
    """The worker's process id."""


def installed_version() -> str:
    """This package's version in the process that calls it."""
    return __version__


def process_case(files: CaseFiles, token: LockToken, row: int, version: str) -> Outcome:
    """Prepare one case and commit it to its row; an error becomes the outcome's failure.

    A worker may outlive its run, and must not write then: it checks the run's lock.

    Raises:
        ConfigError: the worker has another version than the process that started the run.
    """
    if version != __version__:
        raise ConfigError(f"the worker at {get_worker().address} has version {__version__}")
    _reset_peak_memory()
    began = time.perf_counter()
    reason: str | None = None
    with ProgressReporter(token, files.case_id) as reporter:
        try:
            store = _open_writer(token)
            case = prepare(files, store.manifest, reporter.on_stage)
            reporter.on_stage("store")
            token.check()
            store.write(case, row)
        except FMNetError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001 - one case must not stop the others
            reason = f"{type(error).__name__}: {error}"
    peak = peak_memory_mb()
    failure = None
    if reason is not None:
        failure = CaseFailure(
            case_id=files.case_id, stage=reporter.stage, reason=reason, peak_memory_mb=peak
        )
    return Outcome(files.case_id, failure, time.perf_counter() - began, peak, os.getpid())


@lru_cache(maxsize=1)
def _open_writer(token: LockToken) -> StoreWriter:
    """One writer per run: a worker may outlive the run and its manifest."""
    return StoreWriter(token.store_path)


def peak_memory_mb() -> float | None:
    """Peak memory of this process since the last reset; None where it is not known."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return peaks[0] / 1024 if peaks else None


def _reset_peak_memory() -> None:
    handle = Path("/proc/self/clear_refs")
    if os.access(handle, os.W_OK):
        handle.write_text("5")  # resets the peak: Linux, proc_pid_clear_refs(5)


class ProgressReporter:
    """Reports a case's stage and peak memory to the run, which has them if the worker dies.

    A report is sent at each new stage (read, prepare, store), and when the peak grew by a tenth.
    """

    def __init__(self, token: LockToken, case_id: str) -> None:
        self.stage = "read"
        self._case = {"run": token.token, "case": case_id}
        self._worker = get_worker()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send, name="case progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def on_stage(self, name: str) -> None:
        """A stage begins."""
        self.stage = name

    def _send(self) -> None:
        sent_stage, sent_peak = "", 0.0
        while True:  # sends before it waits: a worker may die before the first wait ends
            stage, peak = self.stage, peak_memory_mb() or 0.0
            if stage != sent_stage or peak > 1.1 * sent_peak:
                process = (self._worker.address, os.getpid())
                report = {"process": process, "stage": stage, "peak_memory_mb": peak or None}
                self._worker.log_event(TOPIC, self._case | report)
                sent_stage, sent_peak = stage, peak
            if self._stop.wait(REPORT_SECONDS):
                return


def _progress_reports(client: Client, token: LockToken) -> dict[str, list[dict[str, Any]]]:
    """Case to its progress reports in this run, oldest first; they are added as they arrive.

    The scheduler delivers a worker's reports before the worker's death.
    """
    reports: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def receive(event: tuple[float, dict[str, Any]]) -> None:
        _, report = event
        if report["run"] == token.token:
            reports[report["case"]].append(report)

    client.subscribe_topic(TOPIC, receive)
    return reports


@dataclass
class Report:
    """The results of a run."""

    work: Plan
    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0
    """From the first task to the last."""

    @property
    def failures(self) -> list[CaseFailure]:
        """The failures of processed cases, by id."""
        failures = [outcome.failure for outcome in self.outcomes if outcome.failure]
        return sorted(failures, key=lambda failure: failure.case_id)

    @property
    def clean(self) -> bool:
        """Whether no file had an error, and every case was stored."""
        errors = [finding for finding in self.work.findings if finding.severity == "error"]
        return not errors and not self.failures


def begin(work: Plan) -> StoreWriter:
    """Create the store, or update its manifest and its list of cases.

    Raises:
        StoreError: it cannot be written.
    """
    kept, dropped = ((), work.absent) if work.drop_absent else (work.absent, ())
    expected = tuple(sorted({*work.present, *kept}))
    store = StoreWriter.create(work.store_path, work.manifest, expected)
    with translate_io_errors(work.store_path, "written"):
        for case_id in dropped:
            store.remove(case_id)
        for failure in work.refused:
            store.set_aside(failure)
    return store


def execute(client: Client, work: Plan, lock: Lock) -> Iterator[Outcome]:
    """Process the planned cases, one task per case, and yield each outcome as it arrives.

    Raises:
        StoreError: another run took the store over, or it cannot be written.
        ConfigError: the cluster cannot run the tasks.
    """
    store = begin(work)
    rows = store.allocate(len(work.todo))
    reports = _progress_reports(client, lock.token)
    futures = {}
    for case, row in zip(work.todo, rows, strict=True):
        call = _pickled_call(case, lock.token, row)
        future = client.submit(pickle.loads, call, key=f"case-{case.case_id}", pure=False)
        futures[future] = case, row
    for future in as_completed(futures):
        case, row = futures[future]
        try:
            outcome = _outcome(client, reports.pop(case.case_id, []), case, future)
        except (CancelledError, OSError) as error:  # every call here goes to the scheduler
            raise ConfigError(
                "the Dask scheduler is gone, or the network to it; the cases stored so far stay: "
                "run the same command again with a scheduler that answers"
            ) from error
        future.release()
        lock.token.check()
        yield _set_aside(store, work.data, outcome, row) if outcome.failure else outcome


def _pickled_call(case: CaseFiles, token: LockToken, row: int) -> bytes:
    """A call of `process_case`, which `pickle.loads` makes in the worker.

    A worker that cannot import its task's function dies without a message, and so does the next
    one that gets the case. `pickle.loads` can be imported anywhere, and reports what fails in it.
    """
    return pickle.dumps(_Call(case, token, row))


class _Call:
    def __init__(self, *arguments: object) -> None:
        self._arguments = arguments

    def __reduce__(self) -> tuple[Callable[..., Outcome], tuple[object, ...]]:
        return process_case, (*self._arguments, __version__)


def _outcome(
    client: Client, reports: list[dict[str, Any]], case: CaseFiles, future: Future[Outcome]
) -> Outcome:
    """The outcome of a finished task; CancelledError or OSError if the scheduler is gone."""
    error = future.exception()
    if isinstance(error, KilledWorker):
        return _outcome_of_killed(client, reports, case, error)
    if error is not None:
        message = " ".join(str(error).split())
        raise ConfigError(
            f"the cluster cannot run the tasks ({type(error).__name__}: {message}); its workers "
            f"need version {__version__} of this package, with the extra preprocess"
        ) from error
    return future.result()


def _outcome_of_killed(
    client: Client, reports: list[dict[str, Any]], case: CaseFiles, error: KilledWorker
) -> Outcome:
    """The outcome of a case at which several workers died.

    The workers' reports name their stage; their nannies report whether they killed them for memory.
    """
    killed = [event for _, event in client.get_events("worker-restart-memory")]
    processes = {tuple(report["process"]) for report in reports}
    bytes_held = [event["rss"] for event in killed if (event["worker"], event["pid"]) in processes]
    limit = error.last_worker.memory_limit
    deaths = f"{error.allowed_failures + 1} workers died at this case"
    if bytes_held:
        reason = f"memory: {deaths}, each killed at its limit of {limit / 1e6:.0f} MB"
    else:
        reason = f"{deaths}, killed from outside, as when the whole machine runs out of memory"
    peaks = [report["peak_memory_mb"] for report in reports if report["peak_memory_mb"]]
    peaks += [held / 2**20 for held in bytes_held]
    failure = CaseFailure(
        case_id=case.case_id,
        stage=reports[-1]["stage"] if reports else "worker",
        reason=reason,
        peak_memory_mb=max(peaks, default=None),
    )
    return Outcome(case.case_id, failure, 0.0, failure.peak_memory_mb, 0)


def _set_aside(store: StoreWriter, data: Path, outcome: Outcome, row: int) -> Outcome:
    """Record a failure in the store; if that fails too, add it to the failure's reason.

    A case that is stored stays, even if its files have become unusable since. Files are named
    relative to the data's folder: a store may be used on another machine.
    """
    assert outcome.failure is not None  # noqa: S101 - the caller checked
    reason = outcome.failure.reason.replace(f"{data}{os.sep}", "")
    failure = outcome.failure.model_copy(update={"reason": reason})
    try:
        with translate_io_errors(store.path, "written"):
            stored_in = store.row_if_known(failure.case_id)
            if stored_in is None:
                store.set_aside(failure, row)
            else:
                reason = f"{reason}; the case as it was stored before is kept"
                if stored_in != row:
                    store.free(row)
    except StoreError as error:
        reason = f"{reason}; this failure could not be stored: {error}"
    return replace(outcome, failure=failure.model_copy(update={"reason": reason}))
