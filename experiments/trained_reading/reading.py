"""How much of a mixture is read, before and after training for it (T1).

    reading_rows    divergences after each item's first concept token
    read_share      the share read: 0 the top token alone, 1 all
    all_rows        the same before training and, from models/learned, after it
    seed_parts      T1's parts, for one training seed
    share_table     shares read by each model; curve_table: by step of training
    document_nll    what ordinary text costs, document by document
    compared        models for the measures of other notebooks

As R6 reads (experiments.translation), at the first concept token: with q = sum_i w_i
P(.|ctx, tok_i), what a reader of the whole mixture would predict, the share of the top
token's divergence from q that the prediction after the mixture is free of. Intervals
draw whole templates.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd
import torch

from experiments.metrics import entropy, js_bits, with_entropy
from experiments.prefixes import LEAST, SEPARATE, logits_after
from experiments.prompts import CHORES
from experiments.stats import (
    Estimate,
    clustered,
    paired_difference,
    ratio,
    ratio_difference,
)
from experiments.trained_reading import learned
from experiments.trained_reading.reader import merge
from helpers.batching import next_logits, prompt_embeds
from helpers.mixture import MixtureConfig, apply_norm, mix, mixture_weights, norm_bounds
from models.corpus import sample_document

if TYPE_CHECKING:
    from experiments.prompts import Item
    from helpers.models import LM

Parts = dict[str, Estimate]
Rows = dict[tuple[str, object], pd.DataFrame]  # by model and training seed

DOCUMENTS = 60  # of ordinary text, whose cost is compared
OWN = "reader, such sentences"  # trained on sentences of the kind that it is asked


def fold_of(prompt: str) -> str:
    """The fold of reader.FOLDS whose readers have not trained on such sentences."""
    return "chores" if prompt.endswith(CHORES) else "places"


def reading_rows(
    lm: LM, items: Sequence[Item], config: MixtureConfig | None = None
) -> pd.DataFrame:
    """Measure JS in bits from q to what follows an item's first concept token.

    One row an item: prompt, template, and the divergences of what follows the mixture
    (mixture), its top token (top), and of the latter flattened to the entropy of the
    former (flat).
    """
    config = config or MixtureConfig()
    embeds, mask = prompt_embeds(lm, [item.prompt for item in items])
    probs, indices, _ = mixture_weights(next_logits(lm, embeds, mask), config)
    bounds = norm_bounds(lm.embed, config.norm, lm.used)
    concept = mix(probs, indices, lm.embed)
    concept = apply_norm(concept, probs, indices, bounds, config.norm)
    keep = probs >= LEAST
    owner = keep.nonzero()[:, 0]
    contexts = [row[own.bool()] for row, own in zip(embeds, mask)]
    vectors = torch.cat([concept, lm.embed[indices[keep]]])
    logits = logits_after(lm, contexts, [*range(len(items)), *owner.tolist()], vectors)
    after, members = logits.double().softmax(-1).split([len(items), len(owner)])
    first = torch.searchsorted(owner, torch.arange(len(items)))
    return _divergences(items, after, members, members[first], probs[keep], owner)


def _divergences(items, mixture, members, top, weights, owner) -> pd.DataFrame:
    """Set predictions (N,V) after mixtures and top tokens against q of the members."""
    q = torch.zeros_like(mixture)
    q.index_add_(0, owner, members * weights.to(members)[:, None])
    flat = with_entropy(top, entropy(mixture))
    columns = {"mixture": mixture, "top": top, "flat": flat}
    return pd.DataFrame(
        {"prompt": [item.prompt for item in items]}
        | {"template": [item.template for item in items]}
        | {name: js_bits(p, q).tolist() for name, p in columns.items()}
    )


def read_share(rows: pd.DataFrame, line: str = "mixture", seed: int = 0) -> Estimate:
    """Estimate the share read, over items whose top token and mixture differ."""
    told = rows[rows.top > SEPARATE]
    won = told.top - told[line]
    return clustered(ratio, told.template, won, told.top, seed=seed)


def reading_parts(rows: dict[str, pd.DataFrame], seed: int = 0) -> Parts:
    """Estimate T1's parts from the rows of "before", "reader" and "control".

    Rows of the same items in the same order. Where two models are compared, each
    counts the items that it tells apart; n counts those that both do.
    """
    reader, control = rows["reader"], rows["control"]
    names = {"before": "before", "after": "reader", "control": "control"}
    parts = {
        f"read_{k}": read_share(rows[name], seed=seed) for k, name in names.items()
    }
    columns = []
    for frame in (reader, control):
        told = frame.top > SEPARATE
        columns += [(frame.top - frame.mixture) * told, frame.top * told]
    over = clustered(ratio_difference, reader.template, *columns, seed=seed)
    both = (reader.top > SEPARATE) & (control.top > SEPARATE)
    parts["trained_over_control"] = replace(over, n=int(both.sum()))
    told = reader[reader.top > SEPARATE]
    won = told.flat - told.mixture
    over_flat = clustered(ratio, told.template, won, told.top, seed=seed)
    return parts | {"trained_over_flat": over_flat}


def share_table(rows: Rows, seed: int = 0) -> pd.DataFrame:
    """Tabulate shares read, to draw, from all_rows.

    -> model, line (training seed), what, value, low, high, n. What is read is the
    mixture; the other is its top token's prediction, merely flattened.
    """
    found = []
    for line, name in (("mixture", "mixture"), ("flat", "top token, flattened")):
        for (model, trained), frame in rows.items():
            told = (
                f"training seed {trained}" if trained in learned.SEEDS else "untrained"
            )
            row = {"model": model, "line": told, "what": name}
            found.append(row | vars(read_share(frame, line, seed)))
    return pd.DataFrame(found)


def documents(count: int, seed: int = 0) -> list[str]:
    """Draw documents of the corpus that no training here has drawn."""
    rng = random.Random(f"documents {seed}")
    return [sample_document(rng) for _ in range(count)]


@torch.no_grad()
def document_nll(lm: LM, texts: Sequence[str]) -> list[float]:
    """Compute the mean negative log-likelihood, in nats a token, of each text."""
    found = []
    for text in texts:
        ids = torch.tensor([lm.tokenizer(text)["input_ids"][: lm.context]])
        logits = lm.model(input_ids=ids.to(lm.device)).logits[0, :-1].float()
        nll = torch.nn.functional.cross_entropy(logits, ids[0, 1:].to(lm.device))
        found.append(float(nll))
    return found


def sums_by_template(rows: pd.DataFrame) -> pd.DataFrame:
    """Sum what is read and what there is to read, in bits: template, won, room, n."""
    told = rows[rows.top > SEPARATE]
    sums = told.assign(won=told.top - told.mixture, n=1).groupby("template")
    return sums[["won", "top", "n"]].sum().reset_index().rename(columns={"top": "room"})


def trained_rows(
    prompts: Sequence[str], kind: str, seed: int, own: bool = False
) -> pd.DataFrame:
    """Look up what readers or controls read after prompts: reading_rows, in order.

    Of the two folds' models the one that never trained on such sentences, or with own
    the one that did.
    """
    rows = learned.readings()
    rows = rows[(rows.kind == kind) & (rows.seed == seed)]
    held = rows.prompt.map(fold_of) == rows.fold
    return rows[held != own].set_index("prompt").loc[list(prompts)].reset_index()


def all_rows(before: pd.DataFrame) -> Rows:
    """List reading rows by model and training seed, those before training first."""
    found: Rows = {("before", ""): before}
    for seed in learned.SEEDS:
        for kind in ("control", "reader"):
            found[kind, seed] = trained_rows(before.prompt, kind, seed)
        found[OWN, seed] = trained_rows(before.prompt, "reader", seed, own=True)
    return found


def trained_nll(kind: str, seed: int) -> list[float]:
    """Average what documents cost, over the models of both folds."""
    rows = learned.nll()
    rows = rows[(rows.kind == kind) & (rows.seed == seed)]
    return rows.groupby("document").nll.mean().tolist()


def seed_parts(
    rows: Rows, trained: int, nll_before: Sequence[float], seed: int = 0
) -> Parts:
    """Estimate all parts of T1 for one training seed, from all_rows."""
    kinds = {"before": rows["before", ""]}
    kinds |= {kind: rows[kind, trained] for kind in ("reader", "control")}
    change = paired_difference(trained_nll("reader", trained), nll_before, seed=seed)
    return reading_parts(kinds, seed) | {"nll_change": change}


def compared(lm: LM, items: Sequence[Item]) -> list[tuple[str, LM, list[Item]]]:
    """List models to compare on chores: name, model, items. Readers of seed 0."""
    own = [item for item in items if fold_of(item.prompt) == "chores"]
    made = {"before": lm, "reader": merge(lm, learned.update("chores"))}
    made[OWN] = merge(lm, learned.update("places"))
    return [(name, model, own) for name, model in made.items()]


def interval_table(parts: Mapping[object, Parts], names: Sequence[str]) -> pd.DataFrame:
    """Write estimates as text, of the parts named: a row for each entry."""
    return pd.DataFrame(
        {
            row: {
                name: f"{e.value:.2f} [{e.low:.2f}, {e.high:.2f}], n {e.n}"
                for name in names
                if (e := own.get(name))
            }
            for row, own in parts.items()
        }
    ).T


def curve_table(curve: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Estimate the share read by step of training: line, step, value, low, high, n.

    curve: learned.curve(). Lines: readers and controls asked what they never trained
    on, and readers asked what they did. Sums over the training seeds; templates are
    drawn.
    """
    own = curve.template.map(fold_of) != curve.fold
    curve = curve.assign(line=curve.kind.where(~own, OWN))
    rows = []
    for (line, step), part in curve.groupby(["line", "step"], sort=False):
        sums = part.groupby("template")[["won", "room"]].sum()
        e = ratio(sums.won, sums.room, seed=seed)
        rows.append({"line": line, "step": step} | vars(e))
    return pd.DataFrame(rows)
