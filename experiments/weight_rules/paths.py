"""Does a chain of concept tokens leave the path of greedy decoding? (W4)

    path_rows      one row a kind of chain, draw and prompt: agreement with greedy
    path_parts     W4's parts, by rule
    path_steps     agreement step by step, for a figure

Compared is the model's likeliest token, whatever was fed, from step 2 on: the first is
read off the prompt. Intervals draw whole templates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
import torch

from experiments.hf_reference import truncate_at_eos
from experiments.stats import Estimate, bootstrap, clustered, paired_difference
from experiments.weight_rules.rules import (
    DRAWN,
    OWN,
    SAMPLED,
    SOFT,
    sampling,
    weight_rules,
)
from helpers.decode import generate_concepts
from helpers.mixture import MixtureConfig, WeightRule, sharpened
from helpers.step_modes import Feedback, hidden_state

if TYPE_CHECKING:
    from experiments.prompts import Item
    from helpers.models import LM

HIDDEN = "hidden state"
FEWEST = 10  # chains that a share at one step is worked out from
AXES = {"x": "step", "y": "share", "by": "kind", "low": "low", "high": "high"}
AXES |= {"panel": "model", "ylabel": "share with greedy's token"}


def path_rows(
    lm: LM, items: Sequence[Item], steps: int, draws: int = 2, seed: int = 0
) -> pd.DataFrame:
    """Compare chains with greedy decoding: kind, draw, prompt, template, equal.

    equal: at each step from 2 on, up to the end of the greedy chain, whether the
    model's likeliest token is greedy's; agreement: their mean. Prompts whose greedy
    chain ends at once are left out. Kinds: the rules, ordinary sampling, and the last
    hidden state at the embeddings' mean norm.
    """
    prompts = [item.prompt for item in items]
    greedy = [
        truncate_at_eos(ids, lm.eos_ids)
        for ids in _tops(lm, prompts, steps, MixtureConfig(mode="discrete"))
    ]
    rows = []
    for draw in range(draws):
        kinds = weight_rules(seed + draw) | {SAMPLED: sampling(seed + draw)}
        chains = {
            kind: _tops(lm, prompts, steps, *how)
            for kind, how in kinds.items()
            if not draw or kind in (*DRAWN, SAMPLED)
        }
        if not draw:
            feed = hidden_state(lm)
            chains[HIDDEN] = _tops(lm, prompts, steps, MixtureConfig(), feedback=feed)
        for kind, tops in chains.items():
            for b, (ids, right) in enumerate(zip(tops, greedy)):
                equal = tuple(x == y for x, y in zip(ids[1:], right[1:]))
                if equal:
                    rows.append((kind, draw, b, items[b].template, equal))
    frame = pd.DataFrame(rows, columns=["kind", "draw", "prompt", "template", "equal"])
    frame["agreement"] = [sum(equal) / len(equal) for equal in frame.equal]
    return frame


def _tops(
    lm: LM,
    prompts: list[str],
    steps: int,
    config: MixtureConfig,
    rule: WeightRule = sharpened,
    feedback: Feedback | None = None,
) -> list[list[int]]:
    """Find the model's likeliest token at each step of a chain, for each prompt."""
    seen = []

    def watched(logits, config):
        seen.append(logits.argmax(-1))
        return rule(logits, config)

    generate_concepts(
        lm,
        prompts,
        steps,
        config,
        weight_rule=watched,
        feedback=feedback,
        stop_at_eos=False,
    )
    batches = [torch.stack(seen[i : i + steps], 1) for i in range(0, len(seen), steps)]
    return torch.cat(batches).tolist()


def path_parts(rows: pd.DataFrame, seed: int = 0) -> dict[str, dict[str, Estimate]]:
    """Estimate W4's parts: rule that draws -> parts."""
    plain = rows[rows.kind == SOFT].set_index("prompt").agreement

    def left(kind: str) -> Estimate:
        frame = rows[rows.kind == kind]
        pair = plain.loc[frame.prompt], frame.agreement
        return clustered(paired_difference, frame.template, *pair, seed=seed)

    parts = {}
    for kind in DRAWN:
        parts[kind] = {
            "agreement_plain": _agreement(rows[rows.kind == SOFT], seed),
            "agreement": _agreement(rows[rows.kind == kind], seed),
            "left": left(kind),
            "left_sampled": left(SAMPLED),
        }
    return parts


def _agreement(frame: pd.DataFrame, seed: int) -> Estimate:
    return clustered(bootstrap, frame.template, frame.agreement, seed=seed)


def path_steps(
    rows: dict[str, pd.DataFrame],
    kinds: tuple[str, ...] = (OWN, SOFT, "CIPHER", "Gumbel", SAMPLED, HIDDEN),
    seed: int = 0,
) -> pd.DataFrame:
    """Estimate each kind's share of chains with greedy's token, step by step."""
    shares = []
    for model, frame in rows.items():
        for kind in kinds:
            own = frame[frame.kind == kind]
            for t in range(max(map(len, own.equal))):
                here = own[own.equal.str.len() > t]
                if len(here) >= FEWEST:
                    equal = [float(x[t]) for x in here.equal]
                    e = clustered(bootstrap, here.template, equal, seed=seed)
                    shares.append((model, kind, t + 2, e.value, e.low, e.high))
    columns = ["model", "kind", "step", "share", "low", "high"]
    return pd.DataFrame(shares, columns=columns)


def path_means(rows: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """List mean agreement by kind and model."""
    means = {m: f.groupby("kind", sort=False).agreement.mean() for m, f in rows.items()}
    return pd.DataFrame(means).round(3)
