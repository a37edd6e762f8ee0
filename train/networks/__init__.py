"""Networks by their `kind`; to add one, write its `NetworkConfig` and list it in `_Networks`."""

from typing import Annotated, get_args

from pydantic import Discriminator, Tag

from common.settings import kind_of
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
_KINDS = ", ".join(network.__metadata__[0].tag for network in get_args(_Networks))

Network = Annotated[
    _Networks,
    Discriminator(
        kind_of("fm_net"),
        custom_error_type="kind",
        custom_error_message=f"expected kind: one of {_KINDS}",
    ),
]
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
