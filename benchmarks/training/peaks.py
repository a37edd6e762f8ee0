"""How fast a machine multiplies and copies at best, measured."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.training.trial import wait
from train.precision import DTYPES, Precision, configure_float32

SIDE = {"cuda": 8192, "cpu": 2048}
"""Of the square matrices that are multiplied."""
COPIED_BYTES = {"cuda": 1 << 30, "cpu": 1 << 27}
DRY_SIDE, DRY_COPIED_BYTES = 256, 1 << 20
TIMES = 10


@dataclass(frozen=True)
class Peaks:
    """The best of a few tries.

    Attributes:
        tflops: of a matrix product, by precision.
        gb_per_second: of a copy, read and written together.
    """

    tflops: dict[Precision, float]
    gb_per_second: float


def measure_peaks(device: torch.device, *, dry: bool) -> Peaks:
    """Multiply in each precision that the device computes in, and copy."""
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    if device.type == "cuda":
        precisions = ("fp16", "bf16", "tf32", "fp32")
    side = DRY_SIDE if dry else SIDE[device.type]
    size = DRY_COPIED_BYTES if dry else COPIED_BYTES[device.type]
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
    for _ in range(TIMES):
        wait(device)
        began = time.perf_counter()
        once()
        wait(device)
        times.append(time.perf_counter() - began)
    return min(times)
