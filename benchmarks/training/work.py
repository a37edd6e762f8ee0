"""What a training step computes and moves, counted from shapes alone."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from train.norm import InstanceNorm3d

from benchmarks.training.kinds import (
    CONV_BACKWARD,
    COPIES,
    LOSS,
    OPTIMISER,
    OTHER,
    kind_of_operator,
)
from train.loss import RegionLoss
from train.networks import parameter_count
from train.precision import DTYPES, Precision

UPDATE_PASSES = {"fp16": 10, "bf16": 8, "tf32": 8, "fp32": 8}
"""Over all weights, in float32, that gradients and NAdam need at least: their norm reads gradients;
the update reads weights, gradients and two moments and writes weights and moments; and with
gradient scaling they are read and written once more."""
CAST_BYTES = 12
"""A weight is cast to half precision (4 read, 2 written), and its gradient back (2 read, 4)."""


@dataclass(frozen=True)
class Operation:
    """One operator of a step, which reads its tensors once and writes its results once.

    Attributes:
        kind: as in `benchmarks.training.kinds`.
        layer: name of the weight that it is of; empty where it has none.
        flop: of convolutions, two for a multiplication with its addition.
        moved_bytes: read and written.
    """

    kind: str
    layer: str
    flop: int
    moved_bytes: int

    def bound_ms(self, tflops: float, gb_per_second: float) -> float:
        """The least time on a machine that computes and copies so fast, both at once."""
        return max(self.flop / tflops / 1e9, self.moved_bytes / gb_per_second / 1e6)


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's stub
    """Notes every operator that moves something."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's stub
        self.operations = list[Operation]()
        self._names = names
        self._phase = ""

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """What is noted within is of this kind, whatever the operator."""
        self._phase = phase
        try:
            yield
        finally:
            self._phase = ""

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - torch's own
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        named = kwargs or {}
        out = func(*args, **named)
        if not func.is_view:
            packet = func.overloadpacket
            count = flop_registry.get(packet)
            flop = count(*args, **named, out_val=out) if count else 0
            moved = sum(_bytes(tensor) for tensor in tree_leaves((args, named, out)))
            layer = next((self._names[id(each)] for each in args if id(each) in self._names), "")
            kind = self._phase or kind_of_operator(packet.__name__)
            self.operations.append(Operation(kind, layer, flop, moved))
        return out


def count_step(
    model: nn.Module,
    loss: RegionLoss,
    shape: tuple[int, int, int, int, int],
    precision: Precision,
) -> list[Operation]:
    """Everything that a step does, as separate operators; what it copies to change a layout apart.

    Args:
        model: the network, on the device `meta`; it is left in the type of its activations, with
            each norm as one operator.
        loss: of its outputs.
        shape: (B, C, D, H, W) of the batch.
        precision: of the activations.
    """
    dtype = DTYPES[precision]
    model.train().to(dtype)
    for module in model.modules():
        if isinstance(module, InstanceNorm3d):
            module.large_voxels = math.inf  # one operator, which it could be
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    image = torch.empty(shape, dtype=dtype, device="meta")
    label = torch.empty((shape[0], *shape[2:]), dtype=torch.uint8, device="meta")
    with torch.device("meta"), _Counting(names) as counting:
        outputs = model(image)
        heads = [output.detach().requires_grad_() for output in outputs]
        with counting.during(LOSS):
            total, _ = loss.supervised(heads, label)
            total.backward()  # type: ignore[no-untyped-call]  # torch's stub
        torch.autograd.backward(outputs, [head.grad for head in heads])
    weights = parameter_count(model.parameters())
    update = Operation(OPTIMISER, "", 0, 4 * UPDATE_PASSES[precision] * weights)
    cast = Operation(COPIES, "", 0, CAST_BYTES * weights if dtype != torch.float32 else 0)
    return [*counting.operations, update, cast]


def flop_by_layers(operations: Iterable[Operation]) -> dict[str, tuple[int, int]]:
    """FLOP of forward and backward pass, by part of the network."""
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for operation in operations:
        if operation.flop:
            found[_part(operation.layer)][operation.kind == CONV_BACKWARD] += operation.flop
    return {part: (forward, backward) for part, (forward, backward) in found.items()}


def _part(layer: str) -> str:
    """`encoder 0`, `decoder 0 up`, `decoder 0 gate`, `decoder 0 block`, `bottleneck`, `heads`."""
    match layer.split("."):
        case ["encoder", level, *_]:
            return f"encoder {level}"
        case ["decoder", level, part, *_]:
            return f"decoder {level} {part}"
        case ["main_head" | "heads", *_]:
            return "heads"
        case [first, *_]:
            return first
    return OTHER


def _bytes(value: object) -> int:
    """Of a tensor, as far as it is there: an expanded one has what it was expanded from."""
    if not isinstance(value, Tensor):
        return 0
    return min(value.numel() * value.element_size(), value.untyped_storage().nbytes())
