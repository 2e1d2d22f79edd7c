"""The identity checks of one model in one row, and a swap that a reader can see (I2).

    search_prompts    where to look for a counterexample
    audit             all four checks -> one row: what a second track would show
    parts             the row as parts of claim I2
    swapped_answers   two ids trade input rows: what the model then says
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import torch

from . import identity
from .disturbing import special
from .slicing import generated
from .stats import bootstrap

if TYPE_CHECKING:
    from .models import LM

FEW = 200  # prompts of the three checks that edit the model


def search_prompts(
    lm: LM, texts: list, n: int = 1000, seed: int = 0
) -> list[list[int]]:
    """The texts' ids (texts or id lists), each once, then random ids: n prompts.

    Random prompts hold 1 to 32 ids of the whole table, special and unused ones too.
    """
    rows = identity.token_ids(lm, texts) if len(texts) else []
    rows = [list(row) for row in dict.fromkeys(map(tuple, rows))][:n]
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 33, (n - len(rows),), generator=draw).tolist()
    size = lm.model.get_input_embeddings().weight.shape[0]
    return rows + [torch.randint(size, (k,), generator=draw).tolist() for k in lengths]


def audit(lm: LM, prompts: list[list[int]], seed: int = 0) -> dict:
    """One row: model, prompts, edited (prompts of the last two), and what they found.

    counterexamples: prompts whose logits differ between ids and embeddings.
    relabel_deviation, relabel_mismatches: largest logit difference, and prompts with
    another argmax, after relabelling. copy_mismatches: prompts that a copied row
    changes. follows_row: share of prompts that follow a swapped row. The token copied
    and swapped is the special one found in most prompts, else the commonest.
    """
    token = _marker(lm, prompts)
    held = [row for row in prompts if token in row][:FEW]
    found = identity.check_id_embedding_equivalence(lm, prompts)
    renamed = identity.check_relabelling(lm, prompts[:FEW], seed)
    copied = identity.check_copied_row(lm, held, token)
    swapped = identity.check_swapped_row(lm, held, _ordinary(lm, prompts), token)
    return {
        "model": lm.name, "prompts": len(found), "edited": len(held),
        "counterexamples": int((~found["equal"]).sum()),
        "relabel_deviation": float(renamed["max_difference"].max(skipna=False)),
        "relabel_mismatches": int((~renamed["argmax_equal"]).sum()),
        "copy_mismatches": int((~copied["equal"]).sum()),
        "follows_row": bootstrap(swapped["follows_row"].astype(float), seed=seed),
    }  # fmt: skip


def parts(row: dict) -> dict[str, tuple]:
    """I2's parts of one audit: name -> (value or Estimate, n)."""
    few = min(FEW, row["prompts"])
    sizes = {
        "counterexamples": row["prompts"], "relabel_deviation": few,
        "relabel_mismatches": few, "copy_mismatches": row["edited"],
        "follows_row": row["edited"],
    }  # fmt: skip
    return {name: (row[name], n) for name, n in sizes.items()}


def frame(rows: list[dict]) -> pd.DataFrame:
    """Audits as a table."""
    values = [row | {"follows_row": row["follows_row"].value} for row in rows]
    return pd.DataFrame(values)


def swapped_answers(lm: LM, ids: list[int], max_new_tokens: int = 24) -> pd.DataFrame:
    """What the model says to a prompt that holds its marker's id, or another id there,
    before and after the two ids trade input rows: id, row (whose it is), text."""
    token = _marker(lm, [ids])
    other = _ordinary(lm, [ids])
    table = lm.model.get_input_embeddings()
    traded = torch.arange(table.weight.shape[0], device=lm.device)
    traded[[token, other]] = traded[[other, token]]
    names = {i: lm.tokenizer.decode([i]) for i in (token, other)}
    rows = []
    for swap in (False, True):
        for fed in (token, other):
            given = [fed if i == token else i for i in ids]
            with identity.replaced([(table, "weight", table.weight[traded])] * swap):
                new = _say(lm, given, max_new_tokens)
            row = {token: other, other: token}[fed] if swap else fed
            rows.append((names[fed], names[row], lm.tokenizer.decode(new)))
    return pd.DataFrame(rows, columns=["id fed", "input row", "says"])


def _say(lm, ids, max_new_tokens) -> list[int]:
    return generated(lm, [ids], "ids", max_new_tokens)[0][len(ids) :]


def _marker(lm, prompts) -> int:
    """The special token found in most prompts; without one, the commonest token."""
    known = special(lm) if lm.tokenizer is not None else set()
    counts: dict[int, int] = {}
    for row in prompts:
        for i in set(row):
            counts[i] = counts.get(i, 0) + 1
    kept = {i: n for i, n in counts.items() if i in known} or counts
    return max(sorted(kept), key=kept.get)


def _ordinary(lm, prompts) -> int:
    """An ordinary token, of the middle of the vocabulary, that is not the marker."""
    avoid = {_marker(lm, prompts), *(special(lm) if lm.tokenizer is not None else ())}
    return next(i for i in range(lm.used // 2, lm.used) if i not in avoid)
