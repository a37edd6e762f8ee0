from itertools import pairwise
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from common.errors import InferenceError
from train.inference import (
    BACKGROUND_LOGIT,
    InferenceConfig,
    sliding_window,
    tile_starts,
    tile_weights,
)
from train.networks import FMNetConfig
from train.precision import choose_compute

CPU = choose_compute("cpu", "fp32")
WINDOW = (8, 8, 8)


class Stub(nn.Module):
    """A network that is a function of its tile, and keeps the shapes of tiles."""

    def __init__(self, function, dims: Literal[2, 3] = 3) -> None:
        super().__init__()
        self.function = function
        self.dims = dims
        self.seen: list[tuple[int, ...]] = []

    def forward(self, tiles: Tensor) -> tuple[Tensor, ...]:
        assert not self.training
        self.seen.append(tuple(tiles.shape))
        return (self.function(tiles),)


def copy() -> Stub:
    return Stub(lambda tiles: tiles[:, :3])


def run(model: Stub, image: Tensor, window=WINDOW, **config: object) -> Tensor:
    how = InferenceConfig(**config)
    return sliding_window(model, image, window, how, CPU, dims=model.dims, regions=3)


SIDES = st.integers(1, 21)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(SIDES, SIDES, SIDES),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.8]),
    flips=st.sampled_from([1, 2, 4, 8]),
    tiles=st.integers(1, 5),
    dims=st.sampled_from([2, 3]),
)
def test_a_network_that_copies_gives_the_volume_back(
    shape: tuple[int, int, int], overlap: float, flips: int, tiles: int, dims: int
) -> None:
    image = torch.randn(4, *shape).half()
    model = Stub(lambda tiles: tiles[:, :3], dims)
    logits = run(model, image, overlap=overlap, flips=flips, tiles=tiles)
    assert logits.shape == (3, *shape)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, image[:3].float(), rtol=1e-5, atol=1e-6)
    side = (8, 8) if dims == 2 else (8, 8, 8)
    most = tiles * 8 if dims == 2 else tiles
    assert all(seen[2:] == side and seen[0] <= most for seen in model.seen)


@given(size=st.integers(1, 300), side=st.integers(1, 128), overlap=st.floats(0, 0.95))
def test_tiles_reach_from_end_to_end_and_overlap_as_asked(
    size: int, side: int, overlap: float
) -> None:
    size = max(size, side)
    starts = tile_starts(size, side, overlap)
    assert starts[0] == 0
    assert starts[-1] == size - side
    for one, other in pairwise(starts):
        assert 0 < other - one <= max(1, side * (1 - overlap))


