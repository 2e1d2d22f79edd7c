"""Metrics of distributions, of id sequences, and the nearest embedding.

entropy, kl_divergence, js_divergence   nats, over the last dimension (float64, CPU)
entropy_bits, kl_bits, js_bits          the same in bits
with_entropy                            a distribution made as flat as another
distinct_n, loops                       repetition in a sequence of ids
rouge_l, token_agreement                likeness of two sequences of ids
nearest_rows                            the embedding nearest to a vector
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize.elementwise import find_root

from helpers.mixture import at_least_float32, check_choice

if TYPE_CHECKING:
    from torch import Tensor


def entropy(p: Tensor) -> Tensor:
    """Entropy (...) of distributions p (...,V), nats."""
    return torch.special.entr(_probs(p)).sum(dim=-1)


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) (...) in nats; infinite where q is 0 and p is not."""
    p, q = _probs(p), _probs(q)
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(dim=-1).clamp_min(0.0)


def js_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence (...) in nats, between 0 and log 2."""
    p, q = _probs(p), _probs(q)
    middle = (p + q) / 2
    return (kl_divergence(p, middle) + kl_divergence(q, middle)) / 2


def entropy_bits(p: Tensor) -> Tensor:
    """Entropy in bits."""
    return entropy(p) / math.log(2)


def kl_bits(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) in bits."""
    return kl_divergence(p, q) / math.log(2)


def js_bits(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence in bits, between 0 and 1."""
    return js_divergence(p, q) / math.log(2)


def with_entropy(p: Tensor, target: Tensor) -> Tensor:
    """Flatten (or sharpen) p (...,V) to an entropy of `target` (...) nats.

    p is raised to a power between 2^-24 and 2^24, found by Chandrupatla's method, and
    renormalised: the ranking stays, nothing else comes in, and what is 0 stays 0. Out
    of reach, as where the two likeliest are tied, the nearest end is taken.
    """
    log_p = _probs(p).log()
    shape, log_p = log_p.shape, log_p.reshape(-1, log_p.shape[-1])
    target = torch.as_tensor(target).to("cpu", torch.float64)
    target = target.expand(shape[:-1]).flatten()
    if not bool(target.isfinite().all()):
        raise ValueError("target: expected finite entropies in nats")

    def powered(exponent: np.ndarray, rows: np.ndarray) -> Tensor:
        power = 2.0 ** torch.as_tensor(exponent)[:, None]
        return (log_p[torch.as_tensor(rows).long()] * power).log_softmax(-1)

    def excess(exponent: np.ndarray, rows: np.ndarray) -> np.ndarray:
        q = powered(exponent, rows).exp()
        found = torch.special.entr(q).sum(-1)
        return (found - target[torch.as_tensor(rows).long()]).numpy()

    rows = np.arange(len(log_p), dtype=np.float64)
    ends = np.full_like(rows, -24.0), np.full_like(rows, 24.0)
    root = find_root(excess, ends, args=(rows,))
    flattest = np.where(excess(ends[0], rows) < 0, *ends)
    exponent = np.where(root.success, root.x, flattest)
    return powered(exponent, rows).exp().view(shape)


def _probs(p: Tensor) -> Tensor:
    p = torch.as_tensor(p).detach().to("cpu", torch.float64)
    if p.numel() == 0 or bool((p < 0).any()) or not bool(torch.isfinite(p).all()):
        raise ValueError("expected probabilities: finite, not negative, not empty")
    return p / p.sum(dim=-1, keepdim=True)


def distinct_n(ids: Sequence[int], n: int) -> float:
    """Share of different n-grams among the n-grams of ids; 1 if there are none."""
    if n < 1:
        raise ValueError(f"n={n}: expected at least 1")
    ids = [int(i) for i in ids]
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def loops(ids: Sequence[int], n: int = 3, threshold: float = 0.5) -> bool:
    """Whether ids repeats itself: distinct_n below the threshold."""
    return distinct_n(ids, n) < threshold


def common_length(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Length of the longest common subsequence of two sequences of ids or words."""
    row = [0] * (len(b) + 1)
    for x in a:
        last = 0
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], last + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]


def rouge_l(a: Sequence[Hashable], b: Sequence[Hashable]) -> float:
    """F1 of the longest common subsequence (Lin 2004); 1 for two empty sequences."""
    if not a or not b:
        return float(len(a) == len(b))
    return 2 * common_length(a, b) / (len(a) + len(b))


def token_agreement(a: Sequence[int], b: Sequence[int]) -> float:
    """Share of positions with the same id, over the longer length; 1 if both empty."""
    a, b = [int(i) for i in a], [int(i) for i in b]
    longest = max(len(a), len(b))
    return sum(x == y for x, y in zip(a, b)) / longest if longest else 1.0


def nearest_rows(concept: Tensor, embed: Tensor, metric: str = "cosine") -> Tensor:
    """Id (...) of the row of embed (V,D) nearest to each concept (...,D).

    metric: "dot", "cosine", "l2", or "centred" (cosine after taking off the mean row).
    Computed in float32 at least. ValueError for another metric.
    """
    check_choice("metric", metric, ("dot", "cosine", "l2", "centred"))
    x, rows = at_least_float32(concept), at_least_float32(embed)
    if metric == "centred":
        x, rows = x - rows.mean(0), rows - rows.mean(0)
    if metric == "l2":
        return (x @ rows.T - rows.square().sum(-1) / 2).argmax(-1)
    if metric != "dot":
        rows = rows / rows.norm(dim=-1, keepdim=True).clamp_min(1e-30)
    return (x @ rows.T).argmax(-1)
