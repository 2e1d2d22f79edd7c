"""Can the weights of a mixture be read back from the one vector? (CLAIMS.md N1)

    known_support    the tokens are given: least squares, with its condition number
    nnls_recover     the tokens are not given: non-negative least squares, all rows
    omp_recover      the same, greedily, told only how many tokens there are
    score            max |dw|, support F1 and the share of weight misplaced
    planted_weights  flat or peaked weights over k tokens; own_mixtures: a model's own
    recovery_rows    one tidy row a mixture, method and number format
    recovery_sweep   the same over planted mixtures of many sizes, at several widths
    sweep_table      that, to draw; breaking_point: where most are lost
    breaking_point   the smallest k where most mixtures no longer come back

A mixture m = sum_i w_i E[i] has D numbers and w has V. Sparse non-negative weights
are still determined by m when few enough tokens take part; how few is measured here.
"Recovered" means that at most `TOLERANCE` of the weight is misplaced.
"""

import numpy as np
import pandas as pd
import torch
from scipy.optimize import nnls
from sklearn.linear_model import orthogonal_mp

TOLERANCE = 0.01  # share of the weight that may be misplaced: half of sum |dw|
SEEN = 0.01  # weight from which a token counts as part of the support
WHOLE = 8_000_000  # entries of E up to which NNLS sees every row at once


def known_support(concept, rows) -> tuple[np.ndarray, float]:
    """Weights of `concept` (D,) over the given `rows` (k,D), and kappa(rows).

    Least squares in float64. Unique when the rows have full rank (kappa finite);
    the error is then about kappa times the rounding of `concept`. kappa is inf for
    more rows than dimensions.
    """
    rows, concept = _float64(rows), _float64(concept)
    singular = np.linalg.svd(rows, compute_uv=False)
    full = len(rows) <= rows.shape[1] and singular[-1] > 0
    weights = np.linalg.lstsq(rows.T, concept, rcond=None)[0]
    return weights, float(singular[0] / singular[-1]) if full else float("inf")


def nnls_recover(concept, embed) -> np.ndarray:
    """Weights (V,) >= 0 that best explain `concept` (D,) by all rows of `embed` (V,D).

    scipy's NNLS with one more equation, sum(w) = 1. A large vocabulary is solved by
    column generation: on the nearest rows, then with every row that would still
    lower the residual, until none is left, which is optimality over all V.
    """
    embed, concept = _float64(embed), _float64(concept)
    scale = np.sqrt((embed**2).mean() * embed.shape[1])
    target = np.append(concept, scale)
    count, width = embed.shape
    active = np.arange(count)
    if count * width > WHOLE:
        active = np.argsort(-_cosine(embed, concept))[: 4 * width]
    while True:
        columns = np.vstack([embed[active].T, np.full(len(active), scale)])
        found, residual = nnls(columns, target, maxiter=20 * len(active))
        left = target - columns @ found
        gain = embed @ left[:-1] + scale * left[-1]
        gain[active] = 0
        better = np.flatnonzero(gain > 1e-9 * np.linalg.norm(target) * scale)
        if residual <= 1e-12 * np.linalg.norm(target) or not len(better):
            break
        active = np.append(active, better[np.argsort(-gain[better])][:width])
    weights = np.zeros(count)
    weights[active] = found
    return weights


def omp_recover(concept, embed, k: int) -> np.ndarray:
    """Weights (V,) from `k` greedy steps of orthogonal matching pursuit.

    Rows are centred (allowed since the weights sum to one) and scaled to unit norm,
    as scikit-learn's `orthogonal_mp` expects; the weights may come out negative.
    """
    embed, concept = _float64(embed), _float64(concept)
    mean = embed.mean(0)
    rows = embed - mean
    norms = np.linalg.norm(rows, axis=1).clip(1e-12)
    atoms = (rows / norms[:, None]).T
    k = min(k, *atoms.shape)
    return orthogonal_mp(atoms, concept - mean, n_nonzero_coefs=k) / norms


def score(found, true) -> dict:
    """How well weights (V,) came back: max_error, f1, misplaced, recovered.

    f1 compares the tokens that weigh at least `SEEN` in each; misplaced is half of the
    summed error, and `recovered` says that it is within TOLERANCE.
    """
    found, true = np.asarray(found), np.asarray(true)
    error = np.abs(found - true)
    here, there = found >= SEEN, true >= SEEN
    f1 = 2 * (here & there).sum() / max(1, here.sum() + there.sum())
    misplaced = error.sum() / 2
    return {"max_error": error.max(), "f1": f1, "misplaced": misplaced,
            "recovered": bool(misplaced <= TOLERANCE)}  # fmt: skip


def planted_weights(k: int, shape: str) -> np.ndarray:
    """`k` weights that sum to one: "flat" (1/k) or "peaked" (as 1/rank squared)."""
    if shape not in ("flat", "peaked"):
        raise ValueError(f"shape is {shape!r}: expected 'flat' or 'peaked'")
    weights = np.ones(k) if shape == "flat" else 1.0 / np.arange(1, k + 1) ** 2
    return weights / weights.sum()


