"""Reading in the loop (R1): does the next step follow the mixture it is fed?

    loop_divergences   bits from the mixture's prediction to what follows each thing fed
    score_cells        R1's parts, by model and step
    excess             what the mixture adds to its top token: 0 nothing, 1 all
    interval_text      an estimate as it stands in a table
    js_beside_kl       the same in JS (R1, R6) and in KL (N3 of notebook 04)
    score_bins         all prompts by the weight of the top token, for the figure
    gains_beyond_top   R7's rows: bits won over the top token alone, prompt by prompt

Every row of a frame is one prompt and step. Intervals draw whole templates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from experiments.floors import other_prompts, random_like, replace_runners_up
from experiments.metrics import entropy, js_bits, kl_bits, with_entropy
from experiments.prefixes import LEAST, SEPARATE, logits_after
from experiments.prompts import template_of
from experiments.stats import Estimate, bootstrap, clustered, ratio
from experiments.translation.stimuli import BATCH
from helpers.batching import next_logits, prompt_embeds
from helpers.decode import generate_concepts
from helpers.mixture import MixtureConfig, apply_norm, norm_bounds

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.models import LM

Parts = dict[str, Estimate]  # what a verdict is computed from, by name

BINS = (0.0, 0.3, 0.5, 0.7, 0.9, 1.0)  # p_max, the mixture's largest weight
POSITIONS = 48  # predicted in one pass
LINES = {  # what is fed or predicted -> its name in figures; "other" is the floor
    "mixture": "concept token",
    "top": "top token alone",
    "flat": "top token, flattened",
    "replaced": "runners-up replaced",
    "restored": "norm restored",
    "random": "random vector",
    "left_out": "left out",
}
KL_LINES = ("mixture", "top", "flat", "replaced")
GAIN_RULES = {  # of claim R7
    "raw, k 20": MixtureConfig(top_k=20, temperature=1.0, alpha=1.0, norm="none"),
    "as written": MixtureConfig(),
}
CONTROLS = ("top", "flat", "replaced")  # what the mixture's score is set against
INCONCLUSIVE = "no prompt where the top token and the mixture predict different things"


def bin_names() -> list[str]:
    """Names of the bins of p_max, low to high."""
    return [f"{low:g}-{high:g}" for low, high in zip(BINS, BINS[1:])]


def loop_divergences(
    lm: LM,
    prompts: list[str],
    steps: int = 2,
    config: MixtureConfig | None = None,
    seed: int = 0,
    templates: list[str] | None = None,
) -> pd.DataFrame:
    """Measure JS in bits from q = sum_i w_i P(.|ctx, tok_i) to what is predicted.

    One row a prompt and step of the loop: prompt, template, step, p_max, members and
    dropped (the number of members in q, and the weight left out of it), the divergence
    after each of LINES and after another prompt's concept (other), and kl_ before a
    line's name: KL(q || line). flat is the top token's prediction, raised to the power
    that gives it the entropy of the prediction after the mixture. templates: of the
    prompts, by default those of the suites.
    """
    trace = generate_concepts(lm, prompts, steps, config, batch_size=BATCH)
    embeds, mask = prompt_embeds(lm, prompts)
    templates = templates or [template_of(prompt) for prompt in prompts]
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
    other = other_prompts(list(zip(indices[:, 0].tolist(), b.tolist())), seed)
    draw = torch.Generator().manual_seed(seed)
    bounds = norm_bounds(lm.embed, "restore")
    fed = {
        "mixture": vectors,
        "top": lm.embed[indices[:, 0]],
        "other": vectors[other],
        "replaced": replace_runners_up(lm, probs, indices, vectors, draw),
        "restored": apply_norm(vectors, probs, indices, bounds, "restore"),
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
    rows = [
        {"prompt": b, "template": templates[b], "step": t + 1, "p_max": p, **row}
        for (b, t), p, row in zip(places, probs[:, 0].tolist(), found)
    ]
    return pd.DataFrame(rows)


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
    names, n_fed = [*fed, "left_out"], len(fed)
    keep = (probs >= LEAST) & (probs > 0)
    keep[:, 0] = True
    owner = keep.nonzero()[:, 0].tolist()  # of each member its position
    vectors = torch.stack(list(fed.values()), 1).flatten(0, 1)
    vectors = torch.cat([vectors, lm.embed[indices[keep]]])
    owners = [n for n in range(len(contexts)) for _ in fed] + owner
    logits = logits_after(lm, contexts, owners, vectors)
    after, members = logits.split([n_fed * len(contexts), len(owner)])
    after = after.view(len(contexts), n_fed, -1)
    left_out = next_logits(lm, contexts, batch_size=BATCH).cpu()
    after = torch.cat([after, left_out[:, None]], dim=1).double().softmax(-1)
    owner = torch.tensor(owner)
    q = members.new_zeros(len(contexts), members.shape[-1])
    weights = probs[keep].to(q)
    q.index_add_(0, owner, members.softmax(-1) * weights[:, None])
    mass = q.sum(-1)
    line = {name: after[:, i] for i, name in enumerate(names)}
    line["flat"] = with_entropy(line["top"], entropy(line["mixture"]))
    columns = {name: js_bits(p, q).tolist() for name, p in line.items()}
    columns |= {f"kl_{name}": kl_bits(q, line[name]).tolist() for name in KL_LINES}
    return [
        {"members": int((owner == n).sum()), "dropped": 1 - mass[n].item()}
        | {name: column[n] for name, column in columns.items()}
        for n in range(len(contexts))
    ]


def gains_beyond_top(lm: LM, prompts: list[str], seed: int = 0) -> pd.DataFrame:
    """Measure what the first concept token wins over its top token alone (R7), in bits.

    One row a prompt and rule of GAIN_RULES: prompt, template, p_max (the largest
    probability that the model gives a next token, unchanged by the rule), rule,
    gain_bits = JS(top, q) - JS(mixture, q).
    """
    logits = next_logits(lm, *prompt_embeds(lm, prompts), batch_size=BATCH)
    p_max = logits.softmax(-1).amax(-1).tolist()
    frames = []
    for rule, config in GAIN_RULES.items():
        rows = loop_divergences(lm, prompts, 1, config, seed)
        at = rows["prompt"]
        frames.append(
            pd.DataFrame(
                {
                    "prompt": [prompts[b] for b in at],
                    "template": rows["template"],
                    "p_max": [p_max[b] for b in at],
                    "rule": rule,
                    "gain_bits": rows["top"] - rows["mixture"],
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def _differing(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows whose top token and mixture predict different things."""
    return rows[rows["top"] > SEPARATE]


