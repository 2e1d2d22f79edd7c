"""Can the weights of a mixture be read back from the one vector? (claim N1)

    score                max |dw|, support F1 and the share of weight misplaced
    recovery_rows        one tidy row a mixture, method and number format
    planted_weights      flat or peaked weights over k tokens
    planted_mixtures     random sets of tokens under those weights
    suite_token_ids      the tokens of the suites' own words, to draw them from
    recovery_sweep       planted mixtures of many sizes, at several widths
    sweep_table          share recovered, to draw
    breaking_point       the smallest k where most mixtures no longer come back
    own_mixtures         a model's own mixtures, or their tokens under equal weights
    own_recovery         those, read back
    recovery_estimates   the parts of N1
    own_divergence       how far the weights are from the model's own distribution
    recovered_by_nnls    which of a model's own mixtures come back

A mixture m = sum_i w_i E[i] has D numbers and w has V. Sparse non-negative weights
are still determined by m when few enough tokens take part; how few is measured here.
"Recovered" means that at most `TOLERANCE` of the weight is misplaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from experiments.information_analysis.contexts import Context, next_probs
from experiments.information_analysis.solvers import (
    float64,
    known_support,
    nnls_recover,
    omp_recover,
)
from experiments.metrics import kl_bits
from experiments.stats import Estimate, bootstrap

if TYPE_CHECKING:
    from torch import Tensor

    from experiments.information_analysis.contexts import Suites
    from helpers.models import LM

Mixture = tuple[str, ArrayLike, ArrayLike]  # label, token ids (k,), weights (k,)

TOLERANCE = 0.01  # share of the weight that may be misplaced: half of sum |dw|
SEEN = 0.01  # weight from which a token counts as part of the support


def score(estimated: ArrayLike, true: ArrayLike) -> dict:
    """Score how well weights (V,) came back: max_error, f1, misplaced, recovered.

    f1 compares the tokens that weigh at least `SEEN` in each; misplaced is half of the
    summed error, and `recovered` says that it is within TOLERANCE.
    """
    estimated, true = np.asarray(estimated), np.asarray(true)
    error = np.abs(estimated - true)
    here, there = estimated >= SEEN, true >= SEEN
    f1 = 2 * (here & there).sum() / max(1, here.sum() + there.sum())
    misplaced = error.sum() / 2
    recovered = bool(misplaced <= TOLERANCE)
    scores = {"max_error": error.max(), "f1": f1}
    return scores | {"misplaced": misplaced, "recovered": recovered}


def recovery_rows(
    embed: Tensor,
    mixtures: Iterable[Mixture],
    dtypes: Sequence[str] = ("float32", "bfloat16"),
    extra: Sequence[str] = ("omp",),
    seed: int = 0,
) -> pd.DataFrame:
    """Mix rows of `embed` (V,D) in each number format and read the weights back.

    method: "known" (support given), "nnls" (whole vocabulary), and those in `extra`:
    "omp" (whole vocabulary), and the floor "random", NNLS on a random vector of equal
    norm. The matrix itself is rounded to the format first, so that the reader knows the
    very rows that were mixed and only the rounding of the sum is lost.
    """
    rows, rng, mixtures = [], np.random.default_rng(seed), list(mixtures)
    for dtype in dtypes:
        rounded = embed.detach().cpu().to(getattr(torch, dtype))
        supports = [np.asarray(indices) for _, indices, _ in mixtures]
        weights = [np.asarray(w, dtype=float) for *_, w in mixtures]
        members = [float64(rounded[torch.tensor(ids)]) for ids in supports]
        mixed = [torch.tensor(w @ e) for w, e in zip(weights, members)]
        concepts = torch.stack(mixed).to(rounded.dtype)
        found = {"nnls": nnls_recover(concepts, rounded)}
        if "random" in extra:
            random = rng.standard_normal(concepts.shape)
            norms = float64(concepts.float().norm(dim=1)) / np.linalg.norm(
                random, axis=1
            )
            found["random"] = nnls_recover(random * norms[:, None], rounded)
        if "omp" in extra:
            found["omp"] = omp_recover(concepts, rounded, list(map(len, supports)))
        for n, (label, *_) in enumerate(mixtures):
            true, known = np.zeros(len(rounded)), np.zeros(len(rounded))
            true[supports[n]] = weights[n]
            known[supports[n]], kappa = known_support(concepts[n], members[n])
            facts = {"label": label, "k": len(supports[n]), "width": embed.shape[1]}
            facts |= {"dtype": dtype, "kappa": kappa}
            estimates = {"known": known} | {way: w[n] for way, w in found.items()}
            for method, estimated in estimates.items():
                rows.append(facts | {"method": method} | score(estimated, true))
    return pd.DataFrame(rows)


def planted_weights(k: int, shape: str) -> np.ndarray:
    """Make `k` weights that sum to one: "flat" (1/k) or "peaked" (as 1/rank^2)."""
    if shape not in ("flat", "peaked"):
        raise ValueError(f"shape is {shape!r}: expected 'flat' or 'peaked'")
    weights = np.ones(k) if shape == "flat" else 1.0 / np.arange(1, k + 1) ** 2
    return weights / weights.sum()


def planted_mixtures(
    tokens: int | Sequence[int],
    ks: Iterable[int],
    shapes: Sequence[str] = ("flat", "peaked"),
    repeats: int = 3,
    seed: int = 0,
) -> list[Mixture]:
    """Draw random supports of each size in `ks` -> (shape, indices, weights).

    tokens: the ids to draw from, or their number. Sizes above that are left out.
    """
    rng = np.random.default_rng(seed)
    ks = [k for k in ks if k <= (tokens if isinstance(tokens, int) else len(tokens))]
    return [
        (shape, rng.choice(tokens, k, replace=False), planted_weights(k, shape))
        for shape in shapes
        for k in ks
        for _ in range(repeats)
    ]


def suite_token_ids(lm: LM, asked: Suites) -> list[int]:
    """List the ids that a set's prompts and answers are written in.

    Rows that training never touched lie almost on one another: no reader can tell them
    apart.
    """
    items = [item for suite in asked.values() for item in suite]
    texts = [f"{item.prompt} {item.gold}" for item in items]
    return sorted({i for row in lm.tokenizer(texts)["input_ids"] for i in row})


def recovery_sweep(
    embed: Tensor,
    tokens: Sequence[int],
    widths: Sequence[int],
    fractions: Sequence[float],
    repeats: int = 2,
    seed: int = 0,
) -> pd.DataFrame:
    """Read back planted mixtures of k = fraction x width `tokens`, at several widths.

    A smaller width keeps the first columns of `embed` (V,D). Number formats are
    compared at the largest width, float32 elsewhere. Adds the column share, k / width.
    """
    rows = []
    for width in widths:
        ks = sorted({max(1, round(f * width)) for f in fractions})
        mixtures = planted_mixtures(tokens, ks, repeats=repeats, seed=seed)
        formats = ("float32", "bfloat16") if width == max(widths) else ("float32",)
        rows.append(recovery_rows(embed[:, :width], mixtures, formats))
    rows = pd.concat(rows, ignore_index=True)
    return rows.assign(share=rows.k / rows.width)


def sweep_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Average `recovery_sweep`: share recovered by weights, reader and k / width."""
    method = rows.method.map({"known": "tokens known", "nnls": "NNLS", "omp": "OMP"})
    half = rows.dtype.map({"float32": "", "bfloat16": ", bf16"})
    reader = method + ", D " + rows.width.astype(str) + half
    kept = (rows.width == rows.width.max()) | (rows.method == "nnls")
    kept &= (rows.dtype == "float32") | (rows.method == "nnls")
    named = rows.assign(reader=reader, weights=rows.label + " weights")[kept]
    keys = ["weights", "reader", "share"]
    return named.groupby(keys, sort=False).recovered.mean().reset_index()


