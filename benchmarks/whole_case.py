"""Ways to predict one whole case, beside MONAI's sliding window with the same network."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor

from benchmarks.inference import monai_logits
from benchmarks.machine import machine
from common.case import prepare
from common.console import err, out
from common.discovery import discover
from common.errors import ConfigError
from common.files import write_json
from common.manifest import Manifest
from common.metrics import DICE, score_case
from train.config import load_config
from train.inference import mirrored_axes, tile_starts, window_count
from train.loaded_run import LoadedRun, load_run
from train.postprocess import labels_of
from train.precision import Compute, Precision, choose_compute, cpu_has_bfloat16

SEED = 0
DRY_SIDE = 24
"""Of the part of the case that a dry run predicts."""
SPREAD = 20.0
"""Fresh weights predict one region everywhere; with a main head so much larger the regions of an
untrained network depend on the voxel, so that a Dice between two ways says something."""


@dataclass(frozen=True)
class Way:
    """A row of the table."""

    name: str
    flips: int = 1
    overlap: float = 0.5
    precision: Precision | None = None
    """None is the run's own."""
    predict: Callable[[LoadedRun, NDArray[np.floating]], Tensor] = LoadedRun.logits

    def of(self, loaded: LoadedRun) -> LoadedRun:
        changes = {"flips": self.flips, "overlap": self.overlap}
        how = loaded.config.inference.model_copy(update=changes)
        compute = loaded.compute
        if self.precision:
            compute = Compute(compute.device, self.precision)
        config = loaded.config.model_copy(update={"inference": how})
        return replace(loaded, config=config, compute=compute)


FIRST = Way("FM-Net")
WAYS = (
    FIRST,
    Way("MONAI", predict=monai_logits),
    Way("FM-Net, overlap 0.25", overlap=0.25),
    Way("FM-Net, overlap 0", overlap=0.0),
    Way("FM-Net, bf16", precision="bf16"),
    Way("FM-Net, overlap 0.75", overlap=0.75),
    Way("FM-Net, 2 views", flips=2),
    Way("FM-Net, 4 views", flips=4),
    Way("FM-Net, 8 views", flips=8),
    Way("MONAI, 8 views", flips=8, predict=monai_logits),
)
"""Overlap 0.5 and one view where nothing else is said; those that may find no time come last."""


