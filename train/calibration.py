"""Whether predicted probabilities are what they say: of voxels at 0.7, seven in ten in the region.

Voxels are counted by their probability in bins of equal width, over the brain: around it every
network is sure, and right, which would hide what it does inside. Guo et al. 2017 (arXiv:1706.04599)
define the expected calibration error.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.task import Task

BINS = 20


@dataclass(frozen=True)
class Calibration:
    """Voxels of one region's output by their probability; each array has `BINS` values."""

    voxels: NDArray[np.int64]
    probability: NDArray[np.float64]
    """The sum of the voxels' probabilities."""
    positives: NDArray[np.int64]
    """Voxels that are in the region by the reference."""

    def error(self, first: int = 0) -> float | None:
        """The expected calibration error from a bin on; None where there is no voxel."""
        voxels = int(self.voxels[first:].sum())
        gaps = np.abs(self.probability - self.positives)[first:]
        return float(gaps.sum()) / voxels if voxels else None

    def as_json(self) -> dict[str, Any]:
        """The same for a file, with the errors over all voxels and without the lowest bin's."""
        return {
            "voxels": self.voxels.tolist(),
            "probability": self.probability.tolist(),
            "positives": self.positives.tolist(),
            "error": self.error(),
            "error_above_lowest": self.error(1),
        }


def count_voxels(
    logits: Tensor, label: NDArray[np.uint8], brain: NDArray[np.bool_], task: Task
) -> dict[str, Calibration]:
    """Count a case's voxels by region.

    Args:
        logits: (regions, D, H, W).
        label: the reference's canonical labels (D, H, W).
        brain: the voxels to count (D, H, W).
        task: the regions'.
    """
    device = logits.device
    inside = torch.from_numpy(np.flatnonzero(brain)).to(device)
    labels = torch.from_numpy(label).to(device).reshape(-1)[inside].long()
    found = {}
    for region, of_region in zip(task.regions, logits, strict=True):
        shares = of_region.reshape(-1)[inside].sigmoid()
        bins = (shares * BINS).long().clamp_(max=BINS - 1)
        positive = torch.zeros(256, dtype=torch.long, device=device)
        positive[list(task.regions[region])] = BINS
        both = torch.bincount(bins + positive[labels], minlength=2 * BINS)
        negatives, positives = both[:BINS], both[BINS:]
        found[region] = Calibration(
            (negatives + positives).cpu().numpy(),
            torch.bincount(bins, shares.double(), BINS).cpu().numpy(),
            positives.cpu().numpy(),
        )
    return found


def total(cases: Iterable[dict[str, Calibration]]) -> dict[str, Calibration]:
    """The counts of several cases together, by region; empty if there are none."""
    found: dict[str, Calibration] = {}
    for counts in cases:
        for region, new in counts.items():
            old = found.get(region)
            found[region] = (
                new
                if old is None
                else Calibration(
                    old.voxels + new.voxels,
                    old.probability + new.probability,
                    old.positives + new.positives,
                )
            )
    return found
