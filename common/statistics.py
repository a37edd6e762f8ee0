"""Statistics of scores: intervals by resampling, paired tests and ranks.

Cases of one patient are no independent samples, so patients are resampled and tested, not cases.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]

RESAMPLES = 10_000
SEED = 0
LEVEL = 0.95
TAILS = (1 - LEVEL) / 2, (1 + LEVEL) / 2
"""Where an interval of `LEVEL` ends."""
DECIMALS = 9
BLOCK = 500
"""Resamples that are drawn at once, to bound the memory."""


@dataclass(frozen=True)
class Spread:
    """A score over several cases."""

    mean: float
    sd: float | None
    """Standard deviation of a sample (n - 1); None of one case."""
    median: float
    q1: float
    """First quartile."""
    q3: float
    """Third quartile."""
    low: float | None
    """Lower end of the mean's bootstrap interval of `LEVEL`; None of one patient."""
    high: float | None
    """Its upper end."""


def spreads(values: ArrayLike, patients: Sequence[str]) -> list[Spread]:
    """Describe each column of values (cases, columns), of the patients in the same order.

    A NaN stays visible: it is in the mean, never left out.
    """
    scores = np.asarray(values, np.float64)
    several = len(scores) > 1
    sd = scores.std(axis=0, ddof=1).tolist() if several else [None] * scores.shape[1]
    quartiles = np.quantile(scores, (0.5, 0.25, 0.75), axis=0).tolist()
    columns = (scores.mean(axis=0).tolist(), sd, *quartiles, *_ends(scores, patients))
    return [Spread(*column) for column in zip(*columns, strict=True)]


def _ends(values: Values, patients: Sequence[str]) -> tuple[list[float | None], ...]:
    """Lower and upper ends of `mean_intervals`; None of one patient, whom resampling repeats."""
    if len(set(patients)) == 1:
        unknown: list[float | None] = [None] * values.shape[1]
        return unknown, unknown
    low, high = mean_intervals(values, patients)
    return low.tolist(), high.tolist()


def mean_intervals(values: ArrayLike, patients: Sequence[str]) -> tuple[Values, Values]:
    """Lower and upper ends of the bootstrap percentile intervals (Efron 1979) of column means.

    Each of `RESAMPLES` draws as many patients as there are, with repetition, and takes all cases
    of each. The seed is fixed, so the same values always have the same interval.
    """
    low, high = np.quantile(_resampled(np.asarray(values, np.float64), patients), TAILS, axis=0)
    return low, high


def _resampled(values: Values, patients: Sequence[str]) -> Values:
    """Means (`RESAMPLES`, columns) of values (cases, columns), of patients drawn again."""
    sums, counts = _by_patient(values, patients)
    means = []
    for block in _draws(len(sums)):
        drawn = block.astype(np.float64)  # BLAS has no int
        means.append(drawn @ sums / (drawn @ counts)[:, None])
    return np.concatenate(means)


@lru_cache(maxsize=1)
def _draws(patients: int) -> list[NDArray[np.uint16]]:
    """How often each patient is drawn (resamples, patients), in blocks of `BLOCK`.

    Kept, because they are the same for every score of the same cases, and take most of the time.
    """
    random, shares = np.random.default_rng(SEED), np.full(patients, 1 / patients)
    sizes = [min(BLOCK, RESAMPLES - start) for start in range(0, RESAMPLES, BLOCK)]
    return [random.multinomial(patients, shares, size).astype(np.uint16) for size in sizes]


@dataclass(frozen=True)
class Difference:
    """How much one method's score is above another's on the same cases."""

    mean: float
    low: float | None
    """Lower end of the mean's bootstrap interval of `LEVEL`; None of one patient."""
    high: float | None
    """Its upper end."""
    p: float
    """Of the Wilcoxon signed-rank test, two-sided, not corrected for other tests."""


@dataclass(frozen=True)
class Interval:
    """A mean, or a difference of two."""

    mean: float
    low: float | None
    """Lower end of its bootstrap interval of `LEVEL`; None of a single value."""
    high: float | None
    """Its upper end."""


def difference(one: ArrayLike, other: ArrayLike, patients: Sequence[str]) -> Difference:
    """Compare values of the same cases in pairs: `one` minus `other`.

    A patient's mean difference over its cases counts once in the test.
    """
    apart = (np.asarray(one, np.float64) - np.asarray(other, np.float64))[:, None]
    sums, counts = _by_patient(apart, patients)
    (low,), (high,) = _ends(apart, patients)
    return Difference(float(apart.mean()), low, high, wilcoxon(sums[:, 0] / counts))


def over_seeds(values: Values, patients: Sequence[str]) -> Interval:
    """The mean of values (seeds, cases), and its interval over the seeds of training and patients.

    Seeds and patients are drawn independently of each other, each with repetition. Few seeds make
    the interval too narrow.
    """
    (means,) = _crossed([values], patients)
    return _interval(float(values.mean()), means, several=values.shape != (1, 1))


def difference_over_seeds(one: Values, other: Values, patients: Sequence[str]) -> Interval:
    """How much the mean of `one` (seeds, cases) is above that of `other`, of the same cases.

    The same patients are drawn for both, and the seeds of each.
    """
    ours, theirs = _crossed([one, other], patients)
    several = one.shape != (1, 1) or other.shape != (1, 1)
    return _interval(float(one.mean() - other.mean()), ours - theirs, several=several)


def _crossed(tables: Sequence[Values], patients: Sequence[str]) -> list[Values]:
    """Resampled means of each table (seeds, cases)."""
    random, means = np.random.default_rng((SEED, 1)), list[Values]()  # not that of the patients
    for table in tables:
        seeds = len(table)
        drawn = random.multinomial(seeds, [1 / seeds] * seeds, RESAMPLES)
        means.append((_resampled(table.T, patients) * drawn).sum(axis=1) / seeds)
    return means


def _interval(mean: float, means: Values, *, several: bool) -> Interval:
    if not several:  # resampling would repeat the one value
        return Interval(mean, None, None)
    low, high = np.quantile(means, TAILS).tolist()
    return Interval(mean, low, high)


def wilcoxon(differences: ArrayLike) -> float:
    """The two-sided p-value of the signed-rank test; 1 where all differences are 0.

    Zeros are left out. Up to 50 differences without ties have the exact distribution. Differences
    count to `DECIMALS` places: 0.9 − 0.8 and 0.8 − 0.7 are the same, though not as binary numbers.
    """
    from scipy import stats  # half a second to import

    apart = np.round(np.asarray(differences, np.float64), DECIMALS)
    apart = apart[apart != 0]
    return float(stats.wilcoxon(apart).pvalue) if len(apart) else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for the number of tests (Holm 1979), in the same order."""
    order = np.argsort(p_values)
    steps = np.asarray(p_values)[order] * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected.tolist()


def ranks(values: ArrayLike, *, higher_is_better: bool) -> Values:
    """The rank of each method (last axis) in each row, from 1; equal values share the mean rank."""
    from scipy import stats

    scores = np.asarray(values, np.float64)
    ranked: Values = stats.rankdata(-scores if higher_is_better else scores, axis=-1)
    return ranked


def _by_patient(values: Values, patients: Sequence[str]) -> tuple[Values, Values]:
    """Sums of the columns, and number of cases, of each patient."""
    names, index = np.unique(np.asarray(patients), return_inverse=True)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, index, values)
    return sums, np.bincount(index).astype(np.float64)
