"""Mixtures whose whole weight lies on one token, against greedy decoding (G1).

identity_rows    one row a comparison: prompt, kind of mixture, do the ids agree?
identity_parts   G1's parts: how many prompts differ
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from experiments.hf_reference import generate_tokens
from experiments.scoring import MOST_ROWS, equal_length_batches, token_ids
from experiments.stats import Estimate
from helpers.batching import supports_left_padding
from helpers.decode import generate_concepts
from helpers.mixture import MixtureConfig, sharpened
from helpers.weight_rules import one_hot

if TYPE_CHECKING:
    from helpers.models import LM

ONE_TOKEN = {  # part -> settings and weight rule under which a mixture is one token
    "mismatch_onehot": (MixtureConfig(), one_hot),
    "mismatch_k1": (MixtureConfig(top_k=1), sharpened),
    "mismatch_cold": (MixtureConfig(temperature=1e-30), sharpened),
    "mismatch_sharp": (MixtureConfig(alpha=1e30), sharpened),
}


def identity_rows(
    lm: LM, prompts: list[str], steps: int = 20, alone: int = 8
) -> pd.DataFrame:
    """Compare each one-token mixture with greedy `generate`: part, prompt, equal.

    Prompts go left-padded in one batch, the same for both: another batch rounds
    differently. Models that cannot be padded get batches of one length. One-hot weights
    are compared once more for `alone` of the prompts, one at a time.
    """
    ids = token_ids(lm, prompts)
    batches = equal_length_batches(ids)
    if supports_left_padding(lm.model):
        numbers = list(range(len(ids)))
        batches = [numbers[i : i + MOST_ROWS] for i in numbers[::MOST_ROWS]]
    one_hot_only = {"mismatch_onehot": ONE_TOKEN["mismatch_onehot"]}
    runs = [(batch, ONE_TOKEN) for batch in batches]
    runs += [([i], one_hot_only) for i in range(0, len(ids), -(-len(ids) // alone))]
    rows = []
    for batch, kinds in runs:
        some = [ids[i] for i in batch]
        longest = max(map(len, some))
        greedy = generate_tokens(lm, some, "ids", steps, padded=True)
        for part, (config, rule) in kinds.items():
            trace = generate_concepts(
                lm, some, steps, config, weight_rule=rule, batch_size=len(batch)
            )
            equal = [a == b[longest:] for a, b in zip(trace.tokens, greedy)]
            rows += zip([part] * len(batch), batch, equal)
    return pd.DataFrame(rows, columns=["part", "prompt", "equal"])


def identity_parts(rows: pd.DataFrame) -> dict[str, Estimate]:
    """Count the prompts that differ in any comparison, by part."""
    equal = rows.groupby(["part", "prompt"], sort=False).equal.all()
    return {
        part: Estimate.exact((~own).sum(), len(own))
        for part, own in equal.groupby("part", sort=False)
    }
