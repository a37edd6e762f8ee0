"""Scores of one case by region, and their means over several cases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum, isfinite, nan

import numpy as np
from numpy.typing import NDArray

from common.geometry import Vector
from common.metrics.lesions import LesionScores, RegionLesions, number_lesions, score_lesions
from common.metrics.metric import METRICS, Metric
from common.metrics.pair import MaskPair
from common.metrics.rules import DEFAULT_RULES, RuleSet, rules_for
from common.metrics.surface import Mask
from common.task import GLIOMA, Task
from common.volume import Box, bounding_box, extract, triple


@dataclass(frozen=True)
class RegionScore:
    """One region of one case."""

    values: dict[str, float]
    """By metric."""
    reference: int
    """Voxels."""
    prediction: int
    """Voxels."""
    intersection: int
    """Voxels."""
    voxel_ml: float = nan
    """Volume of a voxel."""
    lesions: LesionScores | None = None
    """None where no rule set was asked for."""

    @property
    def reference_ml(self) -> float:
        """Volume of the reference."""
        return self.reference * self.voxel_ml

    @property
    def prediction_ml(self) -> float:
        """Volume of the prediction."""
        return self.prediction * self.voxel_ml


@dataclass(frozen=True)
class CaseScores:
    """One case."""

    regions: dict[str, RegionScore]
    rules: str
    """The full name of the rule set: of the lesions, and of distances where one mask is empty."""


def score_case(  # noqa: PLR0913 - what rarely changes goes by name
    reference: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    spacing_mm: Vector,
    task: Task = GLIOMA,
    *,
    rules: str | None = DEFAULT_RULES,
    metrics: Sequence[Metric] = METRICS,
) -> CaseScores:
    """Compare canonical labels (D, H, W) of one grid, whose spacing is (z, y, x), by region.

    Without `rules` no lesions are scored, which is faster.

    Raises:
        ValueError: the shapes differ, the spacing is no length, a value is no label of the task's,
            or there is no such rule set.
    """
    _check_grids(spacing_mm, reference, prediction)
    whole = triple(reference.shape)
    box = bounding_box(reference, prediction) or Box((0, 0, 0), (1, 1, 1))
    true, predicted = (np.ascontiguousarray(extract(a, box)) for a in (reference, prediction))
    _check_labels(task, true, predicted)

    def pair(a: Mask, b: Mask) -> MaskPair:
        return MaskPair(a, b, spacing_mm, whole, box.start).cut()

    regions = zip(task.regions, task.to_regions(true), task.to_regions(predicted), strict=True)
    pairs = {region: pair(a, b) for region, a, b in regions}
    rule_set = rules_for(rules or DEFAULT_RULES, task)
    tissues = {
        name: pair(true == value, predicted == value)
        for name, value in task.labels.items()
        if rules and rule_set.joined_by and name not in pairs
    }
    return _score(pairs, tissues, metrics, rule_set, with_lesions=rules is not None)


def score_masks(  # noqa: PLR0913 - what rarely changes goes by name
    reference: Mapping[str, Mask],
    prediction: Mapping[str, Mask],
    spacing_mm: Vector,
    task: Task = GLIOMA,
    *,
    rules: str | None = DEFAULT_RULES,
    metrics: Sequence[Metric] = METRICS,
) -> CaseScores:
    """As `score_case`, of a mask (D, H, W) for each region; the task only says which rules hold.

    Rules that join lesions by another tissue see only the regions given.

    Raises:
        ValueError: as `score_case`, or the regions differ.
    """
    if not reference or list(reference) != list(prediction):
        raise ValueError(f"regions {list(reference)} and {list(prediction)} differ, or are none")
    _check_grids(spacing_mm, *reference.values(), *prediction.values())
    pairs = {
        region: MaskPair(mask, prediction[region], spacing_mm, triple(mask.shape)).cut()
        for region, mask in reference.items()
    }
    rule_set = rules_for(rules or DEFAULT_RULES, task)
    return _score(pairs, {}, metrics, rule_set, with_lesions=rules is not None)


def _score(
    pairs: Mapping[str, MaskPair],
    tissues: Mapping[str, MaskPair],
    metrics: Sequence[Metric],
    rules: RuleSet,
    *,
    with_lesions: bool,
) -> CaseScores:
    """Score pairs of masks by region; `tissues` are labels that are no regions."""
    lesions = _score_lesions(pairs, tissues, rules) if with_lesions else {}
    regions = {
        region: RegionScore(
            {m.name: m.of(pair) for m in rules.with_penalty(metrics, pair.image_shape)},
            pair.reference_voxels,
            pair.prediction_voxels,
            pair.shared_voxels,
            pair.voxel_ml,
            lesions.get(region),
        )
        for region, pair in pairs.items()
    }
    return CaseScores(regions, rules.name)


def _score_lesions(
    pairs: Mapping[str, MaskPair], tissues: Mapping[str, MaskPair], rules: RuleSet
) -> dict[str, LesionScores]:
    reference, prediction = number_lesions({**tissues, **pairs}, rules)
    return {
        region: score_lesions(
            RegionLesions(reference[region], prediction[region], pair),
            rules.with_penalty(rules.metrics, pair.image_shape),
            rules,
            rules.threshold_mm3_of(region),
        )
        for region, pair in pairs.items()
    }


def _check_grids(spacing_mm: Vector, *arrays: NDArray[np.generic]) -> None:
    if not all(isfinite(mm) and mm > 0 for mm in spacing_mm):
        raise ValueError(f"spacing must be three lengths in mm, found {spacing_mm}")
    shapes = list(dict.fromkeys(array.shape for array in arrays))
    if len(shapes) > 1:
        raise ValueError(f"shapes of reference and prediction differ: {shapes[0]} and {shapes[1]}")
    if len(shapes[0]) != 3 or 0 in shapes[0]:
        raise ValueError(f"masks must have three axes and voxels, found shape {shapes[0]}")


def _check_labels(task: Task, *labels: NDArray[np.uint8]) -> None:
    for label in labels:
        unknown = label != 0
        for value in task.labels.values():
            unknown &= label != value
        if unknown.any():
            raise ValueError(
                f"labels must be those of task {task.name}, {sorted(task.labels.values())}; "
                f"found {sorted(set(label[unknown].tolist()))}"
            )


def mean_over_regions(values: Mapping[str, float]) -> float:
    """The mean of one value for each region; NaN if one is NaN, or if there are no regions."""
    return fsum(values.values()) / len(values) if values else nan
