"""Section `limits`: a step's time beside its lower bound."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import nn
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

OPTIMISER, CASTS = "optimiser", "casts"
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
    """All calls of one operator in a step."""

    flop: int = 0
    """Of convolutions, two for a multiplication with its addition."""
    moved_bytes: int = 0
    """Tensors read and written, once each."""
    bound_ms: float = 0.0


def measure(bench: Bench) -> Result:
    """Count and time the networks' steps."""
    bench.tell("how fast this machine multiplies and copies")
    peaks = measure_peaks(bench.device, dry=bench.dry)
    rates = ", ".join(f"{name} {rate:.3g}" for name, rate in peaks.tflops.items())
    title = f"at best here: TFLOP/s {rates}; copies {peaks.gb_per_second:.3g} GB/s"
    found = list[dict[str, Any]]()
    for place, network in enumerate(NETWORKS):
        bench.tell(f"the limits of {network}")
        seconds = min(SECONDS, bench.each(2 * (len(NETWORKS) - place)))
        found.append(_limits(bench, network, peaks, seconds))
        free(bench.device)
    about = {"batch": BATCH, "crop": bench.store.crop, "peaks": asdict(peaks)}
    headings = ("", "GFLOP", "GB", "bound ms", "step ms", "× bound", "")
    rows = [("", _cells(each)) for each in found]
    return Result(grouped(title, headings, rows), about | {"networks": found})


def _limits(bench: Bench, network: str, peaks: Peaks, seconds: float) -> dict[str, Any]:
    with bench.begun(network, f"batch_size={BATCH}") as session:
        trial = Trial(session, resident(session.stream(), bench.device))
        precision = session.compute.precision
        shapes = session.config.build_network(bench.store.task, torch.device("meta"))
        work = count_step(shapes, session.loss, trial.batch.image.shape, precision, peaks)
        trial.warm_up()
        step_ms = 1e3 * median(trial.turn(seconds))
    bound_ms = sum(one.bound_ms for one in work.values())
    found = {"network": network, "precision": precision, "step_ms": step_ms, "bound_ms": bound_ms}
    return found | {"operators": {name: asdict(one) for name, one in work.items()}}


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's stub
    """Collects every operator that moves something: name, FLOP, bytes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's stub
        self.calls = list[tuple[str, int, int]]()

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
            self.calls.append((func.overloadpacket.__name__, flop, moved))
        return out


def count_step(
    model: nn.Module, loss: RegionLoss, shape: Sequence[int], precision: Precision, peaks: Peaks
) -> dict[str, Work]:
    """The work of each operator of a step, as if each call read and wrote its tensors once.

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
    update = 4 * UPDATE_PASSES[precision] * weights
    work = defaultdict[str, Work](Work)
    for name, flop, moved in (*counting.calls, (OPTIMISER, 0, update), (CASTS, 0, casts)):
        so_far, bound_ms = work[name], peaks.bound_ms(flop, moved, precision)
        work[name] = Work(
            so_far.flop + flop, so_far.moved_bytes + moved, so_far.bound_ms + bound_ms
        )
    return dict(work)


def _bytes(value: object) -> int:
    """Of a tensor; an expanded one has only the bytes that it was expanded from."""
    if not isinstance(value, torch.Tensor):
        return 0
    return min(value.numel() * value.element_size(), value.untyped_storage().nbytes())


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


def _cells(found: dict[str, Any]) -> tuple[str, ...]:
    flop, moved = (
        sum(w[key] for w in found["operators"].values()) for key in ("flop", "moved_bytes")
    )
    step_ms, bound_ms = found["step_ms"], found["bound_ms"]
    name = f"{found['network']}, batches of {BATCH}, {found['precision']}"
    counted = (f"{flop / 1e9:.1f}", f"{moved / 1e9:.2f}", f"{bound_ms:.2f}")
    return (name, *counted, f"{step_ms:.1f}", f"{step_ms / bound_ms:.2f}", "")
