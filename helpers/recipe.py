"""Is the recipe of 3.1 what it says, and is the Appendix the same? (CLAIMS.md G2, G8)

    two_ways, sharpening_rows   p^alpha beside a temperature of T / alpha, in float64
    snippet                     the Appendix's function, as printed
    snippet_rows                its weights beside the Methods', and what a batch does
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import torch
import torch.nn.functional as F

from .forward import next_logits, prompt_embeds
from .mixture import MixtureConfig, clip_norm, mix, mixture_weights, norm_bounds
from .stats import Estimate, bootstrap

if TYPE_CHECKING:
    from torch import Tensor

    from .decode import ConceptTrace
    from .models import LM


def two_ways(logits: Tensor, config: MixtureConfig) -> tuple[Tensor, Tensor]:
    """Weights (N,K) of logits (N,V) twice, each step as it is written, in float64:
    softmax(z/T) -> top-k -> ^alpha -> normal, softmax(alpha z/T) -> top-k -> normal."""
    z, k = logits.double().cpu(), min(config.top_k, logits.shape[-1])
    kept = (z / config.temperature).softmax(-1).topk(k).values ** config.alpha
    colder = (config.alpha * z / config.temperature).softmax(-1).topk(k).values
    return tuple(p / p.sum(-1, keepdim=True) for p in (kept, colder))


def sharpening_rows(
    lms: list, prompts: list[str], config: MixtureConfig, random: int = 1000, seed=0
) -> pd.DataFrame:
    """Largest difference between the two ways, one row a logit vector: the models' own
    after each prompt, and `random` normal ones of every spread from 0.1 to 30."""
    rows = []
    for lm in lms:
        own = next_logits(lm, *prompt_embeds(lm, prompts))
        rows += [("the model's", gap) for gap in _gaps(own, config)]
    generator, size = torch.Generator().manual_seed(seed), lms[0].embed.shape[0]
    for spread in torch.logspace(-1, 1.5, 20):
        some = torch.randn(-(-random // 20), size, generator=generator) * spread
        rows += [("random", gap) for gap in _gaps(some, config)]
    return pd.DataFrame(rows, columns=["logits", "gap"])


def _gaps(logits, config) -> list[float]:
    gaps = []
    for some in logits.split(64):
        sharpened, colder = two_ways(some, config)
        gaps += (sharpened - colder).abs().amax(-1).tolist()
    return gaps


def sharpening_parts(rows: pd.DataFrame) -> dict[str, Estimate]:
    """G2's part: the largest difference over all logit vectors."""
    worst = float(rows.gap.max())
    return {"deviation": Estimate(worst, worst, worst, len(rows))}


def effective_temperature(lm: LM, prompt: str, settings: list[tuple]) -> pd.DataFrame:
    """The top weight after a prompt for each (T, alpha), beside T / alpha."""
    logits = next_logits(lm, *prompt_embeds(lm, [prompt]))
    rows = []
    for temperature, alpha in settings:
        config = MixtureConfig(temperature=temperature, alpha=alpha)
        top = float(mixture_weights(logits, config).probs[0, 0])
        rows.append((f"α = {alpha:g}", temperature, temperature / alpha, top))
    columns = ["sharpening", "temperature", "T / alpha", "top weight"]
    return pd.DataFrame(rows, columns=columns)


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
