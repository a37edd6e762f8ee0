"""Normalisation of large features: torch's own values and gradients, in the features' layout."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from train.norm import InstanceNorm3d, LargeNorm

LAYOUTS = (torch.contiguous_format, torch.channels_last_3d)


def both_ways(x: Tensor, norm: InstanceNorm3d, grad: Tensor) -> list[tuple[Tensor, ...]]:
    """Result and gradients of torch's own way and of ours, of the same module."""
    found = []
    for large in (float("inf"), 0):
        norm.large_voxels = large
        image = x.detach().requires_grad_()
        y = norm(image)
        found.append((y.detach(), *torch.autograd.grad(y, (image, *norm.parameters()), grad)))
    return found


def module(channels: int) -> InstanceNorm3d:
    norm = InstanceNorm3d(channels, affine=True)
    nn.init.uniform_(norm.weight, -2, 2)
    nn.init.uniform_(norm.bias, -2, 2)
    return norm


@given(
    samples=st.integers(1, 3),
    channels=st.integers(1, 5),
    side=st.integers(2, 6),
    mean=st.floats(-20, 20),
    spread=st.floats(0.1, 100),
    layout=st.sampled_from(LAYOUTS),
)
@settings(max_examples=60, deadline=None)
def test_values_and_gradients_are_torchs_own(  # noqa: PLR0917 - what is drawn
    samples: int,
    channels: int,
    side: int,
    mean: float,
    spread: float,
    layout: torch.memory_format,
) -> None:
    torch.manual_seed(side)
    shape = (samples, channels, side, side + 1, side)
    x = (mean + spread * torch.randn(shape)).to(memory_format=layout)
    grad = torch.randn(shape)
    theirs, ours = both_ways(x, module(channels), grad)
    for expected, found in zip(theirs, ours, strict=True):
        # Float32 carries a mean of 20 with an error that a spread of 0.1 makes 200 times as large.
        scale = float(expected.abs().max()) * (1 + abs(mean) / spread)
        assert torch.allclose(found, expected, rtol=0, atol=1e-5 * max(scale, 1))
    assert all(tensor.is_contiguous(memory_format=layout) for tensor in ours[:2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("mean", "spread"), [(0.0, 1.0), (30.0, 1.0), (0.5, 0.007)])
@pytest.mark.parametrize("size", [1.0, 1e-5])
def test_half_types_lose_no_more_than_in_torchs_own_way(
    dtype: torch.dtype, mean: float, spread: float, size: float
) -> None:
    torch.manual_seed(0)
    x = (mean + spread * torch.randn(2, 3, 24, 24, 24)).to(dtype)
    grad = (size * torch.randn(x.shape)).to(dtype)
    norm = module(3)
    theirs, ours = both_ways(x, norm, grad)
    exact = both_ways(x.double(), norm.double(), grad.double())[0]
    for expected, torchs, found in zip(exact, theirs, ours, strict=True):
        assert found.dtype == torchs.dtype
        largest = expected.abs().max()
        lost, allowed = ((each.double() - expected).abs().max() for each in (found, torchs))
        assert lost <= 2 * allowed + torch.finfo(dtype).eps * largest / 8
    for found, expected in zip(ours[:2], exact[:2], strict=True):  # no channel is off as a whole
        off = (found.double() - expected).mean((2, 3, 4)).abs().max()
        assert off < torch.finfo(dtype).eps / 8 * expected.abs().max()


def test_neither_squares_nor_scaled_gradients_overflow() -> None:
    x = 300 * torch.randn(1, 2, 16, 16, 16)  # a variance of 90,000, where float16 ends at 65,504
    grad = torch.full(x.shape, 2.0**14)  # times x, likewise
    theirs, ours = both_ways(x, module(2), grad)
    half = both_ways(x.half(), module(2), grad.half())[1]
    assert all(torch.isfinite(tensor).all() for tensor in (*theirs, *ours, *half))


def test_the_gradient_is_that_of_the_values() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    weight, bias = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda *given: LargeNorm.apply(*given, 1e-5), (x, weight, bias))


@pytest.mark.parametrize(("side", "large"), [(80, False), (81, True)])
def test_large_features_alone_take_it(side: int, *, large: bool) -> None:
    norm = module(1)
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as watched:
        norm(torch.randn(1, 1, side, side, side))
    assert ("LargeNorm" in {event.name for event in watched.events() or ()}) == large


@pytest.mark.slow
@pytest.mark.filterwarnings(  # torch's compiler does so itself, as of torch 2.13
    "ignore:.*should not be instantiated:DeprecationWarning"
)
@pytest.mark.parametrize("half", [False, True])
def test_it_compiles_to_the_same(*, half: bool) -> None:
    torch.manual_seed(0)
    norm = module(4)
    norm.large_voxels = 0
    network = nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), norm, nn.LeakyReLU(0.02))
    compiled = torch.compile(network, dynamic=False, fullgraph=True)
    image = torch.randn(2, 2, 8, 8, 8)
    found = []
    for forward in (network, compiled):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            y = forward(image)
        found.append((y.detach(), *torch.autograd.grad(y.square().sum(), network.parameters())))
    # Relative to the largest: what the convolution's bias gets is rounding alone.
    scale = max(tensor.abs().max() for tensor in found[0])
    for plain, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast / scale, plain / scale, rtol=0, atol=2e-2 if half else 1e-5)
