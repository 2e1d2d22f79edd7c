"""Reading in the loop: does the next step follow the mixture it is fed?

    in_loop, loop_scores   R1: the next token's distribution against the mixture of what
                           each member would have led to, between floor and ceiling
    truths, write_score    R6: the writing side, on the same kind of scale
    minus                  the difference of two estimates

Rows are plain dicts; numbers with intervals are stats.Estimate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from experiments.floors import random_like
from experiments.metrics import js_bits
from experiments.stats import Estimate, bootstrap, ratio
from experiments.translation import stimuli
from helpers.batching import next_logits, prompt_embeds
from helpers.decode import generate_concepts

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.mixture import MixtureConfig
    from helpers.models import LM

BINS = (0.0, 0.3, 0.5, 0.7, 0.9, 1.0)  # p_max, the mixture's largest weight
SEPARATE = 0.05  # bits: below it, top token and mixture predict the same
LEAST = 1e-3  # lighter members are left out of q; `dropped` says how much that is
LINES = ("mixture", "top", "runners_up", "random", "left_out", "other")
SHOWN = {  # how a figure names them
    "score": "concept token", "score_top": "top token alone",
    "score_runners_up": "runners-up replaced", "score_random": "random vector",
    "score_left_out": "left out",
}  # fmt: skip


def in_loop(
    lm: LM, prompts: list[str], steps: int = 2, config: MixtureConfig | None = None,
    seed: int = 0,
) -> list[dict]:  # fmt: skip
    """JS in bits from q = sum_i w_i P(.|ctx, tok_i) to what the model predicts after

    the mixture, its top token, and the floors, at each step of the loop. One row a
    prompt and step: prompt, step, p_max, members, dropped, and a column a LINES entry.
    """
    trace = generate_concepts(lm, prompts, steps, config, batch_size=256)
    embeds, mask = prompt_embeds(lm, prompts)
    at = [
        (b, t)
        for t in range(steps)
        for b, ids in enumerate(trace.tokens)
        if t < len(ids) and ids[t] not in lm.eos_ids
    ]
    b, t = torch.tensor(at).T
    probs, indices = trace.probs[b, t], trace.indices[b, t]
    vectors = trace.vectors[b, t]
    top = indices[:, 0].tolist()
    keys = list(zip(top, b.tolist()))  # another prompt's, with another top token
    other = _other_prompt(keys, seed)
    draw = torch.Generator().manual_seed(seed)
    fed = {
        "mixture": vectors, "top": lm.embed[indices[:, 0]], "other": vectors[other],
        "runners_up": stimuli.replace_runners_up(lm, probs, indices, vectors, draw),
        "random": random_like(vectors, draw),
    }  # fmt: skip
    rows = []
    for start in range(0, len(at), 48):
        part = range(start, min(start + 48, len(at)))
        context = [torch.cat([embeds[b, mask[b].bool()], trace.vectors[b, :t]])
                   for b, t in at[part.start : part.stop]]  # fmt: skip
        rows += _predictions(lm, part, context, fed, probs, indices)
    return [
        {"prompt": b, "step": t + 1, "p_max": p.item(), **row}
        for (b, t), p, row in zip(at, probs[:, 0], rows)
    ]


def _other_prompt(keys, seed):
    """Like contents.partners, but both the top token and the prompt must differ."""
    rng = np.random.default_rng(seed)
    out = []
    for top, b in keys:
        far = [j for j, (top2, b2) in enumerate(keys) if top2 != top and b2 != b]
        if not far:
            raise ValueError(
                "every prompt leads to the same top token: the floor needs another one"
            )
        out.append(far[rng.integers(len(far))])
    return out


def _predictions(lm, part, context, fed, probs, indices):
    """Divergences for some positions: one pass over all that is fed there."""
    inputs, owner, weight = [], [], []
    for n, ctx in zip(part, context):
        inputs += [torch.cat([ctx, fed[name][n][None]]) for name in fed] + [ctx]
    for n, ctx in zip(part, context):
        keep = (probs[n] >= LEAST) & (probs[n] > 0)
        keep[0] = True
        owner += [n - part.start] * int(keep.sum())
        weight.append(probs[n][keep])
        inputs += [torch.cat([ctx, lm.embed[i][None]]) for i in indices[n][keep]]
    order = sorted(range(len(inputs)), key=lambda i: len(inputs[i]))
    logits = next_logits(lm, [inputs[i] for i in order], batch_size=256)
    p = torch.empty_like(logits)
    p[torch.tensor(order, device=p.device)] = logits.softmax(-1)
    fixed = len(part) * (len(fed) + 1)
    lines = p[:fixed].view(len(part), len(fed) + 1, -1)
    owner = torch.tensor(owner, device=p.device)
    weights = torch.cat(weight).to(p.dtype)
    q = p.new_zeros(len(part), p.shape[-1])
    q.index_add_(0, owner, p[fixed:] * weights[:, None])
    mass = q.sum(-1)
    far = js_bits(lines, q[:, None].expand_as(lines)).tolist()
    return [
        {"members": int((owner == i).sum()), "dropped": 1 - mass[i].item()}
        | dict(zip([*fed, "left_out"], far[i]))
        for i in range(len(part))
    ]


def loop_scores(rows: list[dict], seed: int = 0) -> tuple[list[dict], dict]:
    """Score 1 - JS(line, q) / JS(other prompt, q) by p_max bin, and over all bins

    where top token and mixture predict different things (the interval of JS(top, q)
    above SEPARATE bits). Ratios of sums, resampled by prompt.
    -> (one row a bin and line: bin, line, value, low, high, n, conclusive;
    {score, score_top, gain, ...} over the conclusive bins, empty when there are none).
    """
    table, kept = [], []
    for low, high in zip(BINS, BINS[1:]):
        inside = [r for r in rows if low < r["p_max"] <= high]
        if len({r["prompt"] for r in inside}) < 2:
            continue
        apart = bootstrap(_by_prompt(inside, "top", np.mean), seed=seed)
        conclusive = apart.low > SEPARATE
        kept += inside if conclusive else []
        name = f"{low:g}-{high:g}"
        scores = _scores(inside, seed) | {"separation": apart}
        table += [
            {"bin": name, "line": line, "value": e.value, "low": e.low, "high": e.high,
             "n": e.n, "conclusive": conclusive}
            for line, e in scores.items()
        ]  # fmt: skip
    return table, (_scores(kept, seed) if kept else {})


def _scores(rows, seed):
    floor = _by_prompt(rows, "other", np.sum)
    sums = {line: _by_prompt(rows, line, np.sum) for line in LINES if line != "other"}
    scores = {
        f"score_{x}": _one_minus(ratio(s, floor, seed=seed)) for x, s in sums.items()
    }
    gain = ratio(sums["top"] - sums["mixture"], floor, seed=seed)
    return {"score": scores.pop("score_mixture"), **scores, "gain": gain}


def _by_prompt(rows, column, reduce):
    """One number a prompt: its rows' column, summed or averaged."""
    prompts = np.array([r["prompt"] for r in rows])
    values = np.array([r[column] for r in rows])
    return np.array([reduce(values[prompts == p]) for p in np.unique(prompts)])


