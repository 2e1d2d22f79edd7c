"""The weight rules compared in notebook 05, each with its source's settings.

    weight_rules        name -> settings and rule; those in DRAWN draw from the seed
    settings_table      the same for reading, with the source of each
    mismatches          W1's parts: prompts whose tokens are not greedy decoding's

Formulas and sources are in helpers.weight_rules.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from experiments.stats import Estimate
from helpers import weight_rules as rules
from helpers.decode import generate_concepts
from helpers.mixture import MixtureConfig, WeightRule, sharpened

if TYPE_CHECKING:
    from helpers.models import LM

Rule = tuple[MixtureConfig, WeightRule]

OWN, SOFT, SAMPLED = "write-up", "Soft Thinking", "sampling"
RESTORED, DIVIDED = "norm restored", "divided by ||p||"
DRAWN = ("Gumbel", "SofT-GRPO", "Dirichlet", "Mixture of Inputs", "mean of 4 draws")
SOURCES = {
    OWN: "write-up 3.1",
    RESTORED: "the write-up's weights",
    DIVIDED: "HRPO, 2505.18454; the write-up's weights",
    SOFT: "2505.15778",
    "CIPHER": "2310.06272",
    "Gumbel": "2508.03440",
    "SofT-GRPO": "zz1358m/SofT-GRPO-master",
    "Dirichlet": "2508.03440",
    "Mixture of Inputs": "2505.14827",
    "mean of 4 draws": "CoT2, 2505.23648",
}
N_IDENTITY = 50  # prompts on which W1 is tried: what its rule counts
COLD = 1e-9  # a temperature at which the likeliest token has all weight


def weight_rules(seed: int = 0) -> dict[str, Rule]:
    """List the rules: the write-up's first, those of DRAWN last."""
    own = MixtureConfig()
    soft = MixtureConfig.raw(top_k=30, temperature=0.6)
    kept = rules.soft_thinking(top_p=0.95, min_p=0.001, max_tokens=15)
    inputs = MixtureConfig.raw(top_k=50, temperature=0.6)
    return {
        OWN: (own, sharpened),
        RESTORED: (replace(own, norm="restore"), sharpened),
        DIVIDED: (replace(own, norm="over_l2"), sharpened),
        SOFT: (soft, kept),
        "CIPHER": (MixtureConfig.raw(), rules.cipher()),
        "Gumbel": (soft, rules.gumbel(seed, 0.5, kept)),
        "SofT-GRPO": (soft, rules.soft_grpo(seed, 0.5, 1.0, kept)),
        "Dirichlet": (soft, rules.dirichlet(seed, 4.0, kept)),
        "Mixture of Inputs": (inputs, rules.mixture_of_inputs(seed, 1.0)),
        "mean of 4 draws": (MixtureConfig.raw(), rules.mean_of_draws(seed, 4)),
    }


def sampling(seed: int = 0) -> Rule:
    """Ordinary sampling from Soft Thinking's weights: one token, no mixture."""
    config, kept = weight_rules()[SOFT]
    return config, rules.sampled(seed, kept)


def settings_table() -> pd.DataFrame:
    """List each rule's source and settings."""
    rows = [
        {
            "rule": name,
            "source": SOURCES[name],
            "T": config.temperature,
            "top-k": "all" if name == "CIPHER" else config.top_k,
            "alpha": config.alpha,
            "norm": config.norm,
            "draws": name in DRAWN,
        }
        for name, (config, _) in weight_rules().items()
    ]
    return pd.DataFrame(rows).set_index("rule")


def mismatches(
    lm: LM, prompts: list[str], steps: int, seed: int = 0
) -> dict[str, dict[str, Estimate]]:
    """Count prompts whose top tokens differ from greedy's at temperature COLD, by rule.

    Greedy decoding is the same loop, fed the top token alone.
    """
    how = {"batch_size": len(prompts)}
    greedy = generate_concepts(
        lm, prompts, steps, MixtureConfig(mode="discrete"), **how
    ).tokens
    found = {}
    for name, (config, rule) in (
        weight_rules(seed) | {SAMPLED: sampling(seed)}
    ).items():
        cold = replace(config, temperature=COLD)
        own = generate_concepts(lm, prompts, steps, cold, weight_rule=rule, **how)
        different = sum(a != b for a, b in zip(own.tokens, greedy))
        found[name] = {"mismatch": Estimate.exact(different, len(prompts))}
    return found
