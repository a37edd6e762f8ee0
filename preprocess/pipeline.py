"""One run: a task for each case of a plan, what a worker does, and what comes back."""

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
from common.errors import ConfigError, Finding, FMNetError, StoreError
from common.record import CaseFailure
from common.store import StoreWriter
from common.store.paths import translate_io_errors
from preprocess.lock import Claim, Lock
from preprocess.plan import Plan

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
    with ProgressReporter(claim, files.case_id) as reporter:
        try:
            store = _store_of(claim)
            case = prepare(files, store.manifest, reporter.on_stage)
            reporter.on_stage("store")
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
            case_id=files.case_id, stage=reporter.stage, reason=reason, peak_memory_mb=peak
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


REPORT_SECONDS = 0.05
"""Half of what a nanny waits between two looks at its worker's memory."""
TOPIC = "fmnet-signs-of-life"
"""One for all runs and cases: of each topic, the scheduler keeps a thousand events for ever."""


class ProgressReporter:
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
            if self._stop.wait(REPORT_SECONDS):
                return


class ProgressListener:
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


@dataclass
class Report:
    """What a run came to.

    Attributes:
        findings: what discovery had to say.
        outcomes: the cases that were processed.
        kept: ids of the cases that were in the store already, unchanged.
        refused: cases of which discovery said that their files make none.
        seconds: from the first task to the last.
    """

    findings: list[Finding]
    kept: list[str]
    refused: list[CaseFailure]
    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failures(self) -> list[CaseFailure]:
        """The cases that were tried in vain, by id."""
        failures = [outcome.failure for outcome in self.outcomes if outcome.failure]
        return sorted(failures, key=lambda failure: failure.case_id)

    @property
    def stored(self) -> list[str]:
        """Ids of the cases that this run stored."""
        return [outcome.case_id for outcome in self.outcomes if not outcome.failure]

    @property
    def clean(self) -> bool:
        """Whether every file was understood and every case is in the store."""
        errors = [finding for finding in self.findings if finding.severity == "error"]
        return not errors and not self.failures


def begin(work: Plan) -> StoreWriter:
    """Make the store, or give it the plan's manifest and cases.

    Raises:
        StoreError: it cannot be written.
    """
    staying = () if work.drop_absent else work.absent
    expected = tuple(sorted({*work.present, *staying}))
    store = StoreWriter.create(work.store_path, work.manifest, expected)
    with translate_io_errors(work.store_path, "written"):
        for case_id in work.absent if work.drop_absent else ():
            store.remove(case_id)
        for failure in work.refused:
            store.set_aside(failure)
    return store


def execute(client: Client, work: Plan, lock: Lock) -> Iterator[Outcome]:
    """Process the planned cases, one task a case, and yield each outcome as it comes.

    Raises:
        StoreError: another run took the store over, or it cannot be written.
        ConfigError: the cluster cannot run the tasks.
    """
    store = begin(work)
    rows = store.allocate(len(work.todo))
    signs = ProgressListener(client, lock.claim)
    futures = {
        client.submit(
            pickle.loads, _called(case, lock.claim, row), key=f"case-{case.case_id}", pure=False
        ): (case, row)
        for case, row in zip(work.todo, rows, strict=True)
    }
    for future in as_completed(futures):
        case, row = futures[future]
        try:
            outcome = _outcome(client, signs.take(case.case_id), case, future)
        except (CancelledError, OSError) as error:  # all that is asked here goes by the scheduler
            raise ConfigError(
                "the Dask scheduler is gone, or the network to it; what was stored stays: with a "
                "scheduler that answers, the same command goes on with the others"
            ) from error
        future.release()
        lock.check()
        yield _set_aside(store, work.data, outcome, row) if outcome.failure else outcome


def _called(case: CaseFiles, claim: Claim, row: int) -> bytes:
    """What `pickle.loads` makes an outcome of, by processing the case.

    A worker that cannot import the function of its task ends without a word, and the next one does
    at the same case. So it is given a function that all have, and what fails in it is told.
    """
    return pickle.dumps(_Call(case, claim, row))


class _Call:
    def __init__(self, *arguments: object) -> None:
        self._arguments = arguments

    def __reduce__(self) -> tuple[Callable[..., Outcome], tuple[object, ...]]:
        return process_case, (*self._arguments, __version__)


def _outcome(
    client: Client, signs: list[dict[str, Any]], case: CaseFiles, future: Future[Outcome]
) -> Outcome:
    """What came of a case whose task is over.

    Raises:
        ConfigError: the cluster cannot run the task.
        CancelledError, OSError: the scheduler is gone.
    """
    error = future.exception()
    if isinstance(error, KilledWorker):
        return _lost(client, signs, case, error)
    if error is not None:
        told = " ".join(str(error).split())
        raise ConfigError(
            f"the cluster cannot run the tasks ({type(error).__name__}: {told}); its workers need "
            f"this package of version {__version__}, with its extra preprocess"
        ) from error
    return future.result()


def _set_aside(store: StoreWriter, data: Path, outcome: Outcome, row: int) -> Outcome:
    """Keep a failure in the store; where even that fails, say so with the failure.

    Files are named as `check` does, below the data's folder: a store goes to other people, whom
    this machine's folders do not concern.
    """
    assert outcome.failure is not None  # noqa: S101 - the caller looked
    reason = outcome.failure.reason.replace(f"{data}{os.sep}", "")
    failure = outcome.failure.model_copy(update={"reason": reason})
    try:
        with translate_io_errors(store.path, "written"):
            store.set_aside(failure, row)
    except StoreError as error:
        failure = failure.model_copy(
            update={"reason": f"{reason}; the store could not keep this: {error}"}
        )
    return replace(outcome, failure=failure)


def _lost(
    client: Client, signs: list[dict[str, Any]], case: CaseFiles, error: KilledWorker
) -> Outcome:
    """The outcome of a case whose worker died over it again and again.

    The worker's last signs of life tell how far it came, its nanny whether it ended it for the
    memory that it took.
    """
    ended = [event for _, event in client.get_events("worker-restart-memory")]
    processes = {tuple(sign["process"]) for sign in signs}
    bytes_held = [event["rss"] for event in ended if (event["worker"], event["pid"]) in processes]
    limit = error.last_worker.memory_limit
    deaths = f"{error.allowed_failures + 1} workers died at this case"
    if bytes_held:
        reason = f"memory: {deaths}, each ended for reaching its limit of {limit / 1e6:.0f} MB"
    else:
        reason = f"{deaths}, killed from outside, as when memory runs out on the whole machine"
    peaks = [sign["peak_memory_mb"] for sign in signs if sign["peak_memory_mb"]]
    peaks += [held / 2**20 for held in bytes_held]
    failure = CaseFailure(
        case_id=case.case_id,
        stage=signs[-1]["stage"] if signs else "worker",
        reason=reason,
        peak_memory_mb=max(peaks, default=None),
    )
    return Outcome(case.case_id, failure, 0.0, failure.peak_memory_mb, 0)
