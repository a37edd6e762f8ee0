"""Section `limits`: a step's lower bound, and where its time goes."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

import torch
from rich.console import Group, RenderableType
from rich.table import Table
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.racing import Trial, resident, wait
from benchmarks.rows import grouped
from benchmarks.sections import Bench, Result, free
from train.loss import RegionLoss
from train.networks import parameter_count
from train.precision import DTYPES, Precision, configure_float32

NETWORKS = ("unet", "fm_net")
BATCH = 2
SECONDS = 3.0
"""Of a network's steps, at most."""
PROFILED_STEPS = 3

OPTIMISER, COPIES, OTHER, GAPS = "optimiser", "copies", "other", "gaps"
OPERATORS = {
    "convolutions": {"convolution", "conv3d", "conv_transpose3d"},
    "convolutions, backward": {"convolution_backward"},
    "norms": {
        *("instance_norm", "native_batch_norm", "native_batch_norm_backward", "repeat"),
        *("cudnn_batch_norm", "cudnn_batch_norm_backward"),
    },
    "activations, gates, loss": {
        *("leaky_relu", "leaky_relu_", "leaky_relu_backward", "relu", "threshold_backward"),
        *("sigmoid", "sigmoid_backward", "mul", "binary_cross_entropy_with_logits"),
    },
    "pooling, upsampling": {
        *("max_pool3d_with_indices", "max_pool3d_with_indices_backward"),
        *("upsample_trilinear3d", "upsample_trilinear3d_backward"),
    },
    "concatenation": {"cat"},
    COPIES: {"_to_copy", "copy_", "clone", "contiguous", "to"},
}
KINDS = {name: kind for kind, names in OPERATORS.items() for name in names}
"""By the name of torch's operator."""
UPDATES = ("Optimizer.", "aten::_foreach_", "aten::_amp_", "aten::_fused_", "aten::linalg_vector")
"""Prefixes of events that update weights or scale gradients."""

UPDATE_PASSES = {"fp16": 10, "bf16": 8, "tf32": 8, "fp32": 8}
"""Over all weights, in float32, at least: the gradients' norm reads them (1); NAdam reads weights,
gradients and two moments and writes weights and moments (7); gradient scaling reads and writes
gradients (2)."""
CAST_BYTES = 12
"""A weight is cast to half precision (4 read, 2 written), and its gradient back (2 read, 4)."""

MATRIX_SIDE = {"cuda": 8192, "cpu": 2048}
COPIED_BYTES = {"cuda": 1 << 30, "cpu": 1 << 27}
DRY_SIDE, DRY_BYTES = 256, 1 << 20
TRIES = 10


@dataclass(frozen=True)
class Peaks:
    """How fast this machine multiplies matrices and copies (read and written bytes)."""

    tflops: dict[Precision, float]
    gb_per_second: float

    def bound_ms(self, flop: int, moved_bytes: int, precision: Precision) -> float:
        """The least time of an operator, which computes and moves at the same time."""
        computing = flop / self.tflops[precision] / 1e9
        return max(computing, moved_bytes / self.gb_per_second / 1e6)


@dataclass(frozen=True)
class Work:
    """One operator, or all of a kind, in a step."""

    flop: int = 0
    """Of convolutions, two for a multiplication with its addition."""
    moved_bytes: int = 0
    """Tensors read and written, once each."""
    bound_ms: float = 0.0
    measured_ms: float | None = None
    """None where the profiler saw nothing of the device."""

    @property
    def beyond_ms(self) -> float:
        return 0.0 if self.measured_ms is None else self.measured_ms - self.bound_ms


def measure(bench: Bench) -> Result:
    """Count, time and profile the networks' steps."""
    bench.tell("how fast this machine multiplies and copies")
    peaks = measure_peaks(bench.device, dry=bench.dry)
    rates = ", ".join(f"{name} {rate:.3g}" for name, rate in peaks.tflops.items())
    parts: list[RenderableType] = [
        f"at best here: TFLOP/s {rates}; copies {peaks.gb_per_second:.3g} GB/s"
    ]
    raw = list[dict[str, Any]]()
    for place, network in enumerate(NETWORKS):
        bench.tell(f"the limits of {network}")
        seconds = min(SECONDS, bench.each(2 * (len(NETWORKS) - place)))
        table, found = _limits(bench, network, peaks, seconds)
        parts.append(table)
        raw.append(found)
        free(bench.device)
    about = {"batch": BATCH, "crop": bench.store.crop, "peaks": asdict(peaks)}
    return Result(Group(*parts), about | {"networks": raw})