@pytest.mark.parametrize("window", [(8, 8, 8), (7, 16, 33), (1, 64, 64), (128, 128, 128)])
def test_every_voxel_of_a_tile_has_weight_and_the_middle_most(
    window: tuple[int, int, int],
) -> None:
    weights = tile_weights(window, torch.device("cpu"))
    assert weights.shape == window
    assert (weights > 0).all()
    assert weights[tuple(side // 2 for side in window)] == weights.max()
    torch.testing.assert_close(weights, weights.flip((0, 1, 2)))


def test_weights_are_a_gaussian_of_an_eighth_of_the_window() -> None:
    line = tile_weights((1, 1, 64), torch.device("cpu"))[0, 0]
    # 8 voxels are one standard deviation; the centre lies between voxels 31 and 32.
    assert line[39] / line[31] == pytest.approx(torch.exp(torch.tensor(-0.5 * (56.0 / 64))).item())


def test_gaussian_weights_make_seams_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that errs towards its tile's border, as networks with zero padding do."""
    border = torch.ones(16, 16, 16)
    border[3:-3, 3:-3, 3:-3] = 0
    model = Stub(lambda tiles: tiles[:, :3] + border)

    def seam_and_error() -> tuple[float, float]:
        logits = run(model, torch.ones(4, 24, 24, 24), (16, 16, 16))[0, 4:20, 4:20, 4:20]
        seam = max(logits.diff(dim=axis).abs().max() for axis in range(3))
        return seam.item(), (logits - 1).abs().mean().item()

    seam, error = seam_and_error()
    monkeypatch.setattr("train.inference.SIGMA_OF_WINDOW", 1e3)
    uniform_seam, uniform_error = seam_and_error()
    assert seam < uniform_seam / 2
    assert error < uniform_error / 2


def test_flips_change_nothing_for_a_network_that_is_blind_to_them() -> None:
    image = torch.randn(4, 11, 9, 13)
    model = Stub(lambda tiles: tiles[:, :3].square())
    torch.testing.assert_close(run(model, image), run(model, image, flips=8))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("flips", [1, 2, 4, 8, True, False])
def test_flips_average_over_mirrored_views_left_and_right_first(dims: int, flips: int) -> None:
    """A network that adds a ramp along each axis: mirrored views add the ramp the other way."""
    ramp = torch.linspace(-1, 1, 8)

    def ramped(tiles: Tensor) -> Tensor:
        out = tiles[:, :3].clone()
        for axis in range(2, tiles.ndim):
            shape = [1] * tiles.ndim
            shape[axis] = -1
            out = out + ramp.reshape(shape)
        return out

    image = torch.rand(4, 8, 8, 8)
    model = Stub(ramped, dims)
    count = {True: 8, False: 1}[flips] if isinstance(flips, bool) else flips
    mirrored = min(dims, count.bit_length() - 1)
    expected = image[:3].clone()
    for axis in list(range(-dims, 0))[: dims - mirrored]:  # those that no view mirrors
        expected += ramp.reshape([-1 if a == axis else 1 for a in (-3, -2, -1)])
    logits = run(model, image, flips=flips)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert len(model.seen) == 2**mirrored


def island() -> Tensor:
    """Brain in one corner of a volume that is otherwise background."""
    image = torch.zeros(4, 24, 24, 24)
    image[:, :7, :7, :7] = torch.rand(4, 7, 7, 7) + 0.5
    return image


def test_empty_tiles_are_not_run_and_are_background() -> None:
    image = island()
    model = copy()
    logits = run(model, image, overlap=0, tiles=1)
    assert len(model.seen) == 1
    torch.testing.assert_close(logits[:, :8, :8, :8], image[:3, :8, :8, :8])
    torch.testing.assert_close(logits[:, 8:], torch.full((3, 16, 24, 24), BACKGROUND_LOGIT))


@pytest.mark.parametrize("dims", [2, 3])
def test_skipping_changes_nothing_where_the_network_says_background(dims: int) -> None:
    image = island()

    def careful(tiles: Tensor) -> Tensor:
        return torch.where(tiles[:, :3] > 0.8, 5.0, -4.0)

    skipping = Stub(careful, dims)
    skipped = run(skipping, image)
    # A modality that the function does not look at makes every tile worth running.
    running = Stub(careful, dims)
    everywhere = run(running, torch.cat([image[:3], torch.ones_like(image[:1])]))
    assert sum(seen[0] for seen in skipping.seen) < sum(seen[0] for seen in running.seen)
    assert torch.equal(skipped > 0, everywhere > 0)
    brain = image[0] > 0
    torch.testing.assert_close(skipped[:, brain], everywhere[:, brain])


def test_a_real_network_in_two_and_three_dimensions() -> None:
    for dims in (2, 3):
        torch.manual_seed(0)
        config = FMNetConfig(dims=dims, widths=(4, 8), heads=1, bottleneck=0)
        model = config.build(2, 3)
        image = torch.randn(2, 8, 16, 16)
        model.train()
        how = InferenceConfig()
        logits = sliding_window(model, image, (8, 16, 16), how, CPU, dims=dims, regions=3)
        assert model.training
        assert not logits.requires_grad
        with torch.no_grad():
            model.eval()
            if dims == 3:
                expected = model(image[None])[0][0]
            else:
                expected = model(image.transpose(0, 1))[0].transpose(0, 1)
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_supervision_heads_follow_the_main_one_as_in_training_but_without_dropout(
    dims: Literal[2, 3],
) -> None:
    config = FMNetConfig(widths=(2, 3, 4), heads=2, dims=dims)
    model = config.build(1, 3)
    model.encoder[0].append(nn.Dropout(0.5))
    image, how = torch.randn(1, 8, 16, 16), InferenceConfig()
    window = (8, 16, 16)
    main = sliding_window(model, image, window, how, CPU, dims=dims, regions=3)
    every = sliding_window(
        model, image, window, how, CPU, dims=dims, regions=3, outputs=config.outputs
    )
    assert every.shape == (9, 8, 16, 16)
    assert torch.allclose(every[:3], main, atol=1e-6)
    assert model.training
    assert model.encoder[0][-1].training
    for layer in (model, *model.children()):
        layer.eval()
    for head in model.heads:
        nn.init.constant_(head.weight, 0)
        nn.init.constant_(head.bias, 7)
    every = sliding_window(
        model, image, window, how, CPU, dims=dims, regions=3, outputs=config.outputs
    )
    assert torch.allclose(every[3:], torch.full((6, 8, 16, 16), 7.0))
    assert not model.training


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_that_gives_no_numbers_is_an_error(value: float) -> None:
    def broken(tiles: Tensor) -> Tensor:
        return torch.where(tiles[:, :3] > 2, value, tiles[:, :3])

    image = torch.rand(4, 8, 8, 8)
    image[0, 3, 3, 3] = 3
    with pytest.raises(InferenceError, match="in 1 voxels"):
        run(Stub(broken), image)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_too_little_memory_is_an_error_with_what_to_do(error: type[RuntimeError]) -> None:
    def large(tiles: Tensor) -> Tensor:
        raise error("DefaultCPUAllocator: can't allocate memory: you tried to allocate 2 GB")

    for tiles, advice in ((2, "inference.tiles=1"), (1, "another machine")):
        with pytest.raises(InferenceError, match=advice):
            run(Stub(large), torch.ones(4, 8, 8, 8), tiles=tiles)


def test_other_errors_of_a_network_stay_what_they_are() -> None:
    def wrong(tiles: Tensor) -> Tensor:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        run(Stub(wrong), torch.ones(4, 8, 8, 8))
