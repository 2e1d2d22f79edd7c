"""Reading in the loop (R1): does the next step follow the mixture it is fed?

    loop_divergences   bits from the mixture's prediction to what follows each thing fed
    score_bins         scores between floor and ceiling, in bins of the top weight
    score_by_bin       the same of several models
    bin_table          one row a model and bin, for reading
    drawn_lines        the lines of the figure, by their names there

A row is a plain dict: one prompt and step, or one bin and line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from experiments.floors import random_like, replace_runners_up
from experiments.metrics import js_bits
from experiments.stats import Estimate, bootstrap, ratio
from experiments.translation.stimuli import BATCH
from helpers.batching import next_logits, prompt_embeds
from helpers.decode import generate_concepts

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.mixture import MixtureConfig
    from helpers.models import LM

Parts = dict[str, Estimate]  # what a verdict is computed from, by name

BINS = (0.0, 0.3, 0.5, 0.7, 0.9, 1.0)  # p_max, the mixture's largest weight
SEPARATE = 0.05  # bits: below it, top token and mixture predict the same
LEAST = 1e-3  # lighter members are left out of q; `dropped` says how much that is
POSITIONS = 48  # predicted in one pass
LINES = ("mixture", "top", "runners_up", "random", "left_out", "other")
LABELS = {  # of the figure's lines
    "score": "concept token",
    "score_top": "top token alone",
    "score_runners_up": "runners-up replaced",
    "score_random": "random vector",
    "score_left_out": "left out",
}
INCONCLUSIVE = "no bin tells mixture and top token apart"


def bin_names() -> list[str]:
    """Names of the bins of p_max, low to high."""
    return [f"{low:g}-{high:g}" for low, high in zip(BINS, BINS[1:])]


def loop_divergences(
    lm: LM,
    prompts: list[str],
    steps: int = 2,
    config: MixtureConfig | None = None,
    seed: int = 0,
) -> list[dict]:
    """Measure JS in bits from q = sum_i w_i P(.|ctx, tok_i) to what is predicted.

    One row a prompt and step of the loop: prompt, step, p_max, members and dropped (the
    number of members in q, and the weight left out of it), and the divergence after
    each of LINES: the mixture, its top token alone, and the floors.
    """
    trace = generate_concepts(lm, prompts, steps, config, batch_size=BATCH)
    embeds, mask = prompt_embeds(lm, prompts)
    places = [
        (b, t)
        for t in range(steps)
        for b, ids in enumerate(trace.tokens)
        if t < len(ids) and ids[t] not in lm.eos_ids
    ]
    b, t = torch.tensor(places).T
    probs, indices, vectors = (
        x[b, t] for x in (trace.probs, trace.indices, trace.vectors)
    )
    other = _other_prompts(list(zip(indices[:, 0].tolist(), b.tolist())), seed)
    draw = torch.Generator().manual_seed(seed)
    fed = {
        "mixture": vectors,
        "top": lm.embed[indices[:, 0]],
        "other": vectors[other],
        "runners_up": replace_runners_up(lm, probs, indices, vectors, draw),
        "random": random_like(vectors, draw),
    }
    found = []
    for start in range(0, len(places), POSITIONS):
        part = slice(start, start + POSITIONS)
        contexts = [
            torch.cat([embeds[b, mask[b].bool()], trace.vectors[b, :t]])
            for b, t in places[part]
        ]
        fed_here = {name: x[part] for name, x in fed.items()}
        found += _divergences(lm, contexts, fed_here, probs[part], indices[part])
    return [
        {"prompt": b, "step": t + 1, "p_max": p.item(), **row}
        for (b, t), p, row in zip(places, probs[:, 0], found)
    ]


def _other_prompts(keys: list[tuple[int, int]], seed: int) -> list[int]:
    """Draw for each (top token, prompt) another entry in which both differ."""
    rng = np.random.default_rng(seed)
    picked = []
    for top, b in keys:
        far = [j for j, (top2, b2) in enumerate(keys) if top2 != top and b2 != b]
        if not far:
            raise ValueError(
                "every prompt leads to the same top token: the floor needs another one"
            )
        picked.append(far[rng.integers(len(far))])
    return picked


def _divergences(
    lm: LM,
    contexts: list[Tensor],
    fed: dict[str, Tensor],
    probs: Tensor,
    indices: Tensor,
) -> list[dict]:
    """Divergences at N positions, in one pass over all that is fed there.

    contexts: N of (L_i,D); fed: name -> (N,D); probs, indices (N,K).
    """
    inputs, owner, weights = [], [], []
    for n, context in enumerate(contexts):
        inputs += [torch.cat([context, x[n][None]]) for x in fed.values()] + [context]
    for n, context in enumerate(contexts):
        keep = (probs[n] >= LEAST) & (probs[n] > 0)
        keep[0] = True
        owner += [n] * int(keep.sum())
        weights.append(probs[n][keep])
        inputs += [torch.cat([context, lm.embed[i][None]]) for i in indices[n][keep]]
    order = sorted(range(len(inputs)), key=lambda i: len(inputs[i]))
    logits = next_logits(lm, [inputs[i] for i in order], batch_size=BATCH)
    p = torch.empty_like(logits)
    p[torch.tensor(order, device=p.device)] = logits.softmax(-1)
    names = [*fed, "left_out"]
    after, members = p.split([len(names) * len(contexts), len(owner)])
    after = after.view(len(contexts), len(names), -1)
    owner = torch.tensor(owner, device=p.device)
    q = p.new_zeros(len(contexts), p.shape[-1])
    q.index_add_(0, owner, members * torch.cat(weights).to(p.dtype)[:, None])
    mass = q.sum(-1)
    bits = js_bits(after, q[:, None].expand_as(after)).tolist()
    return [
        {"members": int((owner == n).sum()), "dropped": 1 - mass[n].item()}
        | dict(zip(names, row))
        for n, row in enumerate(bits)
    ]


def score_bins(rows: list[dict], seed: int = 0) -> tuple[list[dict], Parts]:
    """Score each bin of p_max, and all conclusive bins together.

    A score is 1 - JS(line, q) / JS(other prompt, q), a ratio of sums, resampled by
    prompt. A bin is conclusive where top token and mixture predict different things:
    the interval of JS(top, q) lies above SEPARATE bits. -> (one row a bin and line:
    bin, line, value, low, high, n, conclusive; {score, score_top, gain, ...} over the
    conclusive bins, empty when there are none).
    """
    table, kept = [], []
    for name, low, high in zip(bin_names(), BINS, BINS[1:]):
        inside = [r for r in rows if low < r["p_max"] <= high]
        if len({r["prompt"] for r in inside}) < 2:
            continue
        apart = bootstrap(_by_prompt(inside, "top", np.mean), seed=seed)
        conclusive = apart.low > SEPARATE
        kept += inside if conclusive else []
        for line, e in (_scores(inside, seed) | {"separation": apart}).items():
            interval = {"value": e.value, "low": e.low, "high": e.high, "n": e.n}
            table.append(
                {"bin": name, "line": line, **interval, "conclusive": conclusive}
            )
    return table, (_scores(kept, seed) if kept else {})


def _scores(rows: list[dict], seed: int) -> Parts:
    floor = _by_prompt(rows, "other", np.sum)
    sums = {line: _by_prompt(rows, line, np.sum) for line in LINES if line != "other"}
    scores = {
        f"score_{line}": one_minus(ratio(total, floor, seed=seed))
        for line, total in sums.items()
    }
    gain = ratio(sums["top"] - sums["mixture"], floor, seed=seed)
    return {"score": scores.pop("score_mixture"), **scores, "gain": gain}


def _by_prompt(rows: list[dict], column: str, reduce: Callable) -> np.ndarray:
    """One number a prompt: its rows' column, summed or averaged."""
    prompts = np.array([r["prompt"] for r in rows])
    values = np.array([r[column] for r in rows])
    return np.array([reduce(values[prompts == p]) for p in np.unique(prompts)])


