"""Does behaviour mix when two tokens are mixed? (CLAIMS.md N2)

mixing_weight   lambda*, the share of one member that best explains P(. | m)
mixing_rows     lambda* along w E[a] + (1-w) E[b], pair by pair
mixing_pairs    each pair's distance from a linear reader and from a step
curve_table     the curves of all models, and those two readers, to draw
"""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from experiments.floors import random_like
from experiments.information_analysis.bits import next_probs
from experiments.metrics import js_bits

GRID = tuple(i / 10 for i in range(11))


def fit_interpolation(p_m, p_1, p_2, rounds=30) -> tuple[Tensor, Tensor]:
    """N2: argmin over lambda of JS(P_m, lambda P_1 + (1-lambda) P_2), and that JS.

    All (N,V) probabilities; returns lambda (N,) in [0,1] and the residual (N,) in bits.
    The divergence is convex in lambda: its slope is bisected.
    """
    low, high = torch.zeros(len(p_m)).double(), torch.ones(len(p_m)).double()
    toward = p_1 - p_2
    for _ in range(rounds):
        share = (low + high) / 2
        q = p_2 + share[:, None] * toward
        slope = torch.xlogy(toward, 2 * q / (q + p_m).clamp_min(1e-300)).sum(-1)
        low = torch.where(slope < 0, share, low)
        high = torch.where(slope < 0, high, share)
    share = (low + high) / 2
    return share, js_bits(p_m, p_2 + share[:, None] * toward)


def interpolation_rows(
    lm, found, related=True, grid=GRID, min_js=0.3, seed=0
) -> pd.DataFrame:
    """lambda*(w) for two-token mixtures w E[a] + (1-w) E[b] in each context.

    a is the context's top token; b its runner-up, or (not related) a random row. Pairs
    with JS(P_a, P_b) < `min_js` bits cannot show anything and are left out. Each row:
    w, lambda, residual, js_pair (bits), and residual_random, of a random direction.
    """
    generator = torch.Generator().manual_seed(seed)
    w = torch.tensor(grid).double()
    rows = []
    for c in found:
        second = int(c.indices[1]) if related else int(
            torch.randint(len(lm.embed), (1,), generator=generator))  # fmt: skip
        a, b = lm.embed[c.indices[0]], lm.embed[second]
        share = w[:, None].to(a)
        random = random_like((a + b) / 2, generator)
        fed = torch.cat([share * a + (1 - share) * b, torch.stack([random, a, b])])
        *read, p_a, p_b = next_probs(lm, c.prefix, fed)
        pair = float(js_bits(p_a, p_b))
        if pair < min_js:
            continue
        read = torch.stack(read)
        best, residual = fit_interpolation(read, p_a.expand_as(read), p_b)
        facts = {"prompt": c.prompt, "step": c.step, "a": int(c.indices[0]),
                 "b": second, "js_pair": pair,
                 "residual_random": float(residual[-1])}  # fmt: skip
        curve = zip(grid, best.tolist(), residual.tolist())
        rows += [facts | {"w": x, "lambda": y, "residual": r} for x, y, r in curve]
    return pd.DataFrame(rows)


def interpolation_pairs(rows) -> pd.DataFrame:
    """One row a pair of `mixing_rows`, indexed by prompt, means over w.

    linear: |lambda* - w|. stepped: |lambda* - step(w)|, a reader of the larger weight.
    left, left_random: residual over JS(P_a, P_b), of m and of a random vector.
    """
    step = np.select([rows.w > 0.5, rows.w < 0.5], [1.0, 0.0], 0.5)
    columns = {
        "linear": (rows["lambda"] - rows.w).abs(),
        "stepped": (rows["lambda"] - step).abs(),
        "left": rows.residual / rows.js_pair,
        "left_random": rows.residual_random / rows.js_pair,
    }
    return rows.assign(**columns).groupby("prompt")[list(columns)].mean()


def curve_table(curves) -> tuple[pd.DataFrame, str]:
    """Means and 10-90 % of lambda* by model, kind of pair and w, with the lines that a
    linear reader and a reader of the larger weight would give; and "n = a to b".

    curves: (model, kind) -> `mixing_rows`, none of them empty.
    """
    rows = pd.concat(curves, names=["model", "line"])
    table = rows.groupby(["model", "line", "w"])["lambda"].describe([0.1, 0.9])
    table = table.round(6).reset_index()
    table["line"] += " pairs"
    n = f"n = {table['count'].min():.0f} to {table['count'].max():.0f}"
    grid = table[["model", "w"]].drop_duplicates()
    step = np.heaviside(grid.w - 0.5, 0.5)
    ideal = {"linear reader": grid.w, "larger weight only": step}
    ideals = (grid.assign(line=name, mean=y) for name, y in ideal.items())
    return pd.concat([table, *ideals]), n
