"""Screen continuations by p_max: `python -m experiments.screen_prompts FOLDER...`

    largest_probabilities   p_max after each prompt
    screen                  fills a model folder's column of screening.csv

Candidates are the rows of suite "ambiguous" in natural_prompts.csv. A model reads each
as plain text, and the largest probability of its raw softmax after the last token (at
temperature 1) is kept, and nothing else: no mixture is formed or fed, no next word and
no text is looked at, so that nothing that the notebooks measure decides what they are
asked. `prompts.is_open` is the rule by which a candidate is used. Where fewer than 150
pass, or fewer than 100 are in range on one of the models, more candidates are written
and screened by the same rule; a candidate once screened stays in the table.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from experiments.prompts import SCREENING, natural_candidates
from experiments.scoring import token_ids
from harness.files import write_whole
from helpers.batching import next_logits
from helpers.models import load

if TYPE_CHECKING:
    from helpers.models import LM

BATCH = 16


def largest_probabilities(lm: LM, prompts: list[str]) -> list[float]:
    """Compute the probability of the likeliest next token after each prompt."""
    found = []
    for first in range(0, len(prompts), BATCH):
        rows = [lm.embed[ids] for ids in token_ids(lm, prompts[first : first + BATCH])]
        found += next_logits(lm, rows).softmax(-1).amax(-1).tolist()
    return found


def screen(folder: str, table: Path = SCREENING) -> None:
    """Screen with one model the candidates that it has not seen yet.

    The table has a row a candidate and a column a model, by its folder's name.
    """
    prompts = [item.prompt for item in natural_candidates()]
    found = pd.DataFrame(index=pd.Index(prompts, name="prompt"))
    if table.exists():
        found = found.join(pd.read_csv(table, index_col="prompt"))
    known = found.get(Path(folder).name, pd.Series(index=found.index, dtype=float))
    new = [prompt for prompt in prompts if pd.isna(known[prompt])]
    if new:
        known[new] = largest_probabilities(load(folder), new)
        found[Path(folder).name] = known.round(4)
        write_whole(table, found.to_csv(lineterminator="\n"))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        screen(name)
