"""Mixtures whose whole weight lies on one token, against greedy decoding (G1).

identity_rows    one row a prompt and kind of mixture: does the text agree?
identity_parts   G1's parts: how many prompts differ
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from experiments.hf_reference import generate_tokens
from experiments.scoring import equal_length_batches, token_ids
from experiments.stats import Estimate
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


def identity_rows(lm: LM, prompts: list[str], steps: int = 20) -> pd.DataFrame:
    """Compare each one-token mixture with greedy `generate`: columns part, equal.

    Prompts of one length go together, for both: another batch shape rounds differently.
    """
    rows = []
    all_ids = token_ids(lm, prompts)
    for positions in equal_length_batches(all_ids):
        ids = [all_ids[i] for i in positions]
        greedy = [out[len(ids[0]) :] for out in generate_tokens(lm, ids, "ids", steps)]
        for part, (config, rule) in ONE_TOKEN.items():
            trace = generate_concepts(
                lm, ids, steps, config, weight_rule=rule, batch_size=len(ids)
            )
            rows += [(part, a == b) for a, b in zip(trace.tokens, greedy)]
    return pd.DataFrame(rows, columns=["part", "equal"])


def identity_parts(rows: pd.DataFrame) -> dict[str, Estimate]:
    """Count the prompts that differ, by part."""
    by_part = rows.groupby("part", sort=False).equal
    return {part: Estimate.exact((~equal).sum(), len(equal)) for part, equal in by_part}
