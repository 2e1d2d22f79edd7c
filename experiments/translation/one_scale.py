"""Writing and reading on one scale (R6): 0 is the top token alone, 1 a ceiling.

    write_excess, write_scores   how much nearer to the truth the written weights are
    read_scores                  how much nearer to the mixture the next step is (R1)
    write_read_parts             both, and their difference, for R6's verdict
    difference                   of two independent estimates
    scale_frame                  every score of every model, for the figure

A writer of one token scores 0 in writing, and a reader of the top token 0 in reading.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pandas as pd

from experiments.metrics import js_bits
from experiments.prompts import template_of
from experiments.stats import Estimate, clustered, ratio
from experiments.translation.in_loop import LINES, Parts, excess
from experiments.true_distribution import true_distributions
from helpers.decode import generate_concepts

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.models import LM


def write_excess(
    weights: tuple[Tensor, Tensor], truth: Tensor, templates: list[str], seed: int = 0
) -> Estimate:
    """Estimate 1 - JS(weights, truth) / JS(top token alone, truth).

    weights: (probs (B,K), indices (B,K)) of each prompt's first concept; truth (B,V);
    templates: of the B prompts, drawn whole.
    """
    probs, indices = (x.cpu() for x in weights)
    blank = truth.new_zeros(truth.shape)
    dense = blank.scatter(-1, indices, probs.to(truth.dtype))
    alone = js_bits(blank.scatter(-1, indices[:, :1], 1.0), truth)
    won = (alone - js_bits(dense, truth)).numpy()
    return clustered(
        ratio, templates, numerator=won, denominator=alone.numpy(), seed=seed
    )


def write_scores(
    lms: dict[str, LM], prompts: list[str], true_next: Callable | None, seed: int = 0
) -> Parts:
    """Score the first concept token that each model writes after each prompt.

    true_next: as in true_distributions; None where the truth is not known.
    """
    templates = [template_of(prompt) for prompt in prompts]
    scores = {}
    for name, lm in lms.items():
        trace = generate_concepts(lm, prompts, 1)
        truth = true_distributions(lm, prompts, true_next)
        weights = trace.probs[:, 0], trace.indices[:, 0]
        scores[name] = write_excess(weights, truth, templates, seed)
    return scores


def read_scores(rows: pd.DataFrame, seed: int = 0) -> Parts:
    """Score one model's loop_divergences: R1's gain over the room above the top token.

    read_excess: after the mixture, all steps; read_excess_flat and _replaced: the same
    of R1's controls. {} where no row can tell.
    """
    lines = {"read_excess": "mixture"}
    lines |= {f"read_excess_{line}": line for line in ("flat", "replaced")}
    found = {part: excess(rows, line, seed=seed) for part, line in lines.items()}
    return {part: e for part, e in found.items() if e}


def difference(a: Estimate, b: Estimate) -> Estimate:
    """a - b of two independent estimates (square-and-add, Newcombe 1998)."""
    low = ((a.value - a.low) ** 2 + (b.high - b.value) ** 2) ** 0.5
    high = ((a.high - a.value) ** 2 + (b.value - b.low) ** 2) ** 0.5
    value = a.value - b.value
    return Estimate(value, value - low, value + high, min(a.n, b.n), a.seed)


def write_read_parts(
    wrote: Parts, rows: dict[str, pd.DataFrame], seed: int = 0
) -> dict[str, Parts]:
    """Compare what each model writes and reads beyond the top token: R6's parts."""
    cells = {}
    for name, written in wrote.items():
        parts = {"write_excess": written} | read_scores(rows[name], seed)
        if "read_excess" in parts:
            parts["asymmetry"] = difference(written, parts["read_excess"])
        cells[name] = parts
    return cells


def scale_frame(
    parts: dict[str, Parts], rows: dict[str, pd.DataFrame], seed: int = 0
) -> pd.DataFrame:
    """Every score of every model: model, what, value, low, high, n; writing first.

    A one-hot writer has 0 by construction; reading stands also by step, with R1's
    controls below it.
    """
    found = []
    for name, cell in parts.items():
        marks = {
            "writes: concept token": cell["write_excess"],
            "writes: one-hot writer": Estimate.exact(0, cell["write_excess"].n),
            "reads: concept token": cell.get("read_excess"),
        }
        for step, part in rows[name].groupby("step"):
            marks[f"· step {step}"] = excess(part, seed=seed)
        for line in ("flat", "replaced"):
            marks[f"reads: {LINES[line]}"] = cell.get(f"read_excess_{line}")
        found += [
            {"model": name, "what": what, **mark.columns()}
            for what, mark in marks.items()
            if mark
        ]
    return pd.DataFrame(found)
