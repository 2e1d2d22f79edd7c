"""Floors: what a mixture is compared with when its content is taken away.

    random_like          random vectors with the norms of given ones
    replace_runners_up   mixtures with other tokens behind the top one
    other_prompts        for each of several concept tokens, another prompt's
    shuffled             the kept tokens under each other's weights
    random_weights       the kept tokens under random weights
    random_tokens        random tokens under the real weights

The last three are weight rules, for `generate_concepts(..., weight_rule=rule)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from helpers.mixture import WeightRule, at_least_float32, mix
from helpers.weight_rules import random_rule, sort_weights

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from helpers.models import LM


def random_like(vectors: Tensor, generator: Generator) -> Tensor:
    """Draw random directions with the norms of vectors (...,D).

    generator: on the CPU, so that every device gets the same directions.
    """
    noise = torch.randn(vectors.shape, generator=generator).to(vectors.device)
    norms = at_least_float32(vectors).norm(dim=-1, keepdim=True)
    return (noise / noise.norm(dim=-1, keepdim=True) * norms).to(vectors.dtype)


def replace_runners_up(
    lm: LM, probs: Tensor, indices: Tensor, vectors: Tensor, generator: Generator
) -> Tensor:
    """Mix the same weights and top tokens with random other tokens behind them.

    probs, indices (N,K); vectors (N,D), whose norms are kept. None of the tokens in
    indices is among the new ones. generator: on the CPU. -> (N,D)
    """
    free = torch.rand(len(indices), lm.used, generator=generator).to(indices.device)
    free = free.scatter(-1, indices.clamp_max(lm.used - 1), -1.0)
    others = free.topk(min(indices.shape[-1], lm.used), dim=-1).indices
    new = torch.cat([indices[:, :1], others[:, : indices.shape[-1] - 1]], dim=-1)
    mixed = mix(probs[:, : new.shape[-1]], new, lm.embed)
    norms = vectors.norm(dim=-1, keepdim=True) / mixed.norm(dim=-1, keepdim=True)
    return mixed * norms


def other_prompts(keys: list[tuple[int, int]], seed: int) -> list[int]:
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


def shuffled(seed: int = 0) -> WeightRule:
    """Keep the tokens and deal their weights out in random order."""

    def rule(probs, indices, draw):
        return probs, indices.gather(-1, draw(probs).argsort(-1))

    return random_rule(rule, seed)


def random_weights(seed: int = 0) -> WeightRule:
    """Keep the tokens under weights drawn from a flat Dirichlet distribution."""

    def rule(probs, indices, draw):
        exponential = -draw(probs).log()
        weights = exponential / exponential.sum(-1, keepdim=True)
        return sort_weights(weights, indices)

    return random_rule(rule, seed)


def random_tokens(seed: int = 0) -> WeightRule:
    """Keep the weights, on distinct tokens drawn from the whole vocabulary."""

    def rule(probs, indices, draw, logits):
        return probs, draw(logits).topk(indices.shape[-1], dim=-1).indices

    return random_rule(rule, seed, needs_logits=True)
