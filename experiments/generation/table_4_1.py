"""Table 4.1 of the write-up, measured again (CLAIMS.md G6).

table_rows         the weights of both vectors, by setting, beside the truth
table_41, said     laid out as the write-up prints it
fits, best_fit     how near each model and setting comes to the printed numbers
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from experiments.prompts import SUITES
from experiments.true_distribution import true_ahead
from helpers.decode import generate_concepts
from helpers.mixture import MixtureConfig

if TYPE_CHECKING:
    from helpers.models import LM

SETTINGS = {  # the three readings of "probability" in Table 4.1
    "raw": MixtureConfig.raw(),
    "T = 0.8": MixtureConfig(alpha=1.0),
    "T = 0.8, α = 1.5": MixtureConfig(),
}


def table_rows(lm: LM, prompts: list[str], truth=None, top: int = 50) -> pd.DataFrame:
    """The weights of both vectors after each prompt, under each setting.

    truth: true_next of models.corpus, for the models it is true of; gives the setting
    "true", whose second step is the mean over the first token, by its probability.
    Columns prompt, setting, step (from 1), token, prob.
    """
    frames = []
    for setting, config in SETTINGS.items():
        trace = generate_concepts(lm, prompts, 2, config, stop_at_eos=False)
        frames.append(trace.to_frame(top).assign(setting=setting))
    frame = pd.concat(frames, ignore_index=True)
    frame["prompt"] = [prompts[i] for i in frame.prompt]
    if truth:
        frame = pd.concat([frame, *(_true_rows(lm, p, truth, top) for p in prompts)])
    return frame[["prompt", "setting", "step", "token", "prob"]]


def _true_rows(lm, prompt, truth, top):
    steps = (truth(lm.tokenizer, prompt), true_ahead(truth, lm.tokenizer, prompt))
    rows = []
    for step, probs in enumerate(steps, 1):
        if probs is not None:
            p, ids = probs.topk(min(top, int((probs > 0).sum())))
            tokens = (lm.tokenizer.decode([i]) for i in ids.tolist())
            rows += [(prompt, "true", step, *pair) for pair in zip(tokens, p.tolist())]
    return pd.DataFrame(rows, columns=["prompt", "setting", "step", "token", "prob"])


def format_top_tokens(rows: pd.DataFrame, top: int = 2) -> str:
    """Tokens with their weights as Table 4.1 writes them: 77% "Paris", 8% "located"."""
    best = rows.nlargest(top, "prob", keep="first")
    return ", ".join(f'{100 * p:.0f}% "{t}"' for t, p in zip(best.token, best.prob))


def table_41(rows: pd.DataFrame, paper: str) -> pd.DataFrame:
    """Table 4.1 with the settings side by side: one line a prompt, vector and model.

    rows: table_rows with a column `model`; paper: G6's paper_value."""
    printed = paper_cells(paper)
    keys = ["prompt", "step", "model"]
    order = {setting: None for setting in rows.setting}
    lines = []
    for (prompt, step, model), own in rows.groupby(keys, sort=False):
        there = printed[(printed.prompt == prompt) & (printed.step == step)]
        cells = {s: format_top_tokens(own[own.setting == s]) for s in order}
        lines.append({"Prompt": prompt, "Vector": step, "Model": model,
                      "write-up": format_top_tokens(there), **cells})  # fmt: skip
    frame = pd.DataFrame(lines)
    return frame.sort_values(["Prompt", "Vector"], kind="stable", ignore_index=True,
                             key=lambda c: pd.factorize(c)[0])  # fmt: skip


def paper_cells(paper: str) -> pd.DataFrame:
    """ "france:1:Paris=0.77|..." -> cell, prompt, step, token, prob."""
    prompts = dict(zip(("france", "sum"), (i.prompt for i in SUITES["writeup"])))
    rows = []
    for pair in paper.split("|"):
        cell, prob = pair.rsplit("=", 1)
        name, step, token = cell.split(":")
        token = " " if token == "space" else token
        rows.append((cell, prompts[name], int(step), token, float(prob)))
    return pd.DataFrame(rows, columns=["cell", "prompt", "step", "token", "prob"])


def fit_settings(rows: pd.DataFrame, paper: str) -> pd.DataFrame:
    """How each model and setting fits the four entries printed for a prompt.

    One row an entry: its weight there, and `error`, the mean distance over the four. A
    token counts for an entry when it is the same but for spaces around it; an entry
    that is a space is met by a space only.
    """
    out, printed = [], paper_cells(paper)
    keys = ["prompt", "model", "setting"]
    for key, own in rows[rows.setting != "true"].groupby(keys, sort=False):
        prompt, model, setting = key
        entries = printed[printed.prompt == prompt].copy()
        entries["weight"] = [_weight(own, e) for e in entries.itertuples()]
        error = (entries.weight - entries.prob).abs().mean()
        out.append(entries.assign(model=model, setting=setting, error=error))
    return pd.concat(out, ignore_index=True)


def best_fit(fitted: pd.DataFrame) -> pd.DataFrame:
    """The rows of `fits` under the one (model, setting) that fits each prompt best."""
    best = fitted.loc[fitted.groupby("prompt", sort=False).error.idxmin()]
    keys = ["prompt", "model", "setting"]
    return fitted.merge(best[keys], on=keys)


def _weight(rows: pd.DataFrame, entry) -> float:
    there = rows[rows.step == entry.step]
    return sum(p for t, p in zip(there.token, there.prob) if _same(t, entry.token))


def _same(token: str, entry: str) -> bool:
    return token == entry if not entry.strip() else token.strip() == entry
