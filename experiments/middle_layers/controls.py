"""Tables of notebook 07: how good the lenses are, and what they show without cause.

lens_tables      how far each model's lenses are from its predictions, by layer
readable_table   what of the second token alone each lens shows, and its controls
js_table         divergences of what the tuned lens reads, by layer
reader_table     what is left of it in models that were trained to read mixtures
later_table      what is left of the second token where it matters later
part_rows        parts of all models as rows, for a figure
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd
import torch

from experiments.middle_layers import reading
from experiments.middle_layers.cases import JUDGED, OWN, RELATED, Case, make_cases
from experiments.middle_layers.lenses import Lenses, lens_table, logit_lens
from experiments.middle_layers.states import depth
from experiments.prompts import Item
from experiments.stats import Estimate, bootstrap, clustered, ratio_difference
from helpers.models import LM

READINGS = {
    "js_q": "mixture, from q",
    "js_q_top": "top token alone, from q",
    "js_q_replaced": "second replaced, from q",
    "js_q_random": "random vector, from q",
    "js_top": "mixture, from the top token's",
    "js_second": "mixture, from the second's",
}
FEATURE_PARTS = {
    "union": "either's own features: mixture",
    "union_sum": "either's own features: sum of states",
    "union_random": "either's own features: another mixture",
    "new": "neither's features: mixture",
    "new_sum": "neither's features: sum of states",
    "match_sum": "activations told by the members' mean",
    "match_top": "activations told by the top token's",
}
ByModel = Mapping[str, dict[str, Lenses]]


def lens_tables(
    lms: Mapping[str, LM],
    lenses: ByModel,
    texts: Mapping[str, list[list[int]]],
    layers: Mapping[str, list[int]],
) -> pd.DataFrame:
    """Measure every model's lenses on texts: model, lens, layer, kl_bits."""
    tables = {
        k: lens_table(lm, lenses[k], texts[k], layers[k]) for k, lm in lms.items()
    }
    table = pd.concat(tables, names=["model"]).reset_index("model")
    return table.astype({"layer": str})  # so that an axis has no half layers


def untrained(lm: LM, seed: int = 0) -> LM:
    """Build a model of the same class and size that has learned nothing."""
    torch.manual_seed(seed)
    model = type(lm.model)(lm.model.config).to(lm.device, lm.dtype).eval()
    return LM(model.requires_grad_(False), lm.tokenizer, "untrained")


def readable_table(
    lms: Mapping[str, LM],
    cases: Mapping[str, list[Case]],
    lenses: ByModel,
    middle: Mapping[str, int],
    seed: int = 0,
) -> pd.DataFrame:
    """Estimate the effect of the second token alone, over that on the output.

    Of related pairs, at the middle layer, by each lens; and of an untrained model, its
    own head read at its last layer.
    """
    found = {}
    for name, lm in lms.items():
        some = [c for c in cases[name] if c.kind == RELATED]
        some = [replace(c, weights=JUDGED[:1]) for c in some]  # weighs nothing here
        top, at = depth(lm.model), [middle[name], depth(lm.model)]
        rows = reading.effect_rows(lm, some, lenses[name], at, seed=seed)
        blank, plain = untrained(lm, seed), {"untrained model": logit_lens()}
        rows = [rows, reading.effect_rows(lm, some, plain, [top], blank, seed=seed)]
        pairs = {
            k: reading.by_pair(part) for k, part in pd.concat(rows).groupby("lens")
        }
        for lens, own in pairs.items():
            layer = top if lens == "untrained model" else middle[name]
            own["alone", "output"] = pairs["tuned"]["alone", top]
            e = reading.share(own, ("alone", layer), ("alone", "output"), seed)
            found[name, lens] = e.columns("readable")
    return pd.DataFrame(found).T


def reader_table(
    compared: Sequence[tuple[str, LM, Sequence[Item]]],
    lens: Lenses,
    middle: int,
    seed: int = 0,
) -> pd.DataFrame:
    """Estimate what is left of the second token in models that should keep it.

    compared: the model itself, then others trained from it, each with its name and the
    prompts, the same for all. What there is to be read is what the first one predicts.
    left: as in reading.left_table; more: than in the first, both drawn together.
    """
    base = compared[0][1]
    layers = {"middle": middle, "output": depth(base.model)}
    pairs: dict[str, pd.DataFrame] = {}
    for name, lm, items in compared:
        cases = make_cases(base, items, JUDGED, seed)
        cases = [case for case in cases if case.kind == RELATED]
        at = layers.values()
        rows = reading.effect_rows(base, cases, {"tuned": lens}, at, lm, seed=seed)
        pairs[name] = reading.by_pair(rows)
    first, found = next(iter(pairs.values())), {}
    groups = first.index.get_level_values("template")
    for name, own in pairs.items():
        for end, layer in layers.items():
            cells = ("mixed", layer), ("whole", layer)
            both = *(own[c] for c in cells), *(first[c] for c in cells)
            found[name, f"left, {end}"] = reading.share(own, *cells, seed)
            if own is not first:
                more = clustered(ratio_difference, groups, *both, seed=seed)
                found[name, f"more, {end}"] = more
    return pd.DataFrame({key: e.columns() for key, e in found.items()}).T


def js_table(
    rows: Mapping[str, pd.DataFrame], weight: float, kind: str = RELATED, seed: int = 0
) -> pd.DataFrame:
    """Estimate mean divergences, in bits: model, reading, layer, bits, low, high, n."""
    found = []
    for name, table in rows.items():
        part = table[(table.lens == "tuned") & (table.kind == kind)]
        part = part[part.w == weight]
        for column, label in READINGS.items():
            for layer, own in part.groupby("layer"):
                e = clustered(bootstrap, own.template, own[column], seed=seed)
                row = {"model": name, "reading": label, "layer": str(layer)}
                found.append(row | e.columns("bits"))
    return pd.DataFrame(found)


def later_table(rows: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Estimate what is left at a later place, over all weights below the even one.

    left: of what a reader of the whole would show there, by kind and layer; readable as
    in reading.left_table.
    """
    found = []
    for kind, part in rows.groupby("kind", sort=False) if len(rows) else ():
        pairs = reading.by_pair(part)
        top = pairs["alone"].columns.max()
        for layer in pairs["alone"].columns if kind != OWN else ():
            total = pairs["alone"].sum()
            if total[layer] >= reading.SEEN * total[top] > 0:
                e = reading.share(pairs, ("mixed", layer), ("whole", layer), seed)
                readable = {"readable": total[layer] / total[top]}
                row = {"kind": kind, "layer": layer}
                found.append(row | e.columns("left") | readable)
    return pd.DataFrame(found)


def part_rows(
    parts: Mapping[str, dict[str, dict[str, Estimate]]], names: Mapping[str, str]
) -> pd.DataFrame:
    """List parts, model -> kind -> parts, as rows: part, cell, value, low, high, n."""
    rows = [
        {"part": label, "cell": f"{model}, {kind}"} | e.columns()
        for name, label in names.items()
        for model, kinds in parts.items()
        for kind, own in kinds.items()
        if (e := own.get(name))
    ]
    return pd.DataFrame(rows)
