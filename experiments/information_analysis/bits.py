"""Bits in a mixture, in its vector, and used by the next step (claim N3).

    mixture_bits      bits of one mixture: in the distribution, available, usable, used
    bits_rows         the same for many contexts, beside controls and floors
    true_targets      the corpus's distribution of the token after next, by context
    bits_estimates    the parts of N3
    used_shares       the share used by each reader, to draw
    compare_measures  what m wins over each control, in KL and in JS
    bits_line         the bits along one sequence, to draw

All are exact sums over the vocabulary: nothing is estimated from samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from experiments.floors import random_like, replace_runners_up
from experiments.information_analysis.contexts import Context, next_probs, normalise
from experiments.metrics import entropy, entropy_bits, js_bits, kl_bits, with_entropy
from experiments.stats import Estimate, bootstrap, clustered, ratio
from experiments.true_distribution import true_ahead

if TYPE_CHECKING:
    from helpers.models import LM

FED = ["mixture", "replaced", "other", "random"]  # to the next step, by `bits_rows`
CONTROLS = {  # what else could win back bits -> its name in the figures
    "flat": "top token, flattened",
    "replaced": "runners-up replaced",
}
ROUNDING = 1e-6  # bits, below which nothing is usable
TOLD_APART = 0.05  # bits of JS between q and P_top, from which R1 counts a context


def mixture_bits(weights: Tensor, members: Tensor, mixture: Tensor) -> dict:
    """Compute the bits of weights (K,) over members P_i (K,V), the top one first.

    mixture: readings P_m (...,V). distribution = H(w). available = H(q) - sum_i w_i
    H(P_i), q = sum_i w_i P_i: what knowing which member was meant would tell of the
    token after. usable = KL(q||P_top): what a reader of the top token alone loses. used
    = usable - KL(q||P_m): what feeding the mixture wins back; `usable` for a perfect
    reader, 0 for one that reads the top token, negative for one that does worse.
    """
    weights = normalise(weights)
    q = weights @ members
    usable = kl_bits(q, members[0])
    return {
        "distribution": float(entropy_bits(weights)),
        "available": float(entropy_bits(q) - weights @ entropy_bits(members)),
        "usable": float(usable),
        "used": (usable - kl_bits(q, mixture)).tolist(),
        "js_mixture": js_bits(q, mixture).tolist(),
        "js_top": float(js_bits(q, members[0])),
    }


def bits_rows(
    lm: LM,
    contexts: list[Context],
    recovered: Sequence[bool],
    truths: Sequence[Tensor | None] = (),
    seed: int = 0,
) -> pd.DataFrame:
    """Compute `mixture_bits` of every context, with controls beside it.

    reader "mixture" feeds m itself; "flat" is no vector but P_top flattened to the
    entropy of P_m; "replaced" feeds m with its runners-up replaced, "other" the mixture
    of another prompt, "random" a direction of the same norm. p_max is the mixture's
    largest weight; vector = H(w) where the weights were recovered from m, else 0.
    truths: for each context the true distribution (V,) of the token after next, or
    None: true_usable and true_used are usable and used with that in the place of q.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, truths = [], truths or [None] * len(contexts)
    for n, (c, back, truth) in enumerate(zip(contexts, recovered, truths, strict=True)):
        others = [o.concept for o in contexts if o.prompt != c.prompt]
        other = others[n * 7 % len(others)] if others else c.concept
        one = c.probs[None], c.indices[None], c.concept[None]
        replaced = replace_runners_up(lm, *one, generator)[0]
        fed = [c.concept, replaced, other, random_like(c.concept, generator)]
        p = next_probs(lm, c.prefix, torch.cat([torch.stack(fed), lm.embed[c.indices]]))
        read, members = p[: len(fed)], p[len(fed) :]
        flat = with_entropy(members[0], entropy(read[0]))
        read = torch.cat([read, flat[None]])
        row = {"prompt": c.prompt, "template": c.template, "step": c.step + 1}
        row |= {"reader": [*FED, "flat"], "p_max": float(c.probs[0])}
        row |= mixture_bits(c.probs, members, read)
        row["vector"] = row["distribution"] * bool(back)
        if truth is not None:
            usable = kl_bits(truth, members[0])
            row["true_usable"] = float(usable)
            row["true_used"] = (usable - kl_bits(truth, read)).tolist()
        rows.append(pd.DataFrame(row))
    return pd.concat(rows, ignore_index=True)


