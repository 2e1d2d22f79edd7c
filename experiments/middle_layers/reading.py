"""What is left of a mixture's second token, read layer by layer (M1, M2).

    effect_rows      one row a case, weight, layer and lens: what the second token does
    left_table       how much of it is left, by kind, weight and layer, with intervals
    left_squares     the same as squares of a picture
    lost_table       from which layer on less than half is kept, with intervals
    reading_parts    the parts of M1 and M2

What follows the second token and not the top one: f(x) = P(x|second) / (P(x|top) +
P(x|second) + 0.01). A reading p has the mass s(p) = sum_x p(x) f(x) on it. The effect
of the second token is what s loses when random tokens stand in its place, so that a
prediction that is merely flatter shows none. Measured are the effects of

    mixed    the mixture                    (what the layer holds)
    summed   w h(top) + (1-w) h(second)     (what it would hold if states were added)
    whole    (1-w) times the second alone   (what a reader of the whole would show)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from experiments.floors import random_like
from experiments.metrics import js_bits
from experiments.middle_layers.cases import JUDGED, OWN, RELATED, UNRELATED, Case
from experiments.middle_layers.lenses import Lenses
from experiments.middle_layers.states import depth, read_after
from experiments.stats import Estimate, clustered, ratio, ratio_difference

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.models import LM

APART = 0.3  # bits between what follows the top token and what follows the second
FAINT = 0.01  # a probability that counts as none
HALF = 0.5
SEEN = 0.1  # of an effect: less of it, and a lens cannot tell
MOST_NEXT = 4  # tokens after the mixture
JS = ("js_q", "js_q_top", "js_q_replaced", "js_q_random", "js_top", "js_second")


def second_mass(p_top: Tensor, p_second: Tensor) -> Tensor:
    """Weigh tokens (V,) by how far they follow the second token and not the top one."""
    return p_second / (p_top + p_second + FAINT)


def quick_js_bits(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence (...) in bits of float32 distributions (...,V).

    Off metrics.js_bits, which checks and counts in float64, by less than 1e-5.
    """
    both, one, other = (torch.special.entr(x).sum(-1) for x in ((p + q) / 2, p, q))
    return ((both - (one + other) / 2) / math.log(2)).clamp_min(0)


