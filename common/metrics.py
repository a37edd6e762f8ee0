"""How well a predicted mask agrees with the expert's, by BraTS's rules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum, nan

import numpy as np
from numpy.typing import NDArray

from common.task import REGION_LABELS, REGIONS

LABELS = 4
"""Canonical label values: background and three of tumour."""


@dataclass(frozen=True)
class Agreement:
    """One region of one case, in voxels.

    Attributes:
        reference: of the expert's mask, those outside the predicted volume included.
        prediction: of the predicted mask.
        both: of their intersection.
    """

    reference: int
    prediction: int
    both: int

    @property
    def dice(self) -> float:
        """2·|A∩B| / (|A| + |B|), and 1 where both are empty.

        So a tumour that was missed and one that is not there both score 0 (the BraTS rule).
        """
        total = self.reference + self.prediction
        return 2 * self.both / total if total else 1.0


@dataclass(frozen=True)
class RegionSummary:
    """One region over several cases: the mean, and the counts without which it says little.

    Attributes:
        dice: mean over all cases; NaN where there is no case.
        cases: how many that are.
        both_empty: cases without the region, and none predicted: each counts as 1.
        misses: cases whose region was not found at all: each counts as 0.
        false_alarms: cases without the region in which some was predicted: each counts as 0.
    """

    dice: float
    cases: int
    both_empty: int
    misses: int
    false_alarms: int


def agreement(
    prediction: NDArray[np.uint8],
    reference: NDArray[np.uint8],
    missed: Mapping[str, int] | None = None,
) -> dict[str, Agreement]:
    """Compare two canonical label arrays of one shape, region by region.

    Args:
        prediction: predicted labels, 0 to 3.
        reference: the expert's labels, 0 to 3.
        missed: region to voxels of the expert's that lie outside the arrays; nothing predicted
            can meet them.

    Raises:
        ValueError: the shapes differ, or a value is no canonical label.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction {prediction.shape} and reference {reference.shape} differ")
    if max(prediction.max(initial=0), reference.max(initial=0)) >= LABELS:
        raise ValueError("labels must be canonical, 0 to 3")
    pairs = np.bincount((reference * np.uint8(LABELS) + prediction).ravel(), minlength=LABELS**2)
    counts = pairs.reshape(LABELS, LABELS)  # (reference, prediction)
    found = {}
    for region in REGIONS:
        values = list(REGION_LABELS[region])
        found[region] = Agreement(
            reference=int(counts[values].sum()) + (missed[region] if missed else 0),
            prediction=int(counts[:, values].sum()),
            both=int(counts[np.ix_(values, values)].sum()),
        )
    return found


def summarise(cases: Sequence[Mapping[str, Agreement]]) -> dict[str, RegionSummary]:
    """Means and counts per region over all cases; no case is left out of a mean."""
    return {region: _summary([case[region] for case in cases]) for region in REGIONS}


def _summary(cases: Sequence[Agreement]) -> RegionSummary:
    return RegionSummary(
        dice=sum(case.dice for case in cases) / len(cases) if cases else nan,
        cases=len(cases),
        both_empty=sum(not case.reference and not case.prediction for case in cases),
        misses=sum(case.reference > 0 and not case.both for case in cases),
        false_alarms=sum(not case.reference and case.prediction > 0 for case in cases),
    )


def mean_over_regions(dice: Mapping[str, float]) -> float:
    """The mean over the regions of a Dice for each; a NaN stays one.

    Args:
        dice: region to Dice.
    """
    return fsum(dice[region] for region in REGIONS) / len(REGIONS)
