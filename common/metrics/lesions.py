"""Lesion-wise scores of one region: which lesions are found, and how well.

The steps are those of the challenges' published code, and `RuleSet` says where they differ.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import fsum

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from common.geometry import Vector
from common.metrics.metric import Metric
from common.metrics.pair import MaskPair
from common.metrics.rules import RuleSet, Status
from common.metrics.surface import Mask
from common.volume import Box, Triple, triple

Numbers = NDArray[np.int32]
"""Lesions (D, H, W), numbered from 1; 0 outside."""

NEIGHBOURS_26 = np.ones((3, 3, 3), bool)
MATCH_COST = 1 + 1e-6
"""Of two lesions that do not overlap, in a matching of the least cost 1 − Dice."""


@dataclass(frozen=True)
class Lesion:
    """One lesion of the reference, or a predicted one that is a false positive."""

    status: Status
    volume_ml: float
    predicted_ml: float
    """Of the prediction that is compared with it."""
    centre: Vector
    """(z, y, x) in voxels of the image."""
    values: dict[str, float]
    """By metric."""


@dataclass(frozen=True)
class LesionScores:
    """One region's lesions."""

    values: dict[str, float]
    """By metric: the mean over the lesions that the rule set counts."""
    lesions: tuple[Lesion, ...]

    def count(self, status: Status) -> int:
        """Lesions of a status."""
        return sum(lesion.status == status for lesion in self.lesions)

    @property
    def f1(self) -> float:
        """2·tp / (2·tp + fp + fn); 1 without lesions."""
        found, others = 2 * self.count("tp"), self.count("fp") + self.count("fn")
        return found / (found + others) if found + others else 1.0


@dataclass(frozen=True, eq=False)
class NumberedLesions:
    """The lesions of a mask."""

    numbers: Numbers
    near: Numbers
    """The same, dilated."""
    start: Triple
    """The first voxel (z, y, x) of these arrays, in the image."""

    @classmethod
    def of(cls, mask: Mask, start: Triple, dilations: int) -> "NumberedLesions":
        """Number the parts of a mask; those that touch once dilated are one lesion."""
        near = np.zeros(mask.shape, np.int32)
        ndimage.label(dilated(mask, dilations), NEIGHBOURS_26, output=near)
        return cls(near * mask, near, start)

    def renumbered(self, numbers: NDArray[np.intp]) -> "NumberedLesions":
        """Each lesion with the number at its place; 0 drops it."""
        new = numbers.astype(np.int32)
        return NumberedLesions(new[self.numbers], new[self.near], self.start)

    @cached_property
    def voxels(self) -> NDArray[np.intp]:
        """Of each number; 0 of the background."""
        return np.bincount(self.numbers[self.numbers > 0], minlength=1)

    @cached_property
    def boxes(self) -> list[tuple[slice, ...]]:
        """Around each number from 1."""
        boxes: list[tuple[slice, ...]] = ndimage.find_objects(self.numbers)
        return boxes

    @cached_property
    def present(self) -> list[int]:
        """Numbers that some voxel has."""
        return [int(number) for number in np.flatnonzero(self.voxels)]

    def centre(self, number: int) -> Vector:
        """Mean place (z, y, x) of a lesion's voxels, in voxels of the image."""
        window = self.boxes[number - 1]
        inside = np.argwhere(self.numbers[window] == number).mean(axis=0).tolist()
        first = (a.start + b for a, b in zip(window, self.start, strict=True))
        z, y, x = (a + b for a, b in zip(inside, first, strict=True))
        return z, y, x


def dilated(mask: Mask, times: int) -> Mask:
    """Dilate by the 18 neighbours that share a face or an edge, within the array.

    They are the three squares of 3×3 voxels, and a square is two lines: that takes a twentieth of
    the time of SciPy's dilation.
    """
    for _ in range(times):
        along_y, along_x = _along(mask, 1), _along(mask, 2)
        mask = _along(along_x, 1) | _along(along_x, 0) | _along(along_y, 0)
    return mask


