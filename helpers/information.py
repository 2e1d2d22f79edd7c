"""What a concept token carries, and what the next step makes of it (CLAIMS.md 04).

    contexts         each step of a trace: what was read before it, and its mixture
    next_log_probs   log P(. | prefix, v) for many vectors v after one prefix
    mixture_bits     N3, exact: bits in the distribution, available, used, usable
    mixing_weight    N2: the share lambda of a member that best explains P(. | m)
    bits_rows, mixing_rows, noise_rows    N3, N2 and N5 as tidy frames

Probabilities are compared in float64 on the CPU; the model runs where and as it was
loaded. Bits are exact sums over the vocabulary: nothing is estimated from samples.
"""

import copy
import math
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from .mixture import mix

LN2 = math.log(2)


@dataclass(frozen=True, eq=False)
class Context:
    """A step of a trace: prefix (T,D) already read, probs and indices (K,), concept (D,)."""

    prompt: int
    step: int
    prefix: Tensor
    probs: Tensor
    indices: Tensor
    concept: Tensor


def contexts(lm, prompts, trace, steps=None) -> list[Context]:
    """The steps of `trace` (B,T) as contexts: at most the first `steps` of each prompt.

    The concept is the plain mixture sum_i p_i E[i], before any norm clipping.
    """
    found = []
    for b, prompt in enumerate(prompts):
        ids = lm.tokenizer(prompt, return_tensors="pt").input_ids.to(lm.embed.device)
        start = lm.embed[ids[0]]
        for t in range(min(int(trace.lengths[b]), steps or math.inf)):
            prefix = torch.cat([start, trace.vectors[b, :t].to(start)])
            probs, indices = trace.probs[b, t], trace.indices[b, t]
            found.append(
                Context(b, t, prefix, probs, indices, mix(probs, indices, lm.embed))
            )
    return found


@torch.no_grad()
def next_log_probs(lm, prefix, vectors, batch=512) -> Tensor:
    """log P(. | prefix, v), (N,V) float64 on the CPU, for vectors (N,D) after (T,D).

    The prefix is read once; its cache is shared by all vectors.
    """
    call = {"use_cache": True, "logits_to_keep": 1}
    read = lm.model(inputs_embeds=prefix[None], **call).past_key_values
    found = []
    for part in vectors.to(prefix).split(batch):
        cache = copy.deepcopy(read)
        cache.batch_repeat_interleave(len(part))
        out = lm.model(inputs_embeds=part[:, None], past_key_values=cache, **call)
        found.append(out.logits[:, -1].cpu().double().log_softmax(-1))
    return torch.cat(found)


def entropy_bits(log_p) -> Tensor:
    """Entropy in bits of log-probabilities (...,V); log p may be -inf."""
    return -_expect(log_p.exp(), log_p) / LN2


def kl_bits(log_p, log_q) -> Tensor:
    """KL(p || q) in bits from log-probabilities (...,V)."""
    return _expect(log_p.exp(), log_p - log_q) / LN2


def js_bits(log_p, log_q) -> Tensor:
    """Jensen-Shannon divergence in bits (0 to 1) from log-probabilities (...,V)."""
    middle = torch.logaddexp(log_p, log_q) - LN2
    return (kl_bits(log_p, middle) + kl_bits(log_q, middle)) / 2


def average(weights, log_members) -> Tensor:
    """log q, q = sum_i w_i P_i: weights (...,K), members (K,V) -> (...,V)."""
    return torch.logsumexp(weights.log()[..., None] + log_members, -2)


def mixture_bits(weights, log_members, log_mixture, top=0) -> dict:
    """N3 for one mixture: weights (K,), P_i (K,V) and P_m (V,) as log-probabilities.

    distribution = H(w). available = H(q) - sum_i w_i H(P_i), q = sum_i w_i P_i: what
    knowing which member was meant would tell of the token after. usable = KL(q || P_top):
    what a reader of the top token alone loses. used = usable - KL(q || P_m): what feeding
    the mixture wins back; `usable` for a perfect reader, 0 for one that reads the top
    token, negative for one that does worse than that.
    """
    weights = weights.double().cpu() / weights.double().sum().cpu()
    log_q = average(weights, log_members)
    usable = kl_bits(log_q, log_members[top])
    bits = {
        "distribution": entropy_bits(weights.log()),
        "available": entropy_bits(log_q) - (weights * entropy_bits(log_members)).sum(),
        "usable": usable,
        "used": usable - kl_bits(log_q, log_mixture),
        "js_mixture": js_bits(log_q, log_mixture),
        "js_top": js_bits(log_q, log_members[top]),
    }
    return {name: float(value) for name, value in bits.items()}


