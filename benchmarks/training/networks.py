"""Networks of others as the training loop takes them: logits of every head at full size."""

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.task import REGIONS
from train.networks.fm_net import FMNet, ModelConfig
from train.trainer import Session

WIDTHS = (32, 64, 128, 256, 512)
"""Of U-Net and FM-Net."""
NVIDIA_WIDTHS = (64, 96, 128, 192, 256, 384, 512)
"""With which NVIDIA's nnU-Net trains DynUNet for BraTS 2021 (its notebook; arXiv:2110.03352)."""


class Peer(nn.Module):
    """A network of another library; its heads' logits as FM-Net gives its own.

    Attributes:
        config: what prediction asks of a network: that it is one for volumes.
    """

    config = ModelConfig(dims=3)

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(B, 4, D, H, W) to each head's (B, 3, D, H, W), main head first."""
        return full_size(self.network(image), image.shape[2:])


def full_size(output: Tensor | Sequence[Tensor], size: Sequence[int]) -> tuple[Tensor, ...]:
    """Every head's logits at full size, from what either library's network gives.

    Args:
        output: (B, 3, D, H, W); heads stacked as (B, heads, 3, D, H, W), as DynUNet has them; or
            a list of heads, each at its own size, as nnU-Net's networks have them.
        size: (D, H, W).
    """
    if isinstance(output, Tensor):
        return output.unbind(1) if output.ndim == 6 else (output,)
    main, *heads = output
    return (
        main,
        *(
            F.interpolate(head, size=tuple(size), mode="trilinear", align_corners=False)
            for head in heads
        ),
    )


def dynunet(widths: Sequence[int], heads: int) -> Peer:
    """MONAI's DynUNet with the settings that NVIDIA's nnU-Net gives it.

    NVIDIA's own has a fifth input, the mask of the brain, which is left out here.

    Args:
        widths: of each level; each halves the size of the one before.
        heads: supervision heads beside the main one.
    """
    network = import_module("monai.networks.nets.dynunet").DynUNet(
        spatial_dims=3,
        in_channels=4,
        out_channels=len(REGIONS),
        kernel_size=[3] * len(widths),
        strides=[1] + [2] * (len(widths) - 1),
        upsample_kernel_size=[2] * (len(widths) - 1),
        filters=widths,
        norm_name=("INSTANCE", {"affine": True}),
        act_name=("leakyrelu", {"inplace": True, "negative_slope": 0.01}),
        deep_supervision=heads > 0,
        deep_supr_num=max(1, heads),
        trans_bias=True,
    )
    return Peer(network)


def plain_conv_unet(widths: Sequence[int], *, supervised: bool) -> Peer:
    """nnU-Net's PlainConvUNet with what nnU-Net's planner gives it for isotropic 3-D images.

    Args:
        widths: of each level; each halves the size of the one before.
        supervised: whether every level of the decoder has a head, as nnU-Net trains it.
    """
    levels = len(widths)
    network = import_module("dynamic_network_architectures.architectures.unet").PlainConvUNet(
        input_channels=4,
        n_stages=levels,
        features_per_stage=widths,
        conv_op=nn.Conv3d,
        kernel_sizes=3,
        strides=[1] + [2] * (levels - 1),
        n_conv_per_stage=2,
        num_classes=len(REGIONS),
        n_conv_per_stage_decoder=2,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=supervised,
    )
    return Peer(network)


def missing(package: str) -> str:
    """Why a peer cannot be measured; empty if its package is there."""
    if find_spec(package) is None:
        return "not installed: make setup EXTRAS=train,bench"
    return ""


MakePeer = Callable[[], Peer]


def put_in(session: Session, make: MakePeer) -> None:
    """Another network in a session's place for FM-Net, and the session's optimiser over that.

    Args:
        session: not begun to learn.
        make: builds the network.
    """
    config = session.config
    torch.manual_seed(config.seed)
    model = make().to(session.compute.device)
    model = model.to(memory_format=config.memory_format)  # type: ignore[call-overload]  # torch's stub has only the 4-D format
    # Steps and predictions ask nothing of a network that any other would not answer.
    session.model = cast(FMNet, model)
    session.forward = model
    group = session.optimizer.param_groups[0]
    settings = {key: value for key, value in group.items() if key != "params"}
    session.optimizer = type(session.optimizer)(model.parameters(), **settings)
