"""Section `inference`: whole volumes a second, beside MONAI on the same network."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text
from torch import Tensor

from benchmarks.training.monai_window import monai_logits
from benchmarks.training.networks import missing
from benchmarks.training.suite import Bench
from train.inference import tile_starts
from train.loaded_run import LoadedRun, label_of
from train.trainer import Session

PRESET = "fm_net"
TILES, DRY_TILES = (1, 2, 4, 8), (2,)
"""Windows in a forward pass."""
AIM_SECONDS = 0.5
"""For a case with flips, on an H100."""
AT_LEAST = 2
"""Cases of a measurement, however short it is to be."""
OVERHEAD = 1.5
"""What a measurement takes, with the case before it, of the seconds that it measures for."""
OURS, MONAI = "FM-Net", "MONAI"

Image = NDArray[np.floating]
Predict = Callable[[LoadedRun, Image], Tensor]
"""Logits (3, D, H, W) of a volume (4, D, H, W)."""
WAYS: dict[str, Predict] = {OURS: LoadedRun.logits, MONAI: monai_logits}


@dataclass(frozen=True)
class Row:
    """A way through a volume.

    Attributes:
        way: whose sliding window.
        flips: whether over all eight mirrorings.
        tiles: windows in a forward pass.
        seconds: of each case, from its image in memory to its labels there.
        peak_memory_gb: of the GPU's memory, or of this process so far on a CPU.
        missing: why there are no figures; empty where there are.
    """

    way: str
    flips: bool
    tiles: int
    seconds: list[float] = field(default_factory=list)
    peak_memory_gb: float | None = None
    missing: str = ""

    @property
    def median_seconds(self) -> float | None:
        """Of a case."""
        return median(self.seconds) if self.seconds else None


@dataclass
class Inference:
    """All that was measured.

    Attributes:
        compute: device and precision.
        case_id: the case.
        shape: (D, H, W) of its stored volume.
        window: (D, H, W) of the network's.
        overlap: of windows.
        read_seconds: to read the volume from the store.
        difference: by flips, the largest difference of a probability between both ways.
        rows: of both.
    """

    compute: str
    case_id: str
    shape: tuple[int, ...]
    window: tuple[int, ...]
    overlap: float
    read_seconds: float
    difference: dict[bool, float] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    @property
    def same_windows(self) -> bool:
        """Whether both ways have windows at the same places: at an axis's ends alone."""
        both_ends = [
            tile_starts(*axis, self.overlap) for axis in zip(self.shape, self.window, strict=True)
        ]
        return all(len(starts) <= 2 for starts in both_ends)

    def to_json(self) -> dict[str, Any]:
        """Everything, with the time of each case."""
        rows = [
            asdict(row) | {"median_seconds": row.median_seconds, "times_monai": self.times(row)}
            for row in self.rows
        ]
        differences = [
            {"flips": flips, "largest_probability": value}
            for flips, value in self.difference.items()
        ]
        return asdict(self) | {
            "preset": PRESET,
            "aim_seconds_with_flips_on_h100": AIM_SECONDS,
            "same_windows": self.same_windows,
            "difference": differences,
            "rows": rows,
        }

    def times(self, row: Row) -> float | None:
        """How many times as fast a row is as MONAI's of the same kind; None if one is missing."""
        for other in self.rows:
            if (other.way, other.flips, other.tiles) == (MONAI, row.flips, row.tiles):
                both = row.median_seconds, other.median_seconds
                return both[1] / both[0] if both[0] and both[1] else None
        return None

    def table(self) -> Table:
        """Medians and ratios."""
        table = Table(title=self._title(), caption=self._caption(), box=None, pad_edge=False)
        table.title_justify = table.caption_justify = "left"
        table.add_column("")
        for heading in ("tiles", "s a case", "cases/s", "× MONAI", "peak GB"):
            table.add_column(heading, justify="right")
        table.add_column("")
        for flips in dict.fromkeys(row.flips for row in self.rows):
            table.add_row(Text("eight flips" if flips else "no flips", "bold"))
            for row in self.rows:
                if row.flips == flips:
                    table.add_row(row.way, str(row.tiles), *self._cells(row))
        return table

    def _cells(self, row: Row) -> tuple[str, ...]:
        if row.median_seconds is None:
            return (*4 * ["–"], row.missing)
        times = self.times(row)
        return (
            f"{row.median_seconds:.3f}",
            f"{1 / row.median_seconds:.2f}",
            "–" if times is None else f"{times:.2f}×",
            f"{row.peak_memory_gb:.2f}",
        )

    def _title(self) -> str:
        shape, window = ("×".join(map(str, each)) for each in (self.shape, self.window))
        return (
            f"{PRESET}, not trained; {self.compute}; a volume of {shape}, windows of {window}, "
            f"overlap {self.overlap}; read from the store in {self.read_seconds:.2f} s"
        )

    def _caption(self) -> str:
        differ = "".join(
            f"Probabilities {'with' if flips else 'without'} flips differ from MONAI's by "
            f"{value:.1e} at most.\n"
            for flips, value in self.difference.items()
        )
        if not self.same_windows:
            differ += "MONAI has windows at other places along an axis this long.\n"
        return f"{differ}The aim: under {AIM_SECONDS} s a case with flips on an H100."


