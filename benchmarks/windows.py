"""What random windows cost a loader beside stored crops: CPU time of a sample, in turns.

Wall time would follow whatever else the machine does.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from rich.table import Table

from benchmarks.loading import Source
from common.console import err, out
from common.store import Store
from train.config import load_config
from train.data.loader import LoaderKind
from train.data.stream import Stream

WINDOWS: Mapping[str, dict[str, Any]] = {
    "crop": {},
    "random": {"window": "random"},
    "random tumour_share=0.33": {"window": "random", "tumour_share": 0.33},
}
SAMPLES = 16
"""Of each turn, after a warm-up."""


def compare(path: Path, turns: int) -> None:
    """Measure every loader with every kind of window, one worker each, and print the table."""
    store = Store.open(path)
    labelled = [record.case_id for record in store.contents().records.values() if record.has_label]
    augment, modalities = load_config().augment, store.task.modalities
    crops = Stream(store, tuple(labelled), modalities, augment, seed=0, batch_size=1)
    cpu, table = torch.device("cpu"), Table("loader", "windows", "CPU ms a sample", "×")
    for kind in get_args(LoaderKind):
        found: dict[str, list[float]] = {name: [] for name in WINDOWS}
        for turn in range(turns):
            for name, values in WINDOWS.items():
                err.print(f"{kind}, turn {turn + 1}: {name}")
                source = Source(kind, replace(crops, **values), cpu)
                found[name].append(source.rate(1, steps=SAMPLES).cpu_ms)
        ms = {name: min(each) for name, each in found.items()}
        for name in WINDOWS:
            table.add_row(kind, name, f"{ms[name]:.0f}", f"{ms['crop'] / ms[name]:.2f}")
    out.print(table)
