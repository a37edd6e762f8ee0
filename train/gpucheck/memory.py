"""Check `memory`: what a training step takes of the device's, and whether it fits."""

from collections.abc import Sequence
from functools import partial
from itertools import product

import torch

from benchmarks.training.suite import Bench, free
from train.data.feed import Batch
from train.gpucheck.learning import batches_of, learn, repeated
from train.gpucheck.rows import Checked, Row, attempt, verdict, why_not
from train.networks import parameter_count
from train.precision import DTYPES, Precision

PRESETS = ("unet", "fm_net")
BATCH_SIZES = (1, 2)
KEPT_BYTES = 4 * 4
"""Of each weight, in every precision: itself, its gradient and two moments, in float32."""


def measure(bench: Bench) -> Checked:
    """Take steps of both networks, with batches of 1 and 2, in each precision."""
    return Checked(attempt("memory", partial(_measure, bench)))


def _measure(bench: Bench) -> Sequence[Row]:
    (one,) = batches_of(bench, 1)
    rows: list[Row] = []
    for preset, size, precision in product(PRESETS, BATCH_SIZES, DTYPES):
        name = f"{preset}, batch of {size}, {precision}"
        reason = why_not(bench.device, precision) or ("no time was left" if bench.late() else "")
        if reason:
            rows.append(Row(name, "not run", reason))
            continue
        bench.tell(f"memory: {name}")
        batch = repeated(one, size)
        rows += attempt(name, partial(_steps, bench, name, preset, precision, batch))
        free(bench.device)
    return rows


def _steps(
    bench: Bench, name: str, preset: str, precision: Precision, batch: Batch
) -> Sequence[Row]:
    on_gpu = bench.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(bench.device)
    before = torch.cuda.memory_allocated(bench.device) if on_gpu else 0
    changes = (*bench.overrides, f"precision={precision}", f"batch_size={len(batch.image)}")
    with bench.begun(preset, *changes) as session:
        for _ in range(2):  # in the second the optimiser's moments are there from the beginning
            learn(session, batch)
        peak_gb = session.compute.peak_memory_gb()
        known_gb = KEPT_BYTES * parameter_count(session.model.parameters()) / 1e9
    if not on_gpu:
        why = f"a CPU's peak is the whole process's so far: {peak_gb:.1f} GB"
        return [Row(name, "not run", why, bound=known_gb, raw={"peak_gb": peak_gb})]
    raw = {
        "held_before_gb": before / 1e9,
        "reserved_gb": torch.cuda.max_memory_reserved(bench.device) / 1e9,
        "device_gb": torch.cuda.get_device_properties(bench.device).total_memory / 1e9,
    }
    status = verdict(peak_gb - before / 1e9 >= known_gb)
    why = "GB; no less than weights, gradients and moments take"
    return [Row(name, status, why, peak_gb, known_gb, raw)]
