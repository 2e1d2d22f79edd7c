"""What a concept token carries, and what the next step makes of it (CLAIMS.md 04).

    contexts         each step of a trace: what was read before it, and its mixture
    next_probs       P(. | prefix, v) for many vectors v after one prefix
    mixture_bits     N3, exact: bits in the distribution, available, used, usable
    mixing_weight    N2: the share lambda of a member that best explains P(. | m)
    bits_rows, mixing_rows, noise_rows    N3, N2 and N5 as tidy frames

Probabilities are compared in float64 on the CPU; the model runs where and as it was
loaded. Bits are exact sums over the vocabulary: nothing is estimated from samples.
"""

import copy
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from .mixture import mix
from .stats import entropy_bits, js_bits, kl_bits


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
    for part in vectors.to(prefix).split(batch):
        cache = copy.deepcopy(read)
        cache.batch_repeat_interleave(len(part))
        out = lm.model(inputs_embeds=part[:, None], past_key_values=cache, **call)
        found.append(out.logits[:, -1].cpu().double().softmax(-1))
    return torch.cat(found)


def mixture_bits(weights, members, mixture) -> dict:
    """N3 for one mixture: weights (K,), members P_i (K,V), the top one first, P_m (V,).

    distribution = H(w). available = H(q) - sum_i w_i H(P_i), q = sum_i w_i P_i: what
    knowing which member was meant would tell of the token after. usable = KL(q || P_top):
    what a reader of the top token alone loses. used = usable - KL(q || P_m): what feeding
    the mixture wins back; `usable` for a perfect reader, 0 for one that reads the top
    token, negative for one that does worse than that.
    """
    weights = normal(weights)
    q = weights @ members
    usable = kl_bits(q, members[0])
    bits = {
        "distribution": entropy_bits(weights),
        "available": entropy_bits(q) - weights @ entropy_bits(members),
        "usable": usable,
        "used": usable - kl_bits(q, mixture),
        "js_mixture": js_bits(q, mixture),
        "js_top": js_bits(q, members[0]),
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
        p = next_probs(lm, c.prefix, torch.cat([fed, lm.embed[c.indices]]))
        facts = {"prompt": c.prompt, "step": c.step, "top": int(c.indices[0]),
                 "p_max": float(c.probs[0])}  # fmt: skip
        rows += [facts | {"reader": reader} | mixture_bits(c.probs, p[3:], read)
                 for reader, read in zip(("mixture", "other", "random"), p)]  # fmt: skip
    return pd.DataFrame(rows)


def mixing_weight(p_m, p_1, p_2, rounds=30) -> tuple[Tensor, Tensor]:
    """N2: argmin over lambda in [0,1] of JS(P_m, lambda P_1 + (1-lambda) P_2), and the JS.

    All (N,V) probabilities; returns lambda (N,) and the residual (N,) in bits. The
    divergence is convex in lambda: its slope is bisected.
    """
    low, high = torch.zeros(len(p_m)).double(), torch.ones(len(p_m)).double()
    toward = p_1 - p_2
    for _ in range(rounds):
        share = (low + high) / 2
        q = p_2 + share[:, None] * toward
        slope = torch.xlogy(toward, 2 * q / (q + p_m).clamp_min(1e-300)).sum(-1)
        low, high = torch.where(slope < 0, share, low), torch.where(slope < 0, high, share)
    share = (low + high) / 2
    return share, js_bits(p_m, p_2 + share[:, None] * toward)


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
        second = int(c.indices[1]) if related else int(
            torch.randint(len(lm.embed), (1,), generator=generator))  # fmt: skip
        a, b = lm.embed[c.indices[0]], lm.embed[second]
        share = w[:, None].to(a)
        random = like_norm((a + b) / 2, generator)
        fed = torch.cat([share * a + (1 - share) * b, torch.stack([random, a, b])])
        *read, p_a, p_b = next_probs(lm, c.prefix, fed)
        pair = float(js_bits(p_a, p_b))
        if pair < min_js:
            continue
        read = torch.stack(read)
        found_share, residual = mixing_weight(read, p_a.expand_as(read), p_b)
        facts = {"prompt": c.prompt, "step": c.step, "a": int(c.indices[0]), "b": second,
                 "js_pair": pair, "residual_random": float(residual[-1])}  # fmt: skip
        rows += [facts | {"w": float(w[i]), "lambda": float(found_share[i]),
                          "residual": float(residual[i])} for i in range(len(w))]  # fmt: skip
    return pd.DataFrame(rows)


def noise_rows(lm, found, sigmas, draws=2, seed=0) -> pd.DataFrame:
    """N5: the mixture m and its top token under noise of `sigma` times E's RMS entry.

    nll: cross-entropy in nats of the next token, which is drawn as the input means it:
    from q = sum_i w_i P_i for the mixture, from P_top for the token. flip: the top next
    token is not the undisturbed one. With the norm restored or not; several draws are
    averaged. nll_q is always against q, so that the two inputs can be compared. Kind
    "matched" is the token moved in a random direction exactly as far as m is from it.
    """
    generator = torch.Generator().manual_seed(seed)
    rms = lm.embed.float().square().mean().sqrt().cpu()
    size = lm.embed.shape[1] ** 0.5
    rows = []
    for c in found:
        token = lm.embed[c.indices[0]]
        far = (c.concept - token).float().norm().cpu()
        plans = [(kind, base, float(sigma), sigma * rms * size, restored)
                 for kind, base in (("mixture", c.concept), ("token", token))
                 for sigma in sigmas for restored in (False, True)]  # fmt: skip
        plans.append(("matched", token, float(far / rms / size), far, False))
        fed = [moved(base, step, generator, restored)
               for _, base, _, step, restored in plans for _ in range(draws)]  # fmt: skip
        p = next_probs(lm, c.prefix, torch.stack([c.concept, *fed, *lm.embed[c.indices]]))
        clean, noisy, members = p[0], p[1 : 1 + len(fed)], p[1 + len(fed) :]
        q = normal(c.probs) @ members
        facts = {"prompt": c.prompt, "step": c.step, "p_max": float(c.probs[0])}
        for n, (kind, _, sigma, _, restored) in enumerate(plans):
            read = noisy[n * draws : (n + 1) * draws]
            meant, still = (q, clean) if kind == "mixture" else (members[0], members[0])
            rows.append(facts | {
                "kind": kind, "sigma": sigma, "restored": restored,
                "nll": float(cross_entropy(meant, read).mean()),
                "nll_q": float(cross_entropy(q, read).mean()),
                "flip": float((read.argmax(-1) != still.argmax()).double().mean())})
    return pd.DataFrame(rows)


def cross_entropy(p, q) -> Tensor:
    """-sum p log q in nats over the last dim."""
    return -torch.xlogy(p, q.clamp_min(1e-300)).sum(-1)


def normal(weights) -> Tensor:
    """Weights in float64 on the CPU, summing to one."""
    weights = weights.double().cpu()
    return weights / weights.sum()


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

