"""The Appendix's function beside the method of section 3.1 (CLAIMS.md G8).

generate_concept_token   the function as the write-up prints it
snippet_rows             its weights against ours, and what (1,V) logits do to it
clipped_rates            how often the norm rule, which it lacks, changes a vector
snippet_parts            G8's parts
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import torch
import torch.nn.functional as F

from experiments.generation.early_stopping import AS_CODED, FreeRun, stop_lengths
from experiments.prompts import template_of
from experiments.stats import Estimate, bootstrap, clustered
from helpers.mixture import MixtureConfig, clip_norm, mix, mixture_weights, norm_bounds

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.decode import ConceptTrace
    from helpers.models import LM


def generate_concept_token(
    logits: Tensor, embed: Tensor, temperature: float = 0.8
) -> tuple[Tensor, Tensor]:
    """The Appendix's function, line by line: weights (50,) and vector (D,)."""
    probs = F.softmax(logits / temperature, dim=-1)
    top_k_probs, top_k_indices = torch.topk(probs, k=50)
    top_k_probs = top_k_probs**1.5  # Sharpening
    top_k_probs = top_k_probs / top_k_probs.sum()
    concept = sum(p * embed[idx] for p, idx in zip(top_k_probs, top_k_indices))
    return top_k_probs, concept


def snippet_rows(logits: Tensor, embed: Tensor) -> pd.DataFrame:
    """Compare the snippet with the Methods on next-token logits (B,V), in float64.

    One row each. weight_gap: largest difference in weight, for logits (V,).
    batch_fails: whether logits (1,V), the shape a model gives, raise an error or give
    another vector; outcome: which, or "".
    """
    rows, embed = [], embed.cpu()
    for z in logits.cpu().double():
        weights = mixture_weights(z, MixtureConfig())
        concept = mix(weights.probs, weights.indices, embed)
        gap = (generate_concept_token(z, embed)[0] - weights.probs).abs().max()
        outcome = _batch_outcome(z[None], embed, concept)
        rows.append((float(gap), bool(outcome), outcome))
    return pd.DataFrame(rows, columns=["weight_gap", "batch_fails", "outcome"])


def _batch_outcome(logits: Tensor, embed: Tensor, concept: Tensor) -> str:
    """What the snippet does with logits (1,V); "" where it gives `concept`."""
    try:
        vector = generate_concept_token(logits, embed)[1]
    except (RuntimeError, IndexError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    if vector.shape == concept.shape:
        if torch.allclose(vector.to(concept), concept, rtol=1e-3):
            return ""
    return f"gives {tuple(vector.shape)}"


def clipped_rates(lm: LM, trace: ConceptTrace, norm: str = "all") -> list[float]:
    """Share of each prompt's steps whose mixture the norm rule changes."""
    bounds, rates = norm_bounds(lm.embed, norm, lm.used), []
    for probs, indices, n in zip(trace.probs, trace.indices, trace.lengths.tolist()):
        plain = mix(probs[:n], indices[:n], lm.embed)
        rates.append(float((clip_norm(plain, bounds) != plain).any(-1).float().mean()))
    return rates


def snippet_parts(
    rows: pd.DataFrame,
    clipped: list[float],
    prompts: list[str],
    runs: list[FreeRun],
    seed: int = 0,
) -> dict[str, Estimate]:
    """G8's parts; intervals draw whole templates.

    rows and clipped: of `prompts`. runs: without a stop; the stop as coded ends them.
    """
    templates = [template_of(prompt) for prompt in prompts]
    lengths = zip(stop_lengths(runs, *AS_CODED), runs)
    shorter = [length != run.length for length, run in lengths]
    columns = {
        "batch_failure_rate": (templates, rows.batch_fails),
        "vector_difference_rate": (templates, clipped),
        "length_difference_rate": ([run.template for run in runs], shorter),
    }
    gap = {"weight_deviation": Estimate.exact(rows.weight_gap.max(), len(rows))}
    return gap | {
        part: clustered(bootstrap, *column, seed=seed)
        for part, column in columns.items()
    }