def one_minus(e: Estimate) -> Estimate:
    """1 - e, an estimate with its interval."""
    return Estimate(1 - e.value, 1 - e.high, 1 - e.low, e.n, e.seed)


def score_by_bin(
    rows: dict[str, list[dict]], seed: int = 0
) -> tuple[pd.DataFrame, dict[str, Parts]]:
    """score_bins of each model: its tables as one frame, and its scores by model."""
    found = {name: score_bins(part, seed) for name, part in rows.items()}
    tables = [pd.DataFrame(t).assign(model=name) for name, (t, _) in found.items()]
    return pd.concat(tables), {name: scores for name, (_, scores) in found.items()}


def bin_table(bins: pd.DataFrame) -> pd.DataFrame:
    """One row a model and bin: n, whether it is conclusive, and every line's value."""
    index = ["model", "bin"]
    values = bins.pivot_table(index=index, columns="line", values="value")
    facts = bins[bins["line"] == "score"].set_index(index)[["n", "conclusive"]]
    return facts.join(values.rename(columns=LABELS).round(2))


def drawn_lines(bins: pd.DataFrame) -> pd.DataFrame:
    """The rows of the lines that are drawn, under their LABELS."""
    return bins[bins["line"].isin(LABELS)].replace({"line": LABELS})
