"""Solve for the weights that a vector was mixed from.

known_support   the tokens are given: least squares, with its condition number
nnls_recover    the tokens are not given: non-negative least squares, all rows
omp_recover     the same, greedily, given how many tokens there are

All in float64, except that a large vocabulary is searched for the next row in float32:
one product of all rows with all residuals a round, so that the table is read once for
many vectors and never copied to float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.linalg import LinAlgError, cho_factor, cho_solve, lstsq
from scipy.optimize import nnls

MOST_ENTRIES = 1_000_000  # of E, up to which NNLS sees every row at once
BLOCK = 16  # rows that join one vector's solution in a round
GAIN = 1e-8  # by which a row must lower the residual to join, of target times row norm


def known_support(concept: ArrayLike, rows: ArrayLike) -> tuple[np.ndarray, float]:
    """Solve for weights (k,) of `concept` (D,) over `rows` (k,D) -> and kappa(rows).

    Least squares in float64. Unique when the rows have full rank (kappa finite);
    the error is then about kappa times the rounding of `concept`. kappa is inf for
    more rows than dimensions.
    """
    rows, concept = float64(rows), float64(concept)
    weights, _, _, singular = np.linalg.lstsq(rows.T, concept, rcond=None)
    full = len(rows) <= rows.shape[1] and singular[-1] > 0
    return weights, float(singular[0] / singular[-1]) if full else float("inf")


def nnls_recover(concepts: ArrayLike, embed: ArrayLike) -> np.ndarray:
    """Solve for weights (N,V) >= 0 of `concepts` (N,D) over all rows of `embed` (V,D).

    With one more equation, sum(w) = 1. By scipy's NNLS, or for a large vocabulary by
    column generation: rows that would lower the residual join until none is left,
    which is optimality over all V.
    """
    concepts, table = float64(concepts), _table(embed)
    scale = np.sqrt(np.square(table, dtype=np.float64).mean() * table.shape[1])
    targets = np.hstack([concepts, np.full((len(concepts), 1), scale)])
    if table.size > MOST_ENTRIES:
        return _nnls_by_columns(targets, table, scale)
    columns = np.vstack([table.T, np.full(len(table), scale)])
    return np.stack([nnls(columns, t, maxiter=20 * len(table))[0] for t in targets])


def _nnls_by_columns(
    targets: np.ndarray, table: np.ndarray, scale: float
) -> np.ndarray:
    """Solve NNLS of targets (N,D+1) as Lawson and Hanson do, a few rows at a time.

    In each round the rows of largest gain join; those whose weight would fall below
    zero leave again. Where all that joined have left, the best one joins alone: its
    weight is positive. The gain of the best row left out bounds what is left to win.
    """
    fits = [_Fit(target) for target in targets]
    norms, most = np.linalg.norm(targets, axis=1), 20 * table.shape[1]
    live = list(range(len(fits)))
    for _ in range(most):
        if not live:
            break
        left = np.stack([fits[n].left for n in live])
        size = np.linalg.norm(left, axis=1)
        unit = (left / size[:, None]).astype(table.dtype)
        gains = (table @ unit[:, :-1].T + scale * unit[:, -1]).T * size[:, None]
        chosen = zip(live, gains, GAIN * norms[live] * scale, strict=True)
        live = [n for n, gain, least in chosen if fits[n].improve(table, gain, least)]
    else:
        raise RuntimeError(f"NNLS of {len(live)} vectors did not end in {most} rounds")
    weights = np.zeros((len(targets), len(table)))
    for row, fit in zip(weights, fits):
        row[fit.ids] = fit.weights
    return weights


class _Fit:
    """The rows of one NNLS solution: ids, weights > 0, and the residual `left`."""

    def __init__(self, target: np.ndarray):
        self.target = self.left = target
        self.ids, self.weights = np.zeros(0, dtype=int), np.zeros(0)
        self.rows, self.gram = np.zeros((0, len(target))), np.zeros((0, 0))
        self.block = BLOCK

    def improve(self, table: np.ndarray, gain: np.ndarray, least: float) -> bool:
        """Let rows of the largest `gain` (V,) join. -> whether there is more to do."""
        gain[self.ids] = 0
        best = np.argpartition(-gain, self.block - 1)[: self.block]
        best = best[gain[best] > least]
        if not len(best):
            return False
        scale = np.full((len(best), 1), self.target[-1])
        new = np.hstack([table[best].astype(np.float64), scale])
        old, rows = len(self.ids), np.vstack([self.rows, new])
        gram = np.zeros((len(rows), len(rows)))
        gram[:old, :old], gram[old:] = self.gram, new @ rows.T
        gram[:, old:] = gram[old:].T
        weights = np.append(self.weights, np.zeros(len(best)))
        kept, weights = _fit_positive(rows, gram, self.target, weights)
        stuck = np.array_equal(kept, np.arange(old))
        if stuck and self.block == 1:
            return False  # only rounding is left
        self.block = 1 if stuck else BLOCK
        self.ids, self.weights = np.append(self.ids, best)[kept], weights
        self.rows, self.gram = rows[kept], gram[np.ix_(kept, kept)]
        self.left = self.target - weights @ self.rows
        return True


def _fit_positive(
    rows: np.ndarray, gram: np.ndarray, target: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fit weights (K,) >= 0 of rows (K,D) -> which of them stay, and their weights.

    Goes from `weights` towards least squares as far as none is negative, drops what
    has come to zero, and again, until least squares itself is positive.
    """
    kept = np.arange(len(rows))
    while len(kept):
        best = _least_squares(rows[kept], gram[np.ix_(kept, kept)], target)
        below = best <= 0
        if not below.any():
            weights = best
            break
        way = (weights - best)[below].clip(1e-300)
        weights = weights + (weights[below] / way).min() * (best - weights)
        stays = ~(below & (weights <= 1e-15))
        kept, weights = kept[stays], weights[stays]
    return kept, weights


