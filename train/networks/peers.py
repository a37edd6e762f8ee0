"""Networks of other libraries, with which FM-Net is compared; they need the extra `peers`."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import ConfigError
from train.networks.base import UNetConfig


class DynUNetConfig(UNetConfig):
    """MONAI's DynUNet as NVIDIA's nnU-Net configures it.

    NVIDIA's own has a fifth input, the mask of the brain, which is left out here.
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


class PlainConvUNetConfig(UNetConfig):
    """nnU-Net's PlainConvUNet as its planner configures it for isotropic 3-D images."""

    kind: Literal["plain_conv_unet"] = "plain_conv_unet"
    dims: Literal[3] = 3
    supervised: bool = True
    """Whether every level of the decoder has a head, as nnU-Net trains it."""

    def build(self, in_channels: int, out_channels: int) -> nn.Module:
        """As `NetworkConfig.build`."""
        try:
            from dynamic_network_architectures.architectures.unet import PlainConvUNet
        except ImportError as error:
            raise _not_installed("dynamic-network-architectures", self.kind) from error
        levels = len(self.widths)
        network = PlainConvUNet(
            input_channels=in_channels,
            n_stages=levels,
            features_per_stage=self.widths,
            conv_op=nn.Conv3d,
            kernel_sizes=3,
            strides=[1] + [2] * (levels - 1),
            n_conv_per_stage=2,
            num_classes=out_channels,
            n_conv_per_stage_decoder=2,
            conv_bias=True,
            norm_op=nn.InstanceNorm3d,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            deep_supervision=self.supervised,
        )
        return FullSizeLogits(network)


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
