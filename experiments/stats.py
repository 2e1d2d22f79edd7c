"""Numbers with their uncertainty: 95 % bootstrap intervals.

    Estimate            a value, its interval, n and seed; .exact for counted numbers
    bootstrap           a statistic of one measurement, by item or by group
    share               of items that are independent and each 0 or 1
    paired_difference   the same of a - b, two measurements of the same items
    ratio               a ratio of sums; ratio_difference: one less another
    normalised_score    a mean between the mean of a floor (0) and of a ceiling (1)
    spearman            rank correlation of two measurements
    clustered           any of these, drawing whole groups but counting items

Resampling is scipy.stats.bootstrap's, the percentile method. With `groups` (N labels)
whole groups are drawn, each as its sums, and n counts groups.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.stats


@dataclass(frozen=True)
class Estimate:
    """A value with the bounds of its 95 % interval; n items, the bootstrap's seed."""

    value: float
    low: float
    high: float
    n: int
    seed: int = 0

    @classmethod
    def exact(cls, value: float, n: int) -> Estimate:
        """A number that is counted, not estimated: its interval is itself."""
        return cls(float(value), float(value), float(value), n)

    def columns(self, value: str = "value") -> dict[str, float]:
        """Give it as columns of a table: `value`, low, high, n."""
        return {value: self.value, "low": self.low, "high": self.high, "n": self.n}


def bootstrap(
    values: Sequence[float],
    statistic: Callable | None = None,
    resamples: int = 2000,
    seed: int = 0,
    groups: Sequence | None = None,
) -> Estimate:
    """Estimate a statistic of values (N,), by default the mean.

    statistic: a function that reduces (..., N) over its last axis.
    """
    column = _column(values, "values")
    if groups is not None and statistic is not None:
        return _grouped_statistic(column, statistic, resamples, seed, groups)
    if groups is not None:
        return ratio(column, np.ones_like(column), resamples, seed, groups)

    def reduced(x, axis):
        return x.mean(axis) if statistic is None else statistic(x)

    return _resample(column[None], reduced, resamples, seed)


def share(hits: Sequence[float], seed: int = 0) -> Estimate:
    """Estimate a share of independent items, each 0 or 1.

    By bootstrap; where all items are alike, so that every draw is the same, by
    Clopper and Pearson's interval (1934), which still has a width.
    """
    estimate = bootstrap(hits, seed=seed)
    if estimate.value not in (0.0, 1.0):
        return estimate
    found = scipy.stats.binomtest(round(estimate.value * estimate.n), estimate.n)
    low, high = found.proportion_ci(method="exact")
    return replace(estimate, low=float(low), high=float(high))


def paired_difference(
    a: Sequence[float],
    b: Sequence[float],
    statistic: Callable | None = None,
    resamples: int = 2000,
    seed: int = 0,
    groups: Sequence | None = None,
) -> Estimate:
    """Estimate the statistic of a - b, two measurements (N,) of the same items."""
    a, b = _pair(a, b, "a", "b")
    return bootstrap(a - b, statistic, resamples, seed, groups)


def ratio(
    numerator: Sequence[float],
    denominator: Sequence[float],
    resamples: int = 2000,
    seed: int = 0,
    groups: Sequence | None = None,
) -> Estimate:
    """Estimate sum(numerator) / sum(denominator), both (N,), drawn item by item."""
    pair = np.stack(_pair(numerator, denominator, "numerator", "denominator"))
    if pair[1].sum() == 0:
        raise ValueError("denominator: sums to 0, so the ratio does not exist")
    return _resample(_group_sums(pair, groups), _ratio_of_sums, resamples, seed)


def ratio_difference(
    numerator: Sequence[float],
    denominator: Sequence[float],
    numerator2: Sequence[float],
    denominator2: Sequence[float],
    resamples: int = 2000,
    seed: int = 0,
    groups: Sequence | None = None,
) -> Estimate:
    """Estimate one ratio of sums less another, all (N,), drawn together."""
    first = _pair(numerator, denominator, "numerator", "denominator")
    second = _pair(numerator2, denominator2, "numerator2", "denominator2")
    sums = _group_sums(np.stack([*first, *second]), groups)
    return _resample(sums, _difference_of_ratios, resamples, seed)


def normalised_score(
    score: Sequence[float],
    floor: Sequence[float],
    ceiling: Sequence[float],
    resamples: int = 2000,
    seed: int = 0,
    groups: Sequence | None = None,
) -> Estimate:
    """Estimate (score - floor) / (ceiling - floor) of means: 0 floor, 1 ceiling."""
    score, floor = _pair(score, floor, "score", "floor")
    ceiling, _ = _pair(ceiling, floor, "ceiling", "floor")
    return ratio(score - floor, ceiling - floor, resamples, seed, groups)


