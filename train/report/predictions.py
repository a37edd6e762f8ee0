"""Cases predicted again, for the slice viewer: an evaluation keeps their scores alone."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import FMNetError, StoreError
from common.names import some
from common.store import Store
from train.loaded_run import LoadedRun, load_run
from train.report.facts import Evaluation, RunFacts
from train.report.sections import evaluations
from train.report.volumes import CaseVolumes

Labels = NDArray[np.uint8]

TOLERANCE = 0.01
"""Share of a region's voxels by which a prediction may differ from the scored one: rounding."""
LEAST_VOXELS = 100
"""Fewer voxels of a region count as so many, of which a few may differ."""


Progress = Callable[[int, int], None]
"""Gets (cases done, cases in all)."""


@dataclass(frozen=True)
class Wanted:
    """What is to be predicted, and how."""

    cases: int
    """So many of the worst."""
    device: str
    store: str | None = None
    """Where the evaluations' store is now; None is where it was."""


@dataclass(frozen=True)
class Predictor:
    """A run that predicts a store's cases as its evaluation did."""

    name: str
    loaded: LoadedRun
    evaluation: Evaluation

    def is_scored(self, case_id: str, labels: Labels) -> bool:
        """Whether a case's labels are those that were scored, as far as their number tells."""
        task = self.loaded.task
        now = task.region_voxels(task.label_voxels(labels))
        rows = self.evaluation.rows_of(case_id)
        scored = {region: row["prediction_voxels"] for region, row in rows.items()}
        return all(
            abs(now[region] - voxels) <= TOLERANCE * max(voxels, LEAST_VOXELS)
            for region, voxels in scored.items()
        )


@dataclass(frozen=True)
class Predictors:
    """Runs that were evaluated on cases of one store."""

    store: Store | None
    runs: list[Predictor]
    notes: list[str]
    """Which runs are left out, and why."""


def load_predictors(runs: Sequence[RunFacts], wanted: Wanted) -> Predictors:
    """Load the evaluated runs whose store is there as it was, and is that of the first of them."""
    store, loaded, notes = None, list[Predictor](), list[str]()
    for _, run, evaluation in evaluations(runs):
        try:
            opened = _open(evaluation, wanted.store or evaluation.about.store, store)
            network = _load(run, evaluation, wanted.device)
            loaded.append(Predictor(run.name, network, evaluation))
            store = opened
        except FMNetError as error:
            notes.append(f"{run.name} has no slices to view: {error}")
    return Predictors(store, loaded, notes)


def _open(evaluation: Evaluation, path: str, first: Store | None) -> Store:
    if first and first.path != path:
        raise StoreError(f"its store, {path}, is not that of the first run, {first.path}")
    store = first or Store.open(path)
    if store.contents().fingerprint != evaluation.about.store_fingerprint:
        raise StoreError(
            f"{path} holds other cases or parameters than when it was evaluated; evaluate again, "
            "or name the store with --store"
        )
    return store


def _load(run: RunFacts, evaluation: Evaluation, device: str) -> LoadedRun:
    """The network, to predict with the settings of the evaluation."""
    about = evaluation.about
    settings = [f"inference.{key}={json.dumps(value)}" for key, value in about.inference.items()]
    return load_run(run.folder, about.checkpoint, device, settings)


def predict(
    predictors: Predictors,
    case_ids: Sequence[str],
    on_case: Callable[[str, CaseVolumes], None],
    progress: Progress,
) -> list[str]:
    """Predict cases by every run that was evaluated on them; returns what could not be, and why.

    `on_case` gets each case's volumes, which are dropped after it.
    """
    if predictors.store is None:
        return []
    notes, other = list[str](), list[str]()
    for done, case_id in enumerate(case_ids):
        progress(done, len(case_ids))
        try:
            volumes, differing = _predict(predictors, predictors.store, case_id)
        except FMNetError as error:
            notes.append(f"{case_id} has no slices to view: {error}")
            continue
        other += differing
        on_case(case_id, volumes)
    progress(len(case_ids), len(case_ids))
    if other:
        notes.append(f"slices to view show other predictions than were scored: {some(other)}")
    return notes


def _predict(predictors: Predictors, store: Store, case_id: str) -> tuple[CaseVolumes, list[str]]:
    """A case's volumes, and whose predictions are not those that were scored."""
    record = store.record(case_id)
    image, reference = store.read_volume(case_id)
    predictions, probabilities = dict[str, Labels](), dict[str, NDArray[np.floating]]()
    other = list[str]()
    for run in predictors.runs:
        if case_id in run.evaluation.cases:
            main, *heads = run.loaded.head_logits(image, store.task.modalities)
            labels = run.loaded.labels(main, record)
            predictions[run.name] = labels.stored
            if not run.is_scored(case_id, labels.file):
                other.append(f"{case_id} by {run.name}")
            for number, head in enumerate(heads, 1):
                name = f"{run.name}, head {number}"
                probabilities[name] = head.sigmoid().cpu().numpy()
    volumes = CaseVolumes(
        image,
        (record.spacing_mm,) * 3,
        record.grid_shape,
        record.box.start,
        reference,
        predictions,
        probabilities,
    )
    return volumes, other
