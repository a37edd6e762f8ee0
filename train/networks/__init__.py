"""Networks by their `kind`; to add one, write its `NetworkConfig` and list it in `_Networks`."""

from typing import Annotated

from pydantic import Tag

from common.settings import one_of
from train.networks.base import NetworkConfig, parameter_count
from train.networks.fm_net import FMNetConfig
from train.networks.peers import (
    DynUNetConfig,
    PlainConvUNetConfig,
    ResEncUNetConfig,
    SegResNetConfig,
    SwinUNETRConfig,
)

_Networks = (
    Annotated[FMNetConfig, Tag("fm_net")]
    | Annotated[DynUNetConfig, Tag("dynunet")]
    | Annotated[PlainConvUNetConfig, Tag("plain_conv_unet")]
    | Annotated[ResEncUNetConfig, Tag("res_enc_unet")]
    | Annotated[SegResNetConfig, Tag("segresnet")]
    | Annotated[SwinUNETRConfig, Tag("swin_unetr")]
)

Network = Annotated[_Networks, one_of(_Networks, "fm_net")]
"""The configuration of any network here; one without a `kind` is FM-Net's."""

__all__ = [
    "DynUNetConfig",
    "FMNetConfig",
    "Network",
    "NetworkConfig",
    "PlainConvUNetConfig",
    "ResEncUNetConfig",
    "SegResNetConfig",
    "SwinUNETRConfig",
    "parameter_count",
]
