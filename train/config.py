"""What a run is: presets, YAML files and `--set` overrides, parsed once into a typed value.

A value belongs to its component: the network's stand in `train.networks`, the loss's in
`train.loss`, and so on. `TrainConfig` gathers them and adds what the loop itself needs.
The defaults are the paper's final model (sec. V); a preset holds only what differs.
"""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from common.errors import ConfigError
from common.settings import did_you_mean, parse, read_yaml
from common.splits import Splits
from common.task import Task
from train.data.augment import AugmentConfig
from train.data.cache import CacheKind
from train.inference import InferenceConfig
from train.loss import LossConfig
from train.networks import FMNetConfig, Network
from train.precision import Precision

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Modality = Literal["flair", "t1", "t1ce", "t2"]
Beta = Annotated[float, Field(ge=0, lt=1)]

DEFAULT_PRESET = "fm_net"


class OptimizerConfig(BaseModel):
    """NAdam at a constant rate (paper sec. V-E; Dozat 2016).

    Attributes:
        lr: learning rate.
        betas: decay rates of the two running moments.
        weight_decay: L2 penalty added to the gradient.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    lr: Positive = 0.003
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)


class TrainConfig(BaseModel):
    """Everything that decides a run's numbers, and what the loop does around them.

    Attributes:
        modalities: the images that the network sees, in this order.
        splits: how the store's cases are divided; null is the rule of the store's manifest.
        fold: the fold that is validated; the rule's folds, or 5 where it is of fractions.
        window: where a sample is cut: `crop`, the stored one that holds the tumour, or `random`,
            a window of its size anywhere in the whole volume, another in each epoch.
        epochs: passes over the training cases.
        batch_size: crops in a step.
        loader: dali, or torch where DALI cannot be installed; both give the same samples.
        workers: processes that read crops.
        cache: where decoded crops are kept from their first reading on: `none`, `ram`, one copy
            that all workers share, or with DALI `device`, which reads all before the first step.
            It changes no sample; a run says what it takes, and does not begin if that does not fit.
        precision: fp16 scales gradients; tf32 is float32 whose products a GPU rounds, fp32 without
            that; auto takes what suits the device.
        device: auto, cpu, cuda or cuda:N.
        channels_last: memory format of weights and activations; on a CPU the faster one from batch
            2. On an H200 neither was clearly, before norms kept it (docs/decisions/0013).
        compile: whether the network is compiled for training by torch.compile, which takes minutes
            once; where that fails the run goes on without, and says so.
        clip_norm: bound on the norm of all gradients together; null leaves them alone.
        validate_every: epochs between validations; the last epoch is always validated, and
            its scores stay when the run goes on for more.
        select_by: what the best checkpoint is best in: `dice`, the mean over regions of the
            whole-volume Dice, or `loss`, the main head's over the same volumes.
        patience: validations in a row without a better score after which the run is over; null
            trains all epochs.
        max_hours: after which the run is over, within an epoch if need be, and with a checkpoint:
            training and validation, over all its sessions. Null sets no limit.
        deterministic: reruns on one machine equal to the last bit, where torch can: on a CPU they
            are; on a GPU, pooling and the heads' upsampling add up in an order of their own.
        stuck_minutes: without a batch, after which the loader is taken for stuck and the run ends.
        checkpoint_minutes: time between checkpoints inside an epoch (each epoch ends with one).
        max_bad_steps: consecutive steps without a usable gradient before the run gives up; more
            than the handful that gradient scaling skips while it finds its scale.
        seed: of weights, order and augmentation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Network = FMNetConfig()
    loss: LossConfig = LossConfig()
    augment: AugmentConfig = AugmentConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    inference: InferenceConfig = InferenceConfig()
    modalities: tuple[Modality, ...] = get_args(Modality)
    splits: Splits | None = None
    fold: int | None = Field(default=None, ge=0)
    window: Literal["crop", "random"] = "crop"
    epochs: Count = 70
    batch_size: Count = 1
    loader: Literal["dali", "torch"] = "dali"
    workers: Count = 2
    cache: CacheKind = "none"
    precision: Precision | Literal["auto"] = "fp16"
    device: str = "auto"
    channels_last: bool = True
    compile: bool = False
    clip_norm: Positive | None = None
    validate_every: Count = 1
    select_by: Literal["dice", "loss"] = "dice"
    patience: Count | None = None
    max_hours: Positive | None = None
    deterministic: bool = False
    stuck_minutes: Positive = 10.0
    checkpoint_minutes: Positive = 15.0
    max_bad_steps: Count = 25
    seed: int = Field(default=0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            raise ValueError("modalities must name at least one image, and each only once")
        return self

    @property
    def memory_format(self) -> torch.memory_format:
        """How weights and activations lie in memory."""
        if not self.channels_last:
            return torch.contiguous_format
        return torch.channels_last_3d if self.model.dims == 3 else torch.channels_last

    def build_network(self, task: Task, device: torch.device) -> nn.Module:
        """The network for a task's regions, on a device, with weights from torch's random state."""
        modalities = self.modalities or task.modalities
        network = self.model.build(len(modalities), len(task.regions)).to(device)
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
        ConfigError: no such preset or file, no YAML, or a key or value that is not known; the
            message names the key in full and the nearest valid one.
    """
    source, values = _read(preset)
    return parse(TrainConfig, values, source, overrides)


def _read(preset: str) -> tuple[str, dict[str, Any]]:
    known = preset_names()
    if preset in known:
        source = f"preset {preset}"
        text = resources.files("train.presets").joinpath(f"{preset}.yaml").read_text("utf-8")
    elif preset.endswith((".yaml", ".yml")):
        source, path = preset, Path(preset)
        if not path.is_file():
            raise ConfigError(f"{preset}: no such file; name a preset ({', '.join(known)}) or YAML")
        text = path.read_text("utf-8")
    else:
        raise ConfigError(
            f"{preset}: no such preset (there are {', '.join(known)}, or name a .yaml file)"
            f"{did_you_mean(preset, known)}"
        )
    return source, read_yaml(text, source)
