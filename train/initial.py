"""The weights of another model as the start of training: those that fit, by image and region."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import ConfigError
from common.files import sha256
from common.names import some
from common.record import hash_of
from common.store.reader import Contents
from common.task import Task
from train.checkpoint import Which, checkpoint_path, weights_of
from train.config import TrainConfig
from train.loaded_run import SplitCases, read_trained, seen_in, trained_on

Names = tuple[Sequence[str], Sequence[str]]
"""Images and regions, in the order of a network's inputs and outputs."""


@dataclass(frozen=True)
class Start:
    """What a run began with."""

    source: str  # the model file, or the run's folder
    sha256: str  # of that file, or of the run's checkpoint
    lines: tuple[str, ...]  # what was kept and what is new


def start_from(source: str, model: nn.Module, config: TrainConfig, task: Task) -> Start:
    """Put the weights of a model file or a run into `model`, as far as they fit.

    A weight fits one of the same name and shape. The first and the last ones have a channel for
    each image or region, which are matched by name. All else keeps its fresh values.

    Raises:
        ConfigError: no weight fits.
        FMNetError: as `train.loaded_run.read_trained`.
    """
    path = Path(source)
    best = checkpoint_path(path, "best")
    which: Which = "last" if path.is_dir() and not best.exists() else "best"
    trained = read_trained(path, which)
    names, theirs = _names(config, task), _names(trained.config, trained.manifest.task)
    ours, kinds = weights_of(model), named_axes(config, [len(each) for each in names])
    copied = {
        name: _copy(trained.weights[name], value, kinds.get(name, {}), names, theirs)
        for name, value in ours.items()
        if name in trained.weights
    }
    kept = sum(copied.values())
    new = [name for name in ours if not copied.get(name)]
    if not kept:
        raise ConfigError(
            f"init: no weight of {source} fits: it has model {trained.config.model.kind} with "
            f"other values; train with those of its configuration, or leave init out"
        )
    file = path if path.is_file() else checkpoint_path(path, which)
    digest = sha256(file)
    lines = (
        f"starts from {file} (SHA-256 {digest[:12]}…): {kept:,} of "
        f"{sum(value.numel() for value in ours.values()):,} weights are kept",
        *_differences("images", names[0], theirs[0]),
        *_differences("regions", names[1], theirs[1]),
        *([f"new, of another name or shape: {some(new, 3)}"] if new else []),
    )
    return Start(source, digest, lines)


def _names(config: TrainConfig, task: Task) -> Names:
    return config.inputs_of(task), task.region_names


def named_axes(config: TrainConfig, counts: Sequence[int]) -> dict[str, dict[int, int]]:
    """Weight to its axes that have a channel for each image (0) or region (1).

    Along these a network with one image or region more than `counts` says has longer weights.
    """
    found, before = dict[str, dict[int, int]](), _shapes(config, counts)
    for kind in range(len(counts)):
        more = [count + (index == kind) for index, count in enumerate(counts)]
        for name, shape in _shapes(config, more).items():
            for axis, (size, other) in enumerate(zip(shape, before[name], strict=True)):
                if size != other:
                    found.setdefault(name, {})[axis] = kind
    return found


def _shapes(config: TrainConfig, counts: Sequence[int]) -> dict[str, torch.Size]:
    with torch.device("meta"):
        network = config.model.build(*counts)
    return {name: value.shape for name, value in weights_of(network).items()}


def _copy(
    there: Tensor, ours: Tensor, kinds: Mapping[int, int], names: Names, theirs: Names
) -> int:
    """Copy a weight in place as far as it fits; how many numbers were copied."""
    axes = list[tuple[list[int], list[int]]]()
    for axis, (size, other) in enumerate(zip(ours.shape, there.shape, strict=False)):
        if (kind := kinds.get(axis)) is not None:
            shared = [name for name in names[kind] if name in theirs[kind]]
            to = [names[kind].index(name) for name in shared]
            axes.append((to, [theirs[kind].index(name) for name in shared]))
        elif size == other:
            axes.append((list(range(size)),) * 2)
    if len(axes) < max(ours.ndim, there.ndim) or not all(to for to, _ in axes):
        return 0
    places, sources = (
        tuple(map(torch.from_numpy, np.ix_(*each))) for each in zip(*axes, strict=True)
    )
    part = there[sources]
    ours[tuple(index.to(ours.device) for index in places)] = part.to(ours)
    return part.numel()


def _differences(what: str, ours: Sequence[str], theirs: Sequence[str]) -> list[str]:
    """A line where a model has other images or regions."""
    groups = {
        "kept": [name for name in ours if name in theirs],
        "new": [name for name in ours if name not in theirs],
        "not used": [name for name in theirs if name not in ours],
    }
    if not groups["new"] and not groups["not used"]:
        return []
    return [f"{what}: " + "; ".join(f"{k} {', '.join(v)}" for k, v in groups.items() if v)]


def seen_before(source: str, contents: Contents, splits: SplitCases) -> list[str]:
    """A warning if the model was trained on patients that a run validates or tests with.

    Raises:
        FMNetError: as `train.loaded_run.trained_on`.
    """
    origin = trained_on(Path(source))
    if origin.cases is None:
        if hash_of(splits) == origin.split:
            return []
        return [
            f"{source} does not name the cases that it was trained on: if some of val or test are "
            "of its patients, their scores are too high"
        ]
    seen = seen_in(origin.cases["train"], [*splits["val"], *splits["test"]], contents)
    if not seen:
        return []
    return [
        f"{source} was trained on patients of {len(seen)} case(s) of val and test, whose scores "
        f"are too high: {some(seen)}"
    ]
