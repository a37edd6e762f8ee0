"""FM-Net and its relatives as one definition (paper sec. V-D, Fig. 6): a variant is a value.

The U-Net is FM-Net without gates, heads and bottleneck; the Attention U-Net has the gates alone.
"""

import math
from itertools import pairwise
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from train.networks.base import UNetConfig

SLOPE = 0.02
"""Of every LeakyReLU (sec. V-D)."""

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
UP_CONV = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORM = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
INTERPOLATION = {2: "bilinear", 3: "trilinear"}


class FMNetConfig(UNetConfig):
    """FM-Net's family; the defaults are the paper's final network."""

    kind: Literal["fm_net"] = "fm_net"
    attention: bool = True
    """Additive attention gates on the skips (Oktay et al. 2018, arXiv:1804.03999)."""
    heads: int = Field(default=2, ge=0)
    """Deep supervision heads beside the main one; head k sits at resolution 1/2^k."""
    bottleneck: int = Field(default=2, ge=0, le=32)
    """Further blocks at the deepest size."""
    pool_kernel: tuple[Literal[2, 3], ...] | None = None
    """Of the pooling that halves each axis; null is 2 along each (the paper prints 2×2×3)."""
    norm: Literal["between", "each"] = "between"
    """Instance normalisation between a block's convolutions, or after each (the authors' code)."""
    init_weights: Literal["torch", "kaiming"] = "torch"
    """Fresh weights: torch's, or of the convolutions before a LeakyReLU those that keep the mean
    square of activations (He et al. 2015, arXiv:1502.01852), with biases of 0."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        deepest = len(self.widths) - 1
        if self.heads > deepest:
            raise ValueError(
                f"heads is {self.heads}, but {len(self.widths)} widths have room for {deepest}: "
                "head k sits at resolution 1/2^k"
            )
        if self.pool_kernel is not None and len(self.pool_kernel) != self.dims:
            raise ValueError(f"pool_kernel must have {self.dims} numbers, as dims has")
        return self

    @property
    def outputs(self) -> int:
        """As `NetworkConfig.outputs`."""
        return 1 + self.heads

    def build(self, in_channels: int, out_channels: int) -> nn.Module:
        """As `NetworkConfig.build`."""
        return FMNet(self, in_channels, out_channels)


def keep_mean_square(layers: nn.Sequential) -> None:
    """Draw weights with which convolution and LeakyReLU keep the mean square of activations.

    A transposed convolution of stride 2 sums half of its kernel along each axis, on average, which
    `nn.init.kaiming_normal_` does not know.
    """
    for layer in layers:
        if isinstance(layer, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            strides = math.prod(layer.stride) if layer.transposed else 1
            terms = layer.in_channels * math.prod(layer.kernel_size) / strides
            std = nn.init.calculate_gain("leaky_relu", SLOPE) / math.sqrt(terms)
            nn.init.normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class Block(nn.Sequential):
    """Two 3×3×3 convolutions that keep the size, normalised and rectified."""

    def __init__(self, config: FMNetConfig, channels: int, width: int) -> None:
        conv, norm = CONV[config.dims], NORM[config.dims]
        layers: list[nn.Module] = [
            conv(channels, width, 3, padding=1),
            norm(width, affine=True),
            nn.LeakyReLU(SLOPE),
            conv(width, width, 3, padding=1),
        ]
        if config.norm == "each":
            layers.append(norm(width, affine=True))
        super().__init__(*layers, nn.LeakyReLU(SLOPE))
        if config.init_weights == "kaiming":
            keep_mean_square(self)


class AttentionGate(nn.Module):
    """Weighs a skip by how well it agrees with a deeper feature: σ(ψ·relu(Wg·g + Wx·x))·x."""

    def __init__(self, dims: int, width: int) -> None:
        super().__init__()
        conv, inner = CONV[dims], max(1, width // 2)
        self.of_signal = conv(width, inner, 1)
        self.of_skip = conv(width, inner, 1)
        self.psi = conv(inner, 1, 1)

    def forward(self, signal: Tensor, skip: Tensor) -> Tensor:
        """(B, C, …) signal and skip of one size to the gated skip."""
        agreement = F.relu(self.of_signal(signal) + self.of_skip(skip))
        gated: Tensor = torch.sigmoid(self.psi(agreement)) * skip
        return gated


class Up(nn.Module):
    """One level up: upsample, gate the skip, concatenate both, block.

    The gated skip joins the upsampled feature; it does not replace it, so deeper features and
    their gradients pass even where a gate is closed.
    """

    def __init__(self, config: FMNetConfig, deep: int, width: int) -> None:
        super().__init__()
        up = UP_CONV[config.dims](deep, width, 3, stride=2, padding=1, output_padding=1)
        self.up = nn.Sequential(up, nn.LeakyReLU(SLOPE))
        if config.init_weights == "kaiming":
            keep_mean_square(self.up)
        self.gate = AttentionGate(config.dims, width) if config.attention else None
        self.block = Block(config, 2 * width, width)

    def forward(self, deeper: Tensor, skip: Tensor) -> Tensor:
        """(B, deep, n) and a skip (B, width, 2n) to (B, width, 2n)."""
        signal = self.up(deeper)
        gated = skip if self.gate is None else self.gate(signal, skip)
        raised: Tensor = self.block(torch.cat([gated, signal], dim=1))
        return raised


class FMNet(nn.Module):
    """The network; its forward pass is the contract of `NetworkConfig.build`."""

    def __init__(self, config: FMNetConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        conv = CONV[config.dims]
        kernel = config.pool_kernel or (2,) * config.dims
        self.pool = POOL[config.dims](kernel, stride=2, padding=tuple((k - 1) // 2 for k in kernel))
        inputs = (in_channels, *widths[:-1])
        self.encoder = nn.ModuleList(
            Block(config, i, w) for i, w in zip(inputs, widths, strict=True)
        )
        self.bottleneck = nn.Sequential(
            *(Block(config, widths[-1], widths[-1]) for _ in range(config.bottleneck))
        )
        self.decoder = nn.ModuleList(Up(config, deep, w) for w, deep in pairwise(widths))
        self.main_head = conv(widths[0], out_channels, 1)
        self.heads = nn.ModuleList(
            conv(widths[k], out_channels, 3, padding=1) for k in range(1, config.heads + 1)
        )

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Logits at the input's size: the main head's, and in training the others', fine to coarse.

        Raises:
            ValueError: an axis is not divisible by `config.stride`.
        """
        size = image.shape[2:]
        if any(side % self.config.stride for side in size):
            raise ValueError(
                f"an input of {tuple(size)} voxels does not fit {len(self.config.widths)} levels: "
                f"each axis must be divisible by {self.config.stride}"
            )
        features = self._features(image)
        outputs: tuple[Tensor, ...] = (self.main_head(features[0]),)
        if self.training:
            mode = INTERPOLATION[self.config.dims]
            outputs += tuple(
                F.interpolate(head(feature), size=size, mode=mode, align_corners=False)
                for head, feature in zip(self.heads, features[1:], strict=False)
            )
        return outputs

    def _features(self, image: Tensor) -> list[Tensor]:
        """The decoder's output at every level, from full resolution to the bottleneck's."""
        skips: list[Tensor] = []
        feature = image
        for level, block in enumerate(self.encoder):
            feature = block(self.pool(feature) if level else feature)
            skips.append(feature)
        features = [self.bottleneck(skips.pop())]
        for skip, up in zip(reversed(skips), reversed(self.decoder), strict=True):
            features.append(up(features[-1], skip))
        return features[::-1]
