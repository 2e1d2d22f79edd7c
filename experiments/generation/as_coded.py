"""The method as the write-up states it and as the original code runs it.

    coded_measures   what each difference changes, for one model
    coded_table      the differences with those numbers, a column a model
    half_entropy     the entropy as the original code takes it in float16

The code's settings are those of MixtureConfig.original(); original/README.md says where
they were read.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from experiments.generation.appendix import clipped_rates
from experiments.generation.early_stopping import AS_CODED, FreeRun, stop_lengths
from helpers.mixture import MixtureConfig, mixture_weights

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.decode import ConceptTrace
    from helpers.models import LM

# measure -> matter, as the write-up states it, as coded, what is measured
DIFFERENCES = {
    "top_written": (
        "temperature", "not named in 3.1 (Appendix: 0.8)", "", "mean top weight at 1",
    ),
    "top_coded": ("temperature", "", "0.8", "mean top weight at 0.8"),
    "clipped_written": (
        "norms", "clipped to the embedding range", "", "share of vectors it changes",
    ),
    "clipped_coded": (
        "norms", "", "at most 1.5 × the mean row", "share of vectors it changes",
    ),
    "stopped": (
        "early stop", "by entropy, no threshold named",
        "two steps in a row below 1 nat, entropy at temperature 0.8, and only where "
        "metrics are asked for",
        "share of prompts it stops",
    ),
    "length": ("early stop", "", "", "mean length it leaves"),
    "length_free": ("early stop", "", "", "mean length without it"),
    "second_stopped": (
        "vectors a prompt", "not named", "2, and none of a step that stops",
        "share of prompts whose second vector the stop takes",
    ),
    "half_nan": (
        "numbers", "not named", "float16 (Qwen): no stop where the entropy is NaN",
        "share of first steps whose entropy is NaN",
    ),
}  # fmt: skip


def coded_measures(
    lm: LM, logits: Tensor, trace: ConceptTrace, runs: list[FreeRun]
) -> dict[str, float]:
    """Measure what each difference changes -> by name, as in DIFFERENCES.

    logits (B,V): after the prompts; trace: unclipped mixtures after them; runs:
    free_runs of early_stopping.FREE.
    """
    lengths = stop_lengths(runs, *AS_CODED)
    coded, n = MixtureConfig.original(), len(runs)
    plain = replace(coded, temperature=1.0)
    rates = {rule: clipped_rates(lm, trace, rule) for rule in ("all", "original")}
    return {
        "top_written": float(mixture_weights(logits, plain).probs[:, 0].mean()),
        "top_coded": float(mixture_weights(logits, coded).probs[:, 0].mean()),
        "clipped_written": sum(rates["all"]) / len(rates["all"]),
        "clipped_coded": sum(rates["original"]) / len(rates["original"]),
        "stopped": sum(k < run.length for k, run in zip(lengths, runs)) / n,
        "length": sum(lengths) / n,
        "length_free": sum(run.length for run in runs) / n,
        "second_stopped": sum(k == 2 < run.length for k, run in zip(lengths, runs)) / n,
        "half_nan": float(half_entropy(logits).isnan().float().mean()),
    }


def coded_table(measures: dict[str, dict[str, float]]) -> pd.DataFrame:
    """Set the differences out in lines. measures: coded_measures by model."""
    columns = ["matter", "as written", "as coded", "measured"]
    lines = pd.DataFrame(list(DIFFERENCES.values()), columns=columns)
    for model, values in measures.items():
        lines[model] = [values[name] for name in DIFFERENCES]
    return lines.set_index("matter")


def half_entropy(logits: Tensor, temperature: float = 0.8) -> Tensor:
    """Take the entropy (B,) of logits (B,V) in float16 with probabilities >= 1e-10.

    The smallest number above 0 in float16 is 6e-8: there 1e-10 is 0, and 0 log 0 NaN.
    """
    probs = (logits.half() / temperature).softmax(-1).clamp_min(1e-10)
    return -(probs * probs.log()).sum(-1)
