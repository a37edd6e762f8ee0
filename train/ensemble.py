"""Several runs that predict as one: the mean of their probabilities."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import ConfigError
from common.files import real_path
from common.manifest import Manifest
from common.record import CaseRecord, differences
from common.task import Task
from train.checkpoint import Which
from train.loaded_run import LoadedRun, load_run
from train.postprocess import CaseLabels, PostprocessConfig, case_labels

LEAST_PROBABILITY = 1e-7
"""Means are kept so far from 0 and 1 that their logits are finite."""

MAY_DIFFER = {"crop"}
"""Parameters of preprocessing that members need not share: each has windows of its own."""


@dataclass(frozen=True)
class Ensemble:
    """Runs of one task and one preprocessing; predicts as a `LoadedRun` does."""

    members: tuple[LoadedRun, ...]
    """At least two."""

    def __post_init__(self) -> None:
        first = self.members[0]
        for other in self.members[1:]:
            _check_alike(first, other)

    @property
    def manifest(self) -> Manifest:
        """How cases are preprocessed for all members."""
        return self.members[0].manifest

    @property
    def task(self) -> Task:
        """Modalities, labels and regions of all members."""
        return self.manifest.task

    @property
    def needed(self) -> tuple[str, ...]:
        """The modalities that some member sees."""
        seen = {name for member in self.members for name in member.needed}
        return tuple(name for name in self.task.modalities if name in seen)

    @property
    def may_lack(self) -> tuple[str, ...]:
        """The modalities of which a case may lack one: each member was trained without it."""
        return tuple(
            name
            for name in self.needed
            if all(name in each.may_lack or name not in each.needed for each in self.members)
        )

    def check_images(self, there: Sequence[str], where: str | Path) -> None:
        """As `LoadedRun.check_images`, for every member."""
        for member in self.members:
            member.check_images(there, where)

    def logits(self, image: NDArray[np.floating], modalities: Sequence[str] = ()) -> Tensor:
        """As `LoadedRun.logits`: those of the members' mean probabilities.

        The members predict one after the other, so that besides one member's logits only their sum
        is in memory.
        """
        first, *others = self.members
        with torch.inference_mode():
            total = first.logits(image, modalities).sigmoid_()
            for member in others:
                total += member.logits(image, modalities).sigmoid_()
            return total.div_(len(self.members)).logit_(LEAST_PROBABILITY)

    @cached_property
    def postprocess(self) -> PostprocessConfig:
        """The mean of each value over the members, which may have been tuned on other cases."""
        return PostprocessConfig.mean([member.postprocess for member in self.members])

    def labels(self, logits: Tensor, record: CaseRecord) -> CaseLabels:
        """As `LoadedRun.labels`."""
        return case_labels(logits, record, self.task, self.postprocess)

    def map(self, change: Callable[[LoadedRun], LoadedRun]) -> "Ensemble":
        """The same with each member changed."""
        return Ensemble(tuple(map(change, self.members)))


Predictor = LoadedRun | Ensemble
"""What predicts whole volumes."""


def load_runs(
    names: str, which: Which = "best", device: str = "auto", overrides: Sequence[str] = ()
) -> Predictor:
    """A run, or an ensemble of runs whose names have commas between them.

    Raises:
        ConfigError: a run is named twice, or the runs do not fit each other.
        FMNetError: as `load_run`.
    """
    single = Path(names).exists() or "," not in names
    paths = [Path(name.strip()) for name in ([names] if single else names.split(",")) if name]
    for number, path in enumerate(paths):
        if real_path(path) in {real_path(earlier) for earlier in paths[:number]}:
            raise ConfigError(f"{path}: named twice; name each run of an ensemble once")
    members = tuple(load_run(path, which, device, overrides) for path in paths)
    return members[0] if len(members) == 1 else Ensemble(members)


def _check_alike(first: LoadedRun, other: LoadedRun) -> None:
    """Check that two runs' probabilities mean the same and are of the same voxels.

    Raises:
        ConfigError: they are not.
    """
    wrong = differences(first.manifest, other.manifest).items()
    found = [
        f"{name} is {ours}, {theirs}" for name, (ours, theirs) in wrong if name not in MAY_DIFFER
    ]
    if list(first.task.regions.items()) != list(other.task.regions.items()):
        found.append(f"regions are {first.task.regions}, {other.task.regions}")
    if found:
        raise ConfigError(
            f"{first.run_dir} and {other.run_dir} cannot predict together: {'; '.join(found)}; "
            "name runs on stores of the same task and preprocessing"
        )


def check_task(predictor: Predictor, found: Task, where: str | Path) -> None:
    """Check that a store or a manifest has the images that are needed, and the labels.

    Raises:
        ConfigError: an image is missing, or the labels are others.
    """
    predictor.check_images(found.modalities, f"{where}: task {found.name}")
    own = predictor.task
    if found.labels != own.labels:
        raise ConfigError(
            f"{where}: task {found.name} has labels {', '.join(found.labels)}; expected those of "
            f"the run, {', '.join(own.labels)}: use data of task {own.name}"
        )
