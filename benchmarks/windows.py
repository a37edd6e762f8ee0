"""What random windows cost a loader beside stored crops: samples a second and CPU time, in turns.

The ratio of rates holds on an idle machine; of CPU times also on one that does other work.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from rich.table import Table

from benchmarks.loading import Source
from benchmarks.timing import Spent
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
    cpu = torch.device("cpu")
    table = Table("loader", "windows", "samples/s", "of crop's", "CPU ms a sample", "crop's by it")
    for kind in get_args(LoaderKind):
        found: dict[str, list[Spent]] = {name: [] for name in WINDOWS}
        for turn in range(turns):
            for name, values in WINDOWS.items():
                err.print(f"{kind}, turn {turn + 1}: {name}")
                source = Source(kind, replace(crops, **values), cpu)
                found[name].append(source.rate(1, steps=SAMPLES))
        rate = {name: max(each.volumes_per_second for each in found[name]) for name in WINDOWS}
        ms = {name: min(each.cpu_ms for each in found[name]) for name in WINDOWS}
        for name in WINDOWS:
            table.add_row(
                kind,
                name,
                f"{rate[name]:.2f}",
                f"{rate[name] / rate['crop']:.2f}",
                f"{ms[name]:.0f}",
                f"{ms['crop'] / ms[name]:.2f}",
            )
    out.print(table)