def own_mixtures(found) -> list:
    """The contexts' mixtures, "peaked"; "flat": the same tokens under equal weights."""
    pairs = [(c.indices.tolist(), c.probs.tolist()) for c in found]
    flat = [("flat", ids, planted_weights(len(ids), "flat")) for ids, _ in pairs]
    return [("peaked", ids, probs) for ids, probs in pairs] + flat


def recovery_rows(embed, mixtures, dtypes=("float32", "bfloat16"), also="omp", seed=0):
    """Mix in each number format, read back each way: a tidy frame.

    method: "known" (support given), "nnls" (whole vocabulary), and what `also` names:
    "omp" (whole vocabulary), or the floor "random", NNLS on a random vector of equal
    norm.

    `embed` (V,D) tensor; `mixtures` an iterable of (label, indices (k,), weights (k,)).
    The matrix itself is rounded to the format first, so that the reader knows the very
    rows that were mixed and only the rounding of the sum is lost.
    """
    rows, rng = [], np.random.default_rng(seed)
    for dtype in dtypes:
        table = embed.detach().cpu().to(getattr(torch, dtype))
        exact = _float64(table)
        for label, indices, weights in mixtures:
            indices, weights = np.asarray(indices), np.asarray(weights, dtype=float)
            concept = torch.tensor(weights @ exact[indices]).to(table.dtype)
            true = np.zeros(len(exact))
            true[indices] = weights
            found, kappa = known_support(concept, exact[indices])
            known = np.zeros(len(exact))
            known[indices] = found
            ways = {"known": known, "nnls": nnls_recover(concept, exact)}
            if "random" in also:
                random = rng.standard_normal(len(concept))
                random *= float(concept.float().norm()) / np.linalg.norm(random)
                ways["random"] = nnls_recover(random, exact)
            if "omp" in also:
                ways["omp"] = omp_recover(concept, exact, len(indices))
            facts = {"label": label, "k": len(indices), "width": exact.shape[1],
                     "dtype": dtype, "kappa": kappa}  # fmt: skip
            rows += [facts | {"method": way} | score(w, true)
                     for way, w in ways.items()]  # fmt: skip
    return pd.DataFrame(rows)


def planted_mixtures(tokens, ks, shapes=("flat", "peaked"), repeats=3, seed=0):
    """Random supports of each size in `ks`: (shape, indices, weights), seeded.

    tokens: the ids to draw from, or their number. Sizes above that are left out.
    """
    rng = np.random.default_rng(seed)
    ks = [k for k in ks if k <= (tokens if isinstance(tokens, int) else len(tokens))]
    return [(shape, rng.choice(tokens, k, replace=False), planted_weights(k, shape))
            for shape in shapes for k in ks for _ in range(repeats)]  # fmt: skip


def recovery_sweep(embed, tokens, widths, fractions, repeats=2, seed=0):
    """Planted mixtures of k = fraction x width of `tokens` (ids), at several widths.

    A smaller width keeps the first columns of `embed` (V,D). Number formats are
    compared at the largest width, float32 elsewhere. Adds the column k / width.
    """
    found = []
    for width in widths:
        ks = sorted({max(1, round(f * width)) for f in fractions})
        mixtures = planted_mixtures(tokens, ks, repeats=repeats, seed=seed)
        formats = ("float32", "bfloat16") if width == max(widths) else ("float32",)
        found.append(recovery_rows(embed[:, :width], mixtures, formats))
    rows = pd.concat(found, ignore_index=True)
    return rows.assign(share=rows.k / rows.width)


def sweep_table(rows) -> pd.DataFrame:
    """Of `recovery_sweep`: share recovered by weights, reader and k / width."""
    method = rows.method.map({"known": "tokens known", "nnls": "NNLS", "omp": "OMP"})
    half = rows.dtype.map({"float32": "", "bfloat16": ", bf16"})
    reader = method + ", D " + rows.width.astype(str) + half
    kept = (rows.width == rows.width.max()) | (rows.method == "nnls")
    kept &= (rows.dtype == "float32") | (rows.method == "nnls")
    named = rows.assign(reader=reader, weights=rows.label + " weights")[kept]
    keys = ["weights", "reader", "share"]
    return named.groupby(keys, sort=False).recovered.mean().reset_index()


def breaking_point(rows: pd.DataFrame) -> float:
    """Smallest k in `rows` where fewer than half come back; inf if none."""
    share = rows.groupby("k").recovered.mean()
    broken = share[share < 0.5]
    return float(broken.index.min()) if len(broken) else float("inf")


def _float64(x) -> np.ndarray:
    if isinstance(x, torch.Tensor):
        return x.detach().cpu().double().numpy()
    return np.asarray(x, dtype=np.float64)


def _cosine(rows, vector):
    return rows @ vector / np.linalg.norm(rows, axis=1).clip(1e-12)
