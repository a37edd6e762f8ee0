"""Scores over whole volumes: the one way in which this project measures a model."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import fsum, nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from common.errors import InferenceError, StoreError
from common.metrics import Agreement, RegionSummary, agreement, mean_over_regions, summarise
from common.store import Store
from common.task import REGION_COLOURS, REGIONS
from train.checkpoint import write_json
from train.figures import Sample, choose_samples, evaluation_figure, sample_of
from train.loaded_run import LoadedRun, label_of, store_notes
from train.loss import RegionLoss


@dataclass(frozen=True)
class CaseScore:
    """One case's scores over its whole volume.

    Attributes:
        case_id: the case.
        regions: region to voxel counts; tumour outside the stored volume is in them.
        loss: of the main head over the stored volume.
        seconds: to read, predict and score it.
    """

    case_id: str
    regions: dict[str, Agreement]
    loss: float
    seconds: float

    @property
    def dice(self) -> dict[str, float]:
        """Region to Dice."""
        return {region: found.dice for region, found in self.regions.items()}

    @property
    def mean_dice(self) -> float:
        """Over the regions."""
        return mean_over_regions(self.dice)


@dataclass(frozen=True)
class MeanScores:
    """Means over cases, with the counts that they need beside them.

    Attributes:
        regions: region to mean Dice and counts.
        loss: mean over the cases.
    """

    regions: dict[str, RegionSummary]
    loss: float

    @property
    def dice(self) -> dict[str, float]:
        """Region to mean Dice."""
        return {region: summary.dice for region, summary in self.regions.items()}

    @property
    def mean_dice(self) -> float:
        """Over the regions."""
        return mean_over_regions(self.dice)


@dataclass(frozen=True)
class ScoredCase:
    """A case just scored, with what the score is of.

    Attributes:
        score: its scores.
        image: (4, D, H, W) as stored.
        reference: (D, H, W) the expert's canonical labels.
        prediction: (D, H, W) predicted canonical labels.
    """

    score: CaseScore
    image: NDArray[np.floating]
    reference: NDArray[np.uint8]
    prediction: NDArray[np.uint8]


@dataclass(frozen=True)
class Evaluation:
    """A split, scored.

    Attributes:
        split: its name.
        scores: of every case.
        mean: over them.
        notes: what a reader of the scores must know.
        json_file: where the scores are.
        figure_file: where the picture is.
    """

    split: str
    scores: tuple[CaseScore, ...]
    mean: MeanScores
    notes: tuple[str, ...]
    json_file: Path
    figure_file: Path


OnCase = Callable[[ScoredCase], None]


def score_case(trained: LoadedRun, store: Store, case_id: str) -> ScoredCase:
    """Predict one case of a store over its whole volume, and score it.

    Raises:
        StoreError: the case, its volume or its label is not there.
        InferenceError: the network gives NaN or infinity for it.
    """
    began = time.perf_counter()
    record = store.record(case_id)
    image, reference = store.read_volume(case_id)
    if reference is None or record.tumour_voxels is None:
        raise StoreError(f"{store.path}: case {case_id} has no label to be scored against")
    try:
        logits = trained.logits(image)
    except InferenceError as error:
        raise InferenceError(f"case {case_id}: {error}") from error
    prediction = label_of(logits)
    score = CaseScore(
        case_id,
        agreement(prediction, reference, record.tumour_voxels.missed),
        _loss(trained, logits, reference),
        time.perf_counter() - began,
    )
    return ScoredCase(score, image, reference, prediction)


def score_cases(
    trained: LoadedRun, store: Store, case_ids: Sequence[str], on_case: OnCase = lambda _: None
) -> list[CaseScore]:
    """Score cases one after the other; `on_case` is told of each, whose volumes go after that.

    Raises:
        StoreError, InferenceError: as `score_case`.
    """
    scores = []
    for case_id in case_ids:
        scored = score_case(trained, store, case_id)
        scores.append(scored.score)
        on_case(scored)
    return scores


def mean_scores(scores: Sequence[CaseScore]) -> MeanScores:
    """Means over all cases; a NaN stays one, and no case at all is NaN."""
    losses = [score.loss for score in scores]
    return MeanScores(
        summarise([score.regions for score in scores]),
        fsum(losses) / len(losses) if losses else nan,
    )


def evaluate(
    trained: LoadedRun, store: Store, split: str, on_case: OnCase = lambda _: None
) -> Evaluation:
    """Score a split of a store, and leave the scores and a picture in the run folder.

    Args:
        trained: the model.
        store: the cases; need not be the store that the model was trained on.
        split: train, val or test.
        on_case: told of every case as it is done.

    Raises:
        ConfigError: nobody is in the split.
        StoreError, InferenceError: as `score_case`.
    """
    case_ids = store.split(split)
    notes = store_notes(trained, store, case_ids)
    samples = list[Sample]()

    def keep_plane(scored: ScoredCase) -> None:
        score = scored.score
        samples.append(
            sample_of(score.case_id, score.dice, scored.image, scored.reference, scored.prediction)
        )
        on_case(scored)

    scores = tuple(score_cases(trained, store, case_ids, keep_plane))
    # Scores on another store than the run's, of which the notes speak, do not take its own's place.
    elsewhere = f"-{store.fingerprint[:8]}" if notes else ""
    which = "" if trained.which == "best" else "-last"
    stem = trained.run_dir / f"evaluation-{split}{which}{elsewhere}"
    evaluation = Evaluation(
        split,
        scores,
        mean_scores(scores),
        tuple(notes),
        stem.with_suffix(".json"),
        stem.with_suffix(".png"),
    )
    heading = f"{trained.run_dir.name} · {split} · {_count(len(scores))}"
    figure = evaluation_figure(choose_samples(samples), heading, evaluation.mean.dice)
    figure.savefig(evaluation.figure_file)
    write_json(evaluation.json_file, _as_json(evaluation, trained, store))
    return evaluation


def evaluation_table(evaluation: Evaluation) -> Table:
    """One row a case, the worst first, and the means."""
    table = Table(
        title=f"Whole-volume Dice, {evaluation.split}: {_count(len(evaluation.scores))}",
        title_justify="left",
        caption=_rule_lines(evaluation.mean),
        caption_justify="left",
        show_footer=True,
        footer_style="bold",
    )
    mean = evaluation.mean
    table.add_column("case", "mean", overflow="fold")
    for region in REGIONS:
        heading = Text(region.upper(), REGION_COLOURS[region])
        table.add_column(heading, f"{mean.dice[region]:.3f}", justify="right")
    table.add_column("mean", f"{mean.mean_dice:.3f}", justify="right")
    table.add_column("loss", f"{mean.loss:.3f}", justify="right")
    for score in sorted(evaluation.scores, key=lambda score: score.mean_dice):
        cells = [f"{value:.3f}" for value in (*score.dice.values(), score.mean_dice, score.loss)]
        table.add_row(Text(score.case_id), *cells)
    return table


def _loss(trained: LoadedRun, logits: torch.Tensor, reference: NDArray[np.uint8]) -> float:
    with torch.inference_mode():
        label = torch.from_numpy(reference).to(logits.device)
        return RegionLoss(trained.config.loss)(logits[None], label[None]).item()


def _count(cases: int) -> str:
    return f"{cases} case" if cases == 1 else f"{cases} cases"


def _rule_lines(mean: MeanScores) -> str:
    """Where the BraTS rule for empty masks decided, per region: what a mean alone would hide."""
    lines = []
    for region, summary in mean.regions.items():
        parts = [
            f"{count} {what}"
            for count, what in (
                (summary.both_empty, "both masks empty (1)"),
                (summary.misses, "missed (0)"),
                (summary.false_alarms, "false alarm (0)"),
            )
            if count
        ]
        if parts:
            lines.append(f"{region.upper()}: {', '.join(parts)}")
    return "\n".join(lines)


def _as_json(evaluation: Evaluation, trained: LoadedRun, store: Store) -> dict[str, Any]:
    mean = evaluation.mean
    return {
        "run": str(trained.run_dir),
        "checkpoint": trained.which,
        "epochs": trained.epochs,
        "split": evaluation.split,
        "store": store.path,
        "store_fingerprint": store.fingerprint,
        "notes": list(evaluation.notes),
        "window": list(trained.manifest.crop),
        "inference": trained.config.inference.model_dump(mode="json"),
        "compute": trained.compute.describe(),
        "mean": {
            "dice": mean.dice,
            "mean_dice": mean.mean_dice,
            "loss": mean.loss,
            "regions": {region: asdict(summary) for region, summary in mean.regions.items()},
        },
        "cases": [
            {
                "case_id": score.case_id,
                "dice": score.dice,
                "mean_dice": score.mean_dice,
                "loss": score.loss,
                "voxels": {region: asdict(found) for region, found in score.regions.items()},
                "seconds": round(score.seconds, 3),
            }
            for score in evaluation.scores
        ],
    }
