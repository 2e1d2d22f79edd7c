"""Intervals against known sampling distributions, and scipy's numbers."""

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from experiments import stats


def test_bootstrap_interval_is_that_of_the_normal_mean():
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    e = stats.bootstrap(values, seed=7)
    error = values.std() / math.sqrt(400)
    assert e.value == pytest.approx(values.mean()) and (e.n, e.seed) == (400, 7)
    assert e.low == pytest.approx(e.value - 1.96 * error, abs=0.15 * error)
    assert e.high == pytest.approx(e.value + 1.96 * error, abs=0.15 * error)


def test_the_seed_decides_the_interval():
    values = list(range(20))
    assert stats.bootstrap(values, seed=1) == stats.bootstrap(values, seed=1)
    assert stats.bootstrap(values, seed=1) != stats.bootstrap(values, seed=2)


def test_groups_widen_the_interval_of_repeated_measurements():
    values = np.repeat(np.random.default_rng(0).normal(size=10), 30)
    alone = stats.bootstrap(values)
    grouped = stats.bootstrap(values, groups=np.repeat(range(10), 30))
    assert grouped.n == 10 and alone.n == 300
    assert grouped.high - grouped.low > 3 * (alone.high - alone.low)


def test_pairing_removes_what_the_items_share():
    rng = np.random.default_rng(0)
    item = rng.normal(scale=10, size=100)
    a, b = item + 1 + rng.normal(scale=0.1, size=100), item
    e = stats.paired_difference(a, b)
    assert 0.9 < e.low < e.value < e.high < 1.1


def test_ratio_and_normalised_score():
    assert stats.ratio([1, 1, 1], [2, 2, 2]).value == 0.5
    e = stats.normalised_score([0.5] * 5, [0.0] * 5, [1.0] * 5)
    assert (e.value, e.low, e.high) == (0.5, 0.5, 0.5)
    median = stats.bootstrap([1, 2, 9], lambda x: np.median(x, axis=-1))
    assert median.value == 2


def test_spearman_is_scipys_and_knows_its_groups():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 5, 300)  # with ties
    b = a + 2 * rng.normal(size=300)
    e = stats.spearman(a, b)
    assert e.value == pytest.approx(spearmanr(a, b)[0], abs=1e-12)
    assert e.low < e.value < e.high
    copies = [np.repeat(x[:20], 15) for x in (a, b)]
    grouped = stats.spearman(*copies, groups=np.repeat(range(20), 15))
    alone = stats.spearman(*copies)
    assert grouped.n == 20 and alone.n == 300
    assert grouped.high - grouped.low > 3 * (alone.high - alone.low)
    with pytest.raises(ValueError, match="constant"):
        stats.spearman([1, 1, 1], [1, 2, 3])


def test_whole_groups_are_drawn_whatever_their_sizes():
    values, groups = [0.0] * 30 + [1.0] * 10, [0] * 30 + [1] * 10
    e = stats.bootstrap(values, groups=groups)
    assert (e.value, e.low, e.high, e.n) == (0.25, 0.0, 1.0, 2)
    e = stats.ratio(values, [1.0] * 40, groups=groups)
    assert (e.value, e.low, e.high, e.n) == (0.25, 0.0, 1.0, 2)
    e = stats.bootstrap([1, 2, 9, 4, 5], np.median, groups=list("aaabb"))
    assert (e.value, e.low, e.high, e.n) == (4, 2, 4.5, 2)
    e = stats.clustered(stats.paired_difference, groups, values, [0.0] * 40, seed=3)
    assert (e.value, e.low, e.high, e.n, e.seed) == (0.25, 0.0, 1.0, 40, 3)


@pytest.mark.parametrize("bad", [[], [1.0, math.nan], [[1.0]], [math.inf]])
def test_bad_values_are_refused(bad):
    with pytest.raises(ValueError, match="values"):
        stats.bootstrap(bad)


def test_bad_pairs_and_groups_are_refused():
    with pytest.raises(ValueError, match="pair them"):
        stats.paired_difference([1, 2], [1])
    with pytest.raises(ValueError, match="groups"):
        stats.bootstrap([1, 2], groups=["a"])
    with pytest.raises(ValueError, match="sums to 0"):
        stats.ratio([1, 2], [0, 0])


def test_a_single_item_and_draws_without_a_ratio():
    e = stats.bootstrap([0.3])
    assert (e.value, e.low, e.high, e.n) == (0.3, 0.3, 0.3, 1)
    e = stats.ratio([1.0, 1.0], [2.0, 0.0])  # a quarter of the draws divide by 0
    assert (e.value, e.low, e.high) == (1.0, 0.5, 1.0)


def test_counted_numbers_are_their_own_interval():
    assert stats.Estimate.exact(3, 7) == stats.Estimate(3.0, 3.0, 3.0, 7)


def test_a_difference_of_ratios_is_drawn_together():
    """3/6 - 1/4 = 1/4; of a ratio with itself the interval is 0, whatever is drawn."""
    a, b, c, d = [1, 2.0], [2, 4.0], [0, 1.0], [3, 1.0]
    assert stats.ratio_difference(a, b, c, d).value == 0.25
    x, y = [1, 5, 2, 8.0, 3], [9, 7, 8, 9, 5.0]
    same = stats.ratio_difference(x, y, x, y, groups=[0, 0, 1, 1, 2])
    assert (same.value, same.low, same.high) == (0, 0, 0)
    with pytest.raises(ValueError, match="denominator2"):
        stats.ratio_difference(a, b, c, [1.0])


def test_a_share_without_spread_still_has_a_width():
    """64 of 64: Clopper and Pearson's lower end is (0.025)^(1/64)."""
    every, none = stats.share([1] * 64), stats.share([0] * 64)
    assert every.low == pytest.approx(0.025 ** (1 / 64)) and every.high == 1
    assert (none.low, none.high) == pytest.approx((0, 1 - 0.025 ** (1 / 64)))
    mixed = [0, 1, 1, 1] * 8
    assert stats.share(mixed, 3) == stats.bootstrap(mixed, seed=3)
