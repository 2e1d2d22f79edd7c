from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import torch
import torch.nn.functional as F

from experiments.stats import Estimate, bootstrap
from helpers.batching import next_logits, prompt_embeds
from helpers.mixture import MixtureConfig, clip_norm, mix, mixture_weights, norm_bounds

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.decode import ConceptTrace
    from helpers.models import LM


def snippet(logits: Tensor, embed: Tensor, temperature: float = 0.8) -> tuple:
    """The Appendix's generate_concept_token, line by line: weights and vector."""
    probs = F.softmax(logits / temperature, dim=-1)
    top_k_probs, top_k_indices = torch.topk(probs, k=50)
    top_k_probs = top_k_probs**1.5  # Sharpening
    top_k_probs = top_k_probs / top_k_probs.sum()
    concept = sum(p * embed[idx] for p, idx in zip(top_k_probs, top_k_indices))
    return top_k_probs, concept


def snippet_rows(lm: LM, prompts: list[str]) -> pd.DataFrame:
    """The snippet beside the Methods at the first step, one row a prompt, in float64.

    weight_gap: largest difference in weight for logits (V,). batch_fails: whether
    logits (1,V), the shape a model gives, raise or give another vector; how: which.
    """
    rows, embed = [], lm.embed.cpu()
    for logits in next_logits(lm, *prompt_embeds(lm, prompts)).cpu().double():
        ours = mixture_weights(logits, MixtureConfig())
        concept = mix(ours.probs, ours.indices, embed)
        weights, _ = snippet(logits, embed)
        gap = float((weights - ours.probs).abs().max())
        try:
            found = snippet(logits[None], embed)[1]
            same = found.shape == concept.shape and torch.allclose(
                found.to(concept), concept, rtol=1e-3
            )
            how = "" if same else f"gives {tuple(found.shape)}"
        except (RuntimeError, IndexError) as error:
            how = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        rows.append({"weight_gap": gap, "batch_fails": bool(how), "how": how})
    return pd.DataFrame(rows)


def clipped_rate(lm: LM, trace: ConceptTrace, norm: str = "all") -> list[float]:
    """Share of each prompt's steps whose mixture the norm rule changes."""
    bounds, rates = norm_bounds(lm.embed, norm, lm.used), []
    for probs, indices, n in zip(trace.probs, trace.indices, trace.lengths.tolist()):
        plain = mix(probs[:n], indices[:n], lm.embed)
        rates.append(float((clip_norm(plain, bounds) != plain).any(-1).float().mean()))
    return rates


def snippet_parts(
    rows: pd.DataFrame, clipped: list, full: list[int], stopped: list[int], seed=0
) -> dict[str, Estimate]:
    """G8's parts. full, stopped: each prompt's length without and with early stop."""
    worst = float(rows.weight_gap.max())
    shorter = [a != b for a, b in zip(full, stopped)]
    return {
        "weight_deviation": Estimate(worst, worst, worst, len(rows)),
        "batch_failure_rate": bootstrap(rows.batch_fails, seed=seed),
        "vector_difference_rate": bootstrap(clipped, seed=seed),
        "length_difference_rate": bootstrap(shorter, seed=seed),
    }