def measure(bench: Bench) -> Inference:
    """Measure both ways on one volume of the store.

    Raises:
        ConfigError: the store's crops do not fit the network.
        StoreError: the volume cannot be read.
    """
    with bench.begun(PRESET) as session:
        torch.backends.cudnn.benchmark = False  # as `predict` has it, unlike training
        session.model.eval()
        return _measure(session, bench)


def _measure(session: Session, bench: Bench) -> Inference:
    case_id, trained = session.validation[0], session.as_trained()
    began = time.perf_counter()
    image, _ = session.store.read_volume(case_id)
    found = Inference(
        session.compute.describe(),
        case_id,
        image.shape[1:],
        session.store.crop,
        trained.config.inference.overlap,
        time.perf_counter() - began,
    )
    kinds = list(product(DRY_TILES if bench.dry else TILES, (False, True)))
    left = len(WAYS) * len(kinds)
    for tiles, flips in kinds:
        changed = trained.config.inference.model_copy(update={"flips": flips, "tiles": tiles})
        this = replace(trained, config=trained.config.model_copy(update={"inference": changed}))
        for way, predict in WAYS.items():
            bench.tell(f"{way}, {tiles} window(s) at once, {'eight' if flips else 'no'} flips")
            row, seconds = Row(way, flips, tiles), bench.each(left) / OVERHEAD
            left -= 1
            if why := _unmeasured(way, bench):
                row = replace(row, missing=why)
            else:
                row = _timed(row, predict, this, image, seconds)
            found.rows.append(row)
        ours, theirs = found.rows[-2:]
        if flips not in found.difference and ours.seconds and theirs.seconds:
            found.difference[flips] = _difference(this, image)
    return found


def _unmeasured(way: str, bench: Bench) -> str:
    """Why a way is not measured; empty if it is."""
    if way == MONAI and (why := missing("monai")):
        return why
    return "no time was left" if bench.late() else ""


def _timed(row: Row, predict: Predict, trained: LoadedRun, image: Image, seconds: float) -> Row:
    """The row with its figures, or with why there are none."""
    compute, times = trained.compute, list[float]()
    try:
        label_of(predict(trained, image), trained.task)  # the first case loads the device's code
        if compute.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(compute.device)
        began = time.perf_counter()
        while len(times) < AT_LEAST or time.perf_counter() - began < seconds:
            before = time.perf_counter()
            label_of(predict(trained, image), trained.task)  # which waits for the device
            times.append(time.perf_counter() - before)
    except torch.OutOfMemoryError:
        return replace(row, missing="out of memory")
    return replace(row, seconds=times, peak_memory_gb=compute.peak_memory_gb())


def _difference(trained: LoadedRun, image: Image) -> float:
    """The largest difference of a probability between both ways."""
    ours, theirs = (predict(trained, image).sigmoid() for predict in WAYS.values())
    return float((ours - theirs).abs().max())
