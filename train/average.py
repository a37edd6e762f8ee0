"""The running mean of a network's weights, which often predicts better than the last ones."""

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

WARMUP = 10
"""After n steps no more than (1 + n) / (10 + n) of the mean is kept (as TensorFlow's
`ExponentialMovingAverage` with `num_updates`): else fresh weights would stay in it for long."""


class Average:
    """A second network of the mean weights, kept on the device in float32."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self._decay = copy.deepcopy(model).requires_grad_(False), decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after a step, counted from 0; buffers are copied."""
        decay = min(self._decay, (1 + step) / (WARMUP + step))
        means, weights = list(self.model.parameters()), list(model.parameters())
        update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch's stub
        update(means, weights, step)
        for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)
