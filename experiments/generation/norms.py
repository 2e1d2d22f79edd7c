"""Mixtures among the embeddings: distances, norms, their range (CLAIMS.md G3, G4).

    step_rows       one row a step: distance to the nearest row, norm, hull bound, ...
    drift_parts     G4: how that distance goes with entropy and with time
    row_spacing, nearest_rows    the unit of that distance, and the distance
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

from experiments.prompts import template_of
from experiments.scoring import pad_targets, teacher_forced_logprobs
from experiments.stats import (
    Estimate,
    bootstrap,
    clustered,
    paired_difference,
    spearman,
)
from helpers.mixture import at_least_float32, clip_norm, norm_bounds

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
CLIP_PARTS = ("upper_rate", "lower_rate", "delta_nll", "delta_upper", "delta_lower")
OWN, RANDOM = "the model's tokens", "random tokens"
MOST_ROWS = 2048  # rows whose nearest neighbours give the unit of distance
POINT_AXES = {
    "x": "entropy",
    "y": "distance",
    "by": "kind",
    "panel": "model",
    "xlabel": "entropy of the next token (nats)",
    "ylabel": "distance to the nearest row\n(1: usual from row to row)",
    "reference": {"the claim's bound": 0.5},
}


def step_rows(lm: LM, trace: ConceptTrace, seed: int = 0) -> pd.DataFrame:
    """One row a step: the model's mixtures, and random tokens under the same weights.

    distance: from m to the nearest row, over row_spacing; in_use: over the row_spacing
    of the rows that hold a hundredth of some mixture, without those that no text ever
    trained. norm |m|; hull sum w|E|; ratio norm / hull; centred: that ratio once the
    mean row is taken off; spread sqrt(sum w^2), the ratio of orthogonal rows of one
    length; entropy of the full softmax in nats; cosine to the nearest token.
    """
    table, generator = lm.embed.cpu(), torch.Generator().manual_seed(seed)
    mean = table.mean(0, dtype=torch.float32).double()
    frames, vectors = [], []
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
            columns = {
                "entropy": trace.entropy[b, :n],
                "p_max": weights[:, 0],
                "norm": norm,
                "hull": hull,
                "ratio": norm / hull,
                "centred": (mixed - mean).norm(dim=-1) / off_mean,
                "spread": weights.square().sum(-1).sqrt(),
            }
            frame = pd.DataFrame({k: v.tolist() for k, v in columns.items()})
            frames.append(frame.assign(prompt=b, step=range(1, n + 1), kind=kind))
            vectors.append(mixed)
    frame = pd.concat(frames, ignore_index=True)
    distance, cosine = nearest_rows(torch.cat(vectors), lm.embed)
    used = trace.indices[trace.probs >= 0.01].unique()
    frame["distance"] = distance / row_spacing(lm.embed, seed=seed)
    frame["in_use"] = distance / row_spacing(lm.embed, used, seed=seed)
    return frame.assign(cosine=cosine)


def row_spacing(
    embed: Tensor, ids: Tensor | None = None, most: int = MOST_ROWS, seed: int = 0
) -> float:
    """Compute the median distance from a row of embed (V,D) to its nearest other row.

    ids: the rows that it is the median of, by default all; of more than `most`, that
    many drawn at random. Any row of embed may be the nearest.
    """
    ids = torch.arange(len(embed)) if ids is None else ids.cpu()
    if len(ids) > most:
        generator = torch.Generator().manual_seed(seed)
        ids = ids[torch.randperm(len(ids), generator=generator)[:most]]
    rows = embed[ids.to(embed.device)]
    return float(nearest_rows(rows, embed, ids)[0].median())


def nearest_rows(
    x: Tensor, embed: Tensor, own: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute how near vectors x (N,D) come to rows of embed: distance, cosine (N,).

    own: ids (N,) of a row that does not count, for each. The row is found in float32
    and its distance taken in float64: that of a row to itself is exactly 0.
    """
    rows, found = at_least_float32(embed), []
    norms = rows.norm(dim=-1).clamp_min(1e-30)
    for some, here in zip(x.split(256), (x if own is None else own).split(256)):
        products = some.to(rows) @ rows.T
        if own is not None:
            products.scatter_(1, here[:, None].to(rows.device), -torch.inf)
        nearest = embed[(products - norms.square() / 2).argmax(-1)].cpu().double()
        cosine, some = (products / norms).amax(-1).cpu(), some.cpu().double()
        found.append(((some - nearest).norm(dim=-1), cosine / some.norm(dim=-1)))
    distance, cosine = map(torch.cat, zip(*found))
    return distance, cosine


