"""Ways to write a concept token, beside the write-up's own: weights by other papers.

A weight rule is a function rule(logits (B,V), config) -> probs (B,K), indices (B,K),
weights sorted, largest first. Give it to `mixture_weights`, `generate_concepts` or
`concept_decoding` as weight_rule. Below, p are the weights of `sharpened`: softmax(z/T)
over the config's top_k tokens, to the power alpha. The papers have alpha 1: use
MixtureConfig.raw(top_k=..., temperature=...) for theirs; each docstring says which.
`base` gives the p that noise is added to: gumbel(0, 0.5, base=soft_thinking(0.95)).

A rule that draws is made from a seed, and draws on the CPU: the same seed gives the
same draws for the same batches on every device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from .mixture import (
    MixtureConfig,
    WeightRule,
    at_least_float32,
    check_choice,
    check_positive_int,
    check_real,
    check_share,
    sharpened,
)

Draw = Callable[[Tensor], Tensor]  # x -> uniform numbers in (0,1) of x's shape
TRIES = 8  # of a rejection sampler that accepts 19 of 20: all fail once in 10^10


def one_hot(logits: Tensor, config: MixtureConfig) -> tuple[Tensor, Tensor]:
    """Put all weight on the argmax: the mixture is then an ordinary greedy token."""
    probs, indices = sharpened(logits, config)
    return _first_only(probs), indices


def cipher() -> WeightRule:
    """Mix the whole vocabulary: softmax(z/T), whatever top_k is.

    Source: CIPHER (arXiv 2310.06272), alpha 1.
    """

    def rule(logits: Tensor, config: MixtureConfig) -> tuple[Tensor, Tensor]:
        return sharpened(logits, replace(config, top_k=logits.shape[-1]))

    return rule


def soft_thinking(
    top_p: float = 0.95, min_p: float = 0.0, max_tokens: int | None = None
) -> WeightRule:
    """Filter p by top-p, then min-p, then to max_tokens; renormalise after each.

    top-p keeps the likeliest tokens until their sum reaches top_p; min-p those of at
    least min_p times the largest. Filtered tokens stay, with weight 0.
    Source: Soft Thinking (2505.15778; UCSB-AI/Soft-Thinking@b97407c), with T 0.6,
    top_k 30, alpha 1, max_tokens 15. Its Cold Stop is in `step_modes`.
    """
    check_share("top_p", top_p)
    check_share("min_p", min_p, zero=True)
    if max_tokens is not None:
        check_positive_int("max_tokens", max_tokens)

    def rule(logits: Tensor, config: MixtureConfig) -> tuple[Tensor, Tensor]:
        probs, indices = sharpened(logits, config)
        before = probs.cumsum(-1) - probs
        probs = _normalised(probs * (before < top_p))
        probs = _normalised(probs * (probs >= min_p * probs[..., :1]))
        return _normalised(probs[..., :max_tokens]), indices[..., :max_tokens]

    return rule


def sampled(seed: int = 0, base: WeightRule = sharpened) -> WeightRule:
    """Put all weight on one token drawn from p: ordinary sampling."""

    def rule(probs: Tensor, indices: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        order = (probs.log() + _gumbel(draw(probs))).argsort(-1, descending=True)
        return _first_only(probs), indices.gather(-1, order)

    return random_rule(rule, seed, base)


def gumbel(seed: int = 0, tau: float = 0.5, base: WeightRule = sharpened) -> WeightRule:
    """Draw Gumbel-softmax weights: softmax((log p + g) / tau), g = -log(-log u).

    Source: stochastic soft thinking (2508.03440; WJMacro/Randomized-Soft-Thinking@
    4a95b5a), with tau 0.5 after `soft_thinking`'s filters.
    """
    check_real("tau", tau)

    def rule(probs: Tensor, indices: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        scores = probs.log() + _gumbel(draw(probs))
        return sort_weights((scores / tau).softmax(-1), indices)

    return random_rule(rule, seed, base)


def soft_grpo(
    seed: int = 0, tau: float = 0.5, scale: float = 1.0, base: WeightRule = sharpened
) -> WeightRule:
    """Draw softmax((log(p + 1e-6) + scale * clamp(g, -1.5, 3)) / tau), g as in gumbel.

    So that no token's noise is unlikely, and every kept one has some weight.
    Source: zz1358m/SofT-GRPO-master@2b9d8ec, with tau 0.5, top_k 30, alpha 1.
    """
    check_real("tau", tau)
    check_real("scale", scale, zero=True)

    def rule(probs: Tensor, indices: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        noise = scale * _gumbel(draw(probs)).clamp(-1.5, 3)
        return sort_weights((((probs + 1e-6).log() + noise) / tau).softmax(-1), indices)

    return random_rule(rule, seed, base)


def dirichlet(
    seed: int = 0, concentration: float = 4.0, base: WeightRule = sharpened
) -> WeightRule:
    """Draw w from Dirichlet(concentration * p): of mean p, one-hot for small values.

    As normalised Gamma(concentration * p) variables, in logarithms: a shape near 0
    would underflow. Source: Soft Thinking's code and 2508.03440, whose best is 4.
    """
    check_real("concentration", concentration)

    def rule(probs: Tensor, indices: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        log_gamma = _log_gamma_draw(concentration * probs, draw)
        return sort_weights(log_gamma.softmax(-1), indices)

    return random_rule(rule, seed, base)


def mixture_of_inputs(seed: int = 0, beta: float = 1.0) -> WeightRule:
    """Mix p with a token y drawn from softmax(z/T), the more of y the surer p is.

    w = (h p + (beta + 1 - h) y) / (beta + 1), y one-hot, h = entropy(p) / log K.
    y takes the last kept token's place if it is none of them, so that no weight is
    lost. Source: Mixture of Inputs (2505.14827; EvanZhuang/mixinputs@7aef34b), with
    beta 1 and alpha 1; its code loses beta h / (beta + 1) in that case.
    """
    check_real("beta", beta, zero=True)
    draw = seeded_draw(seed)

    def rule(logits: Tensor, config: MixtureConfig) -> tuple[Tensor, Tensor]:
        indices = sharpened(logits, config)[1]
        y = _one_draw(logits, config.temperature, draw)
        outside = (indices != y).all(-1, keepdim=True)
        last = torch.where(outside, y, indices[..., -1:])
        indices = torch.cat([indices[..., :-1], last], dim=-1)
        probs, order = sharpened(logits.gather(-1, indices), config)
        indices, most = indices.gather(-1, order), math.log(max(2, probs.shape[-1]))
        h = (-(probs * probs.clamp_min(1e-30).log()).sum(-1, keepdim=True)) / most
        observed = (beta + 1 - h) * (indices == y)
        return sort_weights((h * probs + observed) / (beta + 1), indices)

    rule.draws = True  # type: ignore[attr-defined]  # cannot be compiled
    return rule


def mean_of_draws(
    seed: int = 0, k: int = 4, by_weight: bool = False, base: WeightRule = sharpened
) -> WeightRule:
    """Mix k tokens drawn from p with replacement: w = their counts / k.

    by_weight: w = p over the draws, renormalised, a token counting as often as drawn.
    Source: CoT2's multi-token sampling (2505.23648; alperengozeten/CoT2@11932cb);
    by_weight: Multiplex Thinking (GMLR-Penn/Multiplex-Thinking@6e524ac). Alpha 1.
    """
    check_positive_int("k", k)

    def rule(probs: Tensor, indices: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        u = draw(probs[..., :1].expand(*probs.shape[:-1], k))
        counts = torch.zeros_like(probs).scatter_add(
            -1, _draw_positions(probs, u), torch.ones_like(u)
        )
        weights = counts * probs if by_weight else counts
        return sort_weights(_normalised(weights), indices)

    return random_rule(rule, seed, base)


def random_rule(
    rule: Callable[..., tuple[Tensor, Tensor]],
    seed: int,
    base: WeightRule = sharpened,
    needs_logits: bool = False,
) -> WeightRule:
    """Make a weight rule from rule(probs, indices, draw), which draws from a seed.

    probs, indices are those of base. needs_logits: the logits come fourth.
    """
    draw = seeded_draw(seed)

    def drawn(logits: Tensor, config: MixtureConfig) -> tuple[Tensor, Tensor]:
        probs, indices = base(logits, config)
        return rule(probs, indices, draw, *([logits] if needs_logits else []))

    drawn.draws = True  # type: ignore[attr-defined]  # cannot be compiled
    return drawn


def seeded_draw(seed: int) -> Draw:
    """Make a function that draws uniform numbers, the same ones on every device."""
    generator = torch.Generator().manual_seed(seed)

    def draw(x: Tensor) -> Tensor:
        u = torch.rand(x.shape, generator=generator).clamp(1e-7, 1 - 1e-7)
        return u.to(x.device, non_blocking=True)  # copied without a wait

    return draw


def sort_weights(probs: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Sort probs (B,K) and their indices, the largest weight first."""
    probs, order = probs.sort(dim=-1, descending=True, stable=True)
    return probs, indices.gather(-1, order)


