"""Scores of a run's predictions: over whole cases, in the grid of each case's own files."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from math import fsum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from common.console import MORE_MEMORY
from common.errors import InferenceError, StoreError, lacked_memory
from common.files import write_parts
from common.grouping import VOLUME_SUFFIXES
from common.metrics import (
    DEFAULT_RULES,
    DICE,
    METRICS,
    TRAINING_METRICS,
    CaseScores,
    RegionScore,
    mean_over_regions,
)
from common.metrics import score_case as score_labels
from common.names import show
from common.outputs import check_output
from common.record import CaseRecord
from common.store import Store
from common.store.paths import resolved
from common.store.reader import Contents
from common.task import Task
from train.calibration import BINS, Calibration, count_voxels, total
from train.checkpoint import Which
from train.ensemble import check_task
from train.figures.samples import Sample, choose_samples, evaluation_figure, sample_of
from train.figures.style import as_png
from train.loaded_run import LoadedRun, split_cases, store_warnings, suffix, used_cases
from train.loss import RegionLoss
from train.postprocess import CaseLabels
from train.predict import write_mask
from train.results import (
    CaseResult,
    RegionResult,
    ScoreFiles,
    fingerprint,
    rows_of,
    summarise,
)
from train.score import rules_named
from train.score_table import score_table


@dataclass(frozen=True)
class CaseScore:
    """One case's scores."""

    case_id: str
    scores: CaseScores  # in the grid of the case's files
    loss: float  # the main head's, over the stored volume, without Dice of regions not there
    seconds: float  # to read, predict and score the case

    @property
    def regions(self) -> dict[str, RegionScore]:
        """By region."""
        return self.scores.regions

    def of(self, metric: str) -> dict[str, float]:
        """Region to a metric's value."""
        return {region: found.values[metric] for region, found in self.regions.items()}

    @property
    def dice(self) -> dict[str, float]:
        """Region to Dice."""
        return self.of(DICE.name)

    @property
    def mean_dice(self) -> float:
        """Over the regions."""
        return mean_over_regions(self.dice)


@dataclass(frozen=True)
class MeanScores:
    """Means over cases."""

    metrics: dict[str, dict[str, float]]  # metric to region to its mean
    loss: float

    @property
    def dice(self) -> dict[str, float]:
        """Region to mean Dice."""
        return self.metrics[DICE.name]

    @property
    def mean_dice(self) -> float:
        """Over the regions."""
        return mean_over_regions(self.dice)


@dataclass(frozen=True)
class ScoredCase:
    """A case just scored, with its stored volume to show."""

    score: CaseScore
    task: Task
    record: CaseRecord
    image: NDArray[np.floating]  # (modalities, D, H, W) as stored
    reference: NDArray[np.uint8]  # (D, H, W) canonical labels
    prediction: CaseLabels
    file_reference: NDArray[np.uint8]  # (D, H, W) canonical labels in the grid of its files
    calibration: dict[str, Calibration]  # by region; empty where no rules were given

    def sample(self) -> Sample:
        """The plane to show of it."""
        return sample_of(
            self.score.case_id,
            self.score.dice,
            self.task,
            image=self.image,
            reference=self.reference,
            prediction=self.prediction.stored,
        )


class Outputs(NamedTuple):
    """Where an evaluation is written."""

    files: ScoreFiles
    figure: Path
    masks: Path | None  # a folder


@dataclass(frozen=True)
class Evaluation:
    """A split, scored."""

    split: str
    scores: tuple[CaseScore, ...]
    mean: MeanScores
    results: list[CaseResult]
    regions: list[RegionResult]
    rules: str  # a rule set's full name
    used: tuple[str, ...]  # what the run used these cases for
    warnings: tuple[str, ...]  # why else its scores may mislead
    outputs: Outputs
    unwritten: tuple[str, ...] = ()  # why one of these could not be written

    @property
    def notes(self) -> list[str]:
        """All that makes its scores mean something else than they seem to."""
        return [*self.used, *self.warnings]


def score_case(
    loaded: LoadedRun,
    store: Store,
    case_id: str,
    rules: str | None = None,
) -> ScoredCase:
    """Predict one case of a store and score it against its reference, in its files' grid.

    Without `rules`, as in training, it is by Dice alone and no probabilities are counted, which is
    faster.

    Raises:
        StoreError: the case or its label is not there.
        InferenceError: the network gives NaN or infinity.
    """
    began = time.perf_counter()
    record = store.record(case_id)
    image, label = store.read_volume(case_id)
    if label is None:
        raise StoreError(f"{store.path}: case {case_id} has no label to be scored against")
    try:
        logits = loaded.logits(image, store.task.modalities)
    except InferenceError as error:
        raise InferenceError(f"case {case_id}: {error}") from error
    prediction = loaded.labels(logits, record)
    reference = store.read_reference(case_id)
    scores = score_labels(
        reference,
        prediction.file,
        record.geometry.spacing_mm,
        loaded.task,
        rules=rules,
        metrics=METRICS if rules else TRAINING_METRICS,
    )
    loss = _loss(loaded, logits, label)
    calibration = (
        count_voxels(logits, label, (image != 0).any(axis=0), loaded.task) if rules else {}
    )
    found = CaseScore(case_id, scores, loss, time.perf_counter() - began)
    return ScoredCase(found, loaded.task, record, image, label, prediction, reference, calibration)


