"""Networks of others as the training loop takes them: logits of every head at full size."""

from importlib.util import find_spec

import torch

from train.networks import NetworkConfig
from train.trainer import Session

WIDTHS = (32, 64, 128, 256, 512)
"""Of U-Net and FM-Net."""
NVIDIA_WIDTHS = (64, 96, 128, 192, 256, 384, 512)
"""With which NVIDIA's nnU-Net trains DynUNet for BraTS 2021 (its notebook; arXiv:2110.03352)."""


def missing(package: str) -> str:
    """Why a peer cannot be measured; empty if its package is there."""
    if find_spec(package) is None:
        return "not installed: make setup EXTRAS=train,peers"
    return ""


def put_in(session: Session, network: NetworkConfig) -> None:
    """Another network in a session's place for FM-Net, and the session's optimiser over that.

    Args:
        session: not begun to learn.
        network: the other's configuration.
    """
    config = session.config
    torch.manual_seed(config.seed)
    model = network.build(4, 3).to(session.compute.device)
    model = model.to(memory_format=config.memory_format)  # type: ignore[call-overload]  # torch's stub has only the 4-D format
    session.model = model
    session.forward = model
    group = session.optimizer.param_groups[0]
    settings = {key: value for key, value in group.items() if key != "params"}
    session.optimizer = type(session.optimizer)(model.parameters(), **settings)
