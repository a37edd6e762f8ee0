"""Section `inference`: whole volumes a second, beside MONAI's sliding window."""

import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.rows import Row, grouped, number
from benchmarks.sections import Bench, Result
from train.inference import mirrored_axes, tile_weights
from train.loaded_run import LoadedRun
from train.postprocess import labels_of
from train.session import Session

PRESET = "fm_net"
TILES, DRY_TILES = (1, 2, 4, 8), (2,)
"""Windows in a forward pass."""
AIM_SECONDS = 0.5
"""For a case with flips, on an H100."""
OVERHEAD = 1.5
"""A measurement's time with the case before it, relative to its own."""

Image = NDArray[np.floating]


def measure(bench: Bench) -> Result:
    """Measure both ways on one volume of the store."""
    with bench.begun(PRESET) as session:
        torch.backends.cudnn.benchmark = False  # as `predict` has it, unlike training
        session.model.eval()
        return _measure(session, bench)


def _measure(session: Session, bench: Bench) -> Result:
    image, _ = session.store.read_volume(session.validation[0])
    trained = session.as_trained()
    kinds = list(product(DRY_TILES if bench.dry else TILES, (False, True)))
    rows, differences, left = list[Row](), dict[bool, float](), 2 * len(kinds)
    for tiles, flips in kinds:
        how = trained.config.inference.model_copy(
            update={"flips": 8 if flips else 1, "tiles": tiles}
        )
        this = replace(trained, config=trained.config.model_copy(update={"inference": how}))
        group = "eight flips" if flips else "no flips"
        for way, predict in (("FM-Net", LoadedRun.logits), ("MONAI", monai_logits)):
            bench.tell(f"{way}, {tiles} window(s) at once, {group}")
            row = Row(group, f"{way}, {tiles} at once")
            why = "not installed" if way == "MONAI" and not find_spec("monai") else ""
            why = why or ("no time was left" if bench.late() else "")
            seconds = bench.each(left) / OVERHEAD
            rows.append(
                replace(row, note=why) if why else _timed(row, predict, this, image, seconds)
            )
            left -= 1
        if flips not in differences and rows[-1].seconds and rows[-2].seconds:
            ours, theirs = (f(this, image).sigmoid() for f in (LoadedRun.logits, monai_logits))
            differences[flips] = float((ours - theirs).abs().max())
    return _result(session, rows, differences, image.shape[1:])


def _timed(
    row: Row,
    predict: Callable[[LoadedRun, Image], Tensor],
    trained: LoadedRun,
    image: Image,
    seconds: float,
) -> Row:
    compute, times = trained.compute, list[float]()
    try:
        labels_of(predict(trained, image), trained.task)  # the first case loads the device's code
        if compute.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(compute.device)
        began = time.perf_counter()
        while len(times) < 2 or time.perf_counter() - began < seconds:
            before = time.perf_counter()
            labels_of(predict(trained, image), trained.task)  # which waits for the device
            times.append(time.perf_counter() - before)
    except torch.OutOfMemoryError:
        return replace(row, note="out of memory")
    return replace(row, seconds=times, peak_gb=compute.peak_memory_gb())


def _result(
    session: Session,
    rows: list[Row],
    differences: dict[bool, float],
    shape: tuple[int, ...],
) -> Result:
    window, overlap = session.store.crop, session.config.inference.overlap
    sizes = ["×".join(map(str, each)) for each in (shape, window)]
    title = (
        f"{PRESET}, not trained; {session.compute.describe()}; a volume of {sizes[0]}, windows of "
        f"{sizes[1]}, overlap {overlap}"
    )
    caption = "".join(
        f"Probabilities {'with' if flips else 'without'} flips differ from MONAI's by at most "
        f"{value:.1e}.\n"
        for flips, value in differences.items()
    )
    caption += f"The aim: under {AIM_SECONDS} s a case with flips on an H100."
    pairs = [
        (row, monai)
        for ours, monai in zip(rows[::2], rows[1::2], strict=True)
        for row in (ours, monai)
    ]
    pairs.sort(key=lambda pair: pair[0].group, reverse=True)  # without flips first
    cells = [(row.group, _cells(row, monai)) for row, monai in pairs]
    raw = {
        "preset": PRESET,
        "case_id": session.validation[0],
        "shape": shape,
        "window": window,
        "largest_probability_difference": {
            "flips" if flips else "no flips": value for flips, value in differences.items()
        },
        "rows": [row.to_json() | {"times_monai": row.times(monai)} for row, monai in pairs],
    }
    headings = ("", "s a case", "cases/s", "× MONAI", "peak GB", "")
    return Result(grouped(title, headings, cells, caption), raw)


def _cells(row: Row, monai: Row) -> tuple[str, ...]:
    return (
        row.name,
        number(row.typical_seconds, ".3f"),
        number(row.rate),
        number(row.times(monai)),
        number(row.peak_gb),
        row.note,
    )


def monai_logits(trained: LoadedRun, image: Image) -> Tensor:
    """As `LoadedRun.logits`, by MONAI; it flips the whole volume, as NVIDIA's nnU-Net does."""
    sliding_window = import_module("monai.inferers").sliding_window_inference
    config, compute, window = trained.config.inference, trained.compute, trained.manifest.crop
    volume = torch.from_numpy(image).to(compute.device).float()[None]
    weights = tile_weights(window, compute.device)
    model = trained.model.eval()  # which gives the main head's logits alone

    def predictor(tiles: Tensor) -> Tensor:
        with compute.autocast():
            (logits,) = model(tiles)
        return torch.as_tensor(logits).float()

    mirrored = mirrored_axes(config.flips, dims=3)
    total = torch.zeros((), device=compute.device)
    with torch.inference_mode():
        for axes in mirrored:
            logits = sliding_window(
                volume.flip(axes),
                window,
                config.tiles,
                predictor,
                overlap=config.overlap,
                mode="gaussian",
                roi_weight_map=weights,
            )
            total = total + logits[0].flip(axes)
    return total / len(mirrored)
