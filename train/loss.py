"""The loss: Dice plus cross-entropy, summed over the regions (paper sec. V-C, eq. 1 and 2)."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from common.settings import Settings

Regions = Mapping[str, Sequence[int]]
"""Region to the label values that make it, as in `common.task.Task.regions`."""

EPSILON = 1e-5
"""In numerator and denominator of eq. (1): an empty target with an empty prediction costs 0."""


class LossConfig(Settings):
    """What is minimised."""

    voxels: Literal["cross_entropy", "focal"] = "cross_entropy"
    """The term beside Dice, a mean over voxels: binary cross-entropy (the paper), or focal loss
    (Lin et al. 2017, doi:10.1109/ICCV.2017.324; the authors' code has it in places)."""
    focal_gamma: float = Field(default=2.0, ge=1, allow_inf_nan=False)
    """How much focal loss discounts voxels that are right already; below 1 its gradient is infinite
    where a voxel is saturated."""


def regions_of(label: Tensor, regions: Regions) -> Tensor:
    """Canonical labels (B, …) to region masks (B, regions, …), float32."""
    masks = []
    for values in regions.values():
        mask = label == values[0]
        for value in values[1:]:
            mask = mask | (label == value)
        masks.append(mask)
    return torch.stack(masks, dim=1).float()


class _Terms(NamedTuple):
    """What the loss of one head is made of, each (regions,)."""

    dice: Tensor
    voxels: Tensor
    there: Tensor  # 1 where the batch has the region, else 0

    def minimised(self) -> Tensor:
        return (self.dice + self.voxels).sum()

    def reported(self) -> Tensor:
        return (self.dice * self.there + self.voxels).sum()


class RegionLoss:
    """The loss of logits of any type against labels, in float32.

    Dice has squared denominators and runs over the whole batch. The printed cross-entropy has
    only the positive term, which a constant prediction of 1 minimises, and is a sum, which would
    drown Dice; here it has both terms and is the mean over voxels and batch.

    Where a batch does not have a region, ε makes its Dice term 0 for a prediction of exactly 0,
    and near 1 for one of 0.001 in each of a million voxels. That teaches to predict nothing, but
    it would rank a perfect case without a tumour last, so `reported` leaves this term out.
    """

    def __init__(self, config: LossConfig, regions: Regions) -> None:
        self.config, self.regions = config, regions

    def __call__(self, logits: Tensor, label: Tensor) -> Tensor:
        """What is minimised of one head: logits (B, regions, …) against canonical labels (B, …)."""
        return self._terms(logits.float(), regions_of(label, self.regions)).minimised()

    def reported(self, logits: Tensor, label: Tensor) -> Tensor:
        """What is shown and selects checkpoints: without Dice of regions that are not there."""
        return self._terms(logits.float(), regions_of(label, self.regions)).reported()

    def supervised(self, outputs: Sequence[Tensor], label: Tensor) -> tuple[Tensor, Tensor]:
        """What is minimised over all heads, weighted 1, 1/2, 1/4, …, and the main head's reported.

        Logits are (B, regions, …) at full size, the main head's first; labels (B, …) canonical.
        The weights are normalised.
        """
        target = regions_of(label, self.regions)
        terms = [self._terms(logits.float(), target) for logits in outputs]
        weights = [0.5**k for k in range(len(outputs))]  # numbers: a tensor would be copied over
        weighted = [each.minimised() * weight for each, weight in zip(terms, weights, strict=True)]
        return torch.stack(weighted).sum() / sum(weights), terms[0].reported().detach()

    def _terms(self, logits: Tensor, target: Tensor) -> _Terms:
        probability = torch.sigmoid(logits)
        over = (0, *range(2, logits.ndim))
        overlap, size = (probability * target).sum(over), target.sum(over)
        total = (probability * probability).sum(over) + size  # y² = y
        dice = 1 - (2 * overlap + EPSILON) / (total + EPSILON)
        voxels = self._of_voxels(logits, probability, target).mean(over)
        return _Terms(dice, voxels, (size > 0).float())

    def _of_voxels(self, logits: Tensor, probability: Tensor, target: Tensor) -> Tensor:
        entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        if self.config.voxels == "cross_entropy":
            return entropy
        wrong = probability * (1 - target) + (1 - probability) * target
        return wrong**self.config.focal_gamma * entropy
