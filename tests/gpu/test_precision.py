"""Mixed precision learns as float32 does, within the run-to-run spread."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

import numpy as np
import pytest
from gpu_check import HALVINGS, PRESET, Check, Row, judged

from train.data.feed import Batch
from train.precision import DTYPES, Precision
from train.trainer import step

pytestmark = pytest.mark.gpu

BATCHES = 3
"""That all runs learn from, again and again; a point of a curve is the mean over them."""
SEEDS, DRY_SEEDS = (0, 1, 2, 3), (0, 1, 2)
"""Of the float32 runs: of their weights, and of the order of the batches."""
POINTS, DRY_POINTS = (16, 40), (8, 8)
"""Of a curve, at least and at most."""
END_SHARE = 4
"""The end of a curve is the last of so many parts."""
LEARNT = 0.75
"""A curve that ends above this share of its first point says nothing about learning."""


@dataclass(frozen=True)
class Curve:
    """How a run learnt."""

    losses: tuple[float, ...]
    """The mean over all batches, pass by pass."""
    skipped: int
    """Steps without a finite gradient."""

    @property
    def last(self) -> tuple[float, ...]:
        """Its last points."""
        return self.losses[-max(1, len(self.losses) // END_SHARE) :]

    @property
    def end(self) -> float:
        """Their mean."""
        return fmean(self.last)


def test_every_precision_learns_as_float32_does(check: Check) -> None:
    check.need_time("precision")
    lower = {name: check.why_not(name) for name in DTYPES if name != "fp32"}
    seeds, points = (DRY_SEEDS, DRY_POINTS) if check.bench.dry else (SEEDS, POINTS)
    runs = len(seeds) + sum(not reason for reason in lower.values())
    batches = check.batches(BATCHES)
    float32 = [learnt(check, batches, "fp32", seeds[0], points, check.bench.each(runs))]
    as_many = (len(float32[0].losses),) * 2
    for seed in seeds[1:]:
        check.need_time("float32's other seeds")
        float32.append(learnt(check, batches, "fp32", seed, as_many))
    rows = list(judge_float32(float32))
    for name, reason in lower.items():
        late = "no time was left" if check.bench.late() else ""
        if reason or late:
            rows.append(Row(name, "not run", reason or late))
        else:
            rows += judge(name, learnt(check, batches, name, seeds[0], as_many), float32)
    check.add(*rows)


def learnt(  # noqa: PLR0917 - what a run is, and how far it goes
    check: Check,
    batches: Sequence[Batch],
    precision: Precision,
    seed: int,
    points: tuple[int, int],
    seconds: float = 0.0,
) -> Curve:
    """Learn from some batches, again and again.

    Args:
        check: where.
        batches: on the device.
        precision: what it computes in.
        seed: of weights and order.
        points: passes over the batches, at least and at most.
        seconds: between the two, for so long.
    """
    order, losses, skipped = np.random.default_rng(seed), list[float](), 0
    least, most = points
    until = time.monotonic() + seconds
    changes = (f"precision={precision}", f"seed={seed}", "batch_size=1")
    with check.bench.begun(PRESET, *changes) as session:
        while len(losses) < least or (len(losses) < most and time.monotonic() < until):
            steps = [step(session, batches[n]) for n in order.permutation(len(batches))]
            losses.append(fmean(loss for loss, _ in steps))
            skipped += sum(not usable for _, usable in steps)
    return Curve(tuple(losses), skipped)


def judge_float32(curves: Sequence[Curve]) -> Iterator[Row]:
    """Whether float32 learns in every run: else the others' curves would say nothing."""
    share = max(curve.end / curve.losses[0] for curve in curves)
    why = "the worst seed's loss at its end, relative to its first point: a quarter has to go"
    yield judged("fp32: learns", share, LEARNT, why, curves=[asdict(curve) for curve in curves])
    yield _skipped("fp32", sum(curve.skipped for curve in curves))


def judge(precision: Precision, curve: Curve, float32: Sequence[Curve]) -> Iterator[Row]:
    """Compare a curve with float32's of the same seed, and with how far float32's are apart."""
    same = float32[0]
    gaps = [abs(a - b) for a, b in zip(curve.losses, same.losses, strict=True)]
    largest = max(gaps) if all(map(math.isfinite, gaps)) else math.nan
    why = f"how far float32's curves of {len(float32)} seeds come apart"
    raw = {"curve": asdict(curve), "gaps": gaps}
    spread = _spread([one.losses for one in float32])
    yield judged(f"{precision}: largest gap", largest, spread, why, **raw)
    spread_there = _spread([one.last for one in float32])
    gap = abs(curve.end - same.end)
    yield judged(f"{precision}: gap at the end", gap, spread_there, f"{why} there")
    yield _skipped(precision, curve.skipped)
    if largest == 0:  # nothing was computed in another precision
        why = "its curve is float32's to the bit"
        yield Row(f"{precision}: differs at all", "FAILED", why, largest)


def _skipped(precision: Precision, steps: int) -> Row:
    bound, why = 0, "nothing is scaled, so nothing is to overflow"
    if precision == "fp16":
        bound, why = HALVINGS, "the scale is 1 after so many halvings"
    return judged(f"{precision}: steps without a finite gradient", steps, bound, why)


def _spread(curves: Sequence[Sequence[float]]) -> float:
    """How far curves come apart, where they are farthest."""
    points: list[tuple[float, ...]] = list(zip(*curves, strict=True))
    return max(max(losses) - min(losses) for losses in points)
