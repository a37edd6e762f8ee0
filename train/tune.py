"""Post-processing picked on a run's validation cases: each is predicted once, then only relabelled.

One value after the other is tried for each region, the best by the mean of a metric over regions
and cases is kept. Test cases are never looked at: what was picked on them would flatter them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from common.errors import ConfigError
from common.metrics import (
    DEFAULT_RULES,
    METRICS,
    Metric,
    RegionScore,
    rules_for,
    score_case,
)
from common.outputs import check_output
from common.record import CaseRecord
from common.settings import did_you_mean
from common.statistics import Difference, difference
from common.store import Store
from common.task import Task
from common.volume import Box, bounding_box, extract, place_back
from train.ensemble import check_task
from train.loaded_run import LoadedRun, split_cases, store_warnings
from train.postprocess import DEFAULTS, PostprocessConfig, file_logits, labels_of, logit
from train.run_folder import CONFIG, TUNED, read_config, write_tuned

CANDIDATES: dict[str, tuple[float, ...]] = {
    "threshold": (0.3, 0.4, 0.5, 0.6, 0.7),
    "minimum_lesion_ml": (0.0, 0.02, 0.05, 0.1, 0.25),
    "minimum_ml": (0.0, 0.05, 0.1, 0.25, 0.5, 1.0),
}
"""Values that are tried for each region, in this order of keys."""

FEW_PATIENTS = 5
"""With fewer, an interval says little."""

Scores = NDArray[np.float64]
"""(cases, regions), of one metric."""


@dataclass(frozen=True)
class Criterion:
    """What is picked by: a metric of whole regions, or its mean over lesions."""

    metric: Metric
    rules: str | None = None
    """The rule set of lesions; None for whole regions."""

    @property
    def title(self) -> str:
        """In words."""
        return f"{self.metric.title} by lesion ({self.rules})" if self.rules else self.metric.title

    def of(self, found: RegionScore) -> float:
        """Its value for a region of a case."""
        values = found.lesions.values if found.lesions else found.values
        return values[self.metric.name]


def criterion_named(name: str, task: Task) -> Criterion:
    """A metric by its name, which begins with `lesion_` for the mean over lesions.

    Raises:
        ConfigError: there is none of this name.
    """
    known = {metric.name: Criterion(metric) for metric in METRICS}
    for metric in rules_for(DEFAULT_RULES, task).metrics:
        known[f"lesion_{metric.name}"] = Criterion(metric, DEFAULT_RULES)
    if name not in known:
        names = ", ".join(known)
        raise ConfigError(f"metric: {name} is none; use {names}{did_you_mean(name, [*known])}")
    return known[name]


@dataclass(frozen=True)
class Tuning:
    """What was picked, and what it gains on the cases that it was picked on."""

    criterion: Criterion
    config: PostprocessConfig
    before: float
    """The metric's mean over regions and cases with the run's own post-processing."""
    after: float
    gain: Difference
    """Over cases, of the mean over regions; positive is better whatever the metric."""
    cases: int
    patients: int
    warnings: tuple[str, ...]
    file: Path | None
    """Where it was written; None without a gain."""

    def __str__(self) -> str:
        low, high = self.gain.low, self.gain.high
        interval = "no interval of one patient"
        if low is not None:
            interval = f"95 % interval {low:.4f} to {high:.4f}"
        return (
            f"{self.criterion.title} {self.before:.4f} → {self.after:.4f} on {self.cases} "
            f"validation case(s); gain {self.gain.mean:.4f}, {interval}"
        )


@dataclass(frozen=True)
class _Predicted:
    """A validation case, whose logits are kept where a region is possible."""

    record: CaseRecord
    file: Path
    box: Box
    """Of the logits, in the grid of the case's files."""


def check_split(name: str) -> None:
    """Refuse any split but the validation cases.

    Raises:
        ConfigError: it is another.
    """
    if name != "val":
        raise ConfigError(
            f"split {name}: post-processing is picked on val alone; on test it would flatter the "
            "test score, on train it would fit what the network has seen"
        )


