"""Bits in a mixture, in its vector, and used by the next step (claim N3).

    mixture_bits     bits of one mixture: in the distribution, available, usable, used
    bits_rows        the same for many contexts, beside two floors
    true_targets     the corpus's distribution of the token after next, by context
    bits_estimates   the parts of N3
    bits_line        the bits along one sequence, to draw

All are exact sums over the vocabulary: nothing is estimated from samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from experiments.floors import random_like
from experiments.information_analysis.contexts import Context, next_probs, normalise
from experiments.metrics import entropy_bits, js_bits, kl_bits
from experiments.stats import Estimate, bootstrap, ratio
from experiments.true_distribution import true_ahead

if TYPE_CHECKING:
    from helpers.models import LM

READERS = ["mixture", "other", "random"]  # what `bits_rows` feeds to the next step


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
    lm: LM, contexts: list[Context], truths: Sequence[Tensor | None] = (), seed: int = 0
) -> pd.DataFrame:
    """Compute `mixture_bits` of every context, with two floors beside it.

    reader "mixture" feeds m itself, "other" the mixture of another prompt, "random" a
    direction of the same norm. p_max is the mixture's largest weight. truths: for each
    context the true distribution (V,) of the token after next, or None: true_usable and
    true_used are usable and used with that in the place of q.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for n, (c, truth) in enumerate(zip(contexts, truths or [None] * len(contexts))):
        others = [o.concept for o in contexts if o.prompt != c.prompt]
        other = others[n * 7 % len(others)] if others else c.concept
        fed = torch.stack([c.concept, other, random_like(c.concept, generator)])
        p = next_probs(lm, c.prefix, torch.cat([fed, lm.embed[c.indices]]))
        row = {"prompt": c.prompt, "step": c.step, "reader": READERS}
        row |= {"p_max": float(c.probs[0])} | mixture_bits(c.probs, p[3:], p[:3])
        if truth is not None:
            usable = kl_bits(truth, p[3])
            row["true_usable"] = float(usable)
            row["true_used"] = (usable - kl_bits(truth, p[:3])).tolist()
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


def bits_estimates(
    rows: pd.DataFrame, recovered: Sequence[bool], seed: int = 0
) -> dict[str, Estimate]:
    """Estimate the parts of N3 from one model's `bits_rows`; intervals by prompt.

    recovered: whether the weights came back from the vector, for the first contexts of
    step 0. true_used_share is left out where no truth is known.
    """
    rows = rows[rows.reader == "mixture"]
    by_prompt = {"groups": rows.prompt, "seed": seed}
    entropy = rows[rows.step == 0].distribution[: len(recovered)]
    estimates = {
        "vector_share": ratio(entropy * np.asarray(recovered), entropy, seed=seed),
        "available_bits": bootstrap(rows.available, **by_prompt),
        "used_share": ratio(rows.used, rows.usable, **by_prompt),
    }
    if "true_used" in rows:
        known = rows.dropna(subset="true_used")
        true_share = ratio(known.true_used, known.true_usable, seed=seed)
        estimates["true_used_share"] = true_share
    return estimates


def bits_line(
    lm: LM, contexts: list[Context], recovered: Sequence[bool], seed: int = 0
) -> pd.DataFrame:
    """Compute the bits of each context of one sequence, to draw: token, kind, bits.

    recovered (N,): whether the weights of each come back from its vector.
    """
    rows = bits_rows(lm, contexts, seed=seed)
    rows = rows[rows.reader == "mixture"].reset_index(drop=True)
    rows["vector"] = rows.distribution * pd.Series(recovered, dtype=float)
    tops = [lm.tokenizer.decode([int(c.indices[0])]) for c in contexts]
    rows["token"] = [f"{c.step + 1} {top}" for c, top in zip(contexts, tops)]
    kinds = ["distribution", "vector", "available", "used"]
    return rows.melt("token", kinds, "kind", "bits")
