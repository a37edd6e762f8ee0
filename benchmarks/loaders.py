"""FM-Net's loaders and those of others, side by side on the same crops, on a CPU.

Each way is a process in its own environment below the cache, with its worker processes (NVIDIA's:
threads), batches of one, the same augmentations at the same probabilities (`loader_ways.py`), and
nothing that learns. The ways take turns; the best of each figure counts, as other work only slows.

"First epoch" is timed from before the way opens anything, so with starting processes and filling a
cache. "Later" is the rate of the epochs after it. Files are in the system's cache.

What else differs: FM-Net and NVIDIA's interpolate with a cubic kernel, the others linearly.
NVIDIA's graph, made for a GPU, computes every augmentation for every case and then chooses by a
coin. MONAI's zooms by enlarging the whole crop; it, NVIDIA's and nnU-Net's zoom into the centre,
FM-Net and plain torch anywhere. MONAI's keeps all cases in memory, FM-Net's with cache=ram. FM-Net
and plain torch give float16, the others float32. Only FM-Net's samples are the same in every run.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine, processor
from benchmarks.preprocessing import ENVIRONMENT, ROOT, install, versions
from benchmarks.timing import Spent
from common.case import PreparedCase
from common.files import write_json
from common.store import Store, StoreWriter

OURS = "fm_net_dali"
WAYS = {
    OURS: "FM-Net, DALI",
    "fm_net_dali_ram": "FM-Net, DALI, cache=ram",
    "fm_net_torch": "FM-Net, torch",
    "nvidia": "NVIDIA nnU-Net",
    "nnunet": "nnU-Net v2",
    "monai": "MONAI CacheDataset",
    "plain": "plain torch",
}
PINS = {
    "nnunet": "batchgeneratorsv2==0.3.6 batchgenerators==0.25.5 blosc2==4.14.1 torch psutil",
    "monai": "monai==1.6.1 torch psutil",
}
SCRIPT = Path(__file__).with_name("loader_ways.py")

Turn = dict[str, Spent]
"""The first epoch, and later ones."""


def compare(  # noqa: PLR0913, PLR0917 - as many as the command has options
    store: Path, json_file: Path, processes: int, epoch: int, samples: int, turns: int, cache: Path
) -> None:
    """Measure all ways in turns, print the table and write the JSON file."""
    pythons = dict.fromkeys(WAYS, sys.executable)
    pythons |= {way: install(cache, f"loader-{way}", pins) for way, pins in PINS.items()}
    found: dict[str, list[Turn]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        lay_out(Store.open(store), Path(folder), epoch)
        run(pythons["nnunet"], "prepare", folder)
        for number in range(turns):
            for way, name in WAYS.items():
                printed = run(pythons[way], way, folder, str(processes), str(samples))
                last = json.loads(printed.splitlines()[-1])
                found[way].append({part: Spent(**spent) for part, spent in last.items()})
                print(f"turn {number + 1}: {name}", flush=True)
    measured = machine() | {
        "processes": processes,
        "epoch": epoch,
        "samples": samples,
        "versions": {way: versions(python) for way, python in pythons.items()},
        "turns": {
            way: [{part: asdict(spent) for part, spent in turn.items()} for turn in each]
            for way, each in found.items()
        },
    }
    write_json(json_file, measured)
    title = f"{processor()}: {measured['cores']} core(s), {processes} worker(s), on the CPU"
    Console(width=110).print(table(found, title))


def run(python: str, *arguments: str) -> str:
    """What `loader_ways.py` prints."""
    env = os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        (python, str(SCRIPT), *arguments), env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}: exit code {done.returncode}\n{done.stderr[-5000:]}")
    return done.stdout


def lay_out(store: Store, folder: Path, epoch: int) -> None:
    """The store's labelled crops, so often that an epoch is full, as each way wants them.

    store.zarr; float16/ID-image.npy (4, 128, 128, 128), float16/ID-label.npy (1, 128, 128, 128)
    uint8; float32/ likewise, for those whose operators refuse float16.
    """
    records = [record for record in store.contents().records.values() if record.has_label]
    ids = [f"case-{number:03d}" for number in range(epoch)]
    writer = StoreWriter.create(folder / "store.zarr", store.manifest, tuple(ids))
    for number, (case_id, row) in enumerate(zip(ids, writer.allocate(epoch), strict=True)):
        source = records[number % len(records)]
        image, label = store.read_crop(source.case_id)
        record = source.model_copy(update={"case_id": case_id})
        writer.write(PreparedCase(record, image, label, image, label), row)
        for kind in ("float16", "float32"):
            (folder / kind).mkdir(exist_ok=True)
            np.save(folder / kind / f"{case_id}-image.npy", image.astype(kind))
            np.save(folder / kind / f"{case_id}-label.npy", label[np.newaxis])


def table(turns: dict[str, list[Turn]], title: str) -> Table:
    """The best turn of each figure."""
    drawn = Table(title=title, title_justify="left", box=None)
    drawn.caption = "volumes/s, and CPU time of all processes; ×: relative to FM-Net, DALI"
    for heading in ("", "first epoch", "×", "later", "×", "CPU ms a sample", "×"):
        drawn.add_column(heading, justify="right" if heading else "left")
    figures = {
        way: (
            max(turn["first"].volumes_per_second for turn in each),
            max(turn["later"].volumes_per_second for turn in each),
            min(turn["later"].cpu_ms for turn in each),
        )
        for way, each in turns.items()
    }
    for way, mine in figures.items():
        cells = []
        for figure, ours in zip(mine, figures[OURS], strict=True):
            cells += [f"{figure:.0f}" if figure > 20 else f"{figure:.1f}", f"{figure / ours:.2f}"]
        drawn.add_row(WAYS[way], *cells)
    return drawn
