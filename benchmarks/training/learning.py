"""Section `learning`: what two networks learn of the same real cases in the same seconds."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from math import fsum, isfinite
from typing import TYPE_CHECKING, Any

import torch
from rich.table import Table

from benchmarks.training.learning_figure import learning_figure
from benchmarks.training.loader import Source
from benchmarks.training.networks import NVIDIA_WIDTHS, missing, put_in
from benchmarks.training.pipeline import worker_counts
from benchmarks.training.store import NAME
from benchmarks.training.suite import Bench
from common.errors import InferenceError
from common.task import REGIONS
from common.volume import Triple
from train.data.feed import Batch
from train.evaluate import CaseScore, mean_scores, score_cases
from train.networks import DynUNetConfig, parameter_count
from train.trainer import Session, step

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PRESET = "fm_net"
OURS, PEER = "FM-Net", "DynUNet"
DYNUNET, DRY_DYNUNET = (NVIDIA_WIDTHS, 2), ((4, 8, 16), 1)
"""Its widths, and its heads beside the main one."""
TRAINING = 0.7
"""Of a network's time, the share in which it learns; the rest is for starting and validation."""
VALIDATED = 4
"""Held-back cases that are scored at most."""
AT_LEAST = 4
"""Steps, however short the time is."""
PARTS = 4
"""Of the curve, whose mean losses the table has."""
NO_RANKING = (
    "As few cases and seconds as these show how a network begins to learn. They rank nothing."
)


@dataclass
class Learnt:
    """What one network did in its time.

    Attributes:
        network: its name.
        parameters: how many numbers it learns.
        compute: device and precision.
        seconds: at the end of each step, since the first began to wait for its batch.
        samples: learnt from by then.
        losses: of the main head in each step; None where it was not finite.
        skipped: steps without a usable gradient.
        scores: of held-back cases, over their whole volumes.
        missing: what there is not, and why; empty where all is there.
    """

    network: str
    parameters: int = 0
    compute: str = ""
    seconds: list[float] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    losses: list[float | None] = field(default_factory=list)
    skipped: int = 0
    scores: list[CaseScore] = field(default_factory=list)
    missing: str = ""

    def part_losses(self) -> list[float | None]:
        """Mean loss in each of equal parts of the time; None where no step ended in one."""
        parts: list[list[float]] = [[] for _ in range(PARTS)]
        for at, loss in zip(self.seconds, self.losses, strict=True):
            if loss is not None:
                parts[min(PARTS - 1, int(PARTS * at / self.seconds[-1]))].append(loss)
        return [fsum(part) / len(part) if part else None for part in parts]

    def to_json(self) -> dict[str, Any]:
        """The whole curve, and the scores with their number of cases."""
        mean = mean_scores(self.scores)
        scored = {
            "cases": len(self.scores),
            "mean_dice": mean.dice,
            "mean_loss": mean.loss,
            "by_case": [
                {"case_id": score.case_id, "dice": score.dice, "loss": score.loss}
                for score in self.scores
            ],
        }
        return asdict(self) | {
            "steps": len(self.losses),
            "part_losses": self.part_losses(),
            "scores": scored if self.scores else None,
        }


