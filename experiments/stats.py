"""Numbers with their uncertainty: bootstrap intervals, divergences, agreement scores.

    Estimate                          a value, its 95 % interval, n and the seed
    bootstrap, paired_difference      percentile intervals, by item or by group
    ratio, scaled                     a ratio of sums; a score between floor and ceiling
    spearman                          rank correlation of two measurements
    entropy, kl, js (and *_bits)      over the last dimension, float64 on the CPU
    distinct_n, loops                 repetition in a sequence of ids
    rouge_l, token_agreement          likeness of two sequences of ids

Imports numpy and torch only, so that any room may import it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A value with the bounds of its 95 % interval; n items, the bootstrap's seed."""

    value: float
    low: float
    high: float
    n: int
    seed: int = 0


def _column(values, name: str) -> np.ndarray:
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or column.size == 0:
        raise ValueError(
            f"{name}: expected a non-empty list of numbers, got shape {column.shape}"
        )
    if not np.isfinite(column).all():
        bad = int(np.flatnonzero(~np.isfinite(column))[0])
        raise ValueError(f"{name}: item {bad} is {column[bad]}; leave it out, say why")
    return column


def _resample(columns: np.ndarray, statistic, resamples: int, seed: int, groups):
    """Estimate of statistic((C, R, M) -> (R,)) over resampled items or whole groups."""
    if resamples < 1:
        raise ValueError(f"resamples={resamples}: expected at least 1")
    size = columns.shape[1]
    rng = np.random.default_rng(seed)
    value = float(statistic(columns[:, None, :])[0])
    if groups is None:
        draws = []
        for start in range(0, resamples, 256):  # bounded memory
            rows = min(256, resamples - start)
            draws.append(statistic(columns[:, rng.integers(0, size, (rows, size))]))
        n, draws = size, np.concatenate(draws)
    else:
        _, label = np.unique(np.asarray(groups), return_inverse=True)
        if label.shape != (size,):
            raise ValueError(f"groups: expected {size} labels, got {label.size}")
        members = [np.flatnonzero(label == g) for g in range(label.max() + 1)]
        n = len(members)
        picks = rng.integers(0, n, (resamples, n))
        draws = np.array(
            [
                statistic(columns[:, None, np.concatenate([members[g] for g in pick])])[
                    0
                ]
                for pick in picks
            ]
        )
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return Estimate(value, float(low), float(high), n, seed)


def bootstrap(
    values: Sequence[float],
    statistic: str | Callable = "mean",
    resamples: int = 2000,
    seed: int = 0,
    groups: Sequence | None = None,
) -> Estimate:
    """95 % percentile bootstrap of a statistic of `values` (N,).

    `statistic` is "mean" or a function reducing (..., N) over its last axis. With
    `groups` (N labels) whole groups are drawn, and n counts groups.
    """
    reduce = _mean if statistic == "mean" else statistic
    column = _column(values, "values")
    if groups is not None and reduce is _mean:
        sums = _group_sums(np.stack([column, np.ones_like(column)]), groups)
        return _resample(sums, _quotient, resamples, seed, None)
    return _resample(column[None], lambda c: reduce(c[0]), resamples, seed, groups)


def _mean(values: np.ndarray) -> np.ndarray:
    return values.mean(axis=-1)


def paired_difference(
    a, b, statistic="mean", resamples=2000, seed=0, groups=None
) -> Estimate:
    """Interval of the statistic of a - b, two measurements (N,) of the same items."""
    a, b = _pair(a, b, "a", "b")
    return bootstrap(a - b, statistic, resamples, seed, groups)


def ratio(numerator, denominator, resamples=2000, seed=0, groups=None) -> Estimate:
    """Interval of sum(numerator) / sum(denominator), resampled item by item."""
    pair = np.stack(_pair(numerator, denominator, "numerator", "denominator"))
    if pair[1].sum() == 0:
        raise ValueError("denominator: sums to 0, so the ratio does not exist")
    pair = pair if groups is None else _group_sums(pair, groups)
    return _resample(pair, _quotient, resamples, seed, None)


def _quotient(columns: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        out = columns[0].sum(axis=-1) / columns[1].sum(axis=-1)
    return np.where(np.isfinite(out), out, np.nan)


def normalised_score(
    score, floor, ceiling, resamples=2000, seed=0, groups=None
) -> Estimate:
    """Interval of (score - floor) / (ceiling - floor) of means: 0 floor, 1 ceiling."""
    score, floor = _pair(score, floor, "score", "floor")
    ceiling, _ = _pair(ceiling, floor, "ceiling", "floor")
    return ratio(score - floor, ceiling - floor, resamples, seed, groups)


def spearman(a, b, resamples=2000, seed=0, groups=None) -> Estimate:
    """Interval of the rank correlation of a and b (N,); ranks are those over all items.

    ValueError where one of them is constant: it then has no rank correlation.
    """
    x, y = (_ranks(column) for column in _pair(a, b, "a", "b"))
    if not x.any() or not y.any():
        raise ValueError("a or b is constant: there is no rank correlation")
    moments = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y])
    if groups is not None:
        moments = _group_sums(moments, groups)
    return _resample(moments, _correlation, resamples, seed, None)


def _ranks(x: np.ndarray) -> np.ndarray:
    """Ranks, centred on 0; equal values share the mean of theirs."""
    _, where, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - counts / 2 - x.size / 2)[where]


def _correlation(moments: np.ndarray) -> np.ndarray:
    n, x, y, xx, yy, xy = moments.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        out = (xy - x * y / n) / np.sqrt((xx - x * x / n) * (yy - y * y / n))
    return np.where(np.isfinite(out), out, np.nan)


def _group_sums(columns: np.ndarray, groups) -> np.ndarray:
    """Sums (C, G) of columns (C, N) over each of G groups: drawing whole groups is then
    drawing these."""
    _, label = np.unique(np.asarray(groups), return_inverse=True)
    if label.shape != columns.shape[1:]:
        size = columns.shape[1]
        raise ValueError(f"groups: expected {size} labels, got {label.size}")
    return np.stack([np.bincount(label, weights=column) for column in columns])


def _pair(a, b, first: str, second: str) -> tuple[np.ndarray, np.ndarray]:
    a, b = _column(a, first), _column(b, second)
    if a.shape != b.shape:
        sizes = f"{first} has {a.size} items, {second} has {b.size}"
        raise ValueError(f"{sizes}: pair them")
    return a, b


def exact_estimate(value: float, n: int) -> Estimate:
    """A number that is counted, not estimated: its interval is itself."""
    return Estimate(float(value), float(value), float(value), n)
