"""Weight rules beside the write-up's own: ordinary tokens and noise.

A weight rule is a function rule(logits (B,V), config) -> probs (B,K), indices (B,K),
weights sorted, largest first. Give it to `mixture_weights`, `generate_concepts` or
`concept_decoding` as weight_rule. Rules that draw are made from a seed; the same seed
gives the same draws for the same batches.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .mixture import MixtureConfig, WeightRule, sharpened

Draw = Callable[[Tensor], Tensor]  # x -> uniform numbers in (0,1) of x's shape


def one_hot(logits: Tensor, config: MixtureConfig) -> tuple[Tensor, Tensor]:
    """Put all weight on the argmax: the mixture is then an ordinary greedy token."""
    probs, indices = sharpened(logits, config)
    return _first_only(probs), indices


def sampled(seed: int = 0) -> WeightRule:
    """Put all weight on a token drawn from the sharpened weights: ordinary sampling."""

    def rule(probs: Tensor, indices: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        order = _gumbel_scores(probs, draw).argsort(-1, descending=True)
        return _first_only(probs), indices.gather(-1, order)

    return random_rule(rule, seed)


def gumbel(seed: int = 0, tau: float = 1.0) -> WeightRule:
    """Draw Gumbel softmax weights: softmax((log p + g) / tau) over the kept tokens."""
    if not tau > 0:
        raise ValueError(f"tau must be above 0, not {tau!r}")

    def rule(probs: Tensor, indices: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        return sort_weights((_gumbel_scores(probs, draw) / tau).softmax(-1), indices)

    return random_rule(rule, seed)


def random_rule(
    rule: Callable[..., tuple[Tensor, Tensor]], seed: int, needs_logits: bool = False
) -> WeightRule:
    """Make a weight rule from rule(probs, indices, draw), which draws from a seed.

    probs, indices are those of `sharpened`. needs_logits: the logits come fourth.
    """
    generators: dict[torch.device, torch.Generator] = {}

    def draw(x: Tensor) -> Tensor:
        if x.device not in generators:
            generators[x.device] = torch.Generator(x.device).manual_seed(seed)
        u = torch.rand(x.shape, generator=generators[x.device], device=x.device)
        return u.clamp(1e-7, 1 - 1e-7)

    def drawn(logits: Tensor, config: MixtureConfig) -> tuple[Tensor, Tensor]:
        probs, indices = sharpened(logits, config)
        return rule(probs, indices, draw, *([logits] if needs_logits else []))

    drawn.draws = True  # type: ignore[attr-defined]  # cannot be compiled
    return drawn


def sort_weights(probs: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Sort probs (B,K) and their indices, the largest weight first."""
    probs, order = probs.sort(dim=-1, descending=True, stable=True)
    return probs, indices.gather(-1, order)


def _first_only(probs: Tensor) -> Tensor:
    first = torch.zeros_like(probs)
    first[..., 0] = 1
    return first


def _gumbel_scores(probs: Tensor, draw: Draw) -> Tensor:
    """Compute log p + Gumbel noise: its argmax is a draw from p."""
    return probs.log() - (-draw(probs).log()).log()
