"""Cross-validation: the runs of all folds, each scored on the cases that it was not trained on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import ConfigError
from common.files import real_path
from common.metrics import DEFAULT_RULES
from common.store import Store
from train.evaluate import Evaluation, evaluate
from train.loaded_run import LoadedRun
from train.results import CaseResult, RegionResult, ScoreFiles, rows_of, summarise
from train.run import changeable
from train.run_folder import RunFile, read_config, read_run_file

OF_A_FOLD = frozenset({"fold", "splits", "seed"})
"""Settings that the runs of all folds need not share, beside those that a resume may change."""


@dataclass(frozen=True)
class CrossValidation:
    """Out-of-fold scores of every case."""

    evaluations: tuple[Evaluation, ...]
    """One a run, on its own fold."""
    regions: list[RegionResult]
    rules: str
    files: ScoreFiles

    @property
    def results(self) -> list[CaseResult]:
        """Each case, by the run that was not trained on it."""
        return sorted(
            (each for evaluation in self.evaluations for each in evaluation.results),
            key=lambda result: result.case_id,
        )

    @property
    def used(self) -> list[str]:
        """What the runs used their folds for, each reason once."""
        return [*dict.fromkeys(note for each in self.evaluations for note in each.used)]


def check_folds(run_dirs: Sequence[Path]) -> int:
    """Check that runs are the folds of one cross-validation; returns how many cases these have.

    Each case of all of them is in the validation of exactly one, and in the training of all others.

    Raises:
        ConfigError: they are not.
        RunError: one is no run.
    """
    if len({real_path(path) for path in run_dirs}) < max(2, len(run_dirs)):
        raise ConfigError("folds needs the runs of all folds, at least two, each named once")
    runs = {path: read_run_file(path) for path in run_dirs}
    first, *others = run_dirs
    for other in others:
        _check_alike(first, other, runs)
    home: dict[str, Path] = {}
    for path, run in runs.items():
        for case_id in run.cases["val"]:
            if case_id in home:
                raise ConfigError(
                    f"{home[case_id]} and {path} both validate on {case_id}: name one run for each "
                    "fold"
                )
            home[case_id] = path
    for path, run in runs.items():
        trained = {*run.cases["train"], *run.cases["val"]}
        if missing := sorted(trained - home.keys()):
            raise ConfigError(
                f"{len(missing)} case(s) that {path} trained on are in the fold of no run, such as "
                f"{missing[0]}: name the runs of all folds"
            )
        if others_only := sorted(home.keys() - trained):
            raise ConfigError(
                f"{path} was neither trained nor validated on {others_only[0]} of "
                f"{home[others_only[0]]}: name runs of the same folds"
            )
    return len(home)


def _check_alike(first: Path, other: Path, runs: dict[Path, RunFile]) -> None:
    if runs[first].store_fingerprint != runs[other].store_fingerprint:
        raise ConfigError(
            f"{first} and {other} were trained on different stores, or on other cases of one: "
            "train all folds on the same store"
        )
    config = read_config(first)
    ours, theirs = (each.model_dump(mode="json") for each in (config, read_config(other)))
    own = OF_A_FOLD | changeable(config)
    different = [name for name in ours if name not in own and ours[name] != theirs[name]]
    if different:
        raise ConfigError(
            f"{first} and {other} differ in {', '.join(different)}: train all folds with the same "
            "settings"
        )


def cross_validate(
    runs: Sequence[LoadedRun],
    store: Store,
    out: Path,
    on_case: Callable[[int, int], None] = lambda _done, _total: None,
    rules: str = DEFAULT_RULES,
) -> CrossValidation:
    """Evaluate each run on its own fold, and write the scores of all cases into a folder.

    Each run's folder gets its own evaluation, too. `on_case` gets (cases done, cases in all).

    Raises:
        ConfigError: the runs are no folds of one cross-validation, or scores of others are there.
        FMNetError: as `evaluate`.
    """
    total = check_folds([loaded.run_dir for loaded in runs])
    files, settings = ScoreFiles.in_folder(out), _settings(runs, rules)
    files.check(settings)
    done, evaluations = 0, list[Evaluation]()

    def count(case: int, _of_fold: int) -> None:
        on_case(done + case, total)

    for loaded in runs:
        evaluations.append(evaluate(loaded, store, "val", count, rules=rules))
        done += len(evaluations[-1].scores)
    results = [result for each in evaluations for result in each.results]
    regions = summarise(rows_of(results))
    found = CrossValidation(tuple(evaluations), regions, evaluations[0].rules, files)
    about = {
        "settings": settings,
        "folds": [
            {
                "run": str(loaded.run_dir),
                "checkpoint": loaded.which,
                "weights": loaded.config.weights_used,
                "cases": len(each.scores),
                "mean_dice": each.mean.mean_dice,
            }
            for loaded, each in zip(runs, evaluations, strict=True)
        ],
        "warnings": [
            f"{loaded.run_dir.name}: {note}"
            for loaded, each in zip(runs, evaluations, strict=True)
            for note in each.notes
        ],
    }
    files.write(found.results, regions, about)
    return found


def _settings(runs: Sequence[LoadedRun], rules: str) -> dict[str, Any]:
    first = runs[0]
    return {
        "runs": sorted(str(real_path(loaded.run_dir)) for loaded in runs),
        "checkpoint": first.which,
        "changes": list(first.changes),
        "rules": rules,
    }
