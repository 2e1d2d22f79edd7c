"""Writing prompts and greedy text: what the chains of notebook 01 are held against.

suite              the write-up's two prompts and n others
identity_rows, identity_parts    G1: one-hot mixtures against greedy
predictions        what a model expects at each step, in one pass without the loop
exactly            a counted number as an Estimate
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from experiments.hf_reference import generate_tokens
from experiments.scoring import equal_lengths, token_ids
from experiments.stats import Estimate, exact_estimate
from helpers import mixture, weight_rules
from helpers.decode import generate_concepts
from helpers.mixture import MixtureConfig

if TYPE_CHECKING:
    from helpers.models import LM

DEGENERATE = {  # part -> settings and rule under which a mixture is one token
    "mismatch_onehot": (MixtureConfig(), weight_rules.one_hot),
    "mismatch_k1": (MixtureConfig(top_k=1), mixture.sharpened),
    "mismatch_cold": (MixtureConfig(temperature=1e-30), mixture.sharpened),
    "mismatch_sharp": (MixtureConfig(alpha=1e30), mixture.sharpened),
}


def identity_rows(lm: LM, prompts: list[str], steps: int = 20) -> pd.DataFrame:
    """Whether each degenerate mixture writes what greedy decoding writes, to the id.

    Prompts of one length go together, for both: another batch shape rounds differently.
    """
    rows = []
    ids = token_ids(lm, prompts)
    for at in equal_lengths(ids):
        group = [ids[i] for i in at]
        found = generate_tokens(lm, group, "ids", steps)
        want = [out[len(group[0]) :] for out in found]
        for part, (config, rule) in DEGENERATE.items():
            trace = generate_concepts(
                lm, group, steps, config, weight_rule=rule, batch_size=len(group)
            )
            same = [a == b for a, b in zip(trace.tokens, want)]
            rows += [{"part": part, "equal": equal} for equal in same]
    return pd.DataFrame(rows)


def identity_parts(rows: pd.DataFrame) -> dict[str, Estimate]:
    """Number of prompts that differ, by part."""
    by_part = rows.groupby("part", sort=False).equal
    return {part: exact_estimate((~equal).sum(), len(equal)) for part, equal in by_part}