def score_cells(rows: dict[str, pd.DataFrame], seed: int = 0) -> dict[str, Parts]:
    """Score each model's steps: "model, step 1" -> parts, {} where no row can tell.

    Only prompts whose top token and mixture predict different things count.
    """
    return {
        f"{name}, step {step}": _scores(_differing(part), seed)
        for name, frame in rows.items()
        for step, part in frame.groupby("step")
    }


def _scores(rows: pd.DataFrame, seed: int) -> Parts:
    """Score every line: 1 - JS(line, q) / JS(other, q), a ratio of sums.

    gain, gain_flat, gain_replaced: the mixture's score minus each control's, paired,
    with the medians of the same by prompt; templates: how many there are.
    """
    if rows.empty:
        return {}
    floor, templates = rows["other"], rows["template"]
    how = {"groups": templates, "seed": seed}
    parts = {
        name.replace("_mixture", ""): _one_minus(
            clustered(ratio, numerator=rows[line], denominator=floor, **how)
        )
        for line, name in ((line, f"score_{line}") for line in LINES)
    }
    for control in CONTROLS:
        name = "gain" if control == "top" else f"gain_{control}"
        won = rows[control] - rows["mixture"]
        parts[name] = clustered(ratio, numerator=won, denominator=floor, **how)
        by_prompt = {"values": won / floor, "statistic": np.median}
        parts[f"{name}_median"] = clustered(bootstrap, **by_prompt, **how)
    return parts | {"templates": Estimate.exact(templates.nunique(), len(rows))}


def _one_minus(e: Estimate) -> Estimate:
    """1 - e, an estimate with its interval."""
    return Estimate(1 - e.value, 1 - e.high, 1 - e.low, e.n, e.seed)


def interval_text(e: Estimate) -> str:
    """value [low, high], to two digits."""
    return f"{e.value:.2f} [{e.low:.2f}, {e.high:.2f}]"


def excess(
    rows: pd.DataFrame, line: str = "mixture", measure: str = "js", seed: int = 0
) -> Estimate | None:
    """Estimate the share of the top token's divergence from q that a line is free of.

    0: no nearer to q than the top token's prediction; 1: q itself. measure: "js", or
    "kl" for KL(q || line). None where no row can tell; n counts prompts.
    """
    rows = _differing(rows)
    if rows.empty:
        return None
    line, top = ((f"kl_{x}" if measure == "kl" else x) for x in (line, "top"))
    sums = rows.groupby(["prompt", "template"])[list(dict.fromkeys([line, top]))].sum()
    how = {"groups": sums.index.get_level_values("template"), "seed": seed}
    won = sums[top] - sums[line]
    return clustered(ratio, numerator=won, denominator=sums[top], **how)


def js_beside_kl(rows: dict[str, pd.DataFrame], seed: int = 0) -> pd.DataFrame:
    """Put excess in JS beside excess in KL: one row a model, step and line."""
    table = {}
    for name, frame in rows.items():
        for step, part in frame.groupby("step"):
            for line in ("mixture", "flat", "replaced"):
                found = {m: excess(part, line, m, seed) for m in ("js", "kl")}
                table[name, f"step {step}", LINES[line]] = {
                    f"won back in {m.upper()}": interval_text(e)
                    for m, e in found.items()
                    if e
                }
    return pd.DataFrame(table).T


def score_bins(rows: dict[str, pd.DataFrame], seed: int = 0) -> pd.DataFrame:
    """Score all prompts in bins of p_max, of two prompts or more.

    -> one row a cell, bin and line: cell, bin, line, value, low, high, n.
    """
    table = []
    for name, frame in rows.items():
        keys = ["step", pd.cut(frame["p_max"], BINS, labels=bin_names())]
        for (step, inside), part in frame.groupby(keys, observed=True):
            found = _scores(part, seed) if len(part) > 1 else {}
            for line, label in LINES.items():
                e = found.get(f"score_{line}".replace("_mixture", ""))
                if e:
                    row = {"cell": f"{name}, step {step}", "bin": inside, "line": label}
                    table.append(row | e.columns())
    return pd.DataFrame(table)
