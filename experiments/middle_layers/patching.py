"""Put states of one run into another: where is what was mixed still used? (M4)

    state_rows      states mixed at a layer, the later layers run on the result
    state_parts     the parts of M4
    state_table     what is left in the output, by the layer at which states were mixed
    carry_rows      the mixture's state put into the run of the top token, and back
    carry_table     how much of the next prediction goes with it, by layer

At the position that is read, a state holds all that later layers will make of it: to
move it moves the prediction whole. So the second question is about the token after
next, which finds the mixture only by attention, layer by layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
import torch

from experiments.metrics import js_bits
from experiments.middle_layers.cases import JUDGED, OWN, Case
from experiments.middle_layers.reading import (
    APART,
    by_pair,
    continuation,
    second_mass,
    share,
    with_tokens,
)
from experiments.middle_layers.states import depth, read_after
from experiments.stats import Estimate, clustered, ratio, ratio_difference

if TYPE_CHECKING:
    from helpers.models import LM


@torch.no_grad()
def state_rows(lm: LM, cases: Sequence[Case], layers: Sequence[int]) -> pd.DataFrame:
    """Mix the members' states at a layer, and read the output: a row a case and layer.

    Columns as in reading.effect_rows: mixed, whole, js_q, js_q_top, of the output where
    states were mixed at `layer`; 0: the embeddings, as everywhere else. The model's own
    mixtures are left out, and cases whose predictions are less than APART bits apart.
    """
    rows = []
    for case in cases:
        if case.kind == OWN:
            continue
        fed = lm.embed[case.tokens.to(lm.device)][:, None]
        states, logits = read_after(lm, case.ids, fed)
        p = logits.softmax(-1)
        p_top, p_second, _ = case.gathered(p)
        if js_bits(p_top, p_second) < APART:
            continue
        f = second_mass(p_top, p_second)
        _, alone, blank = case.gathered((p @ f).double().cpu())
        weights = torch.tensor(case.weights)[:, None].to(p)
        q = weights * p_top + (1 - weights) * p_second
        far = js_bits(p_top, q).tolist()
        run = fed[:1].expand(2 * len(case.weights), -1, -1)
        facts = {"prompt": case.prompt, "template": case.template, "kind": case.kind}
        for layer in (x for x in layers if x < depth(lm.model)):
            patch = layer, torch.cat(case.mixed(states[layer]))
            after = read_after(lm, case.ids, run, patch)[1].softmax(-1)
            mixed, swapped = (after @ f).double().cpu().view(2, -1)
            near = js_bits(after[: len(weights)], q).tolist()
            for k, w in enumerate(case.weights):
                rows.append(
                    facts
                    | {"w": w, "lens": "output", "layer": layer}
                    | {"mixed": float(mixed[k] - swapped[k])}
                    | {"whole": (1 - w) * float(alone - blank)}
                    | {"js_q": near[k], "js_q_top": far[k]}
                )
    return pd.DataFrame(rows)


def state_parts(
    rows: pd.DataFrame, mid: int, seed: int = 0
) -> dict[str, dict[str, Estimate]]:
    """Estimate the parts of M4 by kind; mid: the middle layer."""
    parts = {}
    for kind, part in rows.groupby("kind", sort=False):
        pairs = by_pair(part)
        groups = pairs.index.get_level_values("template")
        ends = [pairs[c, layer] for layer in (mid, 0) for c in ("mixed", "whole")]
        won, far = pairs["js_q", 0] - pairs["js_q", mid], pairs["js_q_top", 0]
        parts[str(kind)] = {
            "more": clustered(ratio_difference, groups, *ends, seed=seed),
            "more_near": clustered(ratio, groups, won, far, seed=seed),
            "left_state": share(pairs, ("mixed", mid), ("whole", mid), seed),
            "left_embedding": share(pairs, ("mixed", 0), ("whole", 0), seed),
        }
    return parts


def state_table(
    rows: pd.DataFrame, weights: Sequence[float] = JUDGED, seed: int = 0
) -> pd.DataFrame:
    """Estimate what is left in the output: kind, layer, left, low, high, n."""
    found = []
    for kind, part in rows.groupby("kind", sort=False):
        pairs = by_pair(part, weights)
        for layer in pairs["mixed"].columns:
            e = share(pairs, ("mixed", layer), ("whole", layer), seed)
            row = {"kind": kind, "layer": layer}
            found.append(row | e.columns("left"))
    return pd.DataFrame(found)


@torch.no_grad()
def carry_rows(
    lm: LM, cases: Sequence[Case], layers: Sequence[int], weight: float = 0.5
) -> pd.DataFrame:
    """Exchange the mixture's and the top token's state at a layer; read later tokens.

    After either come the tokens of reading.continuation. `carried`: how much nearer, in
    bits of JS, the top token's run comes to the mixture's with the mixture's state in
    it; `removed`: the mixture's run to the top token's, the other way; of `apart`, how
    far the two are from each other. Mixtures of the given weight, and the model's own.
    """
    rows = []
    for case in cases:
        said = continuation(lm, case)
        if said is None:
            continue
        top = lm.embed[case.top]
        second = case.share.to(top) @ lm.embed[case.second.to(lm.device)]
        w = weight if case.kind != OWN else case.weights[0]
        both = torch.stack([top, w * top + (1 - w) * second])[:, None]
        fed = with_tokens(lm, both, said)
        states = read_after(lm, case.ids, both)[0]
        ends = read_after(lm, case.ids, fed)[1].softmax(-1)
        apart = float(js_bits(*ends))
        facts = {"prompt": case.prompt, "template": case.template, "kind": case.kind}
        for layer in (x for x in layers if x < depth(lm.model)):
            patch = layer, states[layer].flip(0)
            p = read_after(lm, case.ids, fed, patch)[1].softmax(-1)
            carried, removed = (apart - js_bits(p, ends.flip(0))).tolist()
            row = {"layer": layer, "apart": apart}
            rows.append(facts | row | {"carried": carried, "removed": removed})
    return pd.DataFrame(rows)


def carry_table(rows: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Estimate the share that goes with the state, by kind, way and layer."""
    ways = {"carried": "mixture's state into the top token's run"}
    ways |= {"removed": "top token's state into the mixture's run"}
    found = []
    for (kind, layer), part in rows.groupby(["kind", "layer"], sort=False):
        for column, way in ways.items():
            e = clustered(ratio, part.template, part[column], part.apart, seed=seed)
            row = {"kind": kind, "way": way, "layer": layer}
            found.append(row | e.columns("share"))
    return pd.DataFrame(found)
