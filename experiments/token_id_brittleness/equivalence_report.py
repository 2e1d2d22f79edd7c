"""All identity checks of one model in one row, and a swap that a reader can see (I2).

suite_prompts     the prompts of a set's suites
search_prompts    where to look for a counterexample
check_model       the four checks of id_equivalence -> one row
check_controls    the same for models that must, and must not, be caught
check_estimates   the row as parts of claim I2
report_table      rows as a table with headings
swapped_answers   two ids trade input rows: what the model then says
pick_marker       the token that the checks copy and swap
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd
import torch

from experiments.hf_reference import chat_ids, generate_tokens, truncate_at_eos
from experiments.scoring import token_ids
from experiments.stats import Estimate, bootstrap
from experiments.token_id_brittleness import id_equivalence, planted_models
from experiments.token_id_brittleness.perturbations import special_token_ids

if TYPE_CHECKING:
    from experiments.prompts import Item
    from helpers.models import LM

    Suites = Mapping[str, tuple[Item, ...]]

ROUNDING = 10  # decimals: what float64's rounding leaves of zero is not told
EDITED_PROMPTS = 100  # prompts of the three checks that edit the model, unless told
HEADINGS = {
    "model": "model",
    "prompts": "prompts",
    "counterexamples": "ids \u2260 vectors",
    "relabel_deviation": "renamed: \u0394 logit",
    "relabel_mismatches": "renamed: \u2260 argmax",
    "edited": "prompts with marker",
    "copy_mismatches": "copied row \u2260",
    "follows_row": "follows swapped row",
}


def search_prompts(
    lm: LM, prompts: list, n: int = 1000, seed: int = 0
) -> list[list[int]]:
    """List n prompts as ids: the given ones, each once, then random ones.

    prompts: texts or id lists (`suite_prompts`). Random ones hold 1 to 32 ids of the
    whole table, special and unused ones too.
    """
    rows = token_ids(lm, prompts) if prompts else []
    rows = [list(row) for row in dict.fromkeys(map(tuple, rows))][:n]
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 33, (n - len(rows),), generator=generator).tolist()
    size = lm.model.get_input_embeddings().weight.shape[0]
    return rows + [
        torch.randint(size, (length,), generator=generator).tolist()
        for length in lengths
    ]


def suite_prompts(lm: LM, asked: Suites) -> list:
    """List the prompts of a set's suites: texts, and before them instructions as ids
    in the chat template, where the model has one."""
    texts = [item.prompt for suite in asked.values() for item in suite]
    if lm.tokenizer.chat_template is None:
        return texts
    return chat_ids(lm, [item.prompt for item in asked["instructions"]]) + texts


def check_model(
    lm: LM, prompts: list[list[int]], seed: int = 0, edited: int = EDITED_PROMPTS
) -> dict:
    """Run all four checks on prompts given as ids -> one row.

    edited: at most so many prompts for the three checks that edit the model.
    Keys: model, prompts, relabelled (prompts of the second check), edited (of the last
    two), and
    counterexamples: prompts whose logits differ between ids and embeddings;
    relabel_deviation, relabel_mismatches: largest logit difference, and prompts with
    another argmax, after relabelling; copy_mismatches: prompts that a copied row
    changes; follows_row: share of prompts that follow a swapped row, an Estimate.
    """
    token, other = pick_marker(lm, prompts), _ordinary_token(lm, prompts)
    holding = [row for row in prompts if token in row][:edited]
    found = id_equivalence.check_id_embedding_equivalence(lm, prompts)
    renamed = id_equivalence.check_relabelling(lm, prompts[:edited], seed)
    largest = float(renamed["max_difference"].max(skipna=False))
    copied = id_equivalence.check_copied_row(lm, holding, token)
    swapped = id_equivalence.check_swapped_row(lm, holding, token, other)
    return {
        "model": lm.name.rstrip("/").split("/")[-1],
        "prompts": len(found),
        "relabelled": len(renamed),
        "edited": len(holding),
        "counterexamples": int((~found["equal"]).sum()),
        "relabel_deviation": round(largest, ROUNDING),
        "relabel_mismatches": int((~renamed["argmax_equal"]).sum()),
        "copy_mismatches": int((~copied["equal"]).sum()),
        "follows_row": bootstrap(swapped["follows_row"].astype(float), seed=seed),
    }


def check_controls(
    lm: LM,
    prompts: list[list[int]],
    n: int = 250,
    seed: int = 0,
    edited: int = EDITED_PROMPTS,
) -> list[dict]:
    """Run the checks on models whose answer is known -> rows.

    First lm with a planted look at the marker's id, on `prompts`, edited on at most
    `edited` of them; then random models of four architectures on n random prompts each,
    of which Gemma 3n sees ids.
    """
    planted = planted_models.looks_at_ids(lm, pick_marker(lm, prompts))
    rows = [check_model(planted, prompts, seed, edited)]
    for architecture in ("gpt2", "qwen2", "llama", "gemma3n"):
        lm = planted_models.random_model(architecture, seed)
        rows.append(check_model(lm, search_prompts(lm, [], n, seed), seed))
    return rows


def check_estimates(row: dict) -> dict[str, Estimate]:
    """I2's parts from a row of `check_model`."""
    sizes = {
        "counterexamples": row["prompts"],
        "relabel_deviation": row["relabelled"],
        "relabel_mismatches": row["relabelled"],
        "copy_mismatches": row["edited"],
    }
    counted = {k: Estimate.exact(row[k], n) for k, n in sizes.items()}
    return counted | {"follows_row": row["follows_row"]}


