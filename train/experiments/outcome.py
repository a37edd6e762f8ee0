"""What comes of an experiment: each variant's measurements, and which comparisons hold."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, RunError
from common.files import read_json
from common.statistics import LEVEL, Interval, difference_over_seeds, over_seeds
from common.store.reader import Contents
from common.task import Task
from train.experiments.definition import Claim
from train.experiments.runs import Plan, PlannedRun, is_done, scores_file
from train.networks import parameter_count
from train.report.facts import read_epochs
from train.run_folder import read_run_file
from train.trainer import METRICS_FILE

Values = NDArray[np.float64]

Status = Literal["holds", "reversed", "not resolved", "not measured"]

HIGHER_IS_BETTER = {"dice": True, "loss": False, "curve": False, "rate": True}
IN_WORDS = {
    "dice": "Dice of unseen cases",
    "loss": "loss of unseen cases",
    "curve": "validation loss averaged over all epochs",
    "rate": "volumes per second",
}


@dataclass(frozen=True)
class Outcome:
    """One variant, over the seeds of which all runs are done."""

    name: str
    parameters: int
    seeds: tuple[int, ...]
    runs: tuple[PlannedRun, ...]
    """Those that are done, in the order of seeds."""
    cases: tuple[str, ...]
    """Ids of the scored cases; empty if none are."""
    dice: dict[str, Values] = field(default_factory=dict)
    """Region to values (seeds, cases)."""
    loss: Values | None = None
    """(seeds, cases)."""
    curves: tuple[tuple[float | None, ...], ...] = ()
    """Validation loss by epoch, of each run."""
    rate: Values | None = None
    """Volumes per second (seeds, 1): the median over epochs, of several without the first."""
    minutes: float = 0.0
    """Of training a run, without validation: the mean."""
    peak_memory_gb: float = 0.0
    compute: str = ""
    problem: str = ""
    """Why runs are missing."""

    def values(self, by: str, region: str | None = None) -> Values | None:
        """(seeds, cases or 1) of a quantity of `Claim.by`; None where it was not measured."""
        if not self.seeds:
            return None
        if by == "dice":
            found = [self.dice[region]] if region else list(self.dice.values())
            return np.mean(found, axis=0) if found else None
        if by == "curve":
            return self._curve_means()
        return self.loss if by == "loss" else self.rate

    def _curve_means(self) -> Values | None:
        runs = [[loss for loss in curve if loss is not None] for curve in self.curves]
        if not all(runs):
            return None
        each = len(runs) // len(self.seeds)
        means = [fmean(run) for run in runs]
        return np.array([[fmean(means[i * each : (i + 1) * each])] for i in range(len(self.seeds))])


def outcomes(plan: Plan, task: Task, problems: Mapping[PlannedRun, str]) -> list[Outcome]:
    """What every variant has measured so far; `problems` are why runs could not be done.

    Raises:
        RunError, InputError: a file of a run is damaged.
    """
    runs = plan.runs()
    return [
        _outcome(plan, name, [run for run in runs if run.variant == name], task, problems)
        for name in plan.experiment.variants
    ]


def _outcome(
    plan: Plan,
    name: str,
    runs: Sequence[PlannedRun],
    task: Task,
    problems: Mapping[PlannedRun, str],
) -> Outcome:
    parameters = parameter_count(runs[0].config.blueprint(task).parameters())
    by_seed = [[run for run in runs if run.seed == seed] for seed in range(plan.seeds)]
    whole = [group for group in by_seed if all(is_done(plan, run, task) for run in group)]
    done = tuple(run for group in whole for run in group)
    why = next((problems[run] for run in runs if run in problems), "")
    if not why and len(whole) < plan.seeds:
        why = f"{len(whole)} of {plan.seeds} seeds done"
    if not done:
        return Outcome(name, parameters, (), (), (), problem=why)
    rows = [read_epochs(run.folder / METRICS_FILE, task) for run in done]
    scores = [_scores(plan, group) for group in whole] if plan.experiment.scored else []
    cases = tuple(sorted(scores[0])) if scores else ()

    def table(value: str, region: str | None = None) -> Values:
        found = [[score[case][value] for case in cases] for score in scores]
        return np.array([[v[region] if region else v for v in row] for row in found])

    return Outcome(
        name,
        parameters,
        tuple(group[0].seed for group in whole),
        done,
        cases,
        {region: table("dice", region) for region in task.regions} if scores else {},
        table("loss") if scores else None,
        tuple(tuple(row["val_loss"] for row in each) for each in rows),
        _rates(rows, len(whole)),
        fmean(sum(row["seconds"] for row in each) for each in rows) / 60,
        max((row["peak_memory_gb"] for each in rows for row in each), default=0.0),
        read_run_file(done[0].folder).sessions[-1].compute,
        why,
    )


def _rates(runs: Sequence[Sequence[Mapping[str, Any]]], seeds: int) -> Values | None:
    """(seeds, 1) of the rows of each run; None where one ended within its first epoch."""
    if not all(runs):
        return None
    rates = [median(row["volumes_per_second"] for row in rows[1:] or rows) for rows in runs]
    of_seeds: Values = np.array(rates).reshape(seeds, -1).mean(axis=1, keepdims=True)
    return of_seeds


def _scores(plan: Plan, runs: Sequence[PlannedRun]) -> dict[str, dict[str, Any]]:
    """Case id to its scores, of all folds of one seed."""
    found = dict[str, dict[str, Any]]()
    for run in runs:
        path = scores_file(plan, run)
        try:
            found |= {case["case_id"]: case for case in read_json(path)["cases"]}
        except (OSError, InputError, KeyError, TypeError) as error:
            raise RunError(f"{path}: damaged ({error}); remove it to score again") from error
    return found


@dataclass(frozen=True)
class Judged:
    """A claim, and what the measurements say of it."""

    claim: Claim
    apart: Interval | None
    """By how much the one is better than the other, below 0 if it is worse."""
    seeds: int
    """That both variants have."""

    @property
    def status(self) -> Status:
        """It holds, or is reversed, where the interval does not contain 0.

        One seed resolves nothing: how much scores vary with it is not known.
        """
        if self.apart is None:
            return "not measured"
        if self.seeds < 2 or self.apart.low is None or self.apart.high is None:
            return "not resolved"
        if self.apart.low > 0:
            return "holds"
        return "reversed" if self.apart.high < 0 else "not resolved"

    def __str__(self) -> str:
        claim = self.claim
        region = f" ({claim.region.upper()})" if claim.region else ""
        text = f"{claim.better} better than {claim.than} by {IN_WORDS[claim.by]}{region}"
        if self.apart is None:
            return f"{text}: {self.status}"
        ends = (
            "one value"
            if self.apart.low is None
            else f"{self.apart.low:+.3f} to {self.apart.high:+.3f}"
        )
        return f"{text}: {self.apart.mean:+.3f} ({LEVEL:.0%} CI {ends}), {self.status}"


def judge(found: Sequence[Outcome], claims: Sequence[Claim], contents: Contents) -> list[Judged]:
    """Compare variants in pairs, by the seeds that both have."""
    by_name = {outcome.name: outcome for outcome in found}
    return [_judge(claim, by_name[claim.better], by_name[claim.than], contents) for claim in claims]


def _judge(claim: Claim, better: Outcome, than: Outcome, contents: Contents) -> Judged:
    shared = sorted({*better.seeds} & {*than.seeds})
    ours, theirs = (each.values(claim.by, claim.region) for each in (better, than))
    if ours is None or theirs is None or not shared:
        return Judged(claim, None, len(shared))
    ours = ours[[better.seeds.index(seed) for seed in shared]]
    theirs = theirs[[than.seeds.index(seed) for seed in shared]]
    if not HIGHER_IS_BETTER[claim.by]:
        ours, theirs = theirs, ours
    apart = difference_over_seeds(ours, theirs, patients(better, ours, contents))
    return Judged(claim, apart, len(shared))


def patients(outcome: Outcome, values: Values, contents: Contents) -> list[str]:
    """Whom the columns of values are of: cases' patients, or all of them together."""
    if values.shape[1] != len(outcome.cases):
        return ["all"]
    return [contents.patients[case_id] for case_id in outcome.cases]


