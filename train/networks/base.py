"""What every network of the registry is: a typed configuration that builds a module."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from common.settings import Settings

Width = Annotated[int, Field(ge=1, le=4096)]


class NetworkConfig(Settings, ABC):
    """The values of a network; a subclass adds its own, and its name as the default of `kind`."""

    kind: str
    """Name of the network; another one has other keys."""
    dims: Literal[2, 3] = 3
    """3 for volumes, 2 for axial slices."""

    @property
    @abstractmethod
    def stride(self) -> int:
        """What every axis of an input must be divisible by."""

    @property
    def outputs(self) -> int:
        """How many heads' logits the network gives in training, the main head's first."""
        return 1

    @abstractmethod
    def build(self, in_channels: int, out_channels: int) -> nn.Module:
        """The network with fresh weights.

        Its forward pass takes images (B, in_channels, *size) to a tuple of logits (B, out_channels,
        *size): the main head's first, and in training mode the supervision heads' after it.

        Raises:
            ConfigError: a package that it needs is not installed.
        """


class UNetConfig(NetworkConfig):
    """A network whose every level has half the size of the one above."""

    widths: tuple[Width, ...] = Field(default=(32, 64, 128, 256, 512), min_length=2, max_length=10)
    """Channels of each level, from full resolution down."""

    @property
    def stride(self) -> int:
        """As `NetworkConfig.stride`."""
        return int(2 ** (len(self.widths) - 1))


def parameter_count(parameters: Iterable[nn.Parameter]) -> int:
    """How many numbers a network learns."""
    return sum(parameter.numel() for parameter in parameters)
