"""Does behaviour mix when two tokens are mixed? (claim N2)

fit_interpolation         lambda*, the share of one member that best fits P(. | m)
interpolation_rows        lambda* along w E[a] + (1-w) E[b], pair by pair
model_curves              the same for related and unrelated pairs of every model
interpolation_pairs       each pair's distance from a linear reader and from a step
interpolation_estimates   the parts of N2
curve_table               mean curves, and those two readers, to draw
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from experiments.floors import random_like
from experiments.information_analysis.contexts import Context, next_probs
from experiments.metrics import js_bits
from experiments.stats import Estimate, bootstrap, clustered

if TYPE_CHECKING:
    from helpers.models import LM

GRID = tuple(i / 10 for i in range(11))  # weights of a
Curves = dict[tuple[str, str], pd.DataFrame]  # (model, kind of pair) -> rows


def fit_interpolation(
    p_m: Tensor, p_1: Tensor, p_2: Tensor, rounds: int = 30, close: float = 1e-9
) -> tuple[Tensor, Tensor]:
    """Find argmin over lambda of JS(P_m, lambda P_1 + (1-lambda) P_2), and that JS.

    P_m (N,V), P_1 and P_2 (V,); returns lambda (N,) in [0,1] and the residual (N,) in
    bits. The divergence is convex in lambda: a zero of its slope inside is found by
    Newton's steps, or by halving the interval that holds it where a step would leave
    that, until steps are `close`.
    """
    toward = p_1 - p_2

    def slope(rows, share):
        q = (p_2 + share[:, None] * toward).clamp_min(1e-300)
        both = q + p_m[rows]
        bend = (toward.square() * p_m[rows] / (q * both)).sum(-1)
        return (toward * (2 * q / both).log()).sum(-1), bend

    low, high = torch.zeros(len(p_m)).double(), torch.ones(len(p_m)).double()
    rows = torch.arange(len(p_m))
    rises, falls = slope(rows, low)[0] >= 0, slope(rows, high)[0] <= 0
    share, inside = torch.where(rises, low, high), ~(rises | falls)
    rows = rows[inside]
    share[rows] = 0.5
    for _ in range(rounds):
        if not len(rows):
            break
        at = share[rows]
        value, bend = slope(rows, at)
        low[rows] = torch.where(value < 0, at, low[rows])
        high[rows] = torch.where(value < 0, high[rows], at)
        step = at - value / bend
        fits = (step > low[rows]) & (step < high[rows])
        share[rows] = torch.where(fits, step, (low[rows] + high[rows]) / 2)
        rows = rows[(share[rows] - at).abs() >= close]
    return share, js_bits(p_m, p_2 + share[:, None] * toward)


def interpolation_rows(
    lm: LM,
    contexts: list[Context],
    related: bool = True,
    grid: Sequence[float] = GRID,
    min_js: float = 0.3,
    seed: int = 0,
) -> pd.DataFrame:
    """Fit lambda*(w) to two-token mixtures w E[a] + (1-w) E[b] in each context.

    a is the context's top token; b its runner-up, or (not related) a random row. Pairs
    with JS(P_a, P_b) < `min_js` bits cannot show anything and are left out. Each row:
    w, lambda, residual, js_pair (bits), and residual_random, of a random direction.
    """
    generator = torch.Generator().manual_seed(seed)
    w = torch.tensor(grid).double()
    rows = []
    for c in contexts:
        if related:
            second = int(c.indices[1])
        else:
            second = int(torch.randint(len(lm.embed), (1,), generator=generator))
        a, b = lm.embed[c.indices[0]], lm.embed[second]
        share = w[:, None].to(a)
        random = random_like((a + b) / 2, generator)
        fed = torch.cat([share * a + (1 - share) * b, torch.stack([random, a, b])])
        *read, p_a, p_b = next_probs(lm, c.prefix, fed)
        pair = float(js_bits(p_a, p_b))
        if pair < min_js:
            continue
        read = torch.stack(read)
        best, residual = fit_interpolation(read, p_a, p_b)
        facts = {"prompt": c.prompt, "template": c.template, "js_pair": pair}
        facts["residual_random"] = float(residual[-1])
        curve = zip(grid, best.tolist(), residual.tolist())
        rows += [facts | {"w": x, "lambda": y, "residual": r} for x, y, r in curve]
    return pd.DataFrame(rows)


def model_curves(
    lms: dict[str, LM], contexts: dict[str, list[Context]], seed: int = 0
) -> Curves:
    """Compute `interpolation_rows` of each model's related and unrelated pairs.

    A kind none of whose pairs differ enough is left out.
    """
    curves = {
        (name, kind): interpolation_rows(lm, contexts[name], related, seed=seed)
        for name, lm in lms.items()
        for kind, related in (("related", True), ("unrelated", False))
    }
    return {key: rows for key, rows in curves.items() if len(rows)}


def interpolation_pairs(rows: pd.DataFrame) -> pd.DataFrame:
    """Average one kind's `interpolation_rows` over w: one row a pair, its template.

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
    keys = ["prompt", "template"]
    mean = rows.assign(**columns).groupby(keys)[list(columns)].mean()
    return mean.reset_index("template")


def interpolation_estimates(pairs: pd.DataFrame, seed: int = 0) -> dict[str, Estimate]:
    """Estimate the parts of N2 from one kind's `interpolation_pairs`.

    Intervals resample whole templates; n counts pairs.
    """
    columns = {
        "linear_gap": pairs.linear,
        "residual_share": pairs.left,
        "step_gain": pairs.stepped - pairs.linear,
    }
    return {
        part: clustered(bootstrap, pairs.template, column, seed=seed)
        for part, column in columns.items()
    }


def curve_table(curves: Curves) -> pd.DataFrame:
    """Compute mean and 10-90 % of lambda* by model, kind of pair and w, to draw.

    Below them the lines of a linear reader and of a reader of the larger weight.
    """
    rows = pd.concat(curves, names=["model", "line"])
    table = rows.groupby(["model", "line", "w"])["lambda"].describe([0.1, 0.9])
    table = table.round(6).reset_index()
    table["line"] += " pairs"
    grid = table[["model", "w"]].drop_duplicates()
    step = np.heaviside(grid.w - 0.5, 0.5)
    ideal = {"linear reader": grid.w, "larger weight only": step}
    return pd.concat([table, *(grid.assign(line=k, mean=y) for k, y in ideal.items())])
