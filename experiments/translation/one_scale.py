"""Writing and reading on one scale (R6): 0 is a floor, 1 is a ceiling.

    write_score, write_scores   agreement of written weights with the true distribution
    parts_by_route              writing beside each route of reading, for R6's verdict
    difference                  of two independent estimates
    scale_frame                 every score of every model, for the figure

Every score is a stats.Estimate with its interval.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pandas as pd

from experiments.metrics import js_bits
from experiments.prompts import FRAMES
from experiments.stats import Estimate, ratio
from experiments.translation.in_loop import Parts, one_minus
from experiments.translation.scores import Cells, estimate_columns
from experiments.translation.stimuli import mismatched_indices
from experiments.true_distribution import true_distributions
from helpers.decode import generate_concepts

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.models import LM

INCONCLUSIVE = "no p_max bin (loop) or no frame (frames) that could tell: see R1 and R2"


def write_score(
    weights: tuple[Tensor, Tensor], truth: Tensor, seed: int = 0
) -> Estimate:
    """Estimate 1 - JS(weights, truth) / JS(another prompt's weights, truth).

    weights: (probs (B,K), indices (B,K)) of each prompt's first concept; truth (B,V).
    """
    probs, indices = (x.cpu() for x in weights)
    dense = truth.new_zeros(truth.shape).scatter(-1, indices, probs.to(truth.dtype))
    other = dense[mismatched_indices(indices[:, 0].tolist(), seed)]
    floor = js_bits(other, truth).numpy()
    return one_minus(ratio(js_bits(dense, truth).numpy(), floor, seed=seed))


def write_scores(
    lms: dict[str, LM], prompts: list[str], true_next: Callable | None, seed: int = 0
) -> Parts:
    """Score the first concept token that each model writes after each prompt.

    true_next: as in true_distributions; None where the truth is not known.
    """
    scores = {}
    for name, lm in lms.items():
        trace = generate_concepts(lm, prompts, 1)
        truth = true_distributions(lm, prompts, true_next)
        weights = trace.probs[:, 0], trace.indices[:, 0]
        scores[name] = write_score(weights, truth, seed)
    return scores


def difference(a: Estimate, b: Estimate) -> Estimate:
    """a - b of two independent estimates (square-and-add, Newcombe 1998)."""
    low = ((a.value - a.low) ** 2 + (b.high - b.value) ** 2) ** 0.5
    high = ((a.high - a.value) ** 2 + (b.value - b.low) ** 2) ** 0.5
    value = a.value - b.value
    return Estimate(value, value - low, value + high, min(a.n, b.n), a.seed)


def parts_by_route(
    wrote: Parts, loop: dict[str, Parts], frames: dict[str, Estimate | None]
) -> dict[str, Parts]:
    """Compare writing with each route of reading: "model, route" -> its parts.

    write, and, where something can be told, read and asymmetry (write minus read).
    """
    cells = {}
    for name, write in wrote.items():
        routes = {"loop": loop[name].get("score"), "frames": frames[name]}
        for route, read in routes.items():
            parts = {"write": write}
            if read:
                parts |= {"read": read, "asymmetry": difference(write, read)}
            cells[f"{name}, {route}"] = parts
    return cells


def scale_frame(
    wrote: Parts,
    loop: dict[str, Parts],
    frames: dict[str, Estimate | None],
    cells: Cells,
) -> pd.DataFrame:
    """Every score of every model: model, what, value, low, high, n; writing first.

    cells: (model, way) -> the parts of R2, of which `scaled` is shown.
    """
    rows = []
    for name, write in wrote.items():
        marks = {
            "writes": write,
            "reads in the loop": loop[name].get("score"),
            "· top token alone": loop[name].get("score_top"),
            "reads in frames": frames[name],
        }
        order = [*marks, *(f"· {way}" for way in FRAMES)]
        marks |= {f"· {w}": c.get("scaled") for (m, w), c in cells.items() if m == name}
        rows += [
            {"model": name, "what": what, **estimate_columns(mark)}
            for what, mark in marks.items()
            if mark
        ]
    return pd.DataFrame(rows).sort_values("what", key=lambda x: x.map(order.index))