def bits_rows(lm, found, seed=0) -> pd.DataFrame:
    """`mixture_bits` of every context: what the next step reads, beside two floors.

    reader "mixture" feeds m itself, "other" the mixture of another prompt, "random" a
    direction of the same norm. p_max is the mixture's largest weight.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for n, c in enumerate(found):
        others = [o.concept for o in found if o.prompt != c.prompt]
        other = others[n * 7 % len(others)] if others else c.concept
        fed = torch.stack([c.concept, other, like_norm(c.concept, generator)])
        log_p = next_log_probs(lm, c.prefix, torch.cat([fed, lm.embed[c.indices]]))
        facts = {"prompt": c.prompt, "step": c.step, "top": int(c.indices[0]),
                 "p_max": float(c.probs[0])}  # fmt: skip
        for reader, log_m in zip(("mixture", "other", "random"), log_p):
            rows.append(facts | {"reader": reader}
                        | mixture_bits(c.probs, log_p[3:], log_m))  # fmt: skip
    return pd.DataFrame(rows)


def mixing_weight(log_m, log_1, log_2, rounds=30) -> tuple[Tensor, Tensor]:
    """N2: argmin over lambda in [0,1] of JS(P_m, lambda P_1 + (1-lambda) P_2), and the JS.

    All (N,V) log-probabilities; returns lambda (N,) and the residual (N,) in bits. The
    divergence is convex in lambda: its slope is bisected.
    """
    low, high = torch.zeros(len(log_m)).double(), torch.ones(len(log_m)).double()
    p_m, p_1, p_2 = log_m.exp(), log_1.exp(), log_2.exp()
    for _ in range(rounds):
        share = (low + high) / 2
        q = p_2 + share[:, None] * (p_1 - p_2)
        slope = _expect(p_1 - p_2, torch.log(2 * q / (q + p_m)))
        low, high = torch.where(slope < 0, share, low), torch.where(slope < 0, high, share)
    share = (low + high) / 2
    log_q = torch.log(p_2 + share[:, None] * (p_1 - p_2))
    return share, js_bits(log_m, log_q)


def mixing_rows(lm, found, grid, related=True, min_js=0.3, seed=0) -> pd.DataFrame:
    """lambda*(w) for two-token mixtures w E[a] + (1-w) E[b] in each context.

    a is the context's top token; b its runner-up, or (not related) a random row. Pairs
    with JS(P_a, P_b) < `min_js` bits cannot show anything and are left out. Each row:
    w, lambda, residual, js_pair (bits), and residual_random, that of a random direction.
    """
    generator = torch.Generator().manual_seed(seed)
    w = torch.tensor(grid).double()
    rows = []
    for c in found:
        a, b = lm.embed[c.indices[:2]]
        second = int(c.indices[1])
        if not related:
            second = int(torch.randint(len(lm.embed), (1,), generator=generator))
            b = lm.embed[second]
        line = w[:, None].to(a) * a + (1 - w)[:, None].to(a) * b
        random = like_norm((a + b) / 2, generator)
        fed = torch.cat([line, torch.stack([a, b, random])])
        log_p = next_log_probs(lm, c.prefix, fed)
        log_a, log_b = log_p[-3].expand_as(log_p), log_p[-2].expand_as(log_p)
        pair = float(js_bits(log_p[-3], log_p[-2]))
        if not pair >= min_js:
            continue
        share, residual = mixing_weight(log_p, log_a, log_b)
        facts = {"prompt": c.prompt, "step": c.step, "a": int(c.indices[0]), "b": second,
                 "js_pair": pair, "residual_random": float(residual[-1])}  # fmt: skip
        rows += [facts | {"w": float(w[i]), "lambda": float(share[i]),
                 "residual": float(residual[i])} for i in range(len(w))]  # fmt: skip
    return pd.DataFrame(rows)


def noise_rows(lm, found, sigmas, draws=2, seed=0) -> pd.DataFrame:
    """N5: m and the top token under noise of `sigma` times the RMS entry of E.

    loss: nats lost against the undisturbed reading, CE(P_0, P_sigma) - H(P_0); flip: the
    top next token changed; with the norm restored or not. A row of kind "matched" is
    the top token moved in a random direction exactly as far as the mixture is from it:
    its `misread` beside the mixture's is KL(q || .) in nats, q what should be read.
    """
    generator = torch.Generator().manual_seed(seed)
    rms = lm.embed.float().square().mean().sqrt()
    size = math.sqrt(lm.embed.shape[1])
    rows = []
    for c in found:
        token = lm.embed[c.indices[0]]
        far = (c.concept - token).float().norm()
        plans = [(kind, base, float(sigma), sigma * rms * size, restored)
                 for kind, base in (("mixture", c.concept), ("token", token))
                 for sigma in sigmas for restored in (False, True)
                 for _ in range(draws)]  # fmt: skip
        plans += [("matched", token, float(far / rms / size), far, False)] * (2 * draws)
        fed = [moved(base, step, generator, restored)
               for _, base, _, step, restored in plans]  # fmt: skip
        log_p = next_log_probs(
            lm, c.prefix, torch.stack([c.concept, *fed, *lm.embed[c.indices]]))  # fmt: skip
        members = log_p[1 + len(fed) :]
        log_q = average(c.probs.double().cpu(), members)
        clean = {"mixture": log_p[0], "token": members[0], "matched": members[0]}
        facts = {"prompt": c.prompt, "step": c.step, "p_max": float(c.probs[0])}
        entries = [("mixture", 0.0, False, log_p[0])]
        entries += [(k, s, r, x) for (k, _, s, _, r), x in zip(plans, log_p[1:])]
        for kind, sigma, restored, x in entries:
            rows.append(facts | {
                "kind": kind, "sigma": sigma, "restored": restored,
                "loss": float(kl_bits(clean[kind], x)) * LN2,
                "flip": bool(x.argmax() != clean[kind].argmax()),
                "misread": float(kl_bits(log_q, x)) * LN2})  # fmt: skip
    return pd.DataFrame(rows)


def like_norm(vector, generator) -> Tensor:
    """A random direction with the norm of `vector` (D,)."""
    return moved(torch.zeros_like(vector), vector.float().norm(), generator)


def moved(base, distance, generator, restore=False) -> Tensor:
    """`base` (D,) moved by `distance` in a random direction; its norm kept if asked."""
    direction = torch.randn(base.shape, generator=generator).to(base.device)
    there = base.float() + distance * direction / direction.norm()
    if restore:
        there = there * base.float().norm() / there.norm()
    return there.to(base.dtype)


def _expect(p, values) -> Tensor:
    """sum p * values over the last dim, an outcome without probability counting nothing."""
    return torch.where(p == 0, 0.0, p * values).sum(-1)
