from __future__ import annotations

from typing import TYPE_CHECKING

from helpers.mixture import WeightRule, at_least_float32
from helpers.weight_rules import random_rule, sort_weights

if TYPE_CHECKING:
    from torch import Tensor


def random_like(vectors: Tensor, draw) -> Tensor:
    """Random directions with the norms of vectors (...,D): a floor for all of them.

    draw: a torch.Generator on the CPU, so that every device gets the same directions.
    """
    from torch import randn

    noise = randn(vectors.shape, generator=draw).to(vectors.device)
    norms = at_least_float32(vectors).norm(dim=-1, keepdim=True)
    return (noise / noise.norm(dim=-1, keepdim=True) * norms).to(vectors.dtype)


def shuffled(seed: int = 0) -> WeightRule:
    """Floor: the kept tokens, their weights dealt out in random order."""

    def rule(probs, indices, draw):
        return probs, indices.gather(-1, draw(probs).argsort(-1))

    return random_rule(rule, seed)


def random_weights(seed: int = 0) -> WeightRule:
    """Floor: the kept tokens under weights drawn from a flat Dirichlet."""

    def rule(probs, indices, draw):
        flat = -draw(probs).log()
        return sort_weights(flat / flat.sum(-1, keepdim=True), indices)

    return random_rule(rule, seed)


def random_tokens(seed: int = 0) -> WeightRule:
    """Floor: the weights kept, on distinct tokens drawn from the whole vocabulary."""

    def rule(probs, indices, draw, vocabulary):
        return probs, draw(vocabulary).topk(indices.shape[-1], dim=-1).indices

    return random_rule(rule, seed, needs_logits=True)
