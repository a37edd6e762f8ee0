"""Metrics of predicted masks against reference masks, by region.

To add one, write its function and put a `Metric` into `METRICS`: scores, tables and files iterate
over that tuple.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum, nan

import numpy as np
from numpy.typing import NDArray

from common.geometry import Vector
from common.task import Task
from common.volume import bounding_box, extract

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Metric:
    """A number for two masks of one region."""

    name: str
    """Its key in files."""
    title: str
    unit: str
    """Empty for a plain number."""
    compute: Callable[[Mask, Mask, Vector], float]
    """Of (prediction, reference, spacing_mm); both hold a voxel, and only a box around both."""
    both_empty: float
    """Its value where both masks are empty."""
    one_empty: float
    """Its value where one mask is empty: a missed region, or a false alarm."""
    higher_is_better: bool


def dice(prediction: Mask, reference: Mask, spacing_mm: Vector) -> float:
    """2·|A∩B| / (|A| + |B|)."""
    del spacing_mm
    shared = np.count_nonzero(prediction & reference)
    return 2 * shared / (np.count_nonzero(prediction) + np.count_nonzero(reference))


DICE = Metric("dice", "Dice", "", dice, both_empty=1.0, one_empty=0.0, higher_is_better=True)

METRICS: tuple[Metric, ...] = (DICE,)


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


@dataclass(frozen=True)
class RegionSummary:
    """One region over several cases."""

    means: dict[str, float]
    """By metric, over all cases; NaN where one case has NaN."""
    cases: int
    both_empty: int
    """Cases without the region in which none is predicted."""
    misses: int
    """Cases with the region where the prediction does not overlap it."""
    false_alarms: int
    """Cases without the region in which some is predicted."""


def score(
    prediction: NDArray[np.uint8],
    reference: NDArray[np.uint8],
    spacing_mm: Vector,
    task: Task,
    metrics: Sequence[Metric] = METRICS,
) -> dict[str, RegionScore]:
    """Compare canonical labels (D, H, W) of one grid, whose spacing is (z, y, x), by region.

    Raises:
        ValueError: the shapes differ, or a value is no label of the task's.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction {prediction.shape} and reference {reference.shape} differ")
    box = bounding_box(prediction, reference)
    if box is None:  # no tumour in either: one voxel will do
        prediction, reference = prediction[:1, :1, :1], reference[:1, :1, :1]
    else:
        prediction = np.ascontiguousarray(extract(prediction, box))
        reference = np.ascontiguousarray(extract(reference, box))
    _check_labels(task, prediction, reference)
    masks = zip(task.to_regions(prediction), task.to_regions(reference), strict=True)
    return {
        region: _score_region(predicted, true, spacing_mm, metrics)
        for region, (predicted, true) in zip(task.region_names, masks, strict=True)
    }


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


def _score_region(
    prediction: Mask, reference: Mask, spacing_mm: Vector, metrics: Sequence[Metric]
) -> RegionScore:
    predicted, true = int(np.count_nonzero(prediction)), int(np.count_nonzero(reference))

    def value(metric: Metric) -> float:
        if not predicted and not true:
            return metric.both_empty
        if not predicted or not true:
            return metric.one_empty
        return float(metric.compute(prediction, reference, spacing_mm))

    return RegionScore(
        values={metric.name: value(metric) for metric in metrics},
        reference=true,
        prediction=predicted,
        intersection=int(np.count_nonzero(prediction & reference)),
    )


def summarise(cases: Sequence[Mapping[str, RegionScore]]) -> dict[str, RegionSummary]:
    """Means and counts per region over all cases; no case is left out of a mean."""
    regions = cases[0] if cases else ()
    return {region: _summary([case[region] for case in cases]) for region in regions}


def _summary(cases: Sequence[RegionScore]) -> RegionSummary:
    metrics = cases[0].values
    return RegionSummary(
        means={name: fsum(case.values[name] for case in cases) / len(cases) for name in metrics},
        cases=len(cases),
        both_empty=sum(not case.reference and not case.prediction for case in cases),
        misses=sum(case.reference > 0 and not case.intersection for case in cases),
        false_alarms=sum(not case.reference and case.prediction > 0 for case in cases),
    )


def mean_over_regions(values: Mapping[str, float]) -> float:
    """The mean of one value for each region; NaN if one is NaN, or if there are no regions."""
    return fsum(values.values()) / len(values) if values else nan
