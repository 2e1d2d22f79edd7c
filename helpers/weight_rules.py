"""Weight rules beside the write-up's own: ordinary tokens, noise, and the floors.

A weight rule is a function rule(logits (B,V), config) -> probs (B,K), indices (B,K),
weights sorted, largest first. Give it to `mixture_weights`, `generate_concepts` or
`concept_decoding` as weight_rule. Rules that draw are made from a seed; the same seed
gives the same draws for the same batches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .mixture import MixtureConfig, WeightRule, sharpened


def one_hot(logits: Tensor, config: MixtureConfig) -> tuple[Tensor, Tensor]:
    """All weight on the argmax: the mixture is then an ordinary greedy token."""
    probs, indices = sharpened(logits, config)
    first = torch.zeros_like(probs)
    first[..., 0] = 1
    return first, indices


def sampled(seed: int = 0) -> WeightRule:
    """All weight on one token drawn from the sharpened weights: ordinary sampling."""

    def rule(probs, indices, draw):
        first = torch.zeros_like(probs)
        first[..., 0] = 1
        order = _noisy(probs, draw).argsort(-1, descending=True)
        return first, indices.gather(-1, order)

    return _drawing(rule, seed)


def gumbel(seed: int = 0, tau: float = 1.0) -> WeightRule:
    """Gumbel softmax weights: softmax((log p + g) / tau) over the kept tokens."""
    if not tau > 0:
        raise ValueError(f"tau must be above 0, not {tau!r}")

    def rule(probs, indices, draw):
        return _sorted((_noisy(probs, draw) / tau).softmax(-1), indices)

    return _drawing(rule, seed)


def _drawing(rule, seed: int, whole: bool = False) -> WeightRule:
    """A weight rule from one that takes `draw`: uniforms in (0,1) shaped like x."""
    generators: dict = {}

    def draw(x: Tensor) -> Tensor:
        if x.device not in generators:
            generators[x.device] = torch.Generator(x.device).manual_seed(seed)
        u = torch.rand(x.shape, generator=generators[x.device], device=x.device)
        return u.clamp(1e-7, 1 - 1e-7)

    def drawn(logits: Tensor, config: MixtureConfig) -> tuple[Tensor, Tensor]:
        probs, indices = sharpened(logits, config)
        return rule(probs, indices, draw, *([logits] if whole else []))

    drawn.draws = True  # cannot be compiled
    return drawn


def _noisy(probs: Tensor, draw) -> Tensor:
    """log p + Gumbel noise: its argmax is a draw from p."""
    return probs.log() - (-draw(probs).log()).log()


def _sorted(probs: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    probs, order = probs.sort(dim=-1, descending=True, stable=True)
    return probs, indices.gather(-1, order)
