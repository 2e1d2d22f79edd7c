"""What follows the first concept token after a prompt, by weight rule (W2, W3).

    reading_rows     one row a rule, draw and prompt: divergences between predictions
    reading_parts    W2's and W3's parts, by rule; judged: cell by cell
    part_rows        parts of all models as rows, for a figure

With the prompt as context: P(.|m) follows the rule's vector m, q = sum_i w_i P(.|tok_i)
is what a reader of the whole mixture would predict. As R1 has it
(experiments.translation.in_loop), but that all rules share one pass over the tokens.
Intervals draw whole templates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import torch

from experiments.floors import other_prompts
from experiments.metrics import js_bits
from experiments.prefixes import LEAST, SEPARATE, logits_after
from experiments.stats import Estimate, clustered, ratio, ratio_difference
from experiments.weight_rules.rules import DRAWN, OWN, weight_rules
from helpers.batching import next_logits, prompt_embeds
from helpers.mixture import apply_norm, mix, mixture_weights, norm_bounds

if TYPE_CHECKING:
    from torch import Tensor

    from experiments.prompts import Item
    from helpers.models import LM

Parts = dict[str, Estimate]

FEWEST = 10  # prompts and draws that a figure's point is worked out from
INCONCLUSIVE = "no prompt where the two predictions differ"


class Written(NamedTuple):
    """The concept tokens of one rule and draw, one a prompt; another's beside each."""

    rule: str
    draw: int
    probs: Tensor
    indices: Tensor
    vectors: Tensor
    others: Tensor


def reading_rows(
    lm: LM, items: Sequence[Item], draws: int = 2, seed: int = 0
) -> pd.DataFrame:
    """Measure divergences in bits after each rule's first concept token.

    One row a rule, draw (one where the rule draws nothing) and prompt: p_max, dropped;
    from q to what follows m (mixture), m's top token (top) and another prompt's m
    (other); from what follows the top token to what follows m (from_top), the second
    token (second) and to q (whole).
    """
    prompts = [item.prompt for item in items]
    written = _write(lm, prompts, draws, seed)
    rows = []
    for b, item in enumerate(items):
        for one, found in zip(written, _divergences(lm, prompts[b], written, b)):
            own = {"rule": one.rule, "draw": one.draw, "prompt": b}
            p_max = float(one.probs[b, 0])
            rows.append(own | {"template": item.template, "p_max": p_max, **found})
    return pd.DataFrame(rows)


def _write(lm: LM, prompts: list[str], draws: int, seed: int) -> list[Written]:
    """Write the first concept token after each prompt, by every rule and draw."""
    logits, written = next_logits(lm, *prompt_embeds(lm, prompts)), []
    for draw in range(draws):
        for name, (config, rule) in weight_rules(seed + draw).items():
            if draw and name not in DRAWN:
                continue
            probs, indices, _ = mixture_weights(logits, config, rule)
            bounds = norm_bounds(lm.embed, config.norm, lm.used)
            concept = mix(probs, indices, lm.embed)
            vectors = apply_norm(concept, probs, indices, bounds, config.norm)
            tops = list(zip(indices[:, 0].tolist(), range(len(prompts))))
            others = vectors[other_prompts(tops, seed)]
            written.append(Written(name, draw, probs, indices, vectors, others))
    return written