def tune(
    loaded: LoadedRun,
    store: Store,
    criterion: Criterion,
    on_case: Callable[[int, int], None] = lambda _done, _total: None,
) -> Tuning:
    """Pick the post-processing that is best on the validation cases; written if it is a gain.

    `on_case` gets (passes over cases done, in all), first with none done.

    Raises:
        ConfigError: it is no run's folder, there are no validation cases, or the store is of
            another task.
        StoreError, InferenceError: a case cannot be read or predicted.
    """
    if not (loaded.run_dir / CONFIG).is_file():
        raise ConfigError(f"{loaded.run_dir}: no run's folder; tune the run, then export it")
    check_output(loaded.run_dir / TUNED, "file")
    check_task(loaded, store.task, store.path)
    contents = store.contents()
    case_ids = split_cases(loaded, contents, "val")
    patients = [contents.patients[case_id] for case_id in case_ids]
    own = read_config(loaded.run_dir).inference.postprocess
    with TemporaryDirectory(prefix="fmnet-tune-") as folder:
        search = _Search(loaded, store, criterion, Path(folder), on_case)
        config, before, after = search.run(case_ids, own)
    sign = 1 if criterion.metric.higher_is_better else -1
    gain = difference(sign * after.mean(axis=1), sign * before.mean(axis=1), patients)
    warnings = store_warnings(loaded, store, contents, case_ids)
    if len(set(patients)) < FEW_PATIENTS:
        warnings.append(f"only {len(set(patients))} validation patient(s): the gain may be chance")
    found = Tuning(
        criterion,
        config,
        float(before.mean()),
        float(after.mean()),
        gain,
        len(case_ids),
        len(set(patients)),
        tuple(warnings),
        None,
    )
    if gain.low is None or gain.low <= 0:
        return found
    origin = f"for the {loaded.which} checkpoint after {loaded.epochs} epoch(s), weights "
    origin += loaded.config.weights_used
    file = write_tuned(loaded.run_dir, config, f"Picked by `tune` {origin}: {found}.")
    return replace(found, file=file)


class _Search:
    """Tries values on predicted cases."""

    def __init__(
        self,
        loaded: LoadedRun,
        store: Store,
        criterion: Criterion,
        folder: Path,
        on_case: Callable[[int, int], None],
    ) -> None:
        self._loaded, self._store, self._criterion = loaded, store, criterion
        self._folder, self._on_case, self._done = folder, on_case, 0
        self._cases = list[_Predicted]()

    def run(
        self, case_ids: Sequence[str], own: PostprocessConfig
    ) -> tuple[PostprocessConfig, Scores, Scores]:
        """The best configuration, and the scores of the run's own and of the best."""
        regions = self._loaded.task.region_names
        self._total = len(case_ids) * (2 + len(CANDIDATES) * len(regions))
        self._on_case(0, self._total)
        every = {
            key: {region: getattr(own, key).get(region, none) for region in regions}
            for key, none in DEFAULTS.items()
        }
        best = PostprocessConfig.model_validate(every)
        least = min(*CANDIDATES["threshold"], *best.threshold.values())
        for case_id in case_ids:
            self._cases.append(self._predict(case_id, least))
            self._advance()
        (before,) = self._scores([best])
        after = before
        for region in regions:
            for key, values in CANDIDATES.items():
                tried = [best] + [_with(best, key, region, value) for value in values]
                pairs = zip(tried, self._scores(tried), strict=True)
                best, after = max(pairs, key=lambda pair: self._mean(pair[1]))
        return best, before, after

    def _mean(self, scores: Scores) -> float:
        """Higher is better; of equals the first is taken."""
        mean = float(scores.mean())
        return mean if self._criterion.metric.higher_is_better else -mean

    def _predict(self, case_id: str, least: float) -> _Predicted:
        """Predict a case, and keep what is above the least threshold in its files' grid."""
        record = self._store.record(case_id)
        image, _ = self._store.read_volume(case_id)
        stored = self._loaded.logits(image, self._store.task.modalities)
        logits = np.stack([file_logits(of_region, record) for of_region in stored])
        possible = np.any(logits > logit(least), axis=0).astype(np.uint8)
        box = bounding_box(possible) or Box((0, 0, 0), (1, 1, 1))
        file = self._folder / f"{len(self._cases)}.npy"
        np.save(file, extract(logits, box))
        return _Predicted(record, file, box)

    def _scores(self, configs: Sequence[PostprocessConfig]) -> list[Scores]:
        """The scores of all cases with each configuration."""
        found = [list[list[float]]() for _ in configs]
        for case in self._cases:
            logits = torch.from_numpy(np.load(case.file))
            reference = self._store.read_reference(case.record.case_id)
            for config, of_config in zip(configs, found, strict=True):
                of_config.append(self._score(case, logits, reference, config))
            self._advance()
        return [np.asarray(of_config) for of_config in found]

    def _score(
        self,
        case: _Predicted,
        logits: torch.Tensor,
        reference: NDArray[np.uint8],
        config: PostprocessConfig,
    ) -> list[float]:
        geometry = case.record.geometry
        label = labels_of(logits, self._loaded.task, config, geometry.voxel_mm3)
        scores = score_case(
            reference,
            place_back(label, case.box, geometry.shape),
            geometry.spacing_mm,
            self._loaded.task,
            rules=self._criterion.rules,
            metrics=() if self._criterion.rules else (self._criterion.metric,),
        )
        return [self._criterion.of(found) for found in scores.regions.values()]

    def _advance(self) -> None:
        self._done += 1
        self._on_case(self._done, self._total)


def _with(config: PostprocessConfig, key: str, region: str, value: float) -> PostprocessConfig:
    """The configuration with one value changed."""
    return config.model_copy(update={key: getattr(config, key) | {region: value}})
