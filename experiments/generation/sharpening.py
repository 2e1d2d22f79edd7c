"""Is the recipe of 3.1 what it says, and is the Appendix the same? (CLAIMS.md G2, G8)

two_ways, sharpening_rows   p^alpha beside a temperature of T / alpha, in float64
snippet                     the Appendix's function, as printed
snippet_rows                its weights beside the Methods', and what a batch does
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import torch

from experiments.stats import Estimate
from helpers.batching import next_logits, prompt_embeds
from helpers.mixture import MixtureConfig, mixture_weights

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.models import LM


def two_formulas(logits: Tensor, config: MixtureConfig) -> tuple[Tensor, Tensor]:
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
        sharpened, colder = two_formulas(some, config)
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