def _least_squares(
    rows: np.ndarray, gram: np.ndarray, target: np.ndarray
) -> np.ndarray:
    """Solve least squares by Cholesky, refined once; by QR where rows are alike."""
    try:
        factor = cho_factor(gram, check_finite=False)
    except LinAlgError:
        return lstsq(rows.T, target, lapack_driver="gelsy")[0]
    weights = cho_solve(factor, rows @ target, check_finite=False)
    left = target - weights @ rows
    return weights + cho_solve(factor, rows @ left, check_finite=False)


def omp_recover(
    concepts: ArrayLike, embed: ArrayLike, counts: Sequence[int]
) -> np.ndarray:
    """Find weights (N,V) in counts[n] greedy steps of orthogonal matching pursuit.

    Rows are centred (allowed since the weights sum to one) and scaled to unit norm, as
    the method asks; the weights may come out negative. All vectors step together.
    """
    table = _table(embed)
    mean = table.mean(0, dtype=np.float64)
    atoms = table - mean.astype(table.dtype)
    norms = np.linalg.norm(atoms, axis=1).clip(1e-12)
    atoms = torch.from_numpy(atoms / norms[:, None])
    targets = float64(concepts) - mean
    counts = [min(k, *table.shape) for k in counts]
    left, ids = targets.copy(), [[] for _ in targets]
    basis = [np.zeros((k, table.shape[1])) for k in counts]
    for step in range(max(counts)):
        live = [n for n, k in enumerate(counts) if k > step]
        fit = (atoms @ torch.from_numpy(left[live]).to(atoms).T).abs_()
        for column, n in enumerate(live):
            fit[ids[n], column] = -1  # never twice
        for n, best in zip(live, fit.argmax(0).tolist()):
            ids[n].append(best)
            axis, before = table[best] - mean, basis[n][:step]
            for _ in range(2):  # the second time against rounding
                axis = axis - (before @ axis) @ before
            basis[n][step] = axis = axis / np.linalg.norm(axis).clip(1e-12)
            left[n] -= (left[n] @ axis) * axis
    weights = np.zeros((len(targets), len(table)))
    for row, chosen, target in zip(weights, ids, targets):
        centred = table[chosen].astype(np.float64) - mean
        row[chosen] = lstsq(centred.T, target, lapack_driver="gelsy")[0]
    return weights


def _table(embed: ArrayLike) -> np.ndarray:
    """Return E as numbers to search: float64, or float32 where it is large."""
    if isinstance(embed, torch.Tensor):
        embed = embed.detach().cpu().float().numpy()
    embed = np.asarray(embed)
    return embed if embed.size > MOST_ENTRIES else embed.astype(np.float64)


def float64(x: ArrayLike) -> np.ndarray:
    """Return numbers or a tensor as a float64 array."""
    if isinstance(x, torch.Tensor):
        return x.detach().cpu().double().numpy()
    return np.asarray(x, dtype=np.float64)
