"""Networks of other libraries, with which FM-Net is compared; they need the extra `peers`."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import ConfigError
from train.networks.base import NetworkConfig, UNetConfig, Width

RES_ENC_BLOCKS = (1, 3, 4, 6)
"""Residual blocks of ResEnc's levels, from full resolution down; the last stands for all below."""


class DynUNetConfig(UNetConfig):
    """MONAI's DynUNet as NVIDIA's nnU-Net configures it.

    NVIDIA's own has a fifth input, the mask of the brain: `foreground_channel` of the run.
    """

    kind: Literal["dynunet"] = "dynunet"
    dims: Literal[3] = 3
    heads: int = Field(default=2, ge=0)
    """Deep supervision heads beside the main one."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        most = len(self.widths) - 2
        if most < 1 or self.heads > most:
            raise ValueError(
                f"heads is {self.heads} with {len(self.widths)} widths; DynUNet takes three widths "
                f"or more, and at most {max(most, 0)} heads with these"
            )
        return self

    @property
    def outputs(self) -> int:
        """As `NetworkConfig.outputs`."""
        return 1 + self.heads

    def build(self, in_channels: int, out_channels: int) -> nn.Module:
        """As `NetworkConfig.build`."""
        try:
            from monai.networks.nets import dynunet
        except ImportError as error:
            raise _not_installed("monai", self.kind) from error
        levels = len(self.widths)
        network = dynunet.DynUNet(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=[3] * levels,
            strides=[1] + [2] * (levels - 1),
            upsample_kernel_size=[2] * (levels - 1),
            filters=self.widths,
            norm_name=("INSTANCE", {"affine": True}),
            act_name=("leakyrelu", {"inplace": True, "negative_slope": 0.01}),
            deep_supervision=self.heads > 0,
            deep_supr_num=max(1, self.heads),
            trans_bias=True,
        )
        return FullSizeLogits(network)


class NNUNetConfig(UNetConfig):
    """A network of nnU-Net as its planner configures it for isotropic 3-D images."""

    dims: Literal[3] = 3
    supervised: bool = True
    """Whether every level of the decoder has a head, as nnU-Net trains it."""

    name: ClassVar[str]
    """Of the network's class in dynamic-network-architectures."""

    @property
    def outputs(self) -> int:
        """As `NetworkConfig.outputs`."""
        return len(self.widths) - 1 if self.supervised else 1

    @property
    @abstractmethod
    def depths(self) -> dict[str, Sequence[int]]:
        """The class's parameters that say how deep each level is."""

    def build(self, in_channels: int, out_channels: int) -> nn.Module:
        """As `NetworkConfig.build`."""
        try:
            from dynamic_network_architectures.architectures import unet
        except ImportError as error:
            raise _not_installed("dynamic-network-architectures", self.kind) from error
        levels = len(self.widths)
        network = getattr(unet, self.name)(
            input_channels=in_channels,
            n_stages=levels,
            features_per_stage=self.widths,
            conv_op=nn.Conv3d,
            kernel_sizes=3,
            strides=[1] + [2] * (levels - 1),
            num_classes=out_channels,
            conv_bias=True,
            norm_op=nn.InstanceNorm3d,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            deep_supervision=self.supervised,
            **self.depths,
        )
        network.apply(network.initialize)
        return FullSizeLogits(network)


class PlainConvUNetConfig(NNUNetConfig):
    """nnU-Net's PlainConvUNet: two convolutions at each level."""

    kind: Literal["plain_conv_unet"] = "plain_conv_unet"
    name = "PlainConvUNet"

    @property
    def depths(self) -> dict[str, Sequence[int]]:
        """As `NNUNetConfig.depths`."""
        levels = len(self.widths)
        return {"n_conv_per_stage": [2] * levels, "n_conv_per_stage_decoder": [2] * (levels - 1)}