def interval(
    outcome: Outcome, by: str, contents: Contents, region: str | None = None
) -> Interval | None:
    """A variant's mean with its interval over seeds and patients."""
    values = outcome.values(by, region)
    return None if values is None else over_seeds(values, patients(outcome, values, contents))


def verdict(judged: Sequence[Judged]) -> str:
    """In one sentence, whether the paper's trend holds, or what comparisons of our own show."""
    if not judged:
        return "The paper claims no trend here; its figures are beside ours."
    trend = [each for each in judged if each.claim.by_paper]
    counts = Counter(each.status for each in trend or judged)
    parts = ", ".join(f"{count} {status}" for status, count in counts.items())
    of = f"of {counts.total()} comparisons, {parts}"
    one = all(each.seeds < 2 for each in judged)
    why = " One seed resolves nothing: how much scores vary with it is not known." if one else ""
    if not trend:
        chance = f"at least {1 - LEVEL:.0%} of intervals exclude 0 where nothing differs"
        return f"The paper made no such comparison. Here, {of}; {chance}.{why}"
    if "reversed" in counts:
        return f"The paper's trend does not hold: {of}."
    if {*counts} == {"holds"}:
        return f"The paper's trend holds: {of}."
    return f"The paper's trend is not resolved: {of}.{why}"
