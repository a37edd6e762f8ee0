"""A run's configuration: presets, YAML files and `--set` overrides as one typed value.

Each component has its own values; `TrainConfig` gathers them and adds those of the training loop.
The defaults are the paper's final model (sec. V).
"""

import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
import yaml
from pydantic import Field, model_validator
from torch import nn

from common.errors import ConfigError
from common.manifest import Manifest
from common.settings import Settings, did_you_mean, parse, read_yaml, read_yaml_file
from common.splits import Splits, with_fold
from common.task import Task
from train.data.augment import AugmentConfig
from train.data.cache import CacheKind
from train.inference import InferenceConfig
from train.loss import LossConfig
from train.networks import FMNetConfig, Network
from train.optimizers import NAdamConfig, Optimizer, Positive
from train.precision import Precision
from train.schedule import ScheduleConfig

Count = Annotated[int, Field(ge=1)]

DEFAULT_PRESET = "fm_net"

FOREGROUND = "the foreground"
"""The input that is no image; no image can have a name with a space."""


class TrainConfig(Settings):
    """Everything that decides a run's numbers, and how the training loop behaves."""

    model: Network = FMNetConfig()
    loss: LossConfig = LossConfig()
    augment: AugmentConfig = AugmentConfig()
    optimizer: Optimizer = NAdamConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    inference: InferenceConfig = InferenceConfig()
    modalities: tuple[str, ...] | None = None
    """The images that the network sees, in this order; null is all of the store's task."""
    foreground_channel: bool = False
    """One more input of the network: 1 where any of its images is not background, else 0. NVIDIA's
    nnU-Net has the like for BraTS, 1 where all of them are above 0."""
    splits: Splits | None = None
    """How the store's cases are divided; null is the rule of the store's manifest."""
    fold: int | None = Field(default=None, ge=0)
    """The fold to validate on, counted from 0; null is as the rule says."""
    folds: int | None = Field(default=None, ge=2)
    """How many folds there are; null is the rule's number, or 5 where it has fractions."""
    window: Literal["crop", "random"] = "crop"
    """`crop`: the stored one, which holds the tumour. `random`: another in each epoch, anywhere."""
    tumour_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """With window=random: share of windows around a random voxel of a region that the case has."""
    epochs: Count = 70
    """Passes over the training cases."""
    batch_size: Count = 1
    """Samples in a batch, over which the loss is computed."""
    accumulate: Count = 1
    """Batches that make one step of the optimiser, fewer at an epoch's end: their gradients'
    mean, weighted by samples. They are all on the device at once; their activations are not."""
    loader: Literal["dali", "torch"] = "dali"
    """`torch` where DALI cannot be installed; both give the same samples."""
    workers: Annotated[int, Field(ge=0, le=1024)] = 2
    """Processes that read crops; with loader=torch, 0 is this one, between two steps."""
    cache: CacheKind = "none"
    """Where decoded crops are kept after the first reading: `ram`, one copy that all workers share,
    or with DALI `device`, which reads all before the first step. It changes no sample."""
    precision: Precision | Literal["auto"] = "fp16"
    """fp16 scales gradients; on a GPU, tf32 rounds products of float32, fp32 does not."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    channels_last: bool = True
    """Memory format of weights and activations; on a CPU it is faster from batch 2 on."""
    compile: bool = False
    """Compile the network with torch.compile, which takes minutes once."""
    clip_norm: Positive | None = None
    """Bound on the norm of all gradients together; null does not clip."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay per step of a running mean of the weights, which is then what is validated, evaluated,
    predicted with and exported; 0.999 is usual. null is the weights themselves."""
    validate_every: Count = 1
    """Epochs between validations; the last epoch is always validated."""
    select_by: Literal["dice", "loss"] = "dice"
    """What makes a checkpoint the best: `dice`, the mean over regions of the whole-volume Dice, or
    `loss`, the main head's over the same volumes, where Dice of regions not there is left out."""
    patience: Count | None = None
    """Validations in a row without a better score that end the run; null trains all epochs."""
    max_hours: Positive | None = None
    """Training and validation time, over all sessions, that ends the run; null is no limit."""
    deterministic: bool = False
    """Reruns on one machine are equal to the last bit; on a GPU, pooling and upsampling are not."""
    stuck_minutes: Positive = 10.0
    """Time without a batch after which the loader counts as stuck and the run ends."""
    checkpoint_minutes: Positive = 15.0
    """Time between checkpoints within an epoch; each epoch ends with one."""
    max_bad_steps: Count = 25
    """Steps in a row without a finite gradient that end the run; gradient scaling skips a few."""
    init: str | None = None
    """Model file, or run folder, whose weights training starts from, as far as they fit."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of weights, order and augmentation."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = self.modalities
        if names is not None and (not names or len(set(names)) < len(names)):
            raise ValueError("modalities must name at least one image, and each only once")
        if not self.workers and self.loader != "torch":
            raise ValueError("workers: DALI needs at least one; 0 is for loader=torch")
        if self.folds and self.fold is None:
            raise ValueError(f"folds: name the fold to validate on, fold=0 to {self.folds - 1}")
        return self

    def modalities_of(self, task: Task) -> tuple[str, ...]:
        """The images that the network sees of a task's cases.

        Raises:
            ConfigError: the task does not have one of them.
        """
        for name in self.modalities or ():
            if name not in task.modalities:
                raise ConfigError(
                    f"modalities: {name} is none of the task {task.name}, which has "
                    f"{', '.join(task.modalities)}{did_you_mean(name, task.modalities)}"
                )
        return self.modalities or task.modalities

    def inputs_of(self, task: Task) -> tuple[str, ...]:
        """The network's input channels by name: its images, and their foreground where it has that.

        Raises:
            ConfigError: as `modalities_of`.
        """
        return self.modalities_of(task) + (FOREGROUND,) * self.foreground_channel

    def splits_of(self, manifest: Manifest) -> Splits:
        """The rule that divides the cases of a store with this manifest.

        Raises:
            ConfigError: the rule has no such fold.
        """
        rule = self.splits or manifest.splits
        return rule if self.fold is None else with_fold(rule, self.fold, self.folds)

    @property
    def weights_used(self) -> str:
        """Which of a checkpoint's weights predict, in words."""
        return "as trained" if self.ema is None else f"their running mean (ema={self.ema})"

    @property
    def memory_format(self) -> torch.memory_format:
        """How weights and activations lie in memory."""
        if not self.channels_last:
            return torch.contiguous_format
        return torch.channels_last_3d if self.model.dims == 3 else torch.channels_last

    def blueprint(self, task: Task) -> nn.Module:
        """The network without memory for its weights: their names and shapes."""
        with torch.device("meta"):
            return self.model.build(len(self.inputs_of(task)), len(task.regions))

    def build_network(self, task: Task, device: torch.device) -> nn.Module:
        """The network for a task's regions, on a device, with weights from torch's random state."""
        inputs = len(self.inputs_of(task))
        network = self.model.build(inputs, len(task.regions)).to(device)
        network.to(memory_format=self.memory_format)  # type: ignore[call-overload]  # torch's stub has only the 4-D format
        return network

    def to_yaml(self) -> str:
        """The configuration as YAML that `load_config` reads back to an equal value."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def preset_names() -> list[str]:
    """The presets that ship with the project."""
    files = resources.files("train.presets").iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml"))


def load_config(preset: str = DEFAULT_PRESET, overrides: Sequence[str] = ()) -> TrainConfig:
    """A preset's name, or a YAML file's path, with `key=value` overrides on top.

    Raises:
        ConfigError: no such preset or file, no YAML, or a key or value that is not known.
    """
    source, values = _read(preset)
    return parse(TrainConfig, values, source, overrides)


def _read(preset: str) -> tuple[str, dict[str, Any]]:
    known = preset_names()
    if preset in known:
        source = f"preset {preset}"
        text = resources.files("train.presets").joinpath(f"{preset}.yaml").read_text("utf-8")
    elif preset.endswith((".yaml", ".yml")):
        if not os.path.lexists(preset):
            raise ConfigError(f"{preset}: no such file; name a preset ({', '.join(known)}) or YAML")
        return preset, read_yaml_file(Path(preset))
    else:
        raise ConfigError(
            f"{preset}: no such preset (there are {', '.join(known)}, or name a .yaml file)"
            f"{did_you_mean(preset, known)}"
        )
    return source, read_yaml(text, source)
