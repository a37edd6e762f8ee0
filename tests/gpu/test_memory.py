"""What a training step takes of the device's memory, and whether it fits."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from gpu_check import Check, Row, learn, verdict

from train.networks import parameter_count
from train.precision import DTYPES, Precision

pytestmark = pytest.mark.gpu

KEPT_BYTES = 4 * 4
"""Of each weight, in every precision: itself, its gradient and two moments, in float32."""


@pytest.mark.parametrize(
    ("preset", "size", "precision"), list(product(("unet", "fm_net"), (1, 2), DTYPES))
)
def test_memory_of_a_step(check: Check, preset: str, size: int, precision: Precision) -> None:
    """The bound is a lower one: less than weights, gradients and moments would be no training."""
    name = f"{preset}, batch of {size}, {precision}, GB"
    if not check.on_gpu:
        check.not_run(name, "a CPU's peak is that of the whole process")
    if reason := check.why_not(precision):
        check.not_run(name, reason)
    check.need_time(name)
    (one,) = check.batches(1)
    batch = replace(
        one,
        image=one.image.repeat_interleave(size, 0),
        label=one.label.repeat_interleave(size, 0),
        case_ids=one.case_ids * size,
    )
    torch.cuda.reset_peak_memory_stats(check.device)
    before = torch.cuda.memory_allocated(check.device)
    changes = (f"precision={precision}", f"batch_size={size}")
    with check.bench.begun(preset, *changes) as session:
        learn(session, batch)
        learn(session, batch)  # here the optimiser's moments are there from the beginning
        peak_gb = session.compute.peak_memory_gb()
        known_gb = KEPT_BYTES * parameter_count(session.model.parameters()) / 1e9
    raw = {
        "held_before_gb": before / 1e9,
        "reserved_gb": torch.cuda.max_memory_reserved(check.device) / 1e9,
        "device_gb": torch.cuda.get_device_properties(check.device).total_memory / 1e9,
    }
    taken_gb = peak_gb - before / 1e9
    why = "no less than weights, gradients and moments take"
    check.add(Row(name, verdict(taken_gb >= known_gb), why, taken_gb, known_gb, raw))
