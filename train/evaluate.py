"""Scores of a run's predictions: over whole cases, in the grid of each case's own files."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from math import fsum, nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from common import metrics
from common.errors import InferenceError, StoreError
from common.files import write_json, write_parts
from common.metrics import (
    DICE,
    TRAINING_METRICS,
    Metric,
    RegionScore,
    RegionSummary,
    mean_over_regions,
    summarise,
)
from common.names import show
from common.outputs import check_output
from common.store import Store
from common.task import Task
from train.ensemble import check_task
from train.figures import Sample, as_png, choose_samples, evaluation_figure, sample_of
from train.loaded_run import LoadedRun, split_cases, store_warnings, suffix
from train.loss import RegionLoss


@dataclass(frozen=True)
class CaseScore:
    """One case's scores."""

    case_id: str
    regions: dict[str, RegionScore]  # in the grid of the case's files
    loss: float  # the main head's, over the stored volume
    seconds: float  # to read, predict and score the case

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
    """Means over cases, with the counts that they need beside them."""

    regions: dict[str, RegionSummary]
    loss: float

    def of(self, metric: str) -> dict[str, float]:
        """Region to a metric's mean."""
        return {region: summary.means[metric] for region, summary in self.regions.items()}

    @property
    def dice(self) -> dict[str, float]:
        """Region to mean Dice."""
        return self.of(DICE.name)

    @property
    def mean_dice(self) -> float:
        """Over the regions."""
        return mean_over_regions(self.dice)


@dataclass(frozen=True)
class ScoredCase:
    """A case just scored, with its stored volume to show."""

    score: CaseScore
    task: Task
    image: NDArray[np.floating]  # (modalities, D, H, W) as stored
    reference: NDArray[np.uint8]  # (D, H, W) canonical labels
    prediction: NDArray[np.uint8]  # (D, H, W) canonical labels

    def sample(self) -> Sample:
        """The plane to show of it."""
        return sample_of(
            self.score.case_id,
            self.score.dice,
            self.task,
            image=self.image,
            reference=self.reference,
            prediction=self.prediction,
        )


@dataclass(frozen=True)
class Evaluation:
    """A split, scored."""

    split: str
    scores: tuple[CaseScore, ...]
    mean: MeanScores
    warnings: tuple[str, ...]
    json_file: Path
    figure_file: Path
    unwritten: tuple[str, ...] = ()  # why one of these could not be written


