"""One run: give each case of a plan to a task, keep what comes back."""

import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from distributed import Client, Future, KilledWorker, as_completed

from common import __version__
from common.errors import ConfigError, Finding, StoreError
from common.layout import CaseFiles
from common.record import CaseFailure
from common.store import StoreWriter
from common.store.place import reachable
from preprocess.lock import Claim, Lock
from preprocess.plan import Plan
from preprocess.pulse import Signs
from preprocess.task import Outcome, process_case


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
    with reachable(work.store_path, "written"):
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
    signs = Signs(client, lock.claim)
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
        with reachable(store.path, "written"):
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