def _along(mask: Mask, axis: int) -> Mask:
    moved, out = np.moveaxis(mask, axis, 0), mask.copy()
    grown = np.moveaxis(out, axis, 0)
    grown[1:] |= moved[:-1]
    grown[:-1] |= moved[1:]
    return out


def number_lesions(
    pairs: Mapping[str, MaskPair], rules: RuleSet
) -> tuple[dict[str, NumberedLesions], dict[str, NumberedLesions]]:
    """The lesions of each region, in the reference and in the prediction."""
    reference, prediction = dict[str, NumberedLesions](), dict[str, NumberedLesions]()
    for region, pair in pairs.items():
        times = rules.dilations_of(region)
        reference[region] = NumberedLesions.of(pair.reference, pair.start, times)
        if rules.clean_predictions:
            lesions = NumberedLesions.of(pair.prediction, pair.start, times)
            least = rules.threshold_mm3_of(region) / (1000 * pair.voxel_ml)
            prediction[region] = _without_small(lesions, least)
        else:
            prediction[region] = NumberedLesions.of(pair.prediction, pair.start, 0)
    return _joined(reference, rules), _joined(prediction, rules)


def _without_small(lesions: NumberedLesions, voxels: float) -> NumberedLesions:
    return lesions.renumbered(np.where(lesions.voxels > voxels, np.arange(len(lesions.voxels)), 0))


def _joined(lesions: dict[str, NumberedLesions], rules: RuleSet) -> dict[str, NumberedLesions]:
    """Lesions that touch the same lesion of another region become one.

    One that touches several counts with the first of them alone, as in the published code.
    """
    joined = dict(lesions)
    for region, others in rules.joined_by.items():
        for other in others:
            if region in lesions and other in lesions:
                joined[region] = _join(joined[region], lesions[other])
    return joined


def _join(lesions: NumberedLesions, other: NumberedLesions) -> NumberedLesions:
    first: dict[int, int] = {}
    for own, theirs in _touching(lesions, other):
        first.setdefault(own, theirs)
    numbers = np.arange(len(lesions.voxels))
    leader: dict[int, int] = {}
    for own, theirs in first.items():
        numbers[own] = leader.setdefault(theirs, own)
    return lesions.renumbered(numbers)


def _touching(a: NumberedLesions, b: NumberedLesions) -> list[tuple[int, int]]:
    """Pairs of lesions that share a voxel, a face or an edge, in order."""
    pairs = set[tuple[int, int]]()
    here = Box(a.start, triple(a.numbers.shape))
    for offset in product((-1, 0, 1), repeat=3):
        if all(offset):
            continue
        moved = triple(start - step for start, step in zip(b.start, offset, strict=True))
        there = Box(moved, triple(b.numbers.shape))
        both = here.overlap(there)
        own = a.numbers[both.relative_to(here).slices]
        theirs = b.numbers[both.relative_to(there).slices]
        pairs.update((number, other) for number, other, _ in _overlaps(own, theirs))
    return sorted(pairs)


