"""What a step computes and moves, against what its layers' sizes say."""

from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from train.norm import InstanceNorm3d

from benchmarks.training.kinds import (
    ACTIVATION,
    CONCATENATION,
    CONV,
    CONV_BACKWARD,
    COPIES,
    LOSS,
    NODE,
    NORM,
    OPTIMISER,
    OTHER,
    kind_of_event,
)
from benchmarks.training.peers import forward_flop
from benchmarks.training.profiled import told_apart, watch
from benchmarks.training.suite import Bench
from benchmarks.training.trial import Trial, resident
from benchmarks.training.work import Operation, count_step, flop_by_layers
from common.store import Store
from train.config import load_config
from train.loss import LossConfig, RegionLoss
from train.networks import parameter_count

LOSS_OF = RegionLoss(LossConfig())


def shapes_of(preset: str, *overrides: str) -> nn.Module:
    with torch.device("meta"):
        return load_config(preset, overrides).model.build(4, 3)


def moved(operations: list[Operation], kind: str) -> int:
    return sum(each.moved_bytes for each in operations if each.kind == kind)


class Alone(nn.Module):
    """One convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(4, 3, 3, padding=1)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return (self.conv(image),)


def test_fm_nets_work_is_that_of_its_layers() -> None:
    model = shapes_of("fm_net")
    assert parameter_count(model.parameters()) == pytest.approx(54.3e6, rel=1e-3)
    assert parameter_count(shapes_of("unet").parameters()) == pytest.approx(25.9e6, rel=1e-3)
    layers = flop_by_layers(count_step(model, LOSS_OF, (1, 4, 128, 128, 128), "fp16"))
    gmac = {
        part: sum(forward for name, (forward, _) in layers.items() if part in name) / 2e9
        for part in ("encoder", "bottleneck", "block", "up", "gate")
    }
    expected = {"encoder": 147, "bottleneck": 14, "block": 326, "up": 27, "gate": 4}
    assert gmac == pytest.approx(expected, abs=0.6)
    forward, backward = (sum(work) / 2e9 for work in zip(*layers.values(), strict=True))
    assert forward == pytest.approx(519, rel=5e-3)
    # A backward pass convolves twice, but for the images, which need no gradient.
    assert backward == pytest.approx(2 * forward - 27 * 4 * 32 * 128**3 / 1e9, rel=1e-6)


def test_a_convolutions_work() -> None:
    with torch.device("meta"):
        alone = Alone()
    operations = count_step(alone, LOSS_OF, (2, 4, 8, 8, 8), "fp32")
    voxels, weights, bias = 2 * 8**3, 4 * 3 * 27, 3
    image, output = 4 * voxels, 3 * voxels
    (forward,) = (each for each in operations if each.kind == CONV)
    (backward,) = (each for each in operations if each.kind == CONV_BACKWARD)
    assert (forward.layer, forward.flop) == ("conv.weight", 2 * 27 * 4 * 3 * voxels)
    assert forward.moved_bytes == 4 * (image + weights + bias + output)
    assert backward.flop == forward.flop
    assert backward.moved_bytes == 4 * (output + image + weights + weights + bias)
    assert moved(operations, OPTIMISER) == 4 * 8 * (weights + bias)
    assert moved(operations, COPIES) == 0
    assert moved(operations, LOSS) > 4 * 3 * output


def test_activations_are_read_and_written_in_their_own_type() -> None:
    model = shapes_of("unet", "model.widths=[2,4,8]")
    sizes: dict[type[nn.Module], int] = {nn.LeakyReLU: 0, InstanceNorm3d: 0}

    def note(module: nn.Module, inputs: object, output: Tensor) -> None:
        sizes[type(module)] += output.numel()

    for module in model.modules():
        if type(module) in sizes:
            module.register_forward_hook(note)
    operations = count_step(model, LOSS_OF, (2, 4, 16, 16, 16), "bf16")
    # Forward reads and writes; backward reads the gradient and the input, and writes.
    assert moved(operations, ACTIVATION) == 2 * 5 * sizes[nn.LeakyReLU]
    assert moved(operations, NORM) == pytest.approx(2 * 5 * sizes[InstanceNorm3d], rel=0.05)
    joined = sum(2 * width * 2 * (16 >> level) ** 3 for level, width in enumerate((2, 4)))
    assert moved(operations, CONCATENATION) == 2 * 2 * joined
    weights = parameter_count(model.parameters())
    assert moved(operations, COPIES) == 12 * weights


def test_an_operations_bound_is_what_takes_longer() -> None:
    operation = Operation(CONV, "", flop=6 * 10**12, moved_bytes=10**9)
    assert operation.bound_ms(tflops=100, gb_per_second=1000) == pytest.approx(60)
    assert operation.bound_ms(tflops=100, gb_per_second=10) == pytest.approx(100)


def test_a_networks_forward_pass_alone() -> None:
    flop = forward_flop(shapes_of("unet", "model.widths=[2,4]"), (16, 16, 16))
    convs = [(4, 2, 16), (2, 2, 16), (2, 4, 8), (4, 4, 8), (4, 2, 16), (2, 2, 16)]
    voxelwise = sum(27 * i * o * side**3 for i, o, side in convs)
    voxelwise += 27 * 4 * 2 * 8**3 + 2 * 3 * 16**3
    assert flop == 2 * voxelwise


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("aten::mkldnn_convolution", "aten::_convolution", "aten::conv3d"), CONV),
        (("aten::add_", "aten::_convolution", "aten::convolution", "aten::conv3d"), CONV),
        (("aten::copy_", "aten::_to_copy", "aten::to", "aten::conv3d"), COPIES),
        (("aten::add_", f"{NODE}ConvolutionBackward0"), OTHER),
        (("aten::copy_", "aten::clone", "aten::contiguous", "aten::instance_norm"), COPIES),
        (("aten::cudnn_batch_norm", "aten::batch_norm", "aten::instance_norm"), NORM),
        (("aten::mul_", "LargeNormBackward", f"{NODE}LargeNormBackward"), NORM),
        (("aten::linalg_vector_norm", "LargeNorm"), NORM),
        (("aten::_foreach_addcdiv_", "Optimizer.step#NAdam.step"), OPTIMISER),
        (("aten::_foreach_norm",), OPTIMISER),
        (("aten::isfinite",), OTHER),
    ],
)
def test_an_events_kind_is_that_of_the_nearest_that_has_one(
    names: tuple[str, ...], kind: str
) -> None:
    assert kind_of_event(names, of_loss=False) == kind
    assert kind_of_event(names, of_loss=True) == LOSS


def test_a_profile_tells_the_losss_backward_from_the_gates(store: Store) -> None:
    bench = Bench("unet", (), torch.device("cpu"), store, True, 0.0, lambda what: None)
    with bench.begun("fm_net", "model.widths=[2,4,8]") as session:
        trial = Trial(session, resident(session.stream(), 2, bench.device))
        trial.warm_up()
        loss = session.loss
        found = list(told_apart(watch(trial)))
        assert session.loss is loss
    steps, heads, gates = 3, 3, 2
    kinds = Counter((kind, event.name) for kind, event in found)
    for kind, count in ((LOSS, heads), (ACTIVATION, gates)):
        assert kinds[kind, f"{NODE}SigmoidBackward0"] == steps * count
    assert kinds[LOSS, f"{NODE}BinaryCrossEntropyWithLogitsBackward0"] == steps * heads
    convolutions = sum(
        isinstance(m, nn.Conv3d | nn.ConvTranspose3d) for m in session.model.modules()
    )
    assert kinds[CONV_BACKWARD, f"{NODE}ConvolutionBackward0"] == steps * convolutions
    assert kinds[OPTIMISER, "Optimizer.step#NAdam.step"] == steps
    assert not any("Backward" in name for kind, name in kinds if kind == CONV)