def score_case(loaded: LoadedRun, store: Store, case_id: str) -> ScoredCase:
    """Predict one case of a store and score it against its reference, in its files' grid.

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
    prediction = loaded.labels(logits, record.spacing_mm)
    regions = metrics.score_case(
        store.read_reference(case_id),
        record.to_file_grid(prediction),
        record.geometry.spacing_mm,
        loaded.task,
        rules=None,
        metrics=TRAINING_METRICS,
    ).regions
    loss = _loss(loaded, logits, label)
    found = CaseScore(case_id, regions, loss, time.perf_counter() - began)
    return ScoredCase(found, loaded.task, image, label, prediction)


def score_cases(
    loaded: LoadedRun,
    store: Store,
    case_ids: Sequence[str],
    on_case: Callable[[ScoredCase], None] = lambda _: None,
) -> list[CaseScore]:
    """Score cases one after the other; `on_case` gets each, and its volumes are dropped after it.

    Raises:
        StoreError, InferenceError: as `score_case`.
    """
    scores = []
    for case_id in case_ids:
        scored = score_case(loaded, store, case_id)
        scores.append(scored.score)
        on_case(scored)
    return scores


def mean_scores(scores: Sequence[CaseScore]) -> MeanScores:
    """Means over all cases; a NaN stays one."""
    losses = [each.loss for each in scores]
    return MeanScores(
        summarise([each.regions for each in scores]),
        fsum(losses) / len(losses) if losses else nan,
    )


def evaluate(
    loaded: LoadedRun,
    store: Store,
    split: str,
    on_case: Callable[[int, int], None] = lambda _done, _total: None,
) -> Evaluation:
    """Score a split of any store of the task, and write scores and a picture into the run's folder.

    `on_case` gets (cases done, cases in all), first with none done. Where a file cannot be written
    after all, the scores are still returned.

    Raises:
        ConfigError: the split is empty, the store is of another task, or the run's folder cannot be
            written.
        StoreError, InferenceError: as `score_case`.
    """
    check_task(loaded, store.task, store.path)
    contents = store.contents()
    case_ids = split_cases(loaded, contents, split)
    warnings = store_warnings(loaded, store, contents, case_ids)
    # Scores on another store do not replace those on the run's own.
    elsewhere = f"-{contents.fingerprint[:8]}" if warnings else ""
    stem = f"evaluation-{split}{suffix(loaded.which, loaded.changes)}{elsewhere}"
    json_file, figure_file = (loaded.result(f"{stem}.{ending}") for ending in ("json", "png"))
    for file in (json_file, figure_file):
        check_output(file, "file")
    samples = list[Sample]()
    on_case(0, len(case_ids))

    def keep_plane(scored: ScoredCase) -> None:
        samples.append(scored.sample())
        on_case(len(samples), len(case_ids))

    scores = tuple(score_cases(loaded, store, case_ids, keep_plane))
    mean = mean_scores(scores)
    evaluation = Evaluation(split, scores, mean, tuple(warnings), json_file, figure_file)
    heading = f"{loaded.run_dir.name} · {split} · {_count(len(scores))}"

    def write_scores() -> None:
        write_json(json_file, _as_json(evaluation, loaded, store, contents.fingerprint))

    def draw() -> None:
        figure = evaluation_figure(choose_samples(samples), heading, mean.dice, loaded.task)
        write_parts(figure_file, [as_png(figure)])

    # The scores first: no picture is worth them.
    problems = (_problem(json_file, write_scores), _problem(figure_file, draw))
    return replace(evaluation, unwritten=tuple(filter(None, problems)))


def _problem(file: Path, write: Callable[[], None]) -> str:
    """Write a file; if that fails, why, for whatever reason: the hours of scoring count more."""
    try:
        write()
    except Exception as error:  # noqa: BLE001
        reason = isinstance(error, OSError) and error.strerror
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
    """Every metric's mean for each region, with the counts of empty masks and misses beside it."""
    mean = evaluation.mean
    table = Table(
        title=f"Means over {_count(len(evaluation.scores))} in {evaluation.split}",
        title_justify="left",
        caption="\n".join((*map(_rule, TRAINING_METRICS), f"loss: {mean.loss:.3f}")),
        caption_justify="left",
        show_footer=True,
        footer_style="bold",
    )
    table.add_column("region", "mean")
    for metric in TRAINING_METRICS:
        heading = f"{metric.title}, {metric.unit}" if metric.unit else metric.title
        average = mean_over_regions(mean.of(metric.name))
        table.add_column(heading, f"{average:.3f}", justify="right")
    for count in ("both empty", "missed", "false alarm"):
        table.add_column(count, justify="right")
    for region, summary in mean.regions.items():
        means = [f"{summary.means[metric.name]:.3f}" for metric in TRAINING_METRICS]
        counts = (summary.both_empty, summary.misses, summary.false_alarms)
        name = Text(region.upper(), task.region_colours[region])
        table.add_row(name, *means, *map(str, counts))
    return table


def _rule(metric: Metric) -> str:
    """What an empty mask counts as: a mean alone would hide it."""
    return (
        f"{metric.title} is {metric.both_empty:g} where both masks are empty, "
        f"{metric.one_empty:g} where one is"
    )


def _loss(loaded: LoadedRun, logits: torch.Tensor, label: NDArray[np.uint8]) -> float:
    with torch.inference_mode():
        target = torch.from_numpy(label).to(logits.device)
        loss = RegionLoss(loaded.config.loss, loaded.task.regions)
        return loss(logits[None], target[None]).item()


def _count(cases: int) -> str:
    return f"{cases} case" if cases == 1 else f"{cases} cases"


def _counts(found: RegionScore | RegionSummary) -> dict[str, int]:
    return {key: value for key, value in asdict(found).items() if isinstance(value, int)}


def _as_json(
    evaluation: Evaluation, loaded: LoadedRun, store: Store, fingerprint: str
) -> dict[str, Any]:
    mean = evaluation.mean
    return {
        "run": str(loaded.run_dir),
        "checkpoint": loaded.which,
        "epochs": loaded.epochs,
        "split": evaluation.split,
        "store": store.path,
        "store_fingerprint": fingerprint,
        "warnings": list(evaluation.warnings),
        "window": list(loaded.manifest.crop),
        "inference": loaded.config.inference.model_dump(mode="json"),
        "compute": loaded.compute.describe(),
        "mean": {metric.name: mean.of(metric.name) for metric in TRAINING_METRICS}
        | {
            "mean_dice": mean.mean_dice,
            "loss": mean.loss,
            "regions": {region: _counts(each) for region, each in mean.regions.items()},
        },
        "cases": [
            {
                "case_id": found.case_id,
                **{metric.name: found.of(metric.name) for metric in TRAINING_METRICS},
                "mean_dice": found.mean_dice,
                "loss": found.loss,
                "voxels": {region: _counts(each) for region, each in found.regions.items()},
                "seconds": round(found.seconds, 3),
            }
            for found in evaluation.scores
        ],
    }