def _one_minus(e: Estimate) -> Estimate:
    """1 - e."""
    return Estimate(1 - e.value, 1 - e.high, 1 - e.low, e.n, e.seed)


def write_score(weights, truth: Tensor, seed: int = 0) -> Estimate:
    """1 - JS(weights, truth) / JS(another prompt's weights, truth): 0 floor, 1 ceiling.

    weights: (probs (B,K), indices (B,K)) of each prompt's first concept; truth (B,V).
    """
    probs, indices = (x.cpu() for x in weights)
    dense = truth.new_zeros(truth.shape).scatter(-1, indices, probs.to(truth.dtype))
    other = dense[stimuli.mismatched_indices(indices[:, 0].tolist(), seed)]
    floor = js_bits(other, truth).numpy()
    return _one_minus(ratio(js_bits(dense, truth).numpy(), floor, seed=seed))


def difference(a: Estimate, b: Estimate) -> Estimate:
    """a - b of two independent estimates (square-and-add, Newcombe 1998)."""
    low = ((a.value - a.low) ** 2 + (b.high - b.value) ** 2) ** 0.5
    high = ((a.high - a.value) ** 2 + (b.value - b.low) ** 2) ** 0.5
    value = a.value - b.value
    return Estimate(value, value - low, value + high, min(a.n, b.n), a.seed)
