"""Networks by their `kind`; to add one, write its `NetworkConfig` and list it in `Network`."""

from typing import Annotated

from pydantic import Discriminator, Tag

from common.settings import kind_of
from train.networks.base import NetworkConfig, parameter_count
from train.networks.fm_net import FMNetConfig
from train.networks.peers import DynUNetConfig, PlainConvUNetConfig

Network = Annotated[
    Annotated[FMNetConfig, Tag("fm_net")]
    | Annotated[DynUNetConfig, Tag("dynunet")]
    | Annotated[PlainConvUNetConfig, Tag("plain_conv_unet")],
    Discriminator(
        kind_of("fm_net"),
        custom_error_type="kind",
        custom_error_message="expected kind: fm_net, dynunet or plain_conv_unet",
    ),
]
"""The configuration of any network here; one without a `kind` is FM-Net's."""

__all__ = [
    "DynUNetConfig",
    "FMNetConfig",
    "Network",
    "NetworkConfig",
    "PlainConvUNetConfig",
    "parameter_count",
]