def true_targets(
    lm: LM, prompts: list[str], contexts: list[Context], true_next: Callable | None
) -> list[Tensor | None]:
    """Look up the true distribution (V,) of the token after next, for first steps.

    None for later steps, where the corpus cannot say the text, and without `true_next`.
    """
    return [
        true_ahead(true_next, lm.tokenizer, prompts[c.prompt])
        if true_next and c.step == 0
        else None
        for c in contexts
    ]


def bits_estimates(rows: pd.DataFrame, seed: int = 0) -> dict[str, Estimate]:
    """Estimate the parts of N3 from `bits_rows` of one step of one model.

    used_over_flat and used_over_replaced are differences of shares of the same sum, so
    their contexts are drawn together. used_median: of single contexts, those with
    anything usable. Intervals resample whole templates; n counts contexts.
    true_used_share is left out where no truth is known.
    """
    used = rows.pivot(index="prompt", columns="reader", values="used")
    rows = rows[rows.reader == "mixture"].set_index("prompt").loc[used.index]

    def share(numerator, denominator, rows=rows):
        return clustered(ratio, rows.template, numerator, denominator, seed=seed)

    some = rows[rows.usable > ROUNDING]
    each = some.used / some.usable
    median = {"statistic": np.median, "seed": seed}
    estimates = {
        "vector_share": share(rows.vector, rows.distribution),
        "available_bits": clustered(
            bootstrap, rows.template, rows.available, seed=seed
        ),
        "used_share": share(rows.used, rows.usable),
    }
    if len(some):
        by_context = clustered(bootstrap, some.template, each, **median)
        estimates["used_median"] = by_context
    for control in CONTROLS:
        won = used.mixture - used[control]
        estimates[f"used_{control}"] = share(used[control], rows.usable)
        estimates[f"used_over_{control}"] = share(won, rows.usable)
    if "true_used" in rows and rows.true_used.notna().any():
        known = rows.dropna(subset="true_used")
        true_share = share(known.true_used, known.true_usable, known)
        estimates["true_used_share"] = true_share
    return estimates


def used_shares(rows: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Tabulate shares used from `bits_rows` with a column model, to draw.

    One row a model, step and reader: share, low, high, n.
    """
    names = {"used_share": "concept token"}
    names |= {f"used_{control}": name for control, name in CONTROLS.items()}
    found = []
    for (model, step), part in rows.groupby(["model", "step"]):
        estimates = bits_estimates(part, seed)
        for key, name in names.items():
            row = {"model": model, "step": f"step {step}", "reader": name}
            found.append(row | vars(estimates[key]))
    return pd.DataFrame(found).rename(columns={"value": "share"})


def compare_measures(rows: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Tabulate what m wins over each control from `bits_rows` with a column model.

    In bits a context, by KL(q||.) as N3 counts and by JS(q,.) as R1 does: positive
    where P_m is nearer to q than the control. Intervals resample templates. contexts:
    all of them, or those whose q and P_top are told apart, the ones that R1 judges.
    """
    found = []
    for (model, step), part in rows.groupby(["model", "step"]):
        own = part[part.reader == "mixture"].set_index("prompt").sort_index()
        js = part.pivot(index="prompt", columns="reader", values="js_mixture")
        used = part.pivot(index="prompt", columns="reader", values="used")
        won = {"top token": (own.used, own.js_top - own.js_mixture)}
        for control, name in CONTROLS.items():
            won[name] = used.mixture - used[control], js[control] - js.mixture
        chosen = {"all": own.js_top >= 0, "told apart": own.js_top >= TOLD_APART}
        for contexts, kept in chosen.items():
            for name, columns in won.items():
                row = {"model": model, "step": step, "contexts": contexts, "over": name}
                row["n"] = int(kept.sum())
                for measure, values in zip(("KL", "JS"), columns):
                    if row["n"]:
                        groups = own.template[kept]
                        e = clustered(bootstrap, groups, values[kept], seed=seed)
                        row[measure] = f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]"
                found.append(row)
    return pd.DataFrame(found)


def bits_line(
    lm: LM, contexts: list[Context], recovered: Sequence[bool], seed: int = 0
) -> pd.DataFrame:
    """Compute the bits of each context of one sequence, to draw: token, kind, bits.

    recovered (N,): whether the weights of each come back from its vector.
    """
    rows = bits_rows(lm, contexts, recovered, seed=seed)
    rows = rows[rows.reader == "mixture"].reset_index(drop=True)
    tops = [lm.tokenizer.decode([int(c.indices[0])]) for c in contexts]
    rows["token"] = [f"{c.step + 1} {top}" for c, top in zip(contexts, tops)]
    kinds = ["distribution", "vector", "available", "used"]
    return rows.melt("token", kinds, "kind", "bits")
