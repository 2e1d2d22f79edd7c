"""Table 4.1 of the write-up, measured again (CLAIMS.md G6).

printed_weights   what the original runs printed (original/weights.csv)
table_rows        the weights of both vectors, by model and setting, and the truth
table_41          the printed weights beside the models', at the original's setting
fit_settings      how near each model and setting comes to the printed numbers
best_fit          the nearest of them for each prompt; weight_parts: G6's parts
tokenizer_cuts    how each model's tokenizer cuts a text
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pandas as pd

from experiments.prompts import SUITES
from experiments.stats import Estimate
from experiments.true_distribution import true_ahead
from harness.files import ROOT
from helpers.decode import generate_concepts
from helpers.mixture import MixtureConfig

if TYPE_CHECKING:
    from helpers.models import LM

AS_RUN = "T = 0.8, α = 1.5"  # the setting of the run that Table 4.1 is from
SETTINGS = {  # the three readings of "probability" in Table 4.1
    "raw": MixtureConfig.raw(),
    "T = 0.8": MixtureConfig(alpha=1.0),
    AS_RUN: MixtureConfig(),
}
COLUMNS = ["prompt", "setting", "step", "token", "prob"]


def printed_weights() -> pd.DataFrame:
    """Read original/weights.csv: model, prompt, vector, token, weight, read_from."""
    return pd.read_csv(ROOT / "original" / "weights.csv", keep_default_na=False)


def table_rows(
    lms: dict[str, LM],
    prompts: list[str],
    true_next: Callable | None = None,
    top: int = 50,
) -> pd.DataFrame:
    """The weights of both vectors after each prompt, by model and setting.

    true_next: that of models.corpus, for the models it is true of; gives the setting
    "true" for the prompts that the corpus can say. Its second step is the mean over the
    first token, by its probability.
    """
    frames = []
    for name, lm in lms.items():
        for setting, config in SETTINGS.items():
            trace = generate_concepts(lm, prompts, 2, config, stop_at_eos=False)
            rows = trace.to_frame(top).assign(setting=setting, model=name)
            frames.append(rows.assign(prompt=[prompts[i] for i in rows.prompt]))
        for prompt in prompts if true_next else []:
            frames.append(_true_rows(lm, prompt, true_next, top).assign(model=name))
    return pd.concat(frames)[[*COLUMNS, "model"]]


def _true_rows(lm: LM, prompt: str, true_next: Callable, top: int) -> pd.DataFrame:
    rows: list[tuple] = []
    try:
        first = true_next(lm.tokenizer, prompt)
    except ValueError:  # the corpus never says this prompt
        return pd.DataFrame(rows, columns=COLUMNS).astype({"prob": float})
    ahead = true_ahead(true_next, lm.tokenizer, prompt)
    for step, probs in enumerate((first, ahead), 1):
        if probs is not None:
            p, ids = probs.topk(min(top, int((probs > 0).sum())))
            tokens = (lm.tokenizer.decode([i]) for i in ids.tolist())
            rows += [(prompt, "true", step, *pair) for pair in zip(tokens, p.tolist())]
    return pd.DataFrame(rows, columns=COLUMNS)


def format_top_tokens(rows: pd.DataFrame, top: int = 2) -> str:
    """Write tokens with their weights as Table 4.1 does: 77% "Paris", 8% "located"."""
    best = rows.nlargest(top, "prob", keep="first")
    return ", ".join(f'{100 * p:.0f}% "{t}"' for t, p in zip(best.token, best.prob))


def table_41(rows: pd.DataFrame) -> pd.DataFrame:
    """The two heaviest tokens of each vector: one line a prompt and vector.

    Columns: what each original model printed, then each model of table_rows at the
    setting of that run, then the truth where it is known, at none.
    """
    printed = printed_weights().rename(columns={"vector": "step", "weight": "prob"})
    columns = {
        f"printed: {model.split('/')[-1]}": own
        for model, own in printed.groupby("model", sort=False)
    }
    own = rows[rows.setting == AS_RUN]
    columns |= dict(iter(own.groupby("model", sort=False)))
    known = rows[rows.setting == "true"]
    if len(known):
        columns["true, raw"] = known[known.model == known.model.iloc[0]]
    lines = []
    for (prompt, step), _ in printed.groupby(["prompt", "step"], sort=False):
        line = {"Prompt": prompt, "Vector": step}
        for column, frame in columns.items():
            here = frame[(frame.prompt == prompt) & (frame.step == step)]
            line[column] = format_top_tokens(here)
        lines.append(line)
    return pd.DataFrame(lines)


def paper_cells(paper: str) -> pd.DataFrame:
    """Read "france:1:Paris=0.77|..." -> cell, prompt, step, token, prob."""
    prompts = dict(zip(("france", "sum"), (i.prompt for i in SUITES["writeup"])))
    rows = []
    for entry in paper.split("|"):
        cell, prob = entry.rsplit("=", 1)
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
    fitted, printed = [], paper_cells(paper)
    keys = ["prompt", "model", "setting"]
    for key, own in rows[rows.setting != "true"].groupby(keys, sort=False):
        prompt, model, setting = key
        entries = printed[printed.prompt == prompt].copy()
        entries["weight"] = [_weight(own, entry) for entry in entries.itertuples()]
        error = (entries.weight - entries.prob).abs().mean()
        fitted.append(entries.assign(model=model, setting=setting, error=error))
    return pd.concat(fitted, ignore_index=True)


def _weight(rows: pd.DataFrame, entry) -> float:
    own = rows[rows.step == entry.step]
    return sum(p for t, p in zip(own.token, own.prob) if _same(t, entry.token))


def _same(token: str, entry: str) -> bool:
    return token == entry if not entry.strip() else token.strip() == entry


def best_fit(fitted: pd.DataFrame) -> pd.DataFrame:
    """The rows of fit_settings under the (model, setting) nearest to each prompt."""
    best = fitted.loc[fitted.groupby("prompt", sort=False).error.idxmin()]
    keys = ["prompt", "model", "setting"]
    return fitted.merge(best[keys], on=keys)


def weight_parts(best: pd.DataFrame) -> dict[str, dict[str, Estimate]]:
    """G6's part, by cell of the printed table: the weight found for its token."""
    weights = zip(best.cell, best.weight)
    return {cell: {"weight": Estimate.exact(weight, 1)} for cell, weight in weights}


def tokenizer_cuts(lms: dict[str, LM], text: str) -> pd.DataFrame:
    """The tokens of a text, one row a model."""
    cuts = {
        name: lm.tokenizer.convert_ids_to_tokens(lm.tokenizer(text)["input_ids"])
        for name, lm in lms.items()
    }
    return pd.Series(cuts, name=f'tokens of "{text}"').to_frame()
