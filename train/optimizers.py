"""Optimisers by their `kind`, which decides what other values there are."""

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, Tag
from torch import nn

from common.settings import Settings, one_of

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class NAdamConfig(Settings):
    """NAdam (Dozat 2016); the defaults are the paper's (sec. V-E)."""

    moments: ClassVar[int] = 2

    kind: Literal["nadam"] = "nadam"
    """Name of the optimiser: nadam, adamw or sgd; another one has other keys."""
    lr: Positive = 0.003
    """Learning rate."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay rates of the two running moments."""
    weight_decay: Decay = 0.0
    """L2 penalty added to the gradient."""

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser before its first step."""
        return torch.optim.NAdam(
            parameters, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay
        )


class AdamWConfig(Settings):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101)."""

    moments: ClassVar[int] = 2

    kind: Literal["adamw"] = "adamw"
    """Name of the optimiser: nadam, adamw or sgd; another one has other keys."""
    lr: Positive = 0.001
    """Learning rate."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay rates of the two running moments."""
    weight_decay: Decay = 0.01
    """Share of a weight that a step takes off it, times the learning rate."""

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser before its first step."""
        return torch.optim.AdamW(
            parameters, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay
        )


class SGDConfig(Settings):
    """SGD with Nesterov momentum; the defaults are nnU-Net's (doi:10.1038/s41592-020-01008-z)."""

    moments: ClassVar[int] = 1

    kind: Literal["sgd"] = "sgd"
    """Name of the optimiser: nadam, adamw or sgd; another one has other keys."""
    lr: Positive = 0.01
    """Learning rate."""
    momentum: Annotated[float, Field(gt=0, lt=1)] = 0.99
    """Decay rate of the running sum of gradients."""
    weight_decay: Decay = 3e-5
    """L2 penalty added to the gradient."""

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser before its first step."""
        return torch.optim.SGD(
            parameters,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=True,
        )


_Optimizers = (
    Annotated[NAdamConfig, Tag("nadam")]
    | Annotated[AdamWConfig, Tag("adamw")]
    | Annotated[SGDConfig, Tag("sgd")]
)

Optimizer = Annotated[_Optimizers, one_of(_Optimizers, "nadam")]
"""The configuration of any optimiser here; one without a `kind` is NAdam's."""

NUMBERS = ("step", "mu_product")
"""What is one number of an optimiser's state of a parameter; all else has the parameter's shape."""

STATE: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.NAdam: ("step", "mu_product", "exp_avg", "exp_avg_sq"),
    torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"),
    torch.optim.SGD: ("momentum_buffer",),
}
"""What an optimiser keeps of a parameter from its first step on."""
