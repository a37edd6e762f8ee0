"""Section `learning`: two networks learn from the same real cases for the same seconds."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.loading import Source, size_of, worker_counts
from benchmarks.peers import DYNUNET
from benchmarks.sections import Bench, Result
from benchmarks.synthetic import NAME
from common.errors import ConfigError, InferenceError
from train.evaluate import CaseScore, mean_scores, score_cases
from train.figures import DOTS_PER_INCH, INK, PAPER, SOFT
from train.networks import parameter_count
from train.trainer import Session, step

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PRESET = "fm_net"
OURS, PEER = "FM-Net", "DynUNet"
TRAINING = 0.7
"""Share of a network's time; the rest is for starting and validation."""
VALIDATED = 4
"""Validation cases at most."""
AT_LEAST = 4
"""Steps at least."""
SMOOTHED = 20
"""A curve's line is a mean over one in so many of its steps."""
COLOURS = ("#7fb2ff", "#f2a65a")
NO_RANKING = "So few cases and seconds show how a network begins to learn. They rank nothing."


@dataclass
class Learnt:
    """One network's losses and scores."""

    network: str
    parameters: int = 0
    compute: str = ""
    seconds: list[float] = field(default_factory=list)
    """Since the first step began, at the end of each."""
    samples: list[int] = field(default_factory=list)
    """Learnt from by then."""
    losses: list[float | None] = field(default_factory=list)
    """Of the main head in each step; None where it was not finite."""
    skipped: int = 0
    """Steps without a finite gradient."""
    scores: list[CaseScore] = field(default_factory=list)
    """Of validation cases, over their whole volumes."""
    missing: str = ""
    """Why it has no losses or no scores."""

    def to_json(self) -> dict[str, Any]:
        cases = [{"case_id": s.case_id, "dice": s.dice, "loss": s.loss} for s in self.scores]
        means = {"mean_dice": mean_scores(self.scores).dice if self.scores else {}}
        return asdict(self) | means | {"steps": len(self.losses), "scores": cases}


def measure(bench: Bench) -> Result:
    """Train both networks for the same time, and score each."""
    if bench.store.manifest.name == NAME and not bench.dry:
        note = "nothing can be learnt from synthetic cases; name a store with --store"
        return Result(Table("not measured", note, box=None, pad_edge=False), {"note": note})
    seconds, networks, cases = TRAINING * bench.each(2), list[Learnt](), 0
    for network, changes in ((OURS, ()), (PEER, DYNUNET[bench.dry])):
        bench.tell(network)
        networks.append(Learnt(network))
        try:
            with bench.begun(PRESET, *changes) as session:
                cases = len(session.training)
                _learn(networks[-1], session, seconds, dry=bench.dry)
        except (ConfigError, InferenceError, torch.OutOfMemoryError) as error:
            networks[-1].missing = str(error)
    about = f"{cases} training cases, {seconds:.0f} s for each network"
    raw = {"preset": PRESET, "note": NO_RANKING, "seconds_to_learn": seconds}
    raw |= {"networks": [learnt.to_json() for learnt in networks]}
    return Result(
        _table(about, networks, bench.store.task.region_names),
        raw,
        learning_figure(about, networks),
    )


def _learn(learnt: Learnt, session: Session, seconds: float, *, dry: bool) -> None:
    learnt.parameters = parameter_count(session.model.parameters())
    learnt.compute = session.compute.describe()
    source = Source(session.config.loader, session.stream(), session.compute.device)
    with source.open(1 if dry else worker_counts()[-1]) as batches:
        began, samples = time.perf_counter(), 0
        while len(learnt.losses) < AT_LEAST or learnt.seconds[-1] < seconds:
            batch = next(batches)
            loss, usable = step(session, batch)
            samples += size_of(batch)
            learnt.seconds.append(time.perf_counter() - began)
            learnt.samples.append(samples)
            learnt.losses.append(loss if isfinite(loss) else None)
            learnt.skipped += not usable
    cases = session.validation[:VALIDATED]
    learnt.scores = score_cases(session.as_trained(), session.store, cases)


def _table(title: str, networks: Sequence[Learnt], regions: Sequence[str]) -> Table:
    table = Table(title=title, caption=NO_RANKING, box=None, pad_edge=False)
    table.title_justify = table.caption_justify = "left"
    table.add_column("")
    for learnt in networks:
        table.add_column(learnt.network, justify="right")
    columns = [_column(learnt, regions) for learnt in networks]
    for cells in zip(*columns, strict=True):
        table.add_row(cells[0][0], *(figure for _, figure in cells))
    return table


def _column(learnt: Learnt, regions: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(name, figure) of each row."""
    yield "computes in", learnt.compute
    yield "parameters", f"{learnt.parameters / 1e6:.1f} M" if learnt.parameters else "–"
    yield "steps", f"{len(learnt.losses)}, {learnt.skipped} skipped"
    yield "samples", str(learnt.samples[-1] if learnt.samples else 0)
    dice = mean_scores(learnt.scores).dice if learnt.scores else {}
    for region in regions:
        figure = f"{dice[region]:.3f} ({len(learnt.scores)} case(s))" if dice else "–"
        yield f"mean Dice {region.upper()}", figure
    yield "", learnt.missing


def learning_figure(title: str, networks: Sequence[Learnt]) -> "Figure | None":
    """Each step's loss as a point, a running mean as a line; None without any step."""
    from matplotlib.figure import Figure

    curves = [learnt for learnt in networks if learnt.losses]
    if not curves:
        return None
    figure = Figure(figsize=(10.0, 4.6), dpi=DOTS_PER_INCH, facecolor=PAPER)
    panels = figure.subplots(1, 2, sharey=True)
    for learnt, colour in zip(curves, COLOURS, strict=False):
        _draw_curve(panels[0], learnt.seconds, learnt, colour)
        _draw_curve(panels[1], learnt.samples, learnt, colour)
    for panel, what in zip(panels, ("seconds of training", "samples learnt from"), strict=True):
        panel.set_xlabel(what, color=SOFT)
        panel.set_facecolor(PAPER)
        panel.tick_params(colors=SOFT, length=0)
        panel.spines[:].set_visible(False)
        panel.grid(color=SOFT, alpha=0.15)
    panels[0].set_ylabel("loss of the main head", color=SOFT)
    panels[1].legend(frameon=False, labelcolor=INK)
    figure.suptitle(title, x=0.08, ha="left", color=INK, weight="bold")
    figure.text(0.08, 0.02, NO_RANKING, color=SOFT, size=8)
    figure.subplots_adjust(left=0.08, right=0.98, top=0.88, bottom=0.2, wspace=0.06)
    return figure


def _draw_curve(panel: "Axes", places: Sequence[float], learnt: Learnt, colour: str) -> None:
    losses = np.array([np.nan if loss is None else loss for loss in learnt.losses])
    panel.plot(places, losses, ".", color=colour, alpha=0.25, markersize=3, markeredgewidth=0)
    panel.plot(places, running_mean(losses), color=colour, linewidth=1.8, label=learnt.network)


def running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each value's mean with the finite ones just before it; NaN where there are none."""
    count = max(1, len(values) // SMOOTHED)
    windows = [values[max(0, end - count) : end] for end in range(1, len(values) + 1)]
    finite = [window[np.isfinite(window)] for window in windows]
    return np.array([window.mean() if window.size else np.nan for window in finite])