def _overlaps(a: Numbers, b: Numbers) -> list[tuple[int, int, int]]:
    """(number in a, number in b, shared voxels), in order."""
    where = np.flatnonzero((a != 0) & (b != 0))
    highest = int(b.max(initial=0)) + 1
    codes = a.ravel()[where].astype(np.int64) * highest + b.ravel()[where]
    found, counts = np.unique(codes, return_counts=True)
    return [
        (int(c // highest), int(c % highest), int(n)) for c, n in zip(found, counts, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class RegionLesions:
    """The lesions of one region, in the reference and in the prediction."""

    reference: NumberedLesions
    prediction: NumberedLesions
    whole: MaskPair
    """The region's masks, in the same box."""

    def compared(self, number: int, matched: Sequence[int]) -> MaskPair:
        """One lesion and predicted ones as one; `whole`, with its distances, if it is that."""
        whole, ours = self.whole, self.prediction
        voxels = int(self.reference.voxels[number]), int(ours.voxels[list(matched)].sum())
        if voxels == (whole.reference_voxels, whole.prediction_voxels):
            return whole
        boxes = [self.reference.boxes[number - 1], *(ours.boxes[each - 1] for each in matched)]
        window = tuple(
            slice(min(s.start for s in along), max(s.stop for s in along))
            for along in zip(*boxes, strict=True)
        )
        chosen = np.zeros(len(ours.voxels), bool)
        chosen[list(matched)] = True
        return MaskPair(
            self.reference.numbers[window] == number,
            chosen[ours.numbers[window]],
            whole.spacing_mm,
            whole.image_shape,
        )


def score_lesions(
    found: RegionLesions, metrics: Sequence[Metric], rules: RuleSet, threshold_mm3: float
) -> LesionScores:
    """Score the lesions of a region; those of at most the threshold are ignored."""
    matches = (_one_to_one if rules.one_to_one else _all_near)(found.reference, found.prediction)
    lesions = []
    for number, matched in matches.items():
        pair = found.compared(number, matched)
        volume_ml = pair.reference_voxels * pair.voxel_ml
        status: Status = "tp" if matched else "fn"
        lesions.append(
            Lesion(
                status if volume_ml * 1000 > threshold_mm3 else "ignored",
                volume_ml,
                pair.prediction_voxels * pair.voxel_ml,
                found.reference.centre(number),
                {metric.name: metric.of(pair) for metric in metrics},
            )
        )
    used = {number for numbers in matches.values() for number in numbers}
    for number in found.prediction.present:
        if number not in used:
            predicted_ml = int(found.prediction.voxels[number]) * found.whole.voxel_ml
            values = {metric.name: metric.one_empty or 0.0 for metric in metrics}
            centre = found.prediction.centre(number)
            lesions.append(Lesion("fp", 0.0, predicted_ml, centre, values))
    return LesionScores(_means(lesions, metrics, rules), tuple(lesions))


def _means(
    lesions: Sequence[Lesion], metrics: Sequence[Metric], rules: RuleSet
) -> dict[str, float]:
    counted = [lesion for lesion in lesions if lesion.status in rules.counted]
    if counted:
        return {
            metric.name: fsum(lesion.values[metric.name] for lesion in counted) / len(counted)
            for metric in metrics
        }
    nothing_found = rules.one_to_one and any(each.status != "ignored" for each in lesions)
    return {
        metric.name: (metric.one_empty if nothing_found else metric.both_empty) or 0.0
        for metric in metrics
    }


def _all_near(reference: NumberedLesions, prediction: NumberedLesions) -> dict[int, list[int]]:
    """To each lesion, the predicted ones of which a voxel is in the dilated lesion."""
    matches = {number: list[int]() for number in reference.present}
    for number, predicted, _ in _overlaps(reference.near, prediction.numbers):
        matches[number].append(predicted)
    return matches


def _one_to_one(reference: NumberedLesions, prediction: NumberedLesions) -> dict[int, list[int]]:
    """To each lesion, at most one predicted: the pairs of which the sum of Dice is the largest."""
    rows = {number: row for row, number in enumerate(reference.present)}
    columns = {number: column for column, number in enumerate(prediction.present)}
    cost = np.full((len(rows), len(columns)), MATCH_COST)
    for number, predicted, shared in _overlaps(reference.numbers, prediction.numbers):
        sizes = int(reference.voxels[number]) + int(prediction.voxels[predicted])
        cost[rows[number], columns[predicted]] = 1 - 2 * shared / sizes
    matches = {number: list[int]() for number in rows}
    for row, column in zip(*linear_sum_assignment(cost), strict=True):
        if cost[row, column] < 1:
            matches[reference.present[row]].append(prediction.present[column])
    return matches
