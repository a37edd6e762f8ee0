"""How often a training step waits for the device."""

import warnings
from pathlib import Path

import pytest
import torch
from gpu_check import PRESET, Check, Row, learn

from train.trainer import step

pytestmark = pytest.mark.gpu

MESSAGE = "synchronizing CUDA operation"
"""Of torch's warning for each operation that waits."""


def test_operations_of_a_step_that_wait_are_counted(check: Check) -> None:
    name = "waits in a step"
    if not check.on_gpu:
        check.not_run(name, "a CPU computes at once")
    check.need_time(name)
    (batch,) = check.batches(1)
    with check.bench.begun(PRESET, "batch_size=1") as session:
        learn(session, batch)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                step(session, batch)
            finally:
                torch.cuda.set_sync_debug_mode("default")
    places = [
        f"{'/'.join(Path(w.filename).parts[-2:])}:{w.lineno}"
        for w in caught
        if MESSAGE in str(w.message)
    ]
    why = "as torch counts them; the JSON has their places"
    check.add(Row(name, "reported", why, len(places), raw={"places": places}))
