"""The network's family: sizes, shapes, and the way gradients take."""

from importlib.util import find_spec
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from common.errors import ConfigError
from train.networks import (
    DynUNetConfig,
    FMNetConfig,
    NetworkConfig,
    PlainConvUNetConfig,
    ResEncUNetConfig,
    SegResNetConfig,
    SwinUNETRConfig,
    parameter_count,
)
from train.networks.fm_net import FMNet
from train.networks.peers import FullSizeLogits

UNET = FMNetConfig(attention=False, heads=0, bottleneck=0)
SMALL = FMNetConfig(widths=(4, 6, 8))
NORMS = (nn.InstanceNorm2d, nn.InstanceNorm3d)


def on_meta(config: FMNetConfig) -> FMNet:
    with torch.device("meta"):
        return FMNet(config, 4, 3)


def weights_without_norms(model: nn.Module) -> int:
    norms = [
        p for module in model.modules() if isinstance(module, NORMS) for p in module.parameters()
    ]
    return parameter_count(model.parameters()) - parameter_count(norms)


@pytest.mark.parametrize(
    ("config", "weights"),
    [(UNET, 25_885_507), (FMNetConfig(), 54_302_429)],
    ids=["U-Net: 25.9 M", "FM-Net: 54.3 M"],
)
def test_the_papers_networks_have_the_specified_size(config: FMNetConfig, weights: int) -> None:
    assert weights_without_norms(on_meta(config)) == weights


def test_fm_nets_forward_pass_is_519_gmac() -> None:
    model = on_meta(FMNetConfig()).eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 4, 128, 128, 128, device="meta"))
    assert round(counter.get_total_flops() / 2e9) == 519


def test_each_bottleneck_block_adds_its_two_convolutions() -> None:
    sizes = [weights_without_norms(on_meta(FMNetConfig(bottleneck=n))) for n in range(5)]
    block = 2 * (512 * 512 * 27 + 512)
    assert [b - a for a, b in pairwise(sizes)] == [block] * 4


@given(
    dims=st.sampled_from([2, 3]),
    channels=st.integers(1, 8),
    regions=st.integers(1, 6),
    widths=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    attention=st.booleans(),
    heads=st.integers(0, 3),
    bottleneck=st.integers(0, 2),
    norm=st.sampled_from(["between", "each"]),
)
@settings(max_examples=40, deadline=None)
def test_every_variant_gives_every_region_at_full_size(
    dims: int, channels: int, regions: int, widths: list[int], heads: int, **variant: object
) -> None:
    heads = min(heads, len(widths) - 1)
    values = {"dims": dims, "widths": widths, "heads": heads} | variant
    config = FMNetConfig.model_validate(values)
    model = config.build(channels, regions)
    size = tuple(2 * config.stride + config.stride * axis for axis in range(dims))
    image = torch.randn(2, channels, *size)
    outputs = model.train()(image)
    assert [tuple(output.shape) for output in outputs] == [(2, regions, *size)] * (1 + heads)
    assert len(model.eval()(image)) == 1


def test_all_heads_and_all_widths_of_the_papers_experiments_can_be_built() -> None:
    for heads, bottleneck in product(range(5), range(5)):
        model = on_meta(FMNetConfig(heads=heads, bottleneck=bottleneck))
        assert len(model(torch.zeros(1, 4, 32, 32, 32, device="meta"))) == 1 + heads
    for widths in ((32, 64), (8, 16, 32, 64), (32, 64, 128, 256, 512, 1024, 2048)):
        on_meta(FMNetConfig(widths=widths, heads=0))


@pytest.mark.parametrize("kernel", [(2, 2, 2), (2, 2, 3), None])
def test_both_pool_kernels_halve_each_axis(kernel: tuple[int, ...] | None) -> None:
    model = FMNet(SMALL.model_copy(update={"pool_kernel": kernel}), 4, 3)
    assert model.pool(torch.zeros(1, 1, 8, 12, 16)).shape == (1, 1, 4, 6, 8)
    assert model.eval()(torch.zeros(1, 4, 8, 8, 12))[0].shape == (1, 3, 8, 8, 12)


def test_gradients_reach_the_bottleneck_with_the_gates_shut() -> None:
    model = FMNet(SMALL.model_copy(update={"heads": 0}), 4, 3).train()
    for up in model.decoder:
        nn.init.zeros_(up.gate.psi.weight)
        nn.init.constant_(up.gate.psi.bias, -1e4)  # σ is 0 in float32
    model(torch.randn(1, 4, 8, 8, 8))[0].square().mean().backward()
    for name, parameter in model.bottleneck.named_parameters():
        assert parameter.grad is not None
        if name.endswith("weight"):
            assert parameter.grad.abs().max() > 0, name
    first = model.encoder[0][0].weight.grad
    assert first is not None
    assert first.abs().max() > 0