def breaking_point(rows: pd.DataFrame) -> float:
    """Find the smallest k in `rows` where fewer than half come back; inf if none."""
    share = rows.groupby("k").recovered.mean()
    broken = share[share < 0.5]
    return float(broken.index.min()) if len(broken) else float("inf")


def own_mixtures(contexts: list[Context], shape: str = "peaked") -> list[Mixture]:
    """List the contexts' mixtures, or ("flat") the same tokens under equal weights."""
    ids = [c.indices.tolist() for c in contexts]
    if shape == "flat":
        return [(shape, i, planted_weights(len(i), shape)) for i in ids]
    return [(shape, i, c.probs.tolist()) for i, c in zip(ids, contexts)]


def own_recovery(embed: Tensor, contexts: list[Context]) -> pd.DataFrame:
    """Read back the contexts' own mixtures, and their tokens under equal weights.

    `recovery_rows` in float32; of ten of each kind in bfloat16, with the random floor.
    """
    peaked, flat = (own_mixtures(contexts, shape) for shape in ("peaked", "flat"))
    few = peaked[:10] + flat[-10:]
    exact = recovery_rows(embed, peaked + flat, ["float32"], extra=())
    rounded = recovery_rows(embed, few, ["bfloat16"], extra=["random"])
    return pd.concat([exact, rounded], ignore_index=True)


def recovery_estimates(
    rows: pd.DataFrame, seed: int = 0
) -> dict[str, dict[str, Estimate]]:
    """Estimate the parts of N1 from one model's `own_recovery`, by support.

    "known": the model's own weights, tokens given. "peaked", "flat": by NNLS.
    """
    exact = rows[rows.dtype == "float32"]
    chosen = {
        "known": exact[(exact.label == "peaked") & (exact.method == "known")],
        "peaked": exact[(exact.label == "peaked") & (exact.method == "nnls")],
        "flat": exact[(exact.label == "flat") & (exact.method == "nnls")],
    }
    return {
        support: {
            "weight_error": bootstrap(part.max_error, seed=seed),
            "support_f1": bootstrap(part.f1, seed=seed),
        }
        for support, part in chosen.items()
    }


def own_divergence(lm: LM, contexts: list[Context]) -> pd.DataFrame:
    """Measure how far w is from the model's own p, before temperature, top-k and power.

    kl: KL(p||w) in bits over the tokens kept, p renormalised there; over the whole
    vocabulary it is infinite, as w leaves tokens out. left_out: p's share on those.
    """
    rows = []
    for c in contexts:
        p = next_probs(lm, c.prefix[:-1], c.prefix[-1:])[0]
        kept = c.probs.cpu() > 0
        own = p[c.indices.cpu()[kept]]
        kl = kl_bits(own, c.probs.cpu()[kept])
        rows.append({"kl": float(kl), "left_out": max(0.0, 1 - float(own.sum()))})
    return pd.DataFrame(rows)


def recovered_by_nnls(embed: Tensor, contexts: list[Context]) -> np.ndarray:
    """Find out which of the contexts' own mixtures come back (N,), in float32."""
    rows = recovery_rows(embed, own_mixtures(contexts), ["float32"], extra=())
    return rows[rows.method == "nnls"].recovered.to_numpy(bool)
