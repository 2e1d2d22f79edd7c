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

    rows = table_4_1.table_rows({"mini-gpt2": mini}, PROMPTS[:2], true_next)
    sums = rows.groupby(["prompt", "setting", "step"]).prob.sum()
    assert np.allclose(sums.drop("raw", level="setting"), 1, atol=1e-3)
    assert set(rows.setting) == {*table_4_1.SETTINGS, "true"}
    wide = table_4_1.table_41(rows, claim_row("G6")["paper_value"])
    assert list(wide["write-up"])[0] == '77% "Paris", 8% "located"'
    assert len(wide) == 4 and "Paris" in wide["true"][0]