@torch.no_grad()
def _divergences(lm: LM, prompt: str, written: list[Written], b: int) -> list[dict]:
    """Divergences after prompt b of each rule's concept token, in one batch."""
    weights = torch.zeros(len(written), len(lm.embed), device=lm.device)
    for row, one in zip(weights, written):
        keep = one.probs[b] >= LEAST
        row.index_add_(0, one.indices[b], one.probs[b] * keep)
    pairs = torch.stack([one.indices[b, :2] for one in written])  # top, second
    named = weights.any(0).index_fill(0, pairs.flatten(), True)
    tokens = named.nonzero()[:, 0]
    fed = [lm.embed[tokens]]
    fed += [torch.stack([x[b] for x in (w.vectors, w.others)]) for w in written]
    fed = torch.cat(fed)
    context = prompt_embeds(lm, prompt)[0][0]
    after = logits_after(lm, [context], [0] * len(fed), fed).softmax(-1).double()
    members, (m, other) = (
        after[: len(tokens)],
        after[len(tokens) :].view(len(written), 2, -1).unbind(1),
    )
    q = weights[:, tokens].cpu().double() @ members
    top, second = members[torch.searchsorted(tokens, pairs).cpu()].unbind(1)
    columns = {
        "mixture": js_bits(m, q),
        "top": js_bits(top, q),
        "other": js_bits(other, q),
        "from_top": js_bits(m, top),
        "second": js_bits(second, top),
        "dropped": 1 - weights.sum(-1).cpu(),
    }
    columns["whole"] = columns["top"]
    names, values = (
        list(columns),
        torch.stack([*map(torch.as_tensor, columns.values())]),
    )
    return [dict(zip(names, column)) for column in values.T.tolist()]


def reading_parts(rows: pd.DataFrame, seed: int = 0) -> dict[str, dict[str, Parts]]:
    """Estimate W2's and W3's parts: claim -> rule -> parts; {} where none can tell."""
    own = rows[rows.rule == OWN].set_index("prompt")
    parts: dict[str, dict[str, Parts]] = {"W2": {}, "W3": {}}
    for rule, frame in rows.groupby("rule", sort=False):
        frame = frame.reset_index(drop=True)
        beside = own.loc[frame.prompt].reset_index(drop=True)
        parts["W2"][str(rule)] = _gain_parts(frame, beside, seed)
        apart = frame[frame.second > SEPARATE]
        parts["W3"][str(rule)] = {
            name: clustered(
                ratio,
                apart.template,
                numerator=apart[column],
                denominator=apart.second,
                seed=seed,
            )
            for name, column in (("from_top", "from_top"), ("from_top_whole", "whole"))
            if len(apart)
        }
    return parts


def _gain_parts(frame: pd.DataFrame, own: pd.DataFrame, seed: int) -> Parts:
    """Estimate gain, score and, but for the write-up's rule, more: on R1's scale."""
    told = frame.top > SEPARATE
    if not told.any():
        return {}
    how = {
        "groups": frame.template[told],
        "seed": seed,
        "denominator": frame.other[told],
    }
    won = (frame.top - frame.mixture)[told]
    parts = {
        "gain": clustered(ratio, numerator=won, **how),
        "score": clustered(ratio, numerator=(frame.other - frame.mixture)[told], **how),
    }
    both = told & (own.top > SEPARATE)
    if frame.rule[0] != OWN and both.any():
        columns = [
            column * (of.top > SEPARATE)
            for of in (frame, own)
            for column in (of.top - of.mixture, of.other)
        ]
        more = ratio_difference(*columns, groups=frame.template, seed=seed)
        parts["more"] = replace(more, n=int(both.sum()))
    return parts


def judged(parts: dict[str, dict[str, Parts]]) -> list[tuple[str, str, Parts]]:
    """List claim, rule and parts of each cell to judge; no parts where none can tell.

    W2 compares with the write-up's rule, which is no cell of its own.
    """
    cells = []
    for claim, by_rule in parts.items():
        for rule, own in by_rule.items():
            if claim == "W2" and rule == OWN:
                continue
            cells.append(
                (claim, rule, {} if claim == "W2" and "more" not in own else own)
            )
    return cells


def part_rows(
    parts: dict[str, dict[str, Parts]], names: dict[str, str]
) -> pd.DataFrame:
    """List parts as rows, model -> rule -> parts: rule, line, value, low, high, n.

    names: part -> how it is called; the line says the model as well. Those measured
    less than FEWEST times are left out.
    """
    rows = [
        {"rule": rule, "line": f"{model}: {label}" if label else model} | e.columns()
        for model, by_rule in parts.items()
        for name, label in names.items()
        for rule, own in by_rule.items()
        if (e := own.get(name)) and e.n >= FEWEST
    ]
    return pd.DataFrame(rows)
