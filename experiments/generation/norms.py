"""Norms of mixtures: the embeddings' range, the hull, the drift (CLAIMS.md G3, G4).

    step_rows       one row a step: norm, hull bound, entropy, nearest token's cosine
    drift_parts     G4: how |m| / sum w|E| goes with entropy and with time
    norm_points     the steps of the first prompts, all models, for the picture
    clip_rows       G3: steps outside each range, and what clipping them does to the NLL
    range_parts     G3's parts by range
    norm_limits, outside_range, clip_to_range    a range, and vectors against it

A mixture lies in the convex hull of the embeddings: |m| <= sum w|E| <= max |E|, and no
coordinate leaves the span of that coordinate. Norms are taken in float64 on the CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import torch

from experiments.scoring import pad_targets, teacher_forced_logprobs
from experiments.stats import Estimate, bootstrap, paired_difference, spearman
from helpers.mixture import clip_norm, norm_bounds

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.decode import ConceptTrace
    from helpers.models import LM

PER_COORDINATE = "per coordinate"
RANGES = {  # name of a cell -> norm rule of norm_bounds
    "all rows": "all",
    "used ids": "used",
    "1-99 %": "central",
    PER_COORDINATE: "",
}
CLIP_PARTS = {  # column of clip_rows -> part of G3
    "above": "upper_rate",
    "below": "lower_rate",
    "both": "delta_nll",
    "upper": "delta_upper",
    "lower": "delta_lower",
}
OWN, RANDOM = "the model's tokens", "random tokens"
POINT_AXES = {
    "x": "entropy",
    "y": "ratio",
    "by": "kind",
    "panel": "model",
    "xlabel": "entropy of the next token (nats)",
    "ylabel": "‖m‖ / Σ w‖E‖",
    "reference": {"hull: no mixture lies above": 1.0},
}


def step_rows(lm: LM, trace: ConceptTrace, seed: int = 0) -> pd.DataFrame:
    """One row a step: the model's mixtures, and random tokens under the same weights.

    norm |m|; hull sum w|E|; ratio norm / hull; centred: that ratio once the mean row is
    taken off; spread sqrt(sum w^2), the ratio of orthogonal rows of one length; entropy
    of the full softmax in nats; cosine to the nearest token.
    """
    table, generator = lm.embed.cpu(), torch.Generator().manual_seed(seed)
    mean = table.mean(0, dtype=torch.float32).double()
    lengths = lm.embed.norm(dim=-1, dtype=torch.float32)
    frames = []
    for b, n in enumerate(trace.lengths.tolist()):
        weights = trace.probs[b, :n].cpu().double()
        weights = weights / weights.sum(-1, keepdim=True)
        own_ids = trace.indices[b, :n].cpu()
        random_ids = torch.randint(len(table), own_ids.shape, generator=generator)
        for kind, ids in ((OWN, own_ids), (RANDOM, random_ids)):
            rows = table[ids].double()
            mixed = (weights[:, None] @ rows)[:, 0]
            norm, hull = mixed.norm(dim=-1), (weights * rows.norm(dim=-1)).sum(-1)
            off_mean = (weights * (rows - mean).norm(dim=-1)).sum(-1)
            near = (mixed.to(lm.embed) @ lm.embed.T / lengths).amax(-1).cpu() / norm
            columns = {
                "entropy": trace.entropy[b, :n],
                "p_max": weights[:, 0],
                "norm": norm,
                "hull": hull,
                "ratio": norm / hull,
                "centred": (mixed - mean).norm(dim=-1) / off_mean,
                "spread": weights.square().sum(-1).sqrt(),
                "cosine": near,
            }
            frame = pd.DataFrame({k: v.tolist() for k, v in columns.items()})
            frames.append(frame.assign(prompt=b, step=range(1, n + 1), kind=kind))
    return pd.concat(frames, ignore_index=True)


def norm_points(steps: dict[str, pd.DataFrame], n_prompts: int = 16) -> pd.DataFrame:
    """Steps of the first prompts of each model's step_rows, by model and kind."""
    some = [rows[rows.prompt < n_prompts].assign(model=m) for m, rows in steps.items()]
    columns = ["model", "kind", "prompt", "step", "entropy", "ratio", "norm", "hull"]
    return pd.concat(some)[columns].sort_values(["model", "kind"], kind="stable")


