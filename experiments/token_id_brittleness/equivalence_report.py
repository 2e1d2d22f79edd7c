"""The identity checks of one model in one row, and a swap that a reader can see (I2).

search_prompts    where to look for a counterexample
audit             all four checks -> one row: what a second track would show
parts             the row as parts of claim I2
swapped_answers   two ids trade input rows: what the model then says
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pandas as pd
import torch

from experiments import scoring
from experiments.hf_reference import generate_tokens, truncate_at_eos
from experiments.stats import bootstrap
from experiments.token_id_brittleness import id_equivalence
from experiments.token_id_brittleness.perturbations import special_token_ids

if TYPE_CHECKING:
    from helpers.models import LM

FEW = 100  # prompts of the three checks that edit the model


def search_prompts(
    lm: LM, texts: list, n: int = 1000, seed: int = 0
) -> list[list[int]]:
    """The texts' ids (texts or id lists), each once, then random ids: n prompts.

    Random prompts hold 1 to 32 ids of the whole table, special and unused ones too.
    """
    rows = scoring.token_ids(lm, texts) if len(texts) else []
    rows = [list(row) for row in dict.fromkeys(map(tuple, rows))][:n]
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 33, (n - len(rows),), generator=draw).tolist()
    size = lm.model.get_input_embeddings().weight.shape[0]
    return rows + [torch.randint(size, (k,), generator=draw).tolist() for k in lengths]


def equivalence_report(lm: LM, prompts: list[list[int]], seed: int = 0) -> dict:
    """One row: model, prompts, edited (prompts of the last two), and what they found.

    counterexamples: prompts whose logits differ between ids and embeddings.
    relabel_deviation, relabel_mismatches: largest logit difference, and prompts with
    another argmax, after relabelling. copy_mismatches: prompts that a copied row
    changes. follows_row: share of prompts that follow a swapped row. The token copied
    and swapped is the special one found in most prompts, else the commonest.
    """
    token = pick_marker(lm, prompts)
    held = [row for row in prompts if token in row][:FEW]
    found = id_equivalence.check_id_embedding_equivalence(lm, prompts)
    renamed = id_equivalence.check_relabelling(lm, prompts[:FEW], seed)
    copied = id_equivalence.check_copied_row(lm, held, token)
    swapped = id_equivalence.check_swapped_row(lm, held, _ordinary(lm, prompts), token)
    name = lm.name.rstrip("/").split("/")[-1]
    return {
        "model": name, "prompts": len(found), "edited": len(held),
        "counterexamples": int((~found["equal"]).sum()),
        "relabel_deviation": float(renamed["max_difference"].max(skipna=False)),
        "relabel_mismatches": int((~renamed["argmax_equal"]).sum()),
        "copy_mismatches": int((~copied["equal"]).sum()),
        "follows_row": bootstrap(swapped["follows_row"].astype(float), seed=seed),
    }  # fmt: skip


def equivalence_estimates(row: dict) -> dict[str, tuple]:
    """I2's parts of one audit: name -> (value or Estimate, n)."""
    few = min(FEW, row["prompts"])
    sizes = {
        "counterexamples": row["prompts"], "relabel_deviation": few,
        "relabel_mismatches": few, "copy_mismatches": row["edited"],
        "follows_row": row["edited"],
    }  # fmt: skip
    return {name: (row[name], n) for name, n in sizes.items()}


def equivalence_frame(rows: list[dict]) -> pd.DataFrame:
    """Audits as a table, with headings for a reader."""
    heads = {
        "model": "model", "prompts": "prompts", "counterexamples": "ids \u2260 vectors",
        "relabel_deviation": "renamed: \u0394 logit",
        "relabel_mismatches": "renamed: \u2260 argmax", "edited": "prompts with marker",
        "copy_mismatches": "copied row \u2260", "follows_row": "follows swapped row",
    }  # fmt: skip
    values = [row | {"follows_row": row["follows_row"].value} for row in rows]
    table = pd.DataFrame(values)
    table["relabel_deviation"] = table["relabel_deviation"].map("{:.1g}".format)
    return table[list(heads)].rename(columns=heads).round(3)


def swapped_answers(
    lm: LM, prompts: list[list[int]], max_new_tokens: int = 24
) -> pd.DataFrame:
    """What the model says before and after its two commonest markers trade input rows.

    Start and end in Qwen's template; an ordinary token where there is one marker only.
    The prompt shown is the first of `prompts` to which the model says something else
    once the two ids are exchanged. Columns: prompt (as it is, or exchanged), input
    rows, says: up to the first of the two that it writes, which it would read back by
    the other row.
    """
    token = pick_marker(lm, prompts)
    others = [[i for i in row if i != token] for row in prompts]
    kept = [[i for i in row if i in special_token_ids(lm)] for row in others]
    other = pick_marker(lm, kept) if any(kept) else _ordinary(lm, prompts)
    table = lm.model.get_input_embeddings()
    traded = torch.arange(table.weight.shape[0], device=lm.device)
    traded[[token, other]] = traded[[other, token]]

    def says(row, swap) -> list[int]:
        with id_equivalence.replaced([(table, "weight", table.weight[traded])] * swap):
            new = generate_tokens(lm, [row], "ids", max_new_tokens)[0][len(row) :]
        return truncate_at_eos(new, (token, other))

    for row in prompts:
        pair = {"as it is": row, "ids exchanged": traded[torch.tensor(row)].tolist()}
        found = [(name, "their own", says(ids, False)) for name, ids in pair.items()]
        if found[0][2] != found[1][2]:
            break
    found += [(name, "traded", says(ids, True)) for name, ids in pair.items()]
    frame = pd.DataFrame(found, columns=["prompt", "input rows", "says"])
    return frame.assign(says=lm.tokenizer.batch_decode(frame["says"].tolist()))


def pick_marker(lm: LM, prompts: list[list[int]]) -> int:
    """The special token found in most prompts, if in a tenth of them; else the
    commonest token of all."""
    counts = Counter(i for row in prompts for i in sorted(set(row)))
    known = special_token_ids(lm) if lm.tokenizer is not None else set()
    kept = {i: n for i, n in counts.items() if i in known and 10 * n >= len(prompts)}
    kept = kept or counts
    return max(sorted(kept), key=kept.get)


def _ordinary(lm, prompts) -> int:
    """An ordinary token from the middle of the vocabulary, not the marker."""
    avoid = {
        pick_marker(lm, prompts),
        *(special_token_ids(lm) if lm.tokenizer is not None else ()),
    }
    return next(i for i in range(lm.used // 2, lm.used) if i not in avoid)
