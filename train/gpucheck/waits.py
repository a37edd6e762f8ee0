"""Check `waits`: how often a training step waits for the device."""

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.training.suite import Bench
from train.gpucheck.learning import batches_of, learn
from train.gpucheck.rows import Checked, Row, attempt
from train.trainer import step

SAID = "synchronizing CUDA operation"
"""Of torch, in a warning for each operation that waits."""


def measure(bench: Bench) -> Checked:
    """Count the operations of a step that wait."""
    if bench.device.type != "cuda":
        return Checked([Row("waits in a step", "not run", "a CPU computes at once")])
    return Checked(attempt("waits in a step", partial(_measure, bench)))


def _measure(bench: Bench) -> Sequence[Row]:
    (batch,) = batches_of(bench, 1)
    with bench.begun(bench.preset, *bench.overrides, "batch_size=1") as session:
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
        if SAID in str(w.message)
    ]
    why = "as torch counts them; the JSON has their places"
    return [Row("waits in a step", "reported", why, len(places), raw={"places": places})]
