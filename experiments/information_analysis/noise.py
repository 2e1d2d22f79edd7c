"""Is a concept token a strange input? Noise on it and on a discrete token (claim N5).

noise_rows        the next token's NLL under noise, input by input
noise_estimates   the parts of N5
noise_curves      means over prompts, to draw
perturb           a vector moved in a random direction
cross_entropy     -sum p log q
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Generator, Tensor

from experiments.information_analysis.contexts import Context, next_probs, normalise
from experiments.stats import Estimate, bootstrap, clustered

if TYPE_CHECKING:
    from helpers.models import LM


def noise_rows(
    lm: LM,
    contexts: list[Context],
    sigmas: Sequence[float],
    draws: int = 2,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure NLL after a mixture m and its top token, with noise of `sigma` RMS of E.

    nll: cross-entropy in nats of the next token, which is drawn as the input means it:
    from q = sum_i w_i P_i for the mixture, from P_top for the token. flip: the top next
    token is not the undisturbed one. With the norm restored or not; several draws are
    averaged. nll_q is always against q, so that the two inputs can be compared. Kind
    "matched" is the token moved in a random direction exactly as far as m is from it.
    """
    generator = torch.Generator().manual_seed(seed)
    unit = lm.embed.float().square().mean().sqrt().cpu()
    size = lm.embed.shape[1] ** 0.5
    rows = []
    for c in contexts:
        token = lm.embed[c.indices[0]]
        far = (c.concept - token).float().norm().cpu()
        plans = [
            (kind, vector, float(sigma), sigma * unit * size, restored)
            for kind, vector in (("mixture", c.concept), ("token", token))
            for sigma in sigmas
            for restored in (False, True)
        ]
        plans.append(("matched", token, float(far / unit / size), far, False))
        moved = [
            perturb(vector, distance, generator, restored)
            for _, vector, _, distance, restored in plans
            for _ in range(draws)
        ]
        fed = torch.stack([c.concept, *moved])
        p = next_probs(lm, c.prefix, torch.cat([fed, lm.embed[c.indices]]))
        clean, noisy, members = p[0], p[1 : len(fed)], p[len(fed) :]
        q = normalise(c.probs) @ members
        facts = {"prompt": c.prompt, "template": c.template}
        for n, (kind, _, sigma, _, restored) in enumerate(plans):
            read = noisy[n * draws : (n + 1) * draws]
            meant, still = (q, clean) if kind == "mixture" else (members[0], members[0])
            row = facts | {"kind": kind, "sigma": sigma, "restored": restored}
            row["nll"] = float(cross_entropy(meant, read).mean())
            row["nll_q"] = float(cross_entropy(q, read).mean())
            row["flip"] = float((read.argmax(-1) != still.argmax()).double().mean())
            rows.append(row)
    return pd.DataFrame(rows)


def noise_estimates(rows: pd.DataFrame, seed: int = 0) -> dict[str, Estimate]:
    """Estimate the parts of N5 from one model's `noise_rows`.

    nll@sigma, nats: of the mixture. fragility, nats: the rise at sigma 0.5 of m minus
    that of the top token, each on what it stands for. flip_difference: the share of
    changed top predictions at sigma 0.5, m minus token. Intervals resample templates.
    """
    rows = rows[~rows.restored]
    parts = {key: part for key, part in rows.groupby(["kind", "sigma"])}
    nll = {key: part.nll.to_numpy() for key, part in parts.items()}
    flip = {kind: parts[kind, 0.5].flip.to_numpy() for kind in ("mixture", "token")}
    rise = {kind: nll[kind, 0.5] - nll[kind, 0.0] for kind in ("mixture", "token")}
    columns = {
        f"nll@{sigma:g}": nll["mixture", sigma]
        for sigma in sorted(sigma for kind, sigma in nll if kind == "mixture")
    }
    columns["fragility"] = rise["mixture"] - rise["token"]
    columns["flip_difference"] = flip["mixture"] - flip["token"]
    groups = parts["mixture", 0.0].template
    return {
        name: clustered(bootstrap, groups, column, seed=seed)
        for name, column in columns.items()
    }


def noise_curves(rows: pd.DataFrame) -> pd.DataFrame:
    """Average `noise_rows` (with a column model) to draw: panel, input, sigma, value.

    Two panels a model: the rise in nll over no noise, and the share of changed tokens.
    """
    kept = rows[rows.kind != "matched"]
    name = kept.kind + kept.restored.map({True: ", norm restored", False: ""})
    mean = kept.assign(input=name).groupby(["model", "input", "sigma"])[["nll", "flip"]]
    mean = mean.mean().reset_index()
    mean["nll"] -= mean.groupby(["model", "input"]).nll.transform("first")
    titles = {"nll": "rise in NLL (nats)", "flip": "top token changed (share)"}
    long = mean.melt(["model", "input", "sigma"], list(titles))
    return long.assign(panel=long.model + ": " + long.variable.map(titles))


def perturb(
    vector: Tensor, distance: float, generator: Generator, restored: bool = False
) -> Tensor:
    """Move a vector (D,) by `distance` in a random direction, its norm restored or not.

    generator: on the CPU, so that every device gets the same directions.
    """
    direction = torch.randn(vector.shape, generator=generator).to(vector.device)
    moved = vector.float() + distance * direction / direction.norm()
    if restored:
        moved = moved * vector.float().norm() / moved.norm()
    return moved.to(vector.dtype)


def cross_entropy(p: Tensor, q: Tensor) -> Tensor:
    """Compute -sum p log q (...) in nats, over the last dimension."""
    return -torch.xlogy(p, q.clamp_min(1e-300)).sum(-1)