def score_cases(
    loaded: LoadedRun,
    store: Store,
    case_ids: Sequence[str],
    on_case: Callable[[ScoredCase], None] = lambda _: None,
    rules: str | None = None,
) -> list[CaseScore]:
    """Score cases one after the other; `on_case` gets each, and its volumes are dropped after it.

    Raises:
        StoreError, InferenceError: as `score_case`.
    """
    scores = []
    for case_id in case_ids:
        scored = score_case(loaded, store, case_id, rules)
        scores.append(scored.score)
        on_case(scored)
    return scores


def mean_scores(scores: Sequence[CaseScore]) -> MeanScores:
    """Means over all cases, at least one; a NaN stays one."""
    regions = scores[0].regions

    def mean(region: str, metric: str) -> float:
        return fsum(each.regions[region].values[metric] for each in scores) / len(scores)

    names = next(iter(regions.values())).values
    means = {name: {region: mean(region, name) for region in regions} for name in names}
    return MeanScores(means, fsum(each.loss for each in scores) / len(scores))


def evaluate(  # noqa: PLR0913 - what rarely changes goes by name
    loaded: LoadedRun,
    store: Store,
    split: str,
    on_case: Callable[[int, int], None] = lambda _done, _total: None,
    *,
    rules: str = DEFAULT_RULES,
    masks: bool = False,
) -> Evaluation:
    """Score a split of any store of the task, and write scores and a picture into the run's folder.

    `on_case` gets (cases done, cases in all), first with none done. Where a file cannot be written
    after all, the scores are still returned. With `masks`, each case's mask is written too, as
    `predict` writes it.

    Raises:
        ConfigError: the split is empty, the store is of another task, there are no such rules, or
            the run's folder cannot be written.
        StoreError, InferenceError: as `score_case`.
        RunError: a mask cannot be written.
    """
    check_task(loaded, store.task, store.path)
    rules = rules_named(rules, loaded.task)
    contents = store.contents()
    case_ids = split_cases(loaded, contents, split)
    warnings = store_warnings(loaded, store, contents, case_ids)
    stem = _stem(loaded, split, rules, contents.fingerprint if warnings else "")
    outputs = _outputs(loaded, stem, masks=masks)
    samples, results = list[Sample](), list[CaseResult]()
    calibration: dict[str, Calibration] = {}
    on_case(0, len(case_ids))

    def keep(scored: ScoredCase) -> None:
        nonlocal calibration
        samples.append(scored.sample())
        calibration = total([calibration, scored.calibration])
        results.append(_result(scored, contents.patients[scored.score.case_id]))
        if outputs.masks:
            path = outputs.masks / f"{scored.score.case_id}{VOLUME_SUFFIXES[0]}"
            write_mask(path, scored.prediction.file, scored.record, store.task)
        on_case(len(samples), len(case_ids))

    scores = tuple(score_cases(loaded, store, case_ids, keep, rules))
    mean, regions = mean_scores(scores), summarise(rows_of(results))
    used = tuple(used_cases(loaded, contents, case_ids))
    evaluation = Evaluation(
        split, scores, mean, results, regions, rules, used, tuple(warnings), outputs
    )
    heading = f"{loaded.run_dir.name} · {split} · {_count(len(scores))}"

    def write_scores() -> None:
        about = _as_json(evaluation, loaded, store, contents) | {
            "calibration": {
                "bins": BINS,
                "regions": {region: each.as_json() for region, each in calibration.items()},
            }
        }
        outputs.files.write(results, regions, about)

    def draw() -> None:
        figure = evaluation_figure(choose_samples(samples), heading, mean.dice, loaded.task)
        write_parts(outputs.figure, [as_png(figure)])

    # The scores first: no picture is worth them.
    problems = _problem(outputs.files.summary, write_scores), _problem(outputs.figure, draw)
    return replace(evaluation, unwritten=tuple(filter(None, problems)))


def _outputs(loaded: LoadedRun, stem: str, *, masks: bool) -> Outputs:
    """Where an evaluation is written; makes the folder of masks.

    Raises:
        ConfigError: it cannot be written there.
    """
    files = ScoreFiles.beside(loaded.result(f"{stem}.json"))
    folder = loaded.result(f"{stem}-masks") if masks else None
    outputs = Outputs(files, loaded.result(f"{stem}.png"), folder)
    for file in (*files, outputs.figure):
        check_output(file, "file")
    if folder:
        check_output(folder, "folder")
        folder.mkdir(exist_ok=True)
    return outputs