def _first_only(probs: Tensor) -> Tensor:
    first = torch.zeros_like(probs)
    first[..., 0] = 1
    return first


def _normalised(weights: Tensor) -> Tensor:
    return weights / weights.sum(-1, keepdim=True)


def _gumbel(u: Tensor) -> Tensor:
    """Turn uniform numbers into Gumbel noise: the argmax of log p + it is from p."""
    return -(-u.log()).log()


def _draw_positions(probs: Tensor, u: Tensor) -> Tensor:
    """Turn uniform numbers u (B,N) into positions (B,N) drawn from probs (B,K)."""
    sums = probs.cumsum(-1)
    return torch.searchsorted(sums / sums[..., -1:], u, right=True)


def _one_draw(logits: Tensor, temperature: float, draw: Draw) -> Tensor:
    """Draw one token (B,1) from softmax(logits / temperature), untruncated."""
    logits = at_least_float32(logits)
    above = (logits - logits.amax(-1, keepdim=True)) / max(temperature, 1e-30)
    probs = above.softmax(-1)
    return _draw_positions(probs, draw(probs[..., :1]))


def _log_gamma_draw(shape: Tensor, draw: Draw) -> Tensor:
    """Draw log Gamma(shape, 1) by Marsaglia and Tsang (2000), in TRIES tries at once.

    For shape a as Gamma(a + 1) u^(1/a). A shape of 0 gives -inf.
    """
    u = draw(shape.expand(2 * TRIES + 1, *shape.shape))
    normal = math.sqrt(2) * torch.erfinv(2 * u[:TRIES] - 1)
    d = shape + 2 / 3
    v = (1 + normal / (9 * d).sqrt()).clamp_min(1e-10) ** 3
    accepted = u[TRIES:-1].log() < normal**2 / 2 + d * (1 - v + v.log())
    first = accepted.int().argmax(0, keepdim=True)
    return (d * v.gather(0, first)[0]).log() + u[-1].log() / shape


_READY: dict[str, WeightRule] = {
    "sharpened": sharpened,
    "one_hot": one_hot,
    "cipher": cipher(),
    "soft_thinking": soft_thinking(),
}
_SEEDED: dict[str, Callable[[int], WeightRule]] = {
    "sampled": sampled,
    "gumbel": gumbel,
    "soft_grpo": soft_grpo,
    "dirichlet": dirichlet,
    "mixture_of_inputs": mixture_of_inputs,
    "mean_of_draws": mean_of_draws,
}
RULES = (*_READY, *_SEEDED)


def named_rule(name: str, seed: int = 0) -> WeightRule:
    """Make a rule by its name, one of RULES, for menus and command lines.

    With its own defaults; those that draw are made from seed.
    """
    check_choice("rule", name, RULES)
    return _READY[name] if name in _READY else _SEEDED[name](seed)