def spearman(
    a: Sequence[float],
    b: Sequence[float],
    resamples: int = 2000,
    seed: int = 0,
    groups: Sequence | None = None,
) -> Estimate:
    """Estimate the rank correlation of a and b (N,); ranks are those over all items.

    ValueError where one of them is constant: it then has no rank correlation.
    """
    ranks = (scipy.stats.rankdata(column) for column in _pair(a, b, "a", "b"))
    x, y = (r - (r.size + 1) / 2 for r in ranks)  # centred on 0
    if not x.any() or not y.any():
        raise ValueError("a or b is constant: there is no rank correlation")
    moments = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y])
    return _resample(_group_sums(moments, groups), _correlation, resamples, seed)


def clustered(estimate: Callable, groups: Sequence, *columns, **options) -> Estimate:
    """Estimate with whole groups drawn, such as templates; n counts items (N,).

    estimate: one of the functions above; options: its other arguments.
    """
    return replace(estimate(*columns, groups=groups, **options), n=len(groups))


def _grouped_statistic(
    column: np.ndarray, statistic: Callable, resamples: int, seed: int, groups: Sequence
) -> Estimate:
    """Estimate a statistic of all items of the groups drawn; n counts groups."""
    labels, kinds = np.asarray(groups), np.unique(np.asarray(groups))
    parts = [column[labels == kind] for kind in kinds]

    def of_groups(drawn, axis):
        def of_one(row):
            return statistic(np.concatenate([parts[int(i)] for i in row]))

        return np.apply_along_axis(of_one, axis, drawn)

    return _resample(np.arange(len(parts))[None], of_groups, resamples, seed)


def _resample(
    columns: np.ndarray, statistic: Callable, resamples: int, seed: int
) -> Estimate:
    """Estimate statistic(*columns, axis), its columns (C, N) drawn together."""
    n = columns.shape[1]
    value = float(statistic(*columns[:, None, :], axis=-1)[0])
    if n == 1:  # nothing to resample, which scipy refuses
        return Estimate(value, value, value, n, seed)
    how = {"paired": True, "vectorized": True, "method": "percentile", "batch": 256}
    with warnings.catch_warnings():  # of draws that are NaN
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        found = scipy.stats.bootstrap(
            tuple(columns), statistic, n_resamples=resamples, rng=seed, **how
        )
    # scipy's own interval is NaN as soon as one draw is: here such draws are left out
    low, high = np.nanpercentile(found.bootstrap_distribution, [2.5, 97.5])
    return Estimate(value, float(low), float(high), n, seed)


def _ratio_of_sums(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
    return _quotient(a.sum(axis), b.sum(axis))


def _difference_of_ratios(a, b, c, d, axis: int) -> np.ndarray:
    return _ratio_of_sums(a, b, axis) - _ratio_of_sums(c, d, axis)


def _correlation(n, x, y, xx, yy, xy, axis: int) -> np.ndarray:
    """Correlation from sums: of ones, of x, y, and of their squares and product."""
    n, x, y, xx, yy, xy = (column.sum(axis) for column in (n, x, y, xx, yy, xy))
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.sqrt((xx - x * x / n) * (yy - y * y / n))
    return _quotient(xy - x * y / n, spread)


def _quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, and NaN where it does not exist."""
    with np.errstate(divide="ignore", invalid="ignore"):
        out = a / b
    return np.where(np.isfinite(out), out, np.nan)


def _group_sums(columns: np.ndarray, groups: Sequence | None) -> np.ndarray:
    """Sums (C, G) of columns (C, N) over each of G groups; the columns without any."""
    if groups is None:
        return columns
    _, label = np.unique(np.asarray(groups), return_inverse=True)
    if label.shape != columns.shape[1:]:
        size = columns.shape[1]
        raise ValueError(f"groups: expected {size} labels, got {label.size}")
    return np.stack([np.bincount(label, weights=column) for column in columns])


def _column(values: Sequence[float], name: str) -> np.ndarray:
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or column.size == 0:
        raise ValueError(
            f"{name}: expected a non-empty list of numbers, got shape {column.shape}"
        )
    if not np.isfinite(column).all():
        bad = int(np.flatnonzero(~np.isfinite(column))[0])
        raise ValueError(f"{name}: item {bad} is {column[bad]}; leave it out, say why")
    return column


def _pair(a, b, first: str, second: str) -> tuple[np.ndarray, np.ndarray]:
    a, b = _column(a, first), _column(b, second)
    if a.shape != b.shape:
        sizes = f"{first} has {a.size} items, {second} has {b.size}"
        raise ValueError(f"{sizes}: pair them")
    return a, b