def _stem(loaded: LoadedRun, split: str, rules: str, other_store: str) -> str:
    """How the files' names begin: scores of other settings do not replace these."""
    other_rules = "" if rules == rules_named(DEFAULT_RULES, loaded.task) else f"-{rules}"
    elsewhere = f"-{other_store[:8]}" if other_store else ""
    return f"{usual_stem(split, loaded.which, loaded.changes)}{other_rules}{elsewhere}"


def usual_stem(split: str, which: Which, changes: Sequence[str] = ()) -> str:
    """The same of the default rules, on the run's own store."""
    return f"evaluation-{split}{suffix(which, changes)}"


def _result(scored: ScoredCase, patient: str) -> CaseResult:
    record = scored.record
    return CaseResult(
        record.case_id,
        patient,
        scored.score.scores,
        record.geometry.spacing_mm,
        fingerprint(scored.file_reference),
        record.convention,
        record.convention,
    )


def _problem(file: Path, write: Callable[[], None]) -> str:
    """Write a file; if that fails, why, for whatever reason: the hours of scoring count more."""
    try:
        write()
    except Exception as error:  # noqa: BLE001
        reason = isinstance(error, OSError) and error.strerror
        file = getattr(error, "filename", None) or file
        if lacked_memory(error):
            reason = f"not enough memory: {MORE_MEMORY}"
        reason = reason or f"{type(error).__name__}: {error}"
        return f"{file}: could not be written ({reason}); the scores above are complete"
    return ""


def case_table(evaluation: Evaluation, task: Task) -> Table:
    """Dice of each case, the worst first."""
    title = f"Dice of {_count(len(evaluation.scores))} in {evaluation.split}"
    table = Table(title=title, title_justify="left")
    table.add_column("case", overflow="fold")
    for region, colour in task.region_colours.items():
        table.add_column(Text(region.upper(), colour), justify="right")
    for heading in ("mean", "loss"):
        table.add_column(heading, justify="right")
    for found in sorted(evaluation.scores, key=lambda each: each.mean_dice):
        values = (*found.dice.values(), found.mean_dice, found.loss)
        table.add_row(Text(show(found.case_id)), *(f"{value:.3f}" for value in values))
    return table


def mean_table(evaluation: Evaluation, task: Task) -> Table:
    """Every metric's mean for each region, with its spread and the counts of misses beside it."""
    mean = evaluation.mean
    heading = f"{_count(len(evaluation.scores))} in {evaluation.split}: mean Dice "
    heading += f"{mean.mean_dice:.3f}, loss {mean.loss:.3f}"
    return score_table(heading, evaluation.regions, evaluation.rules, task, evaluation.used)


def _loss(loaded: LoadedRun, logits: torch.Tensor, label: NDArray[np.uint8]) -> float:
    with torch.inference_mode():
        target = torch.from_numpy(label).to(logits.device)
        loss = RegionLoss(loaded.config.loss, loaded.task.regions)
        return loss.reported(logits[None], target[None]).item()


def _count(cases: int) -> str:
    return f"{cases} case" if cases == 1 else f"{cases} cases"


def _counts(found: RegionScore) -> dict[str, int]:
    return {key: value for key, value in asdict(found).items() if isinstance(value, int)}


def _outside(record: CaseRecord) -> dict[str, float]:
    """Shares of a labelled case's tumour outside the training crop and the stored volume."""
    voxels = record.tumour_voxels
    return {"crop": voxels.lost("crop"), "box": voxels.lost("box")} if voxels else {}


def _as_json(
    evaluation: Evaluation, loaded: LoadedRun, store: Store, contents: Contents
) -> dict[str, Any]:
    mean, records = evaluation.mean, contents.records
    return {
        "run": str(loaded.run_dir),
        "checkpoint": loaded.which,
        "weights": loaded.config.weights_used,
        "epochs": loaded.epochs,
        "split": evaluation.split,
        "store": resolved(store.path),
        "store_fingerprint": contents.fingerprint,
        "used": list(evaluation.used),
        "warnings": evaluation.notes,
        "window": list(loaded.manifest.crop),
        "inference": loaded.config.inference.model_dump(mode="json"),
        "compute": loaded.compute.describe(),
        "mean": {**mean.metrics, "mean_dice": mean.mean_dice, "loss": mean.loss},
        "cases": [
            {
                "case_id": found.case_id,
                **{metric.name: found.of(metric.name) for metric in METRICS},
                "mean_dice": found.mean_dice,
                "loss": found.loss,
                "voxels": {region: _counts(each) for region, each in found.regions.items()},
                "outside": _outside(records[found.case_id]),
                "seconds": round(found.seconds, 3),
            }
            for found in evaluation.scores
        ],
    }