def effect_rows(
    lm: LM,
    cases: Sequence[Case],
    lenses: dict[str, Lenses],
    layers: Sequence[int],
    reader: LM | None = None,
    following: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure the second token's effect: a row a case, weight, layer and lens.

    Columns: mixed, summed, whole (see above), alone (the second's, at weight 1), and
    in bits from the lens's reading of the mixture to what the model predicts js_q,
    js_top, js_second; to q also from that of the top token alone (js_q_top), of the
    mixture with the second replaced, and of a random vector. layers: the last one is
    read by the model's own head. reader: another model to look into (a control).
    following: read not at the mixture, but where the tokens after it (those that follow
    the top token) lead to the most different predictions: see `continuation`.
    Cases whose predictions are less than APART bits apart are left out.
    """
    rows = []
    draw = torch.Generator().manual_seed(seed)
    for case in cases:
        rows += _case_rows(lm, case, lenses, layers, reader or lm, following, draw)
    return pd.DataFrame(rows)


@torch.no_grad()
def _case_rows(lm, case, lenses, layers, reader, following, draw) -> list[dict]:
    """Rows of one case; all it needs of a model is read in one pass."""
    tokens, n, w = case.tokens.to(lm.device), len(case.tokens), len(case.weights)
    own = reader.embed[tokens]
    fed = torch.cat([own, *case.mixed(own), random_like(own[:1], draw)])[:, None]
    states, after = read_after(reader, case.ids, fed)
    if reader is not lm:
        after = read_after(lm, case.ids, lm.embed[tokens][:, None])[1]
    p_top, p_second, _ = case.gathered(after[:n].softmax(-1))
    if js_bits(p_top, p_second) < APART:
        return []
    if following:
        said = continuation(lm, case)
        if said is None:
            return []
        fed = with_tokens(reader, fed, said)
        after = read_after(lm, case.ids, with_tokens(lm, fed[:n, :1], said))[1]
        p_top, p_second, _ = case.gathered(after.softmax(-1))
        states, _ = read_after(reader, case.ids, fed)
    weights = torch.tensor(case.weights)[:, None].to(p_top)
    q = weights * p_top + (1 - weights) * p_second
    f = second_mass(p_top, p_second)
    facts = {"prompt": case.prompt, "template": case.template, "kind": case.kind}
    rows = []
    for name, lens in lenses.items():
        for layer in layers:
            h = states[layer]
            if lens.layers and layer not in (*lens.layers, depth(lm.model)):
                continue
            p = lens.read(reader, layer, torch.cat([h, *case.mixed(h[:n])]))
            s = (p @ f).double().cpu()
            mixed, swapped, _, summed, plain = s[n:].split([w, w, 1, w, w])
            _, alone, blank = case.gathered(s[:n])
            read, replaced, noise = p[n : n + 2 * w + 1].split([w, w, 1])
            from_q = [read, p[:1], replaced, noise]
            from_q = [quick_js_bits(x, q).expand(w) for x in from_q]
            ends = [quick_js_bits(read, end[None]) for end in (p_top, p_second)]
            js = dict(zip(JS, torch.stack(from_q + ends).tolist()))
            for k, weight in enumerate(case.weights):
                rows.append(
                    facts
                    | {"w": weight, "lens": name, "layer": layer}
                    | {"mixed": float(mixed[k] - swapped[k])}
                    | {"summed": float(summed[k] - plain[k])}
                    | {"whole": float((1 - weight) * (alone - blank))}
                    | {"alone": float(alone - blank)}
                    | {key: values[k] for key, values in js.items()}
                )
    return rows


@torch.no_grad()
def continuation(lm: LM, case: Case, most: int = MOST_NEXT) -> Tensor | None:
    """Continue the top token greedily, up to where top and second differ the most.

    -> ids (S,) after which the next token's predictions are farthest apart, S at most
    `most`; None where that is less than APART bits.
    """
    fed, said, best = lm.embed[case.tokens.to(lm.device)][:, None], [], (APART, 0)
    for step in range(most + 1):
        after = read_after(lm, case.ids, fed)[1].softmax(-1)
        p_top, p_second, _ = case.gathered(after)
        if step:
            best = max(best, (float(js_bits(p_top, p_second)), step))
        said.append(p_top.argmax())
        fed = with_tokens(lm, fed, said[-1:])
    return torch.stack(said[: best[1]]) if best[1] else None


def with_tokens(lm: LM, fed: Tensor, ids: Sequence) -> Tensor:
    """Put the same tokens behind every row of fed (N,S,D)."""
    ids = torch.tensor([int(i) for i in ids], dtype=torch.long, device=lm.device)
    rows = lm.embed[ids]
    return torch.cat([fed, rows.expand(len(fed), -1, -1)], 1)


def by_pair(rows: pd.DataFrame, weights: Sequence[float] = JUDGED) -> pd.DataFrame:
    """Sum the rows of one kind and lens over weights: a row a prompt, layers across.

    Columns: (what was measured, layer); the index holds the prompt and its template.
    """
    kept = rows[rows.w.isin(weights)] if rows.kind.iloc[0] != OWN else rows
    keys = ["prompt", "template", "layer"]
    sums = kept.drop(columns=["kind", "lens", "w"]).groupby(keys, sort=True).sum()
    return sums.unstack("layer")


def share(pairs: pd.DataFrame, of: tuple, over: tuple, seed: int = 0) -> Estimate:
    """Estimate the ratio of two columns of `by_pair`, whole templates drawn."""
    groups = pairs.index.get_level_values("template")
    return clustered(ratio, groups, pairs[of], pairs[over], seed=seed)


def left_table(rows: pd.DataFrame, lens: str = "tuned", seed: int = 0) -> pd.DataFrame:
    """Estimate what is left of the second token by kind, weight and layer.

    left: the mixture's effect over that on a reader of the whole mixture, with low,
    high; kept: the same over that of summed states; shown: of summed states over the
    reader's; readable: the effect of the second token alone over that on the output;
    n: pairs. The weight of a model's own mixture is told as OWN.
    """
    found = []
    rows = rows[rows.lens == lens]
    labels = rows.w.map("{:g}".format).where(rows.kind != OWN, OWN)
    for (kind, w), part in rows.groupby(["kind", labels], sort=False):
        pairs = by_pair(part, part.w.unique())
        last = pairs["alone"].columns.max()
        for layer in pairs["alone"].columns:
            e = share(pairs, ("mixed", layer), ("whole", layer), seed)
            total = pairs.xs(layer, level="layer", axis=1).sum()
            found.append(
                {"kind": kind, "w": w, "layer": layer}
                | e.columns("left")
                | {"kept": total.mixed / total.summed}
                | {"shown": total.summed / total.whole}
                | {"readable": total.alone / pairs["alone", last].sum()}
            )
    return pd.DataFrame(found)


def lost_from(pairs: pd.DataFrame, draws: int = 2000, seed: int = 0) -> Estimate | None:
    """Find the layer from which on less than HALF is kept, whole templates drawn.

    pairs: of `by_pair`. Layers at which the lens cannot tell (SEEN) are passed over;
    None where it can at none. Never lost: one more than the last layer.
    """
    total = pairs.sum().unstack("layer").T
    seen = total.summed >= SEEN * total.whole.where(total.whole > 0, np.inf)
    seen &= total.alone >= SEEN * total.alone.iloc[-1]
    layers = np.array(total.index)[seen]
    if not len(layers):
        return None
    groups = pairs.groupby(level="template").sum()
    mixed, summed = (groups[c][layers].to_numpy() for c in ("mixed", "summed"))
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(groups), size=(draws, len(groups)))
    drawn = np.concatenate([np.arange(len(groups))[None], drawn])
    held = mixed[drawn].sum(1) >= HALF * summed[drawn].sum(1)  # (1+draws,L)
    ends = np.append(layers[1:], total.index[-1] + 1)  # lost from there, if held so far
    found = np.where(held, ends, layers[0]).max(1)
    low, high = np.percentile(found[1:], [2.5, 97.5])
    return Estimate(float(found[0]), float(low), float(high), len(pairs), seed)


def left_squares(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """List what is left as squares of a picture, a panel a model and kind of pair.

    tables: left_table of each model. -> panel, layer, weight, kept. The model's own
    mixtures stand beside related pairs. kept is NaN where the lens would not show the
    second token in the sum of both states either, or not even alone.
    """
    found = []
    for name, table in tables.items():
        told = (table[["shown", "readable"]] >= SEEN).all(axis=1)
        ends = {table.layer.min(): "embeddings", table.layer.max(): "output"}
        labels = table.layer.map(ends).fillna("layer " + table.layer.astype(str))
        table = table.assign(kept=table.kept.where(told), label=labels)
        for kinds in ((RELATED, OWN), (UNRELATED,)):
            part = table[table.kind.isin(kinds)]
            part = part.sort_values(["layer", "w"])  # a weight before "own mixture"
            columns = {"layer": part.label, "weight": part.w.str.removeprefix("0")}
            found.append(pd.DataFrame(columns | {"kept": part.kept}))
            found[-1].insert(0, "panel", f"{name}, {kinds[0]}")
    return pd.concat(found, ignore_index=True)


def lost_table(rows: pd.DataFrame, lens: str = "tuned", seed: int = 0) -> pd.DataFrame:
    """List `lost_from` by kind and weight: layer, low, high, n, and the last layer."""
    found = []
    rows = rows[rows.lens == lens]
    labels = rows.w.map("{:g}".format).where(rows.kind != OWN, OWN)
    for (kind, w), part in rows.groupby(["kind", labels], sort=False):
        if e := lost_from(by_pair(part, part.w.unique()), seed=seed):
            row = {"kind": kind, "w": w, "lost from layer": int(e.value)}
            found.append(row | {"low": int(e.low), "high": int(e.high), "n": e.n})
    return pd.DataFrame(found).assign(depth=int(rows.layer.max()))


def reading_parts(
    rows: pd.DataFrame, mid: int, seed: int = 0
) -> dict[str, dict[str, dict[str, Estimate]]]:
    """Estimate the parts of M1 and M2: claim -> kind -> parts; mid: a layer."""
    parts: dict[str, dict] = {"M1": {}, "M2": {}}
    tuned = rows[(rows.lens == "tuned") & (rows.kind != OWN)]
    for kind, part in tuned.groupby("kind", sort=False):
        pairs = by_pair(part)
        top = pairs["mixed"].columns.max()
        groups = pairs.index.get_level_values("template")
        out = share(pairs, ("mixed", top), ("whole", top), seed)
        readable = share(pairs, ("alone", mid), ("alone", top), seed)
        ends = [pairs[c, layer] for layer in (mid, top) for c in ("mixed", "whole")]
        won = pairs["js_q", top] - pairs["js_q", mid]
        parts["M1"][kind] = {
            "kept_middle": share(pairs, ("mixed", mid), ("summed", mid), seed),
            "shown_middle": share(pairs, ("summed", mid), ("whole", mid), seed),
            "left_output": out,
            "readable_middle": readable,
        }
        parts["M2"][kind] = {
            "recovered": clustered(ratio_difference, groups, *ends, seed=seed),
            "nearer": clustered(ratio, groups, won, pairs["js_q_top", top], seed=seed),
            "left_middle": share(pairs, ("mixed", mid), ("whole", mid), seed),
            "left_output": out,
            "readable_middle": readable,
        }
    return parts
