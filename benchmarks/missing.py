"""Dice with each image missing, of a network trained with modality dropout and of one without."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.machine import machine
from common.console import err, out
from common.files import write_json
from common.metrics import DICE, mean_over_regions, score_case
from common.store import Store
from train.loaded_run import LoadedRun, load_run, split_cases

PROBABILITIES = (0.0, 0.5)
"""Of `augment.modality_dropout`, for the two runs."""
CASES, SIZE = 24, "80,80,80"
"""Phantoms, as those of `make demo`."""


def compare(folder: Path, out_path: Path, epochs: int) -> None:
    """Make phantoms, train both networks, and print and write the table; what is there is kept."""
    store = folder / "phantoms.zarr"
    if not store.exists():
        phantoms = folder / "phantoms"
        _preprocess("phantom", phantoms, "--cases", CASES, "--size", SIZE)
        _preprocess("run", phantoms, "--store", store)
    rows = []
    for probability in PROBABILITIES:
        run = folder / f"dropout-{probability}"
        if not run.exists():
            _train(store, run, probability, epochs)
        loaded = load_run(run, device="cpu")
        for missing in (None, *loaded.needed):
            err.print(f"scoring dropout {probability} without {missing or 'no image'} …")
            dice = _dice(loaded, Store.open(store), missing)
            rows.append({"dropout": probability, "missing": missing, "dice": dice})
    write_json(out_path, machine() | {"cases": CASES, "epochs": epochs, "rows": rows})
    out.print(_table(rows))


def _preprocess(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "preprocess", *map(str, arguments)], check=True)


def _train(store: Path, run: Path, probability: float, epochs: int) -> None:
    settings = [f"augment.modality_dropout.probability={probability}", f"epochs={epochs}"]
    options = [part for setting in settings for part in ("--set", setting)]
    command = ["train", "run", "demo", "--store", str(store), "--out", str(run), *options]
    subprocess.run([sys.executable, "-m", *command], check=True)


def _dice(loaded: LoadedRun, store: Store, missing: str | None) -> dict[str, float]:
    """Mean Dice of the test cases, with an image set to background."""
    modalities, found = store.task.modalities, list[list[float]]()
    for case_id in split_cases(loaded, store.contents(), "test"):
        image, _ = store.read_volume(case_id)
        if missing:
            image = image.copy()
            image[modalities.index(missing)] = 0
        record = store.record(case_id)
        label = loaded.labels(loaded.logits(image, modalities), record)
        scores = score_case(
            store.read_reference(case_id),
            label.file,
            record.geometry.spacing_mm,
            loaded.task,
            rules=None,
            metrics=(DICE,),
        )
        found.append([each.values[DICE.name] for each in scores.regions.values()])
    means = np.mean(found, axis=0).tolist()
    return dict(zip(loaded.task.region_names, means, strict=True))


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="Mean Dice of the test cases", title_justify="left")
    table.add_column("modality_dropout")
    table.add_column("missing")
    for region in (*rows[0]["dice"], "mean"):
        table.add_column(region.upper(), justify="right")
    for row in rows:
        values = [*row["dice"].values(), mean_over_regions(row["dice"])]
        cells = [f"{value:.3f}" for value in values]
        table.add_row(f"{row['dropout']:g}", row["missing"] or "none", *cells)
    return table