def compare(  # noqa: PLR0913 - the command's options
    folder: Path, out_path: Path, run: Path | None, device: str, minutes: float, *, dry: bool
) -> None:
    """Measure every way once on a case and write and print the table."""
    loaded = load_run(run, device=device) if run else _untrained(device, dry=dry)
    image = _read(folder, loaded.manifest)
    if dry:
        middle = [
            slice(side // 2 - DRY_SIDE // 2, side // 2 + DRY_SIDE // 2) for side in image.shape[1:]
        ]
        image = np.ascontiguousarray(image[:, *middle])
    if find_spec("monai"):
        import_module("monai.inferers")  # it takes seconds
    end = time.monotonic() + 60 * minutes
    rows, labels = list[dict[str, Any]](), dict[str, NDArray[np.uint8]]()
    a_batch = None
    for way in WAYS:
        this = way.of(loaded)
        windows, total = _windows(this, image)
        batches = -(-windows // this.config.inference.tiles)
        views = len(mirrored_axes(way.flips, this.config.model.dims))
        row = {"name": way.name, "windows": windows, "windows_in_all": total, "views": views}
        why = _why_not(way, loaded, batches * views * (a_batch or 0), end, dry=dry)
        rows.append(row | ({"note": why} if why else {}))
        if why:
            continue
        err.print(f"measuring {way.name} …")
        began = time.perf_counter()
        logits, mm3 = way.predict(this, image), this.manifest.spacing_mm**3
        label = labels_of(logits, this.task, this.postprocess, mm3)
        seconds = time.perf_counter() - began
        rows[-1]["seconds"], labels[way.name] = seconds, label
        a_batch = a_batch or seconds / batches
    _add_ratios(rows, labels, loaded)
    shape, window = image.shape[1:], loaded.manifest.crop
    found = machine() | {
        "case": folder.name,
        "shape": list(shape),
        "window": list(window),
        "network": "of a run" if run else "not trained",
        "compute": loaded.compute.describe(),
        "torch": str(torch.__version__),
        "monai": version("monai") if find_spec("monai") else None,
        "rows": rows,
    }
    write_json(out_path, found)
    out.print(_table(found))


def _untrained(device: str, *, dry: bool) -> LoadedRun:
    """FM-Net at full width, or a tiny one, with weights that depend on the voxel."""
    dry_settings = ["model.widths=[4,8,16]"] if dry else []
    config = load_config("fm_net", ["inference.overlap=0.5", *dry_settings])
    manifest = Manifest(crop=(16, 16, 16)) if dry else Manifest()
    compute = choose_compute(device, "auto")
    torch.manual_seed(SEED)
    model = config.build_network(manifest.task, compute.device).eval()
    head: Any = model.main_head
    with torch.no_grad():
        head.weight *= SPREAD
        head.bias.zero_()
    return LoadedRun(model, config, manifest, compute, Path("untrained"), "best", 0)


def _read(folder: Path, manifest: Manifest) -> NDArray[np.floating]:
    """(modalities, D, H, W), normalised."""
    cases = discover(folder, manifest, labels=False).cases
    if not cases:
        raise ConfigError(f"{folder}: no case; name the folder of one")
    return prepare(cases[0], manifest).image


def _windows(loaded: LoadedRun, image: NDArray[np.floating]) -> tuple[int, int]:
    """Windows that are run, and all."""
    window, how = loaded.manifest.crop, loaded.config.inference
    dims = loaded.config.model.dims
    side = window if dims == 3 else (1, window[1], window[2])
    every = 1
    for size, one in zip(image.shape[1:], side, strict=True):
        every *= len(tile_starts(max(size, one), one, how.overlap))
    return window_count(torch.from_numpy(image), window, how.overlap, dims), every


def _why_not(way: Way, loaded: LoadedRun, seconds: float, end: float, *, dry: bool) -> str:
    if way.predict is monai_logits and not find_spec("monai"):
        return "not installed"
    if dry:
        return ""
    on_cpu = loaded.compute.device.type == "cpu"
    if way.precision == "bf16" and on_cpu and not cpu_has_bfloat16():
        return "this processor only emulates it"
    return "no time was left" if time.monotonic() + seconds > end else ""


def _add_ratios(
    rows: list[dict[str, Any]], labels: dict[str, NDArray[np.uint8]], loaded: LoadedRun
) -> None:
    """Time relative to the first row's, and Dice of the regions with the way of most work."""
    measured = [row for row in rows if "seconds" in row]
    most = max(measured, key=lambda row: row["windows"] * row["views"])
    for row in measured:
        row["ratio"] = row["seconds"] / measured[0]["seconds"]
        scores = score_case(
            labels[most["name"]],
            labels[row["name"]],
            (loaded.manifest.spacing_mm,) * 3,
            loaded.task,
            rules=None,
            metrics=(DICE,),
        )
        row["dice"] = {region: found.values[DICE.name] for region, found in scores.regions.items()}


def _table(found: dict[str, Any]) -> Table:
    sizes = ["×".join(map(str, found[key])) for key in ("shape", "window")]
    title = (
        f"{found['case']}: {sizes[0]} voxels in windows of {sizes[1]}; network {found['network']}; "
        f"{found['compute']}"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("way")
    for heading in ("windows", "views", "seconds", "ratio", "Dice with the way of most work"):
        table.add_column(heading, justify="right")
    for row in found["rows"]:
        dice = row.get("dice", {})
        table.add_row(
            row["name"],
            f"{row['windows']} of {row['windows_in_all']}",
            str(row["views"]),
            f"{row['seconds']:.1f}" if dice else "–",
            f"{row['ratio']:.2f}" if dice else "–",
            " ".join(f"{r.upper()} {v:.3f}" for r, v in dice.items()) if dice else row["note"],
        )
    return table
