"""Norms of mixtures: the embeddings' range, the hull, the drift (CLAIMS.md G3, G4).

    step_rows      one row a step: norm, hull bound, entropy, likeness to a token
    drift_parts    G4: how |m| / sum w|E| goes with entropy and with time
    clip_rows      G3: steps outside each range, and what clipping them does to the NLL
    range_parts    G3's estimates, one cell a range

A mixture lies in the convex hull of the embeddings: |m| <= sum w|E| <= max |E|, and no
coordinate leaves the span of that coordinate. Norms are taken in float64 on the CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import torch

from experiments.scoring import teacher_forced_logprobs
from experiments.stats import (
    Estimate,
    bootstrap,
    exact_estimate,
    paired_difference,
    spearman,
)
from helpers.mixture import clip_norm, norm_bounds

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.decode import ConceptTrace
    from helpers.models import LM

RANGES = {  # name of a cell -> norm rule
    "all rows": "all", "used ids": "used", "1-99 %": "central", "per coordinate": "",
}  # fmt: skip
OWN, RANDOM = "the model's tokens", "random tokens"


def step_rows(lm: LM, trace: ConceptTrace, seed: int = 0) -> pd.DataFrame:
    """One row a step: the model's mixtures, and random tokens under the same weights.

    norm |m|; hull sum w|E|; ratio norm / hull; centred: that ratio once the mean row is
    taken off; spread sqrt(sum w^2), the ratio of orthogonal rows of one length; entropy
    of the full softmax in nats; cosine to the nearest token.
    """
    table, draw = lm.embed.cpu(), torch.Generator().manual_seed(seed)
    mean = table.mean(0, dtype=torch.float32).double()
    lengths = lm.embed.norm(dim=-1, dtype=torch.float32)
    frames = []
    for b, n in enumerate(trace.lengths.tolist()):
        weights = trace.probs[b, :n].cpu().double()
        weights = weights / weights.sum(-1, keepdim=True)
        own = trace.indices[b, :n].cpu()
        other = torch.randint(len(table), own.shape, generator=draw)
        for kind, ids in ((OWN, own), (RANDOM, other)):
            rows = table[ids].double()
            mixed = (weights[:, None] @ rows)[:, 0]
            norm, hull = mixed.norm(dim=-1), (weights * rows.norm(dim=-1)).sum(-1)
            off_mean = (weights * (rows - mean).norm(dim=-1)).sum(-1)
            near = (mixed.to(lm.embed) @ lm.embed.T / lengths).amax(-1).cpu() / norm
            frames.append(pd.DataFrame({
                "prompt": b, "step": range(1, n + 1), "kind": kind,
                "entropy": trace.entropy[b, :n].tolist(),
                "p_max": weights[:, 0].tolist(), "norm": norm.tolist(),
                "hull": hull.tolist(), "ratio": (norm / hull).tolist(),
                "centred": ((mixed - mean).norm(dim=-1) / off_mean).tolist(),
                "spread": weights.square().sum(-1).sqrt().tolist(),
                "cosine": near.tolist(),
            }))  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def drift_parts(rows: pd.DataFrame, seed: int = 0) -> dict[str, Estimate]:
    """G4's parts, resampled by prompt, and those that stand beside them, unjudged."""
    own = rows[rows.kind == OWN]
    floor = rows[rows.kind == RANDOM]
    high = own.entropy >= own.entropy.quantile(2 / 3)
    unsure, prompts = own[high], own[high].prompt
    ends = own.groupby("prompt").ratio.agg(["first", "last"])
    there = floor[high.to_numpy()]
    parts = {
        "ratio_high": bootstrap(unsure.ratio, seed=seed, groups=prompts),
        "ratio_rho": spearman(own.ratio, own.entropy, seed=seed, groups=own.prompt),
        "ratio_drift": paired_difference(ends["last"], ends["first"], seed=seed),
    }
    beside = {
        "spread_high": unsure.spread, "centred_high": unsure.centred,
        "cosine_high": unsure.cosine, "random_tokens_high": there.ratio,
    }  # fmt: skip
    return parts | {
        name: bootstrap(column, seed=seed, groups=prompts)
        for name, column in beside.items()
    }


def norm_limits(lm: LM, name: str) -> tuple[Tensor, Tensor]:
    """Lowest and highest value of a range: of the norm, or (D,) of each coordinate."""
    if name == "per coordinate":
        return lm.embed.amin(0), lm.embed.amax(0)
    return norm_bounds(lm.embed, RANGES[name], lm.used)


def outside_range(
    x: Tensor, name: str, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """Which vectors (...,D) lie above and below a range, by more than rounding."""
    if name == "per coordinate":
        slack = 1e-6 * (high - low)
        return (x > high + slack).any(-1), (x < low - slack).any(-1)
    norm = x.float().norm(dim=-1)
    return norm > high * (1 + 1e-6), norm < low * (1 - 1e-6)


def clip_to_range(x: Tensor, name: str, low: Tensor, high: Tensor) -> Tensor:
    """Vectors brought back into a range: the norm scaled, or each coordinate cut. One
    that is inside but for rounding is left as it is."""
    if name == "per coordinate":
        slack = 1e-6 * (high - low).nan_to_num(0, 0, 0)
        return x.clamp(low - slack, high + slack)
    return clip_norm(x, (low, high))


def clip_rows(
    lm: LM, prompts: list[str], trace: ConceptTrace, targets: Tensor, lengths: Tensor
) -> pd.DataFrame:
    """One row a prompt and range: share of its steps above and below, and the change in
    NLL of `targets` (B,T), the greedy continuation up to `lengths`, when the same
    mixtures are clipped by both bounds, by the upper or by the lower alone.

    trace: mixtures made without clipping and without stopping.
    """
    counted = torch.arange(targets.shape[1]) < lengths[:, None]

    def nll(vectors):
        _, log_p = teacher_forced_logprobs(lm, prompts, vectors, targets)
        return -(log_p * counted).sum(1) / counted.sum(1)

    x, rows = trace.vectors, []
    before = nll(x)
    for name in RANGES:
        low, high = norm_limits(lm, name)
        above, below = (
            o.float().mean(1).cpu() for o in outside_range(x, name, low, high)
        )
        never = torch.full_like(low, -torch.inf), torch.full_like(high, torch.inf)
        deltas = {}
        for part, bounds in (("both", (low, high)), ("upper", (never[0], high)),
                             ("lower", (low, never[1]))):  # fmt: skip
            y = clip_to_range(x, name, *bounds)
            deltas[part] = torch.zeros(len(x)) if torch.equal(x, y) else nll(y) - before
        rows += [
            {"prompt": b, "range": name, "above": float(above[b]),
             "below": float(below[b])} | {p: float(d[b]) for p, d in deltas.items()}
            for b in range(len(x))
        ]  # fmt: skip
    return pd.DataFrame(rows)


def range_parts(rows: pd.DataFrame, steps: pd.DataFrame, seed: int = 0) -> dict:
    """G3's parts by range; delta_upper and delta_lower stand beside them, unjudged."""
    own = steps[steps.kind == OWN]
    violations = exact_estimate((own.norm > own.hull * (1 + 1e-9)).sum(), len(own))
    names = {"above": "upper_rate", "below": "lower_rate", "both": "delta_nll",
             "upper": "delta_upper", "lower": "delta_lower"}  # fmt: skip
    return {
        name: {"hull_violations": violations}
        | {part: bootstrap(mine[c], seed=seed) for c, part in names.items()}
        for name, mine in rows.groupby("range", sort=False)
    }
