"""Sharpening p^alpha beside a temperature of T / alpha (CLAIMS.md G2).

two_formulas        the weights of both, each step as it is written, in float64
sharpening_rows     their difference, on models' own logits and on random ones
sharpening_parts    G2's part: the largest difference
temperature_curve   the top weight over T / alpha, for several alphas
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pandas as pd
import torch

from experiments.stats import Estimate
from helpers.mixture import MixtureConfig, mixture_weights

if TYPE_CHECKING:
    from torch import Tensor

ALPHAS = (1.0, 1.5, 2.0)
TEMPERATURES = (0.4, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0)
CURVE_AXES = {
    "x": "T / alpha",
    "y": "top weight",
    "by": "sharpening",
    "xlabel": "temperature T / sharpening α",
    "ylabel": "top token's weight",
}


def two_formulas(logits: Tensor, config: MixtureConfig) -> tuple[Tensor, Tensor]:
    """Weights (N,K) of logits (N,V) twice, in float64.

    softmax(z/T) -> top-k -> ^alpha -> renormalise; softmax(alpha z/T) -> top-k ->
    renormalise.
    """
    z, k = logits.double().cpu(), min(config.top_k, logits.shape[-1])
    kept = (z / config.temperature).softmax(-1).topk(k).values ** config.alpha
    colder = (config.alpha * z / config.temperature).softmax(-1).topk(k).values
    return kept / kept.sum(-1, keepdim=True), colder / colder.sum(-1, keepdim=True)


def sharpening_rows(
    logits: list[Tensor], config: MixtureConfig, n_random: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Largest difference between the two formulas (gap), one row a logit vector.

    logits: "the model's", (B,V) of each model, or "random": `n_random` normal vectors
    of every spread from 0.1 to 30.
    """
    rows = [("the model's", gap) for own in logits for gap in _gaps(own, config)]
    generator, vocabulary = torch.Generator().manual_seed(seed), logits[0].shape[1]
    for spread in torch.logspace(-1, 1.5, 20):
        drawn = torch.randn(-(-n_random // 20), vocabulary, generator=generator)
        rows += [("random", gap) for gap in _gaps(drawn * spread, config)]
    return pd.DataFrame(rows, columns=["logits", "gap"])


def _gaps(logits: Tensor, config: MixtureConfig) -> list[float]:
    gaps = []
    for batch in logits.split(64):  # bounded memory
        sharpened, colder = two_formulas(batch, config)
        gaps += (sharpened - colder).abs().amax(-1).tolist()
    return gaps


def sharpening_parts(rows: pd.DataFrame) -> dict[str, Estimate]:
    """G2's part: the largest difference over all logit vectors."""
    return {"deviation": Estimate.exact(rows.gap.max(), len(rows))}


def temperature_curve(logits: Tensor) -> pd.DataFrame:
    """Top weight of logits (V,) for ALPHAS and TEMPERATURES, beside T / alpha."""
    rows = []
    for alpha, temperature in product(ALPHAS, TEMPERATURES):
        config = MixtureConfig(temperature=temperature, alpha=alpha)
        top = float(mixture_weights(logits, config).probs[0])
        rows.append((f"α = {alpha:g}", temperature, temperature / alpha, top))
    columns = ["sharpening", "temperature", "T / alpha", "top weight"]
    return pd.DataFrame(rows, columns=columns)
