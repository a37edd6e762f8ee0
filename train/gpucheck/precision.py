"""Check `precision`: mixed precision learns as float32 does, within the run-to-run spread."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import fmean

import numpy as np

from benchmarks.training.suite import Bench
from train.data.feed import Batch
from train.gpucheck.learning import HALVINGS, batches_of
from train.gpucheck.rows import Checked, Row, attempt, judged, why_not
from train.precision import DTYPES, Precision
from train.trainer import step

BATCHES = 3
"""That all runs learn from, again and again; a point of a curve is the mean over them."""
SEEDS = (0, 1, 2, 3)
"""Of the float32 runs: of their weights, and of the order of the batches."""
POINTS = (16, 40)
"""Of a curve, at least and at most."""
END_SHARE = 4
"""The end of a curve is the last of so many parts."""
LEARNT = 0.75
"""Of its first point, where a curve ends at most that can say something about learning."""


@dataclass(frozen=True)
class Curve:
    """How a run learnt.

    Attributes:
        losses: the mean over all batches, pass by pass.
        skipped: steps without a finite gradient.
    """

    losses: tuple[float, ...]
    skipped: int

    @property
    def last(self) -> tuple[float, ...]:
        """Its last points."""
        return self.losses[-max(1, len(self.losses) // END_SHARE) :]

    @property
    def end(self) -> float:
        """Their mean."""
        return fmean(self.last)


def measure(bench: Bench) -> Checked:
    """Train from the same weights, on the same batches in the same order, in each precision."""
    return Checked(attempt("learning", partial(_measure, bench)))


def _measure(bench: Bench) -> Sequence[Row]:
    lower = {name: why_not(bench.device, name) for name in DTYPES if name != "fp32"}
    runs = len(SEEDS) + sum(not reason for reason in lower.values())
    batches = batches_of(bench, BATCHES)
    bench.tell(f"learning: fp32, seed {SEEDS[0]}")
    float32 = [learnt(bench, batches, "fp32", SEEDS[0], POINTS, bench.each(runs))]
    as_many = (len(float32[0].losses),) * 2
    for seed in SEEDS[1:]:
        if bench.late():
            return [Row("learning", "not run", "no time was left for float32's other seeds")]
        bench.tell(f"learning: fp32, seed {seed}")
        float32.append(learnt(bench, batches, "fp32", seed, as_many))
    rows = list(judge_float32(float32))
    for name, reason in lower.items():
        if reason or bench.late():
            rows.append(Row(name, "not run", reason or "no time was left"))
            continue
        bench.tell(f"learning: {name}")
        rows += attempt(name, partial(_lower, bench, batches, name, float32))
    return rows


def _lower(
    bench: Bench, batches: Sequence[Batch], precision: Precision, float32: Sequence[Curve]
) -> Sequence[Row]:
    points = len(float32[0].losses)
    return judge(precision, learnt(bench, batches, precision, SEEDS[0], (points, points)), float32)


def learnt(  # noqa: PLR0913, PLR0917 - what a run is, and how far it goes
    bench: Bench,
    batches: Sequence[Batch],
    precision: Precision,
    seed: int,
    points: tuple[int, int],
    seconds: float = 0.0,
) -> Curve:
    """Learn from some batches, again and again.

    Args:
        bench: where, and which network.
        batches: on the device.
        precision: what it computes in.
        seed: of weights and order.
        points: passes over the batches, at least and at most.
        seconds: between the two, for so long.
    """
    order, losses, skipped = np.random.default_rng(seed), list[float](), 0
    least, most = points
    until = time.monotonic() + seconds
    changes = (*bench.overrides, f"precision={precision}", f"seed={seed}", "batch_size=1")
    with bench.begun(bench.preset, *changes) as session:
        while len(losses) < least or (len(losses) < most and time.monotonic() < until):
            steps = [step(session, batches[n]) for n in order.permutation(len(batches))]
            losses.append(fmean(loss for loss, _ in steps))
            skipped += sum(not usable for _, usable in steps)
    return Curve(tuple(losses), skipped)


def judge_float32(curves: Sequence[Curve]) -> Sequence[Row]:
    """Whether float32 learns in every run: else the others' curves would say nothing.

    Args:
        curves: of all seeds.
    """
    share = max(curve.end / curve.losses[0] for curve in curves)
    why = "the worst seed's loss at its end, relative to its first point: a quarter has to go"
    raw = {"curves": [asdict(curve) for curve in curves]}
    left_out = sum(curve.skipped for curve in curves)
    return [judged("fp32: learns", share, LEARNT, why, **raw), _skipped("fp32", left_out)]


def judge(precision: Precision, curve: Curve, float32: Sequence[Curve]) -> Sequence[Row]:
    """Compare a curve with float32's of the same seed, and with how far float32's are apart.

    Args:
        precision: the curve's.
        curve: from the first seed.
        float32: curves of all seeds.
    """
    same = float32[0]
    gaps = [abs(a - b) for a, b in zip(curve.losses, same.losses, strict=True)]
    largest = max(gaps) if all(map(math.isfinite, gaps)) else math.nan
    spread = _spread([one.losses for one in float32])
    spread_there = _spread([one.last for one in float32])
    why = f"how far float32's curves of {len(float32)} seeds come apart"
    raw = {"curve": asdict(curve), "gaps": gaps}
    rows = [
        judged(f"{precision}: largest gap", largest, spread, why, **raw),
        judged(
            f"{precision}: gap at the end", abs(curve.end - same.end), spread_there, f"{why} there"
        ),
        _skipped(precision, curve.skipped),
    ]
    if largest == 0:  # nothing was computed in another precision
        why = "its curve is float32's to the bit"
        rows.append(Row(f"{precision}: differs at all", "FAILED", why, largest))
    return rows


def _skipped(precision: Precision, steps: int) -> Row:
    bound, why = 0, "nothing is scaled, so nothing is to overflow"
    if precision == "fp16":
        bound, why = HALVINGS, "the scale is 1 after so many halvings"
    return judged(f"{precision}: steps without a finite gradient", steps, bound, why)


def _spread(curves: Sequence[Sequence[float]]) -> float:
    """How far curves come apart, where they are farthest."""
    points: list[tuple[float, ...]] = list(zip(*curves, strict=True))
    return max(max(losses) - min(losses) for losses in points)
