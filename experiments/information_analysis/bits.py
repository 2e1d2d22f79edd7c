"""What a concept token carries, and what the next step makes of it (CLAIMS.md N3).

    contexts       each step of a trace: what was read before it, and its mixture
    next_probs     P(. | prefix, v) for many vectors v after one prefix
    mixture_bits   bits in the distribution, available, used, usable: exact
    bits_rows      the same for many contexts, beside two floors
    bits_line      the same along one sequence, with what the vector holds, to draw

Probabilities are compared in float64 on the CPU; the model runs where and as it was
loaded. Bits are exact sums over the vocabulary: nothing is estimated from samples.
"""

import copy
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from experiments.floors import random_like
from experiments.metrics import entropy_bits, js_bits, kl_bits
from helpers.mixture import mix

READERS = ["mixture", "other", "random"]  # what `bits_rows` feeds to the next step


@dataclass(frozen=True, eq=False)
class Context:
    """A step of a trace: what was read before it, and the mixture formed there."""

    prompt: int  # which prompt, from 0
    step: int  # which step of it, from 0
    prefix: Tensor  # (T,D) embeddings already read
    probs: Tensor  # (K,) weights, sorted
    indices: Tensor  # (K,) their tokens
    concept: Tensor  # (D,) sum_i p_i E[i]
    entropy: float = 0.0  # nats, of the model's full softmax


def contexts(lm, prompts, trace, steps=None) -> list[Context]:
    """The steps of `trace` (B,T) as contexts: at most the first `steps` of each prompt.

    The concept is the plain mixture sum_i p_i E[i], before any norm clipping.
    """
    found = []
    for b, prompt in enumerate(prompts):
        ids = lm.tokenizer(prompt)["input_ids"]
        for t in range(min(int(trace.lengths[b]), steps or trace.probs.shape[1])):
            prefix = torch.cat([lm.embed[ids], trace.vectors[b, :t]])
            probs, indices = trace.probs[b, t], trace.indices[b, t]
            concept = mix(probs, indices, lm.embed)
            sure = float(trace.entropy[b, t])
            found.append(Context(b, t, prefix, probs, indices, concept, sure))
    return found


@torch.no_grad()
def next_probs(lm, prefix, vectors, batch=512) -> Tensor:
    """P(. | prefix, v), (N,V) float64 on the CPU, for vectors (N,D) after (T,D).

    The prefix is read once; its cache is shared by all vectors.
    """
    call = {"use_cache": True, "logits_to_keep": 1}
    read = lm.model(inputs_embeds=prefix[None], **call).past_key_values
    found = []
    parts = vectors.to(prefix).split(batch)
    for n, part in enumerate(parts):
        cache = read if n == len(parts) - 1 else copy.deepcopy(read)
        cache.batch_repeat_interleave(len(part))
        out = lm.model(inputs_embeds=part[:, None], past_key_values=cache, **call)
        found.append(out.logits[:, -1].cpu().double().softmax(-1))
    return torch.cat(found)


def mixture_bits(weights, members, mixture) -> dict:
    """N3: weights (K,), members P_i (K,V), the top one first, and readings P_m (...,V).

    distribution = H(w). available = H(q) - sum_i w_i H(P_i), q = sum_i w_i P_i: what
    knowing which member was meant would tell of the token after. usable = KL(q||P_top):
    what a reader of the top token alone loses. used = usable - KL(q||P_m): what feeding
    the mixture wins back; `usable` for a perfect reader, 0 for one that reads the top
    token, negative for one that does worse than that.
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


def bits_rows(lm, found, truths=None, seed=0) -> pd.DataFrame:
    """`mixture_bits` of every context: what the next step reads, beside two floors.

    reader "mixture" feeds m itself, "other" the mixture of another prompt, "random" a
    direction of the same norm. p_max is the mixture's largest weight. truths: for each
    context the true distribution (V,) of the token after next, or None: true_usable and
    true_used are usable and used with that in the place of q.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for n, (c, truth) in enumerate(zip(found, truths or [None] * len(found))):
        others = [o.concept for o in found if o.prompt != c.prompt]
        other = others[n * 7 % len(others)] if others else c.concept
        fed = torch.stack([c.concept, other, random_like(c.concept, generator)])
        p = next_probs(lm, c.prefix, torch.cat([fed, lm.embed[c.indices]]))
        facts = {"prompt": c.prompt, "step": c.step, "top": int(c.indices[0]),
                 "p_max": float(c.probs[0])}  # fmt: skip
        bits = facts | {"reader": READERS} | mixture_bits(c.probs, p[3:], p[:3])
        if truth is not None:
            usable = kl_bits(truth, p[3])
            bits["true_usable"] = float(usable)
            bits["true_used"] = (usable - kl_bits(truth, p[:3])).tolist()
        rows.append(pd.DataFrame(bits))
    return pd.concat(rows, ignore_index=True)


def normalise(weights) -> Tensor:
    """Weights in float64 on the CPU, summing to one."""
    weights = weights.double().cpu()
    return weights / weights.sum()


def bits_line(lm, found, recovered, seed=0) -> pd.DataFrame:
    """Bits of each context of one sequence, to draw: token, kind, bits.

    recovered (N,): whether the weights of each come back from its vector.
    """
    rows = bits_rows(lm, found, seed=seed)
    rows = rows[rows.reader == "mixture"].reset_index(drop=True)
    rows["token"] = [f"{c.step + 1} {lm.tokenizer.decode([int(c.indices[0])])}"
                     for c in found]  # fmt: skip
    kinds = {
        "distribution": rows.distribution,
        "vector": rows.distribution * pd.Series(recovered, dtype=float),
        "available": rows.available,
        "used": rows.used,
    }
    return pd.concat([pd.DataFrame({"token": rows.token, "kind": kind, "bits": bits})
                      for kind, bits in kinds.items()], ignore_index=True)  # fmt: skip


def perturb(base, distance, generator, restore=False) -> Tensor:
    """`base` (D,) moved by `distance` in a random direction; its norm kept if asked."""
    direction = torch.randn(base.shape, generator=generator).to(base.device)
    there = base.float() + distance * direction / direction.norm()
    if restore:
        there = there * base.float().norm() / there.norm()
    return there.to(base.dtype)