@dataclass
class Learning:
    """Both networks.

    Attributes:
        note: what a reader must know.
        cases: that were learnt from.
        seconds: that each network had to learn.
        networks: what became of them.
    """

    note: str
    cases: int = 0
    seconds: float = 0.0
    networks: list[Learnt] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Curves and scores."""
        return {
            "preset": PRESET,
            "note": self.note,
            "training_cases": self.cases,
            "seconds_to_learn": self.seconds,
            "networks": [learnt.to_json() for learnt in self.networks],
        }

    def figure(self) -> "Figure | None":
        """Both curves; None if there are none."""
        return learning_figure(self) if any(learnt.losses for learnt in self.networks) else None

    def table(self) -> Table:
        """A column for each network."""
        if not self.networks:
            return Table("not measured", self.note, box=None, pad_edge=False)
        title = f"{self.cases} cases to learn from, {self.seconds:.0f} s for each network"
        table = Table(title=title, caption=self.note, box=None, pad_edge=False)
        table.title_justify = table.caption_justify = "left"
        table.add_column("")
        for learnt in self.networks:
            table.add_column(learnt.network, justify="right")
        for cells in zip(*map(_column, self.networks), strict=True):
            what, _ = cells[0]
            table.add_row(what, *(figure for _, figure in cells))
        return table


def _column(learnt: Learnt) -> Iterator[tuple[str, str]]:
    """What each figure is, and the figure."""
    yield "computes in", learnt.compute
    yield "parameters", f"{learnt.parameters / 1e6:.1f} M" if learnt.parameters else "–"
    yield "steps", f"{len(learnt.losses)}, {learnt.skipped} skipped"
    yield "samples", str(learnt.samples[-1] if learnt.samples else 0)
    for number, loss in enumerate(learnt.part_losses(), start=1):
        yield f"mean loss, part {number} of {PARTS}", "–" if loss is None else f"{loss:.3f}"
    dice = mean_scores(learnt.scores).dice
    for region in REGIONS:
        figure = f"{dice[region]:.3f} ({len(learnt.scores)} case(s))" if learnt.scores else "–"
        yield f"mean Dice {region.upper()}", figure
    yield "", learnt.missing


def measure(bench: Bench) -> Learning:
    """Train both networks for the same time, and score each.

    Raises:
        ConfigError: the store's crops do not fit FM-Net.
        StoreError: a case cannot be read.
    """
    synthetic = bench.store.manifest.name == NAME
    if synthetic and not bench.dry:
        return Learning("there is nothing to learn from synthetic cases: name a store by --store")
    found = Learning("Nothing is learnt in a dry run. " + NO_RANKING if bench.dry else NO_RANKING)
    found.seconds = TRAINING * bench.each(2)
    for network in (OURS, PEER):
        bench.tell(network)
        with bench.begun(PRESET) as session:
            found.cases = len(session.training)
            found.networks.append(_learnt(network, session, found.seconds, dry=bench.dry))
    return found


def _learnt(network: str, session: Session, seconds: float, *, dry: bool) -> Learnt:
    """One network's time from its first step to its scores."""
    learnt = Learnt(network)
    if network == PEER:
        widths, heads = DRY_DYNUNET if dry else DYNUNET
        learnt.missing = _unfit(session.store.crop, widths)
        if learnt.missing:
            return learnt
        put_in(session, DynUNetConfig(widths=widths, heads=heads))
    learnt.parameters = parameter_count(session.model.parameters())
    learnt.compute = session.compute.describe()
    source = Source(session.config.loader, session.stream(), session.compute.device)
    cases = session.validation[:VALIDATED]
    try:
        with source.open(1 if dry else worker_counts()[-1]) as batches:
            _learn(learnt, session, batches, seconds)
        learnt.scores = score_cases(session.as_trained(), session.store, cases)
    except torch.OutOfMemoryError:
        learnt.missing = "out of memory"
    except InferenceError as error:
        learnt.missing = str(error)
    return learnt


def _learn(learnt: Learnt, session: Session, batches: Iterator[Batch], seconds: float) -> None:
    """Steps for so long, each noted."""
    began, samples = time.perf_counter(), 0
    while len(learnt.losses) < AT_LEAST or learnt.seconds[-1] < seconds:
        batch = next(batches)
        loss, usable = step(session, batch)
        samples += len(batch.case_ids)
        learnt.seconds.append(time.perf_counter() - began)
        learnt.samples.append(samples)
        learnt.losses.append(loss if isfinite(loss) else None)
        learnt.skipped += not usable


def _unfit(crop: Triple, widths: Sequence[int]) -> str:
    """Why DynUNet cannot learn from crops; empty if it can."""
    stride = 2 ** (len(widths) - 1)
    if any(side % stride or side < 2 * stride for side in crop):
        return f"needs crops of a multiple of {stride} and at least {2 * stride} voxels a side"
    return missing("monai")