def _limits(
    bench: Bench, network: str, peaks: Peaks, seconds: float
) -> tuple[RenderableType, dict[str, Any]]:
    with bench.begun(network, f"batch_size={BATCH}") as session:
        trial = Trial(session, resident(session.stream(), bench.device))
        precision = session.compute.precision
        shapes = session.config.build_network(bench.store.task, torch.device("meta"))
        operators = count_step(shapes, session.loss, trial.batch.image.shape, precision)
        trial.warm_up()
        step_ms = 1e3 * median(trial.turn(seconds))
        measured = profile_steps(trial)
    kinds = by_kind(operators, peaks, precision)
    if measured:
        measured[GAPS] = max(0.0, step_ms - sum(measured.values()))
        kinds = {
            kind: replace(kinds.get(kind, Work()), measured_ms=measured.get(kind, 0.0))
            for kind in dict.fromkeys((*kinds, *measured))
        }
    bound_ms = sum(work.bound_ms for work in kinds.values())
    found = {"network": network, "precision": precision, "step_ms": step_ms, "bound_ms": bound_ms}
    raw = {kind: asdict(work) for kind, work in kinds.items()}
    return _table(found, kinds), found | {"kinds": raw}


def by_kind(
    operators: Iterable[tuple[str, Work]], peaks: Peaks, precision: Precision
) -> dict[str, Work]:
    """The sum over a kind's operators, which run one after the other."""
    kinds = defaultdict[str, Work](Work)
    for kind, one in operators:
        so_far = kinds[kind]
        bound_ms = peaks.bound_ms(one.flop, one.moved_bytes, precision)
        kinds[kind] = Work(
            so_far.flop + one.flop,
            so_far.moved_bytes + one.moved_bytes,
            so_far.bound_ms + bound_ms,
        )
    return dict(kinds)


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's stub
    """Collects every operator that moves something."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's stub
        self.operators = list[tuple[str, Work]]()

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
            count = flop_registry.get(func.overloadpacket)
            flop = count(*args, **named, out_val=out) if count else 0
            moved = sum(_bytes(tensor) for tensor in tree_leaves((args, named, out)))
            kind = KINDS.get(func.overloadpacket.__name__, OTHER)
            self.operators.append((kind, Work(flop, moved)))
        return out


def count_step(
    model: nn.Module, loss: RegionLoss, shape: Sequence[int], precision: Precision
) -> list[tuple[str, Work]]:
    """(kind, work) of each operator of a step, as if it read and wrote its tensors once.

    Of copies only casts count; a change of layout is no work. The model is on the device `meta` and
    is cast to the activations' type. `shape`: (B, C, D, H, W).
    """
    dtype = DTYPES[precision]
    model.train().to(dtype)
    image = torch.empty(tuple(shape), dtype=dtype, device="meta")
    label = torch.empty((shape[0], *shape[2:]), dtype=torch.uint8, device="meta")
    with torch.device("meta"), _Counting() as counting:
        total, _ = loss.supervised(model(image), label)
        total.backward()  # type: ignore[no-untyped-call]  # torch's stub
    weights = parameter_count(model.parameters())
    casts = CAST_BYTES * weights if dtype != torch.float32 else 0
    update = Work(0, 4 * UPDATE_PASSES[precision] * weights)
    return [*counting.operators, (OPTIMISER, update), (COPIES, Work(0, casts))]


def _bytes(value: object) -> int:
    """Of a tensor; an expanded one has only the bytes that it was expanded from."""
    if not isinstance(value, torch.Tensor):
        return 0
    return min(value.numel() * value.element_size(), value.untyped_storage().nbytes())


def profile_steps(trial: Trial) -> dict[str, float]:
    """A step's ms by kind of work, of the GPU or a CPU's main thread; empty if nothing is seen."""
    device, spent = trial.session.compute.device, defaultdict[str, float](float)
    activities = [ProfilerActivity.CPU]
    activities += [ProfilerActivity.CUDA] if device.type == "cuda" else []
    wait(device)
    with profile(activities=activities, acc_events=True) as watched:
        for _ in range(PROFILED_STEPS):
            trial.step()
        wait(device)
    for event in watched.events() or ():
        if event.device_type.name != "CPU":
            continue
        took = event.self_cpu_time_total
        if device.type == "cuda":  # the span of a named block is no kernel
            took = sum(each.duration for each in event.kernels if each.name != event.name)
        spent[kind_of([each.name for each in _around(event)])] += took / PROFILED_STEPS / 1e3
    return {kind: milliseconds for kind, milliseconds in spent.items() if milliseconds}


def kind_of(names: Iterable[str]) -> str:
    """The kind of an event, by its name and then those of the events around it."""
    chain = list(names)
    if any(name.startswith(UPDATES) for name in chain):
        return OPTIMISER
    plain = (name.removeprefix("aten::") for name in chain if name.startswith("aten::"))
    return next((KINDS[name] for name in plain if name in KINDS), OTHER)


def _around(event: Any) -> Iterator[Any]:  # noqa: ANN401 - torch's own, without types
    while event is not None:
        yield event
        event = event.cpu_parent


def measure_peaks(device: torch.device, *, dry: bool) -> Peaks:
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    if device.type == "cuda":
        precisions = ("fp16", "bf16", "tf32", "fp32")
    side = DRY_SIDE if dry else MATRIX_SIDE[device.type]
    size = DRY_BYTES if dry else COPIED_BYTES[device.type]
    source, target = (torch.ones(size, dtype=torch.uint8, device=device) for _ in range(2))
    copying = _least_seconds(lambda: target.copy_(source), device)
    tflops = {precision: _tflops(precision, side, device) for precision in precisions}
    configure_float32("fp32")
    return Peaks(tflops, 2 * size / copying / 1e9)


def _tflops(precision: Precision, side: int, device: torch.device) -> float:
    configure_float32(precision)
    left, right = (torch.rand(side, side, device=device).to(DTYPES[precision]) for _ in range(2))
    return 2 * side**3 / _least_seconds(lambda: left @ right, device) / 1e12


def _least_seconds(once: Callable[[], object], device: torch.device) -> float:
    times = list[float]()
    for _ in range(TRIES):
        wait(device)
        began = time.perf_counter()
        once()
        wait(device)
        times.append(time.perf_counter() - began)
    return min(times)


def _table(found: dict[str, Any], kinds: dict[str, Work]) -> Table:
    step_ms, bound_ms = found["step_ms"], found["bound_ms"]
    title = (
        f"{found['network']}, batches of {BATCH}, {found['precision']}: {step_ms:.1f} ms a step, "
        f"{1e3 * BATCH / step_ms:.1f} volumes/s; {step_ms / bound_ms:.2f} times the bound"
    )
    whole = Work(
        sum(work.flop for work in kinds.values()),
        sum(work.moved_bytes for work in kinds.values()),
        bound_ms,
        step_ms,
    )
    ordered = sorted(kinds.items(), key=lambda item: -item[1].beyond_ms)
    rows = [("", _cells(kind, work)) for kind, work in [*ordered, ("all", whole)]]
    return grouped(title, ("", "GFLOP", "GB", "bound ms", "ms", "beyond", ""), rows)


def _cells(kind: str, work: Work) -> tuple[str, ...]:
    measured = ("–", "–")
    if work.measured_ms is not None:
        measured = (f"{work.measured_ms:.2f}", f"{work.beyond_ms:+.2f}")
    counted = (f"{work.flop / 1e9:.1f}", f"{work.moved_bytes / 1e9:.2f}", f"{work.bound_ms:.2f}")
    return (kind, *counted, *measured, "")