def drift_parts(rows: pd.DataFrame, seed: int = 0) -> dict[str, Estimate]:
    """G4's parts, drawn by prompt, and four more that are not judged.

    *_high: over the steps in the upper third of entropy.
    """
    own, floor = rows[rows.kind == OWN], rows[rows.kind == RANDOM]
    high = own.entropy >= own.entropy.quantile(2 / 3)
    unsure, floor_unsure = own[high], floor[high.to_numpy()]
    ends = own.groupby("prompt").ratio.agg(["first", "last"])
    by_prompt = {
        "ratio_high": unsure.ratio,
        "spread_high": unsure.spread,
        "centred_high": unsure.centred,
        "cosine_high": unsure.cosine,
        "random_tokens_high": floor_unsure.ratio,
    }
    parts = {
        name: bootstrap(column, seed=seed, groups=unsure.prompt)
        for name, column in by_prompt.items()
    }
    rho = spearman(own.ratio, own.entropy, seed=seed, groups=own.prompt)
    drift = paired_difference(ends["last"], ends["first"], seed=seed)
    judged = {"ratio_high": parts["ratio_high"], "ratio_rho": rho, "ratio_drift": drift}
    return judged | parts


def norm_limits(lm: LM, name: str) -> tuple[Tensor, Tensor]:
    """Lowest and highest value of a range: of the norm, or (D,) of each coordinate."""
    if name == PER_COORDINATE:
        return lm.embed.amin(0), lm.embed.amax(0)
    return norm_bounds(lm.embed, RANGES[name], lm.used)


def outside_range(
    x: Tensor, name: str, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """Which vectors (...,D) lie above and below a range, by more than rounding."""
    if name == PER_COORDINATE:
        slack = 1e-6 * (high - low)
        return (x > high + slack).any(-1), (x < low - slack).any(-1)
    norm = x.float().norm(dim=-1)
    return norm > high * (1 + 1e-6), norm < low * (1 - 1e-6)


def clip_to_range(x: Tensor, name: str, low: Tensor, high: Tensor) -> Tensor:
    """Bring vectors back into a range: scale the norm, or cut each coordinate.

    One that is inside but for rounding is left as it is.
    """
    if name == PER_COORDINATE:
        slack = 1e-6 * (high - low).nan_to_num(0, 0, 0)
        return x.clamp(low - slack, high + slack)
    return clip_norm(x, (low, high))


def clip_rows(
    lm: LM, prompts: list[str], trace: ConceptTrace, greedy: list[list[int]]
) -> pd.DataFrame:
    """One row a prompt and range: steps outside it, and the effect of clipping them.

    above, below: share of the prompt's steps. both, upper, lower: change in NLL (nats a
    token) of the greedy continuations' ids when the same mixtures are clipped by both
    bounds, by the upper or by the lower alone.
    trace: mixtures made without clipping and without stopping.
    """
    targets, lengths = pad_targets(greedy, trace.vectors.shape[1])
    counted = torch.arange(targets.shape[1]) < lengths[:, None]

    def nll(vectors):
        _, log_p = teacher_forced_logprobs(lm, prompts, vectors, targets)
        return -(log_p * counted).sum(1) / counted.sum(1)

    x, frames = trace.vectors, []
    before = nll(x)
    for name in RANGES:
        low, high = norm_limits(lm, name)
        above, below = outside_range(x, name, low, high)
        rows = {"prompt": range(len(x)), "range": name}
        rows["above"] = above.float().mean(1).tolist()
        rows["below"] = below.float().mean(1).tolist()
        free = torch.full_like(low, torch.inf)
        bounds = {"both": (low, high), "upper": (-free, high), "lower": (low, free)}
        for part, limits in bounds.items():
            y = clip_to_range(x, name, *limits)
            change = torch.zeros(len(x)) if torch.equal(x, y) else nll(y) - before
            rows[part] = change.tolist()
        frames.append(pd.DataFrame(rows))
    return pd.concat(frames, ignore_index=True)


def range_parts(
    rows: pd.DataFrame, steps: pd.DataFrame, seed: int = 0
) -> dict[str, dict[str, Estimate]]:
    """G3's parts by range; delta_upper and delta_lower are not judged."""
    own = steps[steps.kind == OWN]
    outside_hull = (own.norm > own.hull * (1 + 1e-9)).sum()
    violations = {"hull_violations": Estimate.exact(outside_hull, len(own))}
    return {
        name: violations
        | {part: bootstrap(mine[c], seed=seed) for c, part in CLIP_PARTS.items()}
        for name, mine in rows.groupby("range", sort=False)
    }
