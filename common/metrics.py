"""How well a predicted mask agrees with the reference: a metric is a value, scored by region.

To add a metric, write its function and put a `Metric` into `METRICS`: scores, tables and files
iterate over that tuple.
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
    """Its value where neither mask holds a voxel."""
    one_empty: float
    """Its value where only one of them does: a missed region, or a false alarm."""
    higher_is_better: bool


def dice(prediction: Mask, reference: Mask, spacing_mm: Vector) -> float:
    """2·|A∩B| / (|A| + |B|)."""
    del spacing_mm
    shared = np.count_nonzero(prediction & reference)
    return 2 * shared / (np.count_nonzero(prediction) + np.count_nonzero(reference))


DICE = Metric("dice", "Dice", "", dice, both_empty=1.0, one_empty=0.0, higher_is_better=True)

METRICS: tuple[Metric, ...] = (DICE,)
"""What every region of every case is scored by."""


@dataclass(frozen=True)
class RegionScore:
    """One region of one case."""

    values: dict[str, float]
    """Metric to its value."""
    reference: int
    """Voxels of the reference mask."""
    prediction: int
    """Voxels of the predicted mask."""
    intersection: int
    """Voxels in both."""


@dataclass(frozen=True)
class RegionSummary:
    """One region over several cases: means, and the counts without which they say little."""

    means: dict[str, float]
    """Metric to its mean over all cases; NaN where one case has NaN."""
    cases: int
    both_empty: int
    """Cases without the region in which none is predicted."""
    misses: int
    """Cases with the region of which the prediction meets no voxel."""
    false_alarms: int
    """Cases without the region in which some is predicted."""


def score(
    prediction: NDArray[np.uint8],
    reference: NDArray[np.uint8],
    spacing_mm: Vector,
    task: Task,
    metrics: Sequence[Metric] = METRICS,
) -> dict[str, RegionScore]:
    """Compare two masks of one grid, region by region.

    Args:
        prediction: (D, H, W) canonical labels.
        reference: (D, H, W) canonical labels.
        spacing_mm: (z, y, x) of their grid.
        task: whose regions.
        metrics: what to compute.

    Raises:
        ValueError: the shapes differ, or a value is no label of the task's.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction {prediction.shape} and reference {reference.shape} differ")
    box = bounding_box(prediction, reference)
    if box is None:  # no tumour in either: any part of them says so
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
    """The one place that decides what an empty mask is worth."""
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
    return RegionSummary(
        means={name: _mean([case.values[name] for case in cases]) for name in cases[0].values},
        cases=len(cases),
        both_empty=sum(not case.reference and not case.prediction for case in cases),
        misses=sum(case.reference > 0 and not case.intersection for case in cases),
        false_alarms=sum(not case.reference and case.prediction > 0 for case in cases),
    )


def mean_over_regions(values: Mapping[str, float]) -> float:
    """The mean of one value for each region; a NaN stays one, and no region at all is NaN."""
    return _mean(list(values.values()))


def _mean(values: Sequence[float]) -> float:
    return fsum(values) / len(values) if values else nan