class ResEncUNetConfig(NNUNetConfig):
    """nnU-Net's ResEnc: residual blocks in the encoder, a convolution at each level of the decoder.

    The widths are its planner's for crops of 128×128×128 voxels.
    """

    kind: Literal["res_enc_unet"] = "res_enc_unet"
    widths: tuple[Width, ...] = Field(
        default=(32, 64, 128, 256, 320, 320), min_length=2, max_length=10
    )
    """Channels of each level, from full resolution down."""
    name = "ResidualEncoderUNet"

    @property
    def depths(self) -> dict[str, Sequence[int]]:
        """As `NNUNetConfig.depths`."""
        levels = len(self.widths)
        blocks = (*RES_ENC_BLOCKS, *RES_ENC_BLOCKS[-1:] * levels)[:levels]
        return {"n_blocks_per_stage": blocks, "n_conv_per_stage_decoder": [1] * (levels - 1)}


class SegResNetConfig(NetworkConfig):
    """MONAI's SegResNet as its authors' tutorial trains it for BraTS (arXiv:1810.11654)."""

    kind: Literal["segresnet"] = "segresnet"
    dims: Literal[3] = 3
    width: Width = Field(default=16, multiple_of=8)
    """Channels at full resolution, which each level doubles; normalised in groups of 8."""
    blocks_down: tuple[PositiveInt, ...] = Field(default=(1, 2, 2, 4), min_length=2, max_length=8)
    """Residual blocks of each level of the encoder, from full resolution down; the decoder's levels
    have one each."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Of the first convolution's output."""

    @property
    def stride(self) -> int:
        """As `NetworkConfig.stride`."""
        return int(2 ** (len(self.blocks_down) - 1))

    def build(self, in_channels: int, out_channels: int) -> nn.Module:
        """As `NetworkConfig.build`."""
        try:
            from monai.networks.nets import segresnet
        except ImportError as error:
            raise _not_installed("monai", self.kind) from error
        network = segresnet.SegResNet(
            spatial_dims=3,
            init_filters=self.width,
            in_channels=in_channels,
            out_channels=out_channels,
            dropout_prob=self.dropout,
            blocks_down=self.blocks_down,
            blocks_up=(1,) * (len(self.blocks_down) - 1),
        )
        return FullSizeLogits(network)


class SwinUNETRConfig(NetworkConfig):
    """MONAI's SwinUNETR as its authors train it for BraTS 2021 (arXiv:2201.01266)."""

    kind: Literal["swin_unetr"] = "swin_unetr"
    dims: Literal[3] = 3
    width: Width = Field(default=48, multiple_of=12)
    """Channels of a patch of 2×2×2 voxels, which each level doubles; its levels have 3, 6, 12 and
    24 attention heads."""

    @property
    def stride(self) -> int:
        """As `NetworkConfig.stride`."""
        return 32

    def build(self, in_channels: int, out_channels: int) -> nn.Module:
        """As `NetworkConfig.build`."""
        try:
            from monai.networks.nets import swin_unetr
        except ImportError as error:
            raise _not_installed("monai", self.kind) from error
        device = torch.get_default_device()
        with torch.device("cpu"):  # its constructor reads numbers, which the meta device has not
            network = swin_unetr.SwinUNETR(
                in_channels=in_channels,
                out_channels=out_channels,
                feature_size=self.width,
                spatial_dims=3,
            )
        return FullSizeLogits(network).to(device)


class FullSizeLogits(nn.Module):
    """Another library's network, which gives its heads' logits as ours do."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(B, M, D, H, W) to each head's (B, R, D, H, W), the main head's alone in evaluation."""
        output: Tensor | Sequence[Tensor] = self.network(image)
        if isinstance(output, Tensor):  # DynUNet stacks heads as (B, heads, R, D, H, W)
            outputs = output.unbind(1) if output.ndim == 6 else (output,)
        else:  # nnU-Net lists them, each at its own size
            size = image.shape[2:]
            main, *heads = output if self.training else output[:1]
            outputs = (main, *(F.interpolate(head, size, mode="trilinear") for head in heads))
        return outputs if self.training else outputs[:1]


def _not_installed(package: str, kind: str) -> ConfigError:
    return ConfigError(
        f"model.kind={kind} needs the package {package}, which is not installed: "
        "pip install '.[peers]', or make setup EXTRAS=train,peers"
    )
