"""Metrics of a predicted mask against a reference mask: each is a value.

To add one, write its function of a `MaskPair` and put a `Metric` into `METRICS`: scores, tables and
files iterate over that tuple. `docs/scores.md` has the formulas.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np

from common.metrics.pair import MaskPair
from common.metrics.surface import Distances


@dataclass(frozen=True)
class Metric:
    """A number for two masks of one region."""

    name: str
    """Its key in files, with its unit."""
    title: str
    unit: str
    """Empty for a plain number."""
    compute: Callable[[MaskPair], float]
    """Both masks hold a voxel, except where a value for empty masks is None."""
    both_empty: float | None
    """Its value where both masks are empty; None where it is computed as for others."""
    one_empty: float | None
    """Its value where one mask is empty, a missed region or a false alarm; None as above."""
    higher_is_better: bool

    def of(self, pair: MaskPair) -> float:
        """Its value for two masks, which may be empty."""
        full = (pair.reference_voxels > 0) + (pair.prediction_voxels > 0)
        fixed = (self.both_empty, self.one_empty, None)[full]
        return float(self.compute(pair)) if fixed is None else fixed


def dice(pair: MaskPair) -> float:
    """2·|R∩P| / (|R| + |P|)."""
    return 2 * pair.shared_voxels / (pair.reference_voxels + pair.prediction_voxels)


def sensitivity(pair: MaskPair) -> float:
    """|R∩P| / |R|."""
    return pair.shared_voxels / pair.reference_voxels


def specificity(pair: MaskPair) -> float:
    """Share of the image outside the reference that is not predicted; 1 if nothing is outside."""
    outside = prod(pair.image_shape) - pair.reference_voxels
    return 1 - (pair.prediction_voxels - pair.shared_voxels) / outside if outside else 1.0


def volume_error_ml(pair: MaskPair) -> float:
    """| |P| − |R| |."""
    return abs(pair.prediction_voxels - pair.reference_voxels) * pair.voxel_ml


def relative_volume_error(pair: MaskPair) -> float:
    """| |P| − |R| | / |R|."""
    return abs(pair.prediction_voxels - pair.reference_voxels) / pair.reference_voxels


def hd95_mm(pair: MaskPair) -> float:
    """The larger of both directions' 95th percentiles of distances of surface elements."""
    surfaces = pair.elements
    return max(_percentile_95(surfaces.from_reference), _percentile_95(surfaces.from_prediction))


def _percentile_95(distances: Distances) -> float:
    """The first distance at which 95 % of the area is reached."""
    reached = np.cumsum(distances.areas) / distances.areas.sum()
    index = int(np.searchsorted(reached, 0.95))
    return float(distances.mm[min(index, len(distances.mm) - 1)])


def border_hd95_mm(pair: MaskPair) -> float:
    """The 95th percentile of the distances of border voxels, of both directions together."""
    both = pair.borders.from_reference.mm, pair.borders.from_prediction.mm
    return float(np.percentile(np.concatenate(both), 95))


def _within(distances: Distances, tolerance_mm: float) -> tuple[float, float]:
    """(area within the tolerance, area)."""
    near = np.searchsorted(distances.mm, tolerance_mm, side="right")
    return float(distances.areas[:near].sum()), float(distances.areas.sum())


def surface_dice(pair: MaskPair, tolerance_mm: float) -> float:
    """Share of both surfaces' area that is within the tolerance of the other surface."""
    near, area = _within(pair.elements.from_reference, tolerance_mm)
    near_too, area_too = _within(pair.elements.from_prediction, tolerance_mm)
    return (near + near_too) / (area + area_too)


def border_dice(pair: MaskPair, tolerance_mm: float) -> float:
    """Mean of both shares of border voxels that are within the tolerance of the other border."""
    near, count = _within(pair.borders.from_reference, tolerance_mm)
    near_too, count_too = _within(pair.borders.from_prediction, tolerance_mm)
    return (near / count + near_too / count_too) / 2


def _nsd(tolerance_mm: float) -> Metric:
    return Metric(
        f"nsd_{tolerance_mm:g}mm",
        f"NSD at {tolerance_mm:g} mm",
        "",
        lambda pair: surface_dice(pair, tolerance_mm),
        both_empty=1.0,
        one_empty=0.0,
        higher_is_better=True,
    )


def _border_nsd(name: str, title: str, tolerance_mm: Callable[[MaskPair], float]) -> Metric:
    return Metric(
        name,
        title,
        "",
        lambda pair: border_dice(pair, tolerance_mm(pair)),
        both_empty=1.0,
        one_empty=0.0,
        higher_is_better=True,
    )


DICE = Metric("dice", "Dice", "", dice, both_empty=1.0, one_empty=0.0, higher_is_better=True)
HD95 = Metric("hd95_mm", "HD95", "mm", hd95_mm, 0.0, 374.0, higher_is_better=False)
"""Where one mask is empty, a rule set says another value."""
NSD = (_nsd(0.5), _nsd(1.0), _nsd(2.0))

METRICS: tuple[Metric, ...] = (
    DICE,
    HD95,
    *NSD,
    Metric("sensitivity", "Sensitivity", "", sensitivity, 1.0, 0.0, higher_is_better=True),
    Metric("specificity", "Specificity", "", specificity, None, None, higher_is_better=True),
    Metric(
        "volume_error_ml", "Volume error", "ml", volume_error_ml, None, None, higher_is_better=False
    ),
    Metric(
        "relative_volume_error",
        "Relative volume error",
        "",
        relative_volume_error,
        both_empty=0.0,
        one_empty=1.0,
        higher_is_better=False,
    ),
)
"""Of whole regions, the same under every rule set."""

TRAINING_METRICS: tuple[Metric, ...] = (DICE,)
"""What validation computes after an epoch: the others take longer."""

BORDER_HD95 = Metric(
    "border_hd95_mm", "HD95 of border voxels", "mm", border_hd95_mm, 0.0, 373.0, False
)
BORDER_NSD_HALF = _border_nsd("border_nsd_0.5mm", "Border NSD at 0.5 mm", lambda _: 0.5)
BORDER_NSD_ONE = _border_nsd("border_nsd_1mm", "Border NSD at 1 mm", lambda _: 1.0)
BORDER_NSD_VOXEL = _border_nsd(
    "border_nsd_voxel", "Border NSD at the smallest spacing", lambda pair: min(pair.spacing_mm)
)
