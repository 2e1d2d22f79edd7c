"""Table 4.1: read, fitted, laid out beside the truth."""

import numpy as np
import pandas as pd

from experiments.generation import table_4_1
from harness.claims import claim_row

PROMPTS = ["The capital of France is", "2 plus 2 equals", "The baker feeds the"]


def test_table_4_1_is_read_and_fitted():
    paper = claim_row("G6")["paper_value"]
    cells = table_4_1.paper_cells(paper)
    assert len(cells) == 8 and cells.token[4] == " "
    rows = cells.assign(setting="raw", model="right")[
        ["prompt", "setting", "step", "token", "prob", "model"]
    ]
    rows["token"] = [t if t == " " else f" {t}" for t in rows.token]
    wrong = rows.assign(prob=0.5, model="wrong")
    best = table_4_1.best_fit(table_4_1.fit_settings(pd.concat([wrong, rows]), paper))
    assert set(best.model) == {"right"} and (best.weight == best.prob).all()
    assert table_4_1.format_top_tokens(rows[:2]) == '77% " Paris", 8% " located"'


def test_the_table_stands_beside_the_truth(mini):
    from models.corpus import true_next

    prompts = table_4_1.printed_weights().prompt.unique().tolist()
    rows = table_4_1.table_rows({"mini-gpt2": mini}, prompts, true_next)
    sums = rows.groupby(["prompt", "setting", "step"]).prob.sum()
    assert np.allclose(sums.drop("raw", level="setting"), 1, atol=1e-3)
    assert set(rows.setting) == {*table_4_1.SETTINGS, "true"}
    wide = table_4_1.table_41(rows)
    qwen, gpt2 = wide["printed: Qwen2.5-1.5B-Instruct"], wide["printed: gpt2"]
    assert qwen[0] == '77% " Paris", 8% " located"'
    assert gpt2[1] == '55% " capital", 20% " city"'
    own = rows[(rows.setting == table_4_1.AS_RUN) & (rows.prompt == prompts[0])]
    top = table_4_1.format_top_tokens(own[own.step == 1])
    assert wide["mini-gpt2"][0] == top
    assert len(wide) == 6 and "Paris" in wide["true, raw"][0]
    assert list(wide["true, raw"][4:]) == ["", ""]  # the corpus never says this prompt


def test_what_the_table_prints_is_what_the_original_printed():
    """The eight entries of Table 4.1 are among original/weights.csv."""
    cells = table_4_1.paper_cells(claim_row("G6")["paper_value"])
    printed = table_4_1.printed_weights()
    printed = printed[printed.model.str.startswith("Qwen")]
    for cell in cells.itertuples():
        here = printed[(printed.prompt == cell.prompt) & (printed.vector == cell.step)]
        named = here.token.isin([cell.token, f" {cell.token}"])
        assert list(here[named].weight) == [cell.prob]
