"""What a run's folder says: read once, for the page."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from common import hints
from common.errors import ConfigError, Finding, InputError
from common.files import read_json, read_text
from common.manifest import Manifest
from common.metrics import DICE, mean_over_regions
from common.settings import explain
from common.task import Task
from train.checkpoint import Which
from train.compare import distinct_names, evaluation_of
from train.config import TrainConfig
from train.results import RegionResult, Row, read_csv, summarise
from train.run_folder import RunFile, check_run, read_config, read_manifest, read_run_file
from train.trainer import METRICS_FILE, selection_score

EpochRow = dict[str, Any]
"""Numbers of an epoch by name, or null."""
EPOCH_KEYS = (
    *("epoch", "train_loss", "val_loss", "skipped_steps"),
    *("seconds", "wait_share", "volumes_per_second"),
)
"""What the page needs of an epoch, beside its regions' Dice."""

_ROWS = TypeAdapter(list[dict[str, int | Annotated[float, Field(allow_inf_nan=False)] | None]])


class _FileModel(BaseModel):
    """A part of a file that has more than the page needs."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Bins(_FileModel):
    """A region's voxels by their probability, as `train.calibration.Calibration` writes them."""

    voxels: list[int]
    probability: list[float]
    positives: list[int]
    error: float | None
    error_above_lowest: float | None


class CalibrationBins(_FileModel):
    """All regions' voxels by their probability."""

    bins: int
    regions: dict[str, Bins]


class ScoredCase(_FileModel):
    """A case of an evaluation, beside its scores."""

    case_id: str
    loss: float
    outside: dict[str, float] = {}
    """Shares of its tumour outside the training crop and the stored volume (`crop`, `box`)."""


class EvaluationFile(_FileModel):
    """What an evaluation's JSON says of how it was made."""

    checkpoint: Which
    epochs: int
    split: str
    store: str
    store_fingerprint: str
    warnings: list[str]
    inference: dict[str, Any]
    compute: str
    cases: list[ScoredCase]
    calibration: CalibrationBins | None = None
    """None of earlier versions."""


@dataclass(frozen=True)
class Evaluation:
    """A split of a run, scored."""

    csv: Path
    about: EvaluationFile
    rows: dict[tuple[str, str], Row]
    """By case id and region."""
    regions: list[RegionResult]
    rules: str

    @cached_property
    def cases(self) -> dict[str, ScoredCase]:
        """By case id."""
        return {case.case_id: case for case in self.about.cases}

    def of(self, region: str) -> RegionResult:
        """One region over all cases."""
        return next(each for each in self.regions if each.region == region)

    def rows_of(self, case_id: str) -> dict[str, Row]:
        """A case's rows by region; none if it is not of this evaluation."""
        names = [each.region for each in self.regions]
        return {name: self.rows[case_id, name] for name in names if (case_id, name) in self.rows}

    def mean_dice(self, case_id: str) -> float:
        """Of a case, over its regions."""
        rows = self.rows_of(case_id)
        return mean_over_regions({region: row["dice"] for region, row in rows.items()})


@dataclass(frozen=True)
class RunFacts:
    """A run as its folder tells it."""

    name: str
    """The folder's, or its path where two runs' folders have one name."""
    folder: Path
    config: TrainConfig
    manifest: Manifest
    run: RunFile
    epochs: list[EpochRow]
    """The rows of metrics.jsonl."""
    evaluation: Evaluation | None

    @property
    def best_epoch(self) -> int | None:
        """The epoch of the best checkpoint; None before the first validation."""
        return best_epoch(self.epochs, self.config, self.manifest.task)


def best_epoch(rows: Sequence[EpochRow], config: TrainConfig, task: Task) -> int | None:
    """The epoch of the best checkpoint by the rows of metrics.jsonl; None before validation."""
    validated = [row for row in rows if row["val_loss"] is not None]
    if not validated:
        return None
    # The first of equals: only a better one replaces it.
    return int(max(validated, key=lambda row: selection_score(row, config, task))["epoch"])


def read_runs(paths: Sequence[Path]) -> list[RunFacts]:
    """Read runs, named by their folders or by a file of one of their evaluations.

    Raises:
        ConfigError: a run is named twice, has several evaluations, or is of another task.
        RunError: a folder is not that of a run.
        InputError: a file of scores is torn.
    """
    folders = [path if path.is_dir() else path.parent for path in paths]
    if len({os.path.realpath(folder) for folder in folders}) < len(folders):
        raise ConfigError("report: name each run once")
    runs = [_read_run(*one) for one in zip(distinct_names(folders), folders, paths, strict=True)]
    for other in runs[1:]:
        _check_same_task(runs[0], other)
    return runs


def _read_run(name: str, folder: Path, path: Path) -> RunFacts:
    check_run(path if path.is_dir() or not os.path.lexists(path) else folder)
    csv, manifest = evaluation_of(path), read_manifest(folder)
    return RunFacts(
        name,
        folder,
        read_config(folder),
        manifest,
        read_run_file(folder),
        read_epochs(folder / METRICS_FILE, manifest.task),
        _read_evaluation(csv) if csv else None,
    )


def _check_same_task(first: RunFacts, other: RunFacts) -> None:
    ours, theirs = first.manifest.task, other.manifest.task
    if ours.regions != theirs.regions:
        raise ConfigError(
            f"{first.folder} has regions {', '.join(ours.regions)}, {other.folder} "
            f"{', '.join(theirs.regions)}: report runs of one task together"
        )


def read_epochs(path: Path, task: Task) -> list[EpochRow]:
    """The rows of a run's metrics.jsonl; none before its first epoch.

    Raises:
        InputError: it is torn.
    """
    if not os.path.lexists(path):
        return []
    needed = {*EPOCH_KEYS, *(f"val_{DICE.name}_{region}" for region in task.regions)}
    try:
        rows = _ROWS.validate_python([json.loads(line) for line in read_text(path).splitlines()])
        if absent := sorted({key for row in rows for key in needed - row.keys()}):
            raise ValueError(f"a row has no {', '.join(absent)}")
    except ValueError as error:  # pydantic's is one
        found = explain(error) if isinstance(error, ValidationError) else str(error)
        action = "resume the run, which writes it again"
        raise InputError(Finding(str(path), found, "a row for each epoch", action)) from error
    return rows


def _read_evaluation(csv: Path) -> Evaluation:
    rows = read_csv(csv)
    file = csv.with_suffix(".json")
    try:
        about = EvaluationFile.model_validate(read_json(file))
    except FileNotFoundError as error:
        raise _unlike(file, csv, "missing") from error
    except ValidationError as error:
        raise _unlike(file, csv, explain(error)) from error
    if {case.case_id for case in about.cases} != {row["case_id"] for row in rows}:
        raise _unlike(file, csv, f"other cases than in {csv.name}")
    by_case = {(row["case_id"], row["region"]): row for row in rows}
    return Evaluation(csv, about, by_case, summarise(rows), rows[0]["rules"])


def _unlike(file: Path, csv: Path, found: str) -> InputError:
    action = f"evaluate again: {hints.evaluate(csv.parent)}"
    return InputError(Finding(str(file), found, "what `evaluate` writes", action))
