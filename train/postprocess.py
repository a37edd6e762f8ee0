"""From logits to labels: a threshold for each region, and what is too small to be believed.

Prediction, evaluation and tuning share this one way. The defaults remove nothing.
"""

import math
from collections.abc import Sequence
from typing import Annotated, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage
from torch import Tensor

from common.errors import ConfigError
from common.record import CaseRecord
from common.settings import Settings, did_you_mean
from common.task import Task
from common.volume import bounding_box, extract

EVERY_NEIGHBOUR = np.ones((3, 3, 3), bool)
"""Voxels that touch in a side, an edge or a corner are of one lesion."""

MM3_PER_ML = 1000

OUTSIDE = -20.0
"""The logit outside the stored volume, a probability of 2e-9: there is nothing there."""

HALF = 0.5
"""The threshold of a region without one; in logits 0."""
DEFAULTS = {"threshold": HALF, "minimum_lesion_ml": 0.0, "minimum_ml": 0.0}
"""What a region has that a field of `PostprocessConfig` leaves out."""

Threshold = Annotated[float, Field(gt=0, lt=1)]
Ml = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class PostprocessConfig(Settings):
    """How probabilities become labels; each value is by region, and 0 ml removes nothing.

    What is removed of a region keeps the label of the regions around it: a small enhancing tumour
    becomes necrotic core, as in Isensee et al. 2020 (arXiv:2011.00848), a small tumour background.
    """

    threshold: dict[str, Threshold] = Field(default={})
    """The probability above which a voxel is in a region; 0.5 where none is given."""
    minimum_lesion_ml: dict[str, Ml] = Field(default={})
    """Lesions of a region that are smaller are removed."""
    minimum_ml: dict[str, Ml] = Field(default={})
    """Where all that a case has of a region is less, it is removed."""

    @classmethod
    def mean(cls, configs: Sequence[Self]) -> Self:
        """The mean of each value, with the default where a configuration has none."""
        if all(config == configs[0] for config in configs):
            return configs[0]
        values = {
            key: {
                region: sum(getattr(each, key).get(region, none) for each in configs) / len(configs)
                for region in {region: 0 for each in configs for region in getattr(each, key)}
            }
            for key, none in DEFAULTS.items()
        }
        return cls.model_validate(values)

    def check_regions(self, task: Task) -> None:
        """Check that only regions of the task are named.

        Raises:
            ConfigError: another is.
        """
        for key, values in self.model_dump().items():
            for region in values:
                if region not in task.regions:
                    raise ConfigError(
                        f"inference.postprocess.{key}: {region} is no region of task {task.name}, "
                        f"which has {', '.join(task.regions)}"
                        f"{did_you_mean(region, task.region_names)}"
                    )

    def __str__(self) -> str:
        parts = [f"{r} above {value:g}" for r, value in self.threshold.items() if value != HALF]
        parts += [f"{r} lesions from {ml:g} ml" for r, ml in self.minimum_lesion_ml.items() if ml]
        parts += [f"{r} from {ml:g} ml in all" for r, ml in self.minimum_ml.items() if ml]
        return ", ".join(parts) or "none"


class CaseLabels(NamedTuple):
    """Canonical labels of a case."""

    file: NDArray[np.uint8]
    """In the grid of its files: what is written and scored."""
    stored: NDArray[np.uint8]
    """Of the stored volume, to be shown beside its images."""


def case_labels(
    logits: Tensor, record: CaseRecord, task: Task, config: PostprocessConfig
) -> CaseLabels:
    """Labels of logits (regions, *record.box.shape).

    Where the files have another spacing than the stored volume, their labels are of interpolated
    logits: labels that are moved themselves have steps of a voxel of the coarser grid.
    """
    stored = labels_of(logits, task, config, record.spacing_mm**3)
    if not record.to_lps.resamples:
        return CaseLabels(record.to_file_grid(stored), stored)
    cuts = _cuts(task, config)
    # One region after the other: together they would need many times what the labels do.
    above = [file_logits(of, record) > cut for of, cut in zip(logits, cuts, strict=True)]
    return CaseLabels(_labels(np.stack(above), task, config, record.geometry.voxel_mm3), stored)


def file_logits(logits: Tensor, record: CaseRecord) -> NDArray[np.float32]:
    """One region's logits (*record.box.shape) in the grid of the case's files."""
    return record.to_file_grid(logits.float().cpu().numpy(), OUTSIDE)


def labels_of(
    logits: Tensor,
    task: Task,
    config: PostprocessConfig | None = None,
    voxel_mm3: float = 1.0,
) -> NDArray[np.uint8]:
    """Canonical labels (D, H, W) of logits (regions, D, H, W), whose voxels have this volume."""
    config = config or PostprocessConfig()
    above = logits > logits.new_tensor(_cuts(task, config))[:, None, None, None]
    return _labels(above.cpu().numpy(), task, config, voxel_mm3)


def _cuts(task: Task, config: PostprocessConfig) -> list[float]:
    return [logit(config.threshold.get(region, HALF)) for region in task.regions]


def _labels(
    above: NDArray[np.bool_], task: Task, config: PostprocessConfig, voxel_mm3: float
) -> NDArray[np.uint8]:
    """Canonical labels of voxels above each region's threshold (regions, D, H, W)."""
    label = task.from_regions(above)
    removes = any((*config.minimum_lesion_ml.values(), *config.minimum_ml.values()))
    if removes and (box := bounding_box(label)):
        inside = extract(label, box)
        inside[...] = _without_small(inside, task, config, voxel_mm3 / MM3_PER_ML)
    return label


def logit(probability: float) -> float:
    """The logit that is a probability."""
    return math.log(probability / (1 - probability))


def _without_small(
    label: NDArray[np.uint8], task: Task, config: PostprocessConfig, voxel_ml: float
) -> NDArray[np.uint8]:
    """Labels without lesions, then without regions, that are too small."""
    for region in task.regions:
        if least := config.minimum_lesion_ml.get(region):
            masks = task.to_regions(label)
            mask = masks[task.region_names.index(region)]
            lesions, _ = ndimage.label(mask, EVERY_NEIGHBOUR)
            mask &= (np.bincount(lesions.ravel()) * voxel_ml >= least)[lesions]
            label = task.from_regions(masks)
    for region in task.regions:
        if least := config.minimum_ml.get(region):
            masks = task.to_regions(label)
            mask = masks[task.region_names.index(region)]
            if np.count_nonzero(mask) * voxel_ml < least:
                mask[...] = False
                label = task.from_regions(masks)
    return label
