"""Instance normalisation by sums where features are large.

torch's own takes many times as long as the memory for few channels of many voxels, as a network has
at full resolution, and answers channels last with channels first, which the next convolution turns
back. Sums over voxels, and a factor and a summand for each channel, do neither; where features are
small, they are too many calls (docs/decisions/0013).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LARGE_VOXELS = 2**19
"""Of a feature, from which it pays: 128³ are well above, 64³ below."""
OVER = (2, 3, 4)
"""A feature's voxels, in (B, C, D, H, W)."""


class InstanceNorm3d(nn.InstanceNorm3d):
    """torch's, affine and without running statistics, with `LargeNorm` for large features.

    Attributes:
        large_voxels: where those begin.
    """

    large_voxels: float = LARGE_VOXELS

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """(B, C, D, H, W) to the same, each channel of a sample by its own mean and variance."""
        if input.shape[2:].numel() < self.large_voxels:
            return super().forward(input)
        normalised: Tensor = LargeNorm.apply(input, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]  # torch's stub
        return normalised


class LargeNorm(torch.autograd.Function):
    """y = (x - mean) / √(variance + eps) · weight + bias; in float32 at least, rounded once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:  # noqa: ANN401 - torch's own
        """(B, C, D, H, W) to the same, in x's type and layout."""
        variance, mean = torch.var_mean(x.to(_wide(x.dtype)), OVER, correction=0, keepdim=True)
        spread = (variance + eps).rsqrt()
        scale = spread * _each(weight)
        shift = _each(bias) - mean * scale
        ctx.save_for_backward(x, mean, spread, weight)
        return torch.addcmul(shift, x, scale, out=torch.empty_like(x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # noqa: ANN401
        """Gradients of x, weight and bias."""
        x, mean, spread, weight = ctx.saved_tensors
        count, wide = x.shape[2:].numel(), _wide(x.dtype)
        total = grad.sum(OVER, keepdim=True, dtype=wide)
        # In float16, scaled gradients times features would overflow. As x̂ is (x - mean) · spread,
        # its product with the gradient needs no tensor of its own.
        along = (x.to(wide, copy=True).mul_(grad).sum(OVER, keepdim=True) - mean * total) * spread
        scale = spread * _each(weight)
        # dx = scale · (g - mean of g - x̂ · mean of g·x̂), with x̂ written out
        slope = -scale * spread * along / count
        offset = -scale * total / count - slope * mean
        dx = torch.addcmul(offset, x, slope).addcmul_(grad, scale).to(x.dtype)
        return dx, _of_weights(along, weight), _of_weights(total, weight), None


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _each(channels: Tensor) -> Tensor:
    """(C,) as (C, 1, 1, 1)."""
    return channels[:, None, None, None]


def _of_weights(sums: Tensor, weight: Tensor) -> Tensor:
    """(B, C, 1, 1, 1) to (C,)."""
    return sums.sum(0).flatten().to(weight.dtype)