def norm_points(steps: dict[str, pd.DataFrame], n_prompts: int = 16) -> pd.DataFrame:
    """Steps of the first prompts of each model's step_rows, by model and kind."""
    some = [rows[rows.prompt < n_prompts].assign(model=m) for m, rows in steps.items()]
    columns = ["model", "kind", "prompt", "step", "entropy", "distance"]
    columns += ["ratio", "norm", "hull"]
    return pd.concat(some)[columns].sort_values(["model", "kind"], kind="stable")


def drift_parts(rows: pd.DataFrame, seed: int = 0) -> dict[str, Estimate]:
    """G4's parts, drawn by prompt, and what stands beside them unjudged.

    *_high, and the random tokens: over the steps in the upper third of entropy.
    """
    own, floor = rows[rows.kind == OWN], rows[rows.kind == RANDOM]
    high = own.entropy >= own.entropy.quantile(2 / 3)
    unsure, floor_unsure = own[high], floor[high.to_numpy()]
    columns = {
        "distance_high": unsure.distance,
        "distance_random": floor_unsure.distance,
        "in_use_high": unsure.in_use,
        "in_use_random": floor_unsure.in_use,
        "ratio_high": unsure.ratio,
        "ratio_random": floor_unsure.ratio,
        "spread_high": unsure.spread,
        "centred_high": unsure.centred,
        "cosine_high": unsure.cosine,
    }
    parts = {
        name: bootstrap(column, seed=seed, groups=unsure.prompt)
        for name, column in columns.items()
    }
    for measure in ("distance", "ratio"):
        ends = own.groupby("prompt")[measure].agg(["first", "last"])
        drift = paired_difference(ends["last"], ends["first"], seed=seed)
        rho = _rank_correlation(own[measure], own.entropy, own.prompt, seed)
        parts |= {f"{measure}_rho": rho, f"{measure}_drift": drift}
    return parts


def _rank_correlation(a, b, groups, seed: int) -> Estimate:
    """spearman, and 0 where all of a is alike: it then goes with nothing."""
    if a.nunique() == 1:
        return Estimate.exact(0, groups.nunique())
    return spearman(a, b, seed=seed, groups=groups)


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

    upper_rate, lower_rate: share of the prompt's steps above and below it. delta_nll:
    change in NLL (nats a token) of the greedy continuations' ids when the same mixtures
    are clipped; delta_upper, delta_lower: by that bound alone.
    trace: mixtures made without clipping and without stopping.
    """
    targets, lengths = pad_targets(greedy, trace.vectors.shape[1])
    counted = torch.arange(targets.shape[1]) < lengths[:, None]

    def nll(vectors):
        log_p = teacher_forced_logprobs(lm, prompts, vectors, targets)
        return -(log_p * counted).sum(1) / counted.sum(1)

    x, frames = trace.vectors, []
    before = nll(x)
    changes = [(x, torch.zeros(len(x)))]  # most bounds change nothing, or the same
    for name in RANGES:
        low, high = norm_limits(lm, name)
        above, below = outside_range(x, name, low, high)
        rows = {"range": name, "template": [template_of(p) for p in prompts]}
        rows["upper_rate"] = above.float().mean(1).tolist()
        rows["lower_rate"] = below.float().mean(1).tolist()
        free = torch.full_like(low, torch.inf)
        bounds = (low, high), (-free, high), (low, free)
        for part, limits in zip(CLIP_PARTS[2:], bounds):
            y = clip_to_range(x, name, *limits)
            change = next((c for z, c in changes if torch.equal(y, z)), None)
            if change is None:
                change = nll(y) - before
                changes.append((y, change))
            rows[part] = change.tolist()
        frames.append(pd.DataFrame(rows))
    return pd.concat(frames, ignore_index=True)


def range_parts(
    rows: pd.DataFrame, steps: pd.DataFrame, seed: int = 0
) -> dict[str, dict[str, Estimate]]:
    """G3's parts by range; delta_upper and delta_lower are not judged.

    Intervals draw whole templates.
    """
    own = steps[steps.kind == OWN]
    outside_hull = (own.norm > own.hull * (1 + 1e-9)).sum()
    violations = {"hull_violations": Estimate.exact(outside_hull, len(own))}
    return {
        name: violations
        | {
            part: clustered(bootstrap, mine.template, mine[part], seed=seed)
            for part in CLIP_PARTS
        }
        for name, mine in rows.groupby("range", sort=False)
    }