@pytest.mark.parametrize("dims", [2, 3])
def test_kaiming_weights_keep_the_mean_square_of_activations(dims: int) -> None:
    torch.manual_seed(0)
    values = {"dims": dims, "widths": (32, 64), "heads": 0, "init_weights": "kaiming"}
    network = FMNetConfig.model_validate(values).build(32, 3)
    assert isinstance(network, FMNet)
    image = torch.randn(1, 32, *(24,) * dims)
    deeper = torch.randn(1, 64, *(12,) * dims)
    with torch.no_grad():
        first = nn.functional.leaky_relu(network.encoder[0][0](image), 0.02)
        found = [first, network.decoder[0].up(deeper)]
    inside = (..., *(slice(2, -2),) * dims)
    for feature in found:
        assert feature[inside].square().mean().item() == pytest.approx(1, rel=0.15)
    convolutions = [network.encoder[0][0], network.encoder[0][3], network.decoder[0].up[0]]
    assert all(not layer.bias.any() for layer in convolutions)


def test_more_heads_than_levels_and_unfit_inputs_are_refused() -> None:
    with pytest.raises(ValidationError, match="heads is 3, but 3 widths have room for 2"):
        FMNetConfig(widths=(4, 6, 8), heads=3)
    with pytest.raises(ValidationError, match="pool_kernel must have 2 numbers"):
        FMNetConfig(dims=2, pool_kernel=(2, 2, 2))
    with pytest.raises(ValueError, match="each axis must be divisible by 4"):
        FMNet(SMALL, 4, 3)(torch.zeros(1, 4, 8, 8, 10))


@pytest.mark.parametrize("dims", [2, 3])
def test_the_network_can_learn(dims: int) -> None:
    torch.manual_seed(0)
    model = FMNet(SMALL.model_copy(update={"dims": dims}), 4, 3).train()
    image = torch.randn(1, 4, *(8,) * dims)
    target = (image[:, :3] > 0).float()
    optimizer = torch.optim.NAdam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(40):
        loss = nn.functional.binary_cross_entropy_with_logits(model(image)[0], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


PEERS = (
    DynUNetConfig(widths=(4, 6, 8), heads=1),
    PlainConvUNetConfig(widths=(4, 6, 8)),
    ResEncUNetConfig(widths=(4, 6, 8)),
    ResEncUNetConfig(widths=(4, 6), supervised=False),
    SegResNetConfig(width=8, blocks_down=(1, 1)),
    SwinUNETRConfig(width=12),
)


def build_peer(config: NetworkConfig, inputs: int, regions: int) -> nn.Module:
    """Its network; without its package, the error that says so, and the test is skipped."""
    of_monai = {"dynunet", "segresnet", "swin_unetr"}
    package = "monai" if config.kind in of_monai else "dynamic_network_architectures"
    if find_spec(package) is None:
        with pytest.raises(ConfigError, match=r"\[peers\]"):
            config.build(inputs, regions)
        pytest.skip(f"{package} is not installed")
    return config.build(inputs, regions)


@pytest.mark.parametrize("config", PEERS, ids=lambda config: config.kind)
def test_peers_keep_the_contract(config: NetworkConfig) -> None:
    model = build_peer(config, 2, 5)
    image = torch.randn(1, 2, *(2 * config.stride, config.stride, config.stride))
    with torch.no_grad():
        training, main = model.train()(image), model.eval()(image)
    assert len(training) == config.outputs
    assert len(main) == 1
    assert {output.shape for output in (*training, *main)} == {(1, 5, *image.shape[2:])}


@pytest.mark.parametrize(
    ("config", "millions"),
    [(ResEncUNetConfig(), 102.35), (SegResNetConfig(), 4.70), (SwinUNETRConfig(), 62.19)],
    ids=lambda value: str(getattr(value, "kind", value)),
)
def test_peers_have_their_published_size(config: NetworkConfig, millions: float) -> None:
    with torch.device("meta"):
        model = build_peer(config, 4, 3)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert parameter_count(model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize(
    "values", [{"width": 12}, {"blocks_down": (1,)}, {"blocks_down": (1, 0)}, {"dropout": 1.0}]
)
def test_sizes_that_segresnet_cannot_have_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(values))):
        SegResNetConfig(**values)


def test_swin_unetr_refuses_a_width_that_its_attention_heads_cannot_share() -> None:
    with pytest.raises(ValidationError, match="width"):
        SwinUNETRConfig(width=16)


class FixedOutput(nn.Module):
    def __init__(self, output: torch.Tensor | list[torch.Tensor]) -> None:
        super().__init__()
        self.output = output

    def forward(self, _: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        return self.output


def test_every_way_of_giving_heads_is_logits_at_full_size() -> None:
    heads = [torch.ones(2, 3, side, side, side) for side in (8, 4, 2)]
    stacked = torch.ones(2, 3, 3, 8, 8, 8)
    for output, count in ((heads[0], 1), (stacked, 3), (heads, 3)):
        network = FullSizeLogits(FixedOutput(output))
        logits = network(torch.zeros(2, 4, 8, 8, 8))
        assert len(network.eval()(torch.zeros(2, 4, 8, 8, 8))) == 1
        assert [tuple(each.shape) for each in logits] == [(2, 3, 8, 8, 8)] * count
        assert all(bool((each == 1).all()) for each in logits)
