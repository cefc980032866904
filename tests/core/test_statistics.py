"""Means, paired intervals and rank correlation against values worked out by hand or by SciPy."""

import math

import numpy as np
import pytest

from bnas.statistics import FEWEST_PAIRS, kendall_tau, paired_difference, rank_correlation, spread

stats = pytest.importorskip("scipy.stats", reason="SciPy comes with the extra 'digits'")


def test_mean_and_sample_deviation() -> None:
    found = spread([1.0, 2.0, 4.0])
    assert (found.mean, found.count) == (pytest.approx(7 / 3), 3)
    assert found.deviation == pytest.approx(math.sqrt(7 / 3))
    assert math.isnan(spread([3.0]).deviation)


@pytest.mark.parametrize("count", [2, 3, 5, 12, 31, 60])
def test_interval_of_a_paired_difference(count: int) -> None:
    rng = np.random.default_rng(count)
    a, b = rng.normal(0.5, 1, count), rng.normal(0, 1, count)
    found = paired_difference(a.tolist(), b.tolist())
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    # Beyond 30 degrees of freedom the interval is a little wide.
    tolerance = 1e-3 if count <= 31 else 0.03
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=tolerance, abs=tolerance)
    assert found.mean == pytest.approx((a - b).mean())
    assert found.high - found.low >= (expected.high - expected.low) * (1 - 1e-3)


def test_the_word_better_needs_an_interval_without_zero_and_enough_pairs() -> None:
    base = [0.5, 0.6, 0.7, 0.8]
    assert paired_difference([x + 0.1 for x in base], base).verdict == "better"
    assert paired_difference([x - 0.1 for x in base], base).verdict == "worse"
    assert paired_difference([0.6, 0.5, 0.8, 0.7], base).verdict == "not told apart"
    few = base[: FEWEST_PAIRS - 1]
    assert paired_difference([x + 0.1 for x in few], few).verdict == "too few seeds"
    single = paired_difference([1.0], [0.5])
    assert (single.low, single.high) == (-math.inf, math.inf)


@pytest.mark.parametrize(("a", "b"), [([1.0], [1.0, 2.0]), ([], [])])
def test_numbers_that_are_no_pairs(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match="pairs are needed"):
        paired_difference(a, b)


def test_kendall_tau_with_and_without_ties() -> None:
    rng = np.random.default_rng(0)
    for levels in (3, 100):
        a, b = rng.integers(0, levels, 20).tolist(), rng.integers(0, levels, 20).tolist()
        assert kendall_tau(a, b) == pytest.approx(stats.kendalltau(a, b).statistic)
    assert kendall_tau([1, 2, 3], [4, 5, 6]) == 1
    assert kendall_tau([1, 2, 3], [6, 5, 4]) == -1
    assert math.isnan(kendall_tau([1, 1, 1], [4, 5, 6]))
    with pytest.raises(ValueError, match="at least two"):
        kendall_tau([1], [2])


def test_permutations_tell_an_order_from_chance() -> None:
    order = list(range(8))
    same, mixed = rank_correlation(order, order), rank_correlation(order, [3, 1, 6, 0, 7, 4, 2, 5])
    assert same.tau == 1
    assert same.p_value < 0.01
    assert mixed.p_value > 0.3
    assert mixed == rank_correlation(order, [3, 1, 6, 0, 7, 4, 2, 5])
    assert math.isnan(rank_correlation([1, 1], [1, 2]).p_value)