def report_table(rows: list[dict]) -> pd.DataFrame:
    """Rows of `check_model` as a table, with headings for a reader."""
    table = pd.DataFrame(
        [row | {"follows_row": row["follows_row"].value} for row in rows]
    )
    table["relabel_deviation"] = table["relabel_deviation"].map("{:.1g}".format)
    return table[list(HEADINGS)].rename(columns=HEADINGS).round(3)


def swapped_answers(
    lm: LM, prompts: list[list[int]], max_new_tokens: int = 24
) -> pd.DataFrame:
    """Show what the model says before and after its two markers trade input rows.

    The two commonest: start and end in Qwen's template; an ordinary token in place of
    the second where there is one marker only. The prompt shown is the first to which
    the model says something else once the two ids are exchanged. Columns: prompt (as it
    is, or exchanged), input rows, says: up to the first of the two that it writes,
    which it would read back by the other row.
    """
    token = pick_marker(lm, prompts)
    others = [[i for i in row if i != token] for row in prompts]
    markers = [[i for i in row if i in special_token_ids(lm)] for row in others]
    other = pick_marker(lm, markers) if any(markers) else _ordinary_token(lm, prompts)
    table, swapped = (
        lm.model.get_input_embeddings(),
        id_equivalence.swap_ids(lm, token, other),
    )
    trade = (table, "weight", table.weight[swapped])

    def says(ids, changes) -> list[int]:
        with id_equivalence.replaced(changes):
            new = generate_tokens(lm, [ids], "ids", max_new_tokens)[0][len(ids) :]
        return truncate_at_eos(new, (token, other))

    for row in prompts:
        pair = {"as it is": row, "ids exchanged": swapped[torch.tensor(row)].tolist()}
        found = [(name, "their own", says(ids, [])) for name, ids in pair.items()]
        if found[0][2] != found[1][2]:
            break
    found += [(name, "traded", says(ids, [trade])) for name, ids in pair.items()]
    frame = pd.DataFrame(found, columns=["prompt", "input rows", "says"])
    return frame.assign(says=lm.tokenizer.batch_decode(frame["says"].tolist()))


def pick_marker(lm: LM, prompts: list[list[int]]) -> int:
    """Pick the special token found in most prompts, if it is in a tenth of them; else
    the commonest token of all."""
    counts = Counter(i for row in prompts for i in sorted(set(row)))
    special = special_token_ids(lm)
    common = {
        i: n for i, n in counts.items() if i in special and 10 * n >= len(prompts)
    }
    common = common or counts
    return max(sorted(common), key=common.get)


def _ordinary_token(lm: LM, prompts: list[list[int]]) -> int:
    """An ordinary token from the middle of the vocabulary, not the marker."""
    avoid = {pick_marker(lm, prompts), *special_token_ids(lm)}
    return next(i for i in range(lm.used // 2, lm.used) if i not in avoid)
