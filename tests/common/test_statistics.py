import numpy as np
import pytest
from scipy import stats

from common.statistics import difference, holm, mean_intervals, ranks, spreads, wilcoxon


def names(count: int) -> list[str]:
    return [f"patient{index}" for index in range(count)]


def interval(values: np.ndarray, patients: list[str]) -> tuple[float, float]:
    (low,), (high,) = mean_intervals(values[:, None], patients)
    return low, high


def test_a_spread_worked_out_by_hand() -> None:
    found, other = spreads([[0.0, 1], [1.0, 1], [2.0, 1], [5.0, 1]], names(4))
    assert (found.mean, found.median, found.q1, found.q3) == (2.0, 1.5, 0.75, 2.75)
    assert found.sd == pytest.approx((14 / 3) ** 0.5)
    assert 0 <= found.low < 2 < found.high <= 5
    assert (other.mean, other.sd, other.low, other.high) == (1, 0, 1, 1)


def test_one_case_has_a_mean_and_no_spread() -> None:
    (found,) = spreads([[0.7]], ["a"])
    assert (found.mean, found.sd, found.low, found.high) == (0.7, None, None, None)
    (patient,) = spreads([[0.7], [0.9]], ["a", "a"])
    assert (patient.sd, patient.low) == (pytest.approx(0.02**0.5), None)
    assert difference([0.7], [0.6], ["a"]).low is None


def test_an_interval_is_scipys() -> None:
    values = np.random.default_rng(3).beta(8, 2, 60)
    expected = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=10_000, rng=np.random.default_rng(1)
    ).confidence_interval
    low, high = interval(values, names(60))
    assert low == pytest.approx(expected.low, abs=2e-3)
    assert high == pytest.approx(expected.high, abs=2e-3)
    assert (low, high) == interval(values, names(60))  # a report can be repeated


def test_cases_of_one_patient_do_not_narrow_an_interval() -> None:
    values = np.random.default_rng(3).beta(8, 2, 20)
    thrice = [name for name in names(20) for _ in range(3)]
    assert interval(np.repeat(values, 3), thrice) == pytest.approx(
        interval(values, names(20)), abs=1e-12
    )


def test_what_is_no_number_is_not_left_out() -> None:
    found, other = spreads([[0.5, 1], [np.nan, 1], [0.7, 1]], names(3))
    assert np.isnan([found.mean, found.median, found.low, found.high]).all()
    assert other.mean == 1


def test_wilcoxon_worked_out_by_hand() -> None:
    # All of 5 have one sign: 2 of the 2⁵ signs are as extreme.
    assert wilcoxon([1, 2, 3, 4, 5]) == 2 / 32
    # Rank sums 1 and 14: 4 of the 32 are as extreme.
    assert wilcoxon([-1, 2, 3, 4, 5]) == 4 / 32
    assert wilcoxon([0, 1, 2, 3, 4, 5, 0]) == 2 / 32
    assert wilcoxon([0, 0, 0]) == 1


def test_rounding_of_binary_numbers_makes_no_difference() -> None:
    assert wilcoxon([0.1 + 0.2 - 0.3, 1, 2, 3, 4, 5]) == 2 / 32
    tied = [0.1, 0.1, -0.1, 0.3, 0.4, 0.5, 0.6]
    assert wilcoxon([0.9 - 0.8, 0.8 - 0.7, 0.6 - 0.7, *tied[3:]]) == wilcoxon(tied)


def test_a_difference_is_paired_and_has_a_sign() -> None:
    other = np.random.default_rng(0).uniform(0.2, 0.9, 30)
    found = difference(other + 0.01, other, names(30))
    assert found.mean == pytest.approx(0.01)
    assert (found.low, found.high) == pytest.approx((0.01, 0.01))
    assert found.p < 1e-4


def test_a_patient_counts_once_in_the_test() -> None:
    one, other = np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.zeros(5)
    thrice = [name for name in names(5) for _ in range(3)]
    assert difference(np.repeat(one, 3), np.repeat(other, 3), thrice).p == 2 / 32


def test_holm_worked_out_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1, 1]
    assert holm([]) == []


def test_equal_values_share_their_rank() -> None:
    assert ranks([[0.9, 0.8, 0.9], [1, 2, 3]], higher_is_better=True).tolist() == [
        [1.5, 3, 1.5],
        [3, 2, 1],
    ]
    assert ranks([3.0, 374.0, 0.0], higher_is_better=False).tolist() == [2, 3, 1]
