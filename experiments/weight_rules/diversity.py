"""Is noise in the weights more diverse than sampling that strays as often? (W6)

    matched_temperature  at which sampling feeds another token as often as a rule does
    diversity_rows       several texts a question, by rule and by its matched sampling
    diversity_parts      W6's parts, by rule

A rule strays where its heaviest token is not the likeliest. Gumbel noise strays as
sampling from the same weights does; what it adds is the rest of the mixture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from experiments.scoring import normalise_words
from experiments.stats import Estimate, bootstrap, clustered, paired_difference
from experiments.weight_rules.questions import is_correct
from experiments.weight_rules.rules import SOFT, weight_rules
from helpers import weight_rules as rules
from helpers.decode import generate_concepts
from helpers.mixture import MixtureConfig, WeightRule, sharpened

if TYPE_CHECKING:
    from torch import Tensor

    from experiments.prompts import Item
    from helpers.decode import ConceptTrace
    from helpers.models import LM

Parts = dict[str, Estimate]

NOISY = ("Gumbel", "Dirichlet")
GREEDY, MATCHED = "greedy", "{}, matched sampling"
MEASURES = {"any right": "any", "pairs of words that differ": "distinct"}
STEPS = 8
DRAWS = 3  # texts a question
TRIALS = 32  # draws of weights a step, from which a rule's straying is worked out
HOTTEST, HALVINGS = 4.0, 24  # of the search for a temperature
AXES = {"x": "value", "y": "how", "by": "model", "low": "low", "high": "high"}
AXES |= {"panel": "measure"}


def matched_temperature(logits: Tensor, how: str, seed: int = 0) -> float:
    """Find the temperature at which sampling strays as often as the rule `how`.

    logits (N,V), whose largest are all that counts. Both go through Soft Thinking's
    filters. The rule's straying is counted over TRIALS draws of weights for each row,
    sampling's is worked out.
    """
    config, rule = weight_rules(seed)[how]
    kept = weight_rules()[SOFT][1]
    top = logits.argmax(-1)
    strays = [rule(logits, config)[1][:, 0] != top for _ in range(TRIALS)]
    target = torch.stack(strays).float().mean()
    low, high = 0.0, HOTTEST
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        probs, _ = kept(logits, replace(config, temperature=middle))
        if 1 - probs[:, 0].mean() < target:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def diversity_rows(
    lm: LM, items: Sequence[Item], set_name: str, seed: int = 0
) -> pd.DataFrame:
    """Write DRAWS texts a question by each way: how, template, right, any, distinct.

    One row a question and way, greedy decoding's with one text. right: the share of
    its texts that are right; any: whether one is; distinct: different pairs of
    neighbouring words over all such pairs; temperature: what the tokens or weights
    were drawn at; texts.
    """
    prompts, seen = [item.prompt for item in items], []
    config, kept = weight_rules()[SOFT]

    def watched(logits: Tensor, config: MixtureConfig) -> tuple[Tensor, Tensor]:
        seen.append(logits.topk(min(config.top_k, logits.shape[-1]))[0])
        return sharpened(logits, config)

    greedy = replace(config, mode="discrete")
    how = {"weight_rule": watched, "batch_size": len(prompts)}
    trace = generate_concepts(lm, prompts, STEPS, greedy, **how)
    found = {(GREEDY, 0.0): [_decode(lm, trace)]}
    steps = torch.arange(len(seen), device=lm.device)[:, None] < trace.lengths
    logits = torch.stack(seen)[steps]
    for name in NOISY:
        temperature = matched_temperature(logits, name, seed)
        own = [weight_rules(seed + d)[name] for d in range(DRAWS)]
        found[name, config.temperature] = [_texts(lm, prompts, *one) for one in own]
        cold = replace(config, temperature=temperature)
        drawn = [rules.sampled(seed + d, kept) for d in range(DRAWS)]
        key = MATCHED.format(name), temperature
        found[key] = [_texts(lm, prompts, cold, rule) for rule in drawn]
    rows = []
    for (name, temperature), draws in found.items():
        for item, *texts in zip(items, *draws):
            hits = [is_correct(text, item, set_name) for text in texts]
            row = {"how": name, "temperature": temperature, "template": item.template}
            row |= {"right": np.mean(hits), "any": float(any(hits))}
            rows.append(row | {"distinct": distinct_pairs(texts), "texts": texts})
    return pd.DataFrame(rows)


def _texts(
    lm: LM, prompts: list[str], config: MixtureConfig, rule: WeightRule
) -> list[str]:
    return _decode(lm, generate_concepts(lm, prompts, STEPS, config, weight_rule=rule))


def _decode(lm: LM, trace: ConceptTrace) -> list[str]:
    return lm.tokenizer.batch_decode(trace.tokens, skip_special_tokens=True)


def distinct_pairs(texts: Sequence[str]) -> float:
    """Share of the texts' pairs of neighbouring words that differ; 0 without any."""
    words = [normalise_words(text) for text in texts]
    pairs = [pair for row in words for pair in zip(row, row[1:])]
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def diversity_parts(rows: pd.DataFrame, seed: int = 0) -> dict[str, Parts]:
    """Estimate W6's parts: rule -> parts."""
    by_way = {str(how): part for how, part in rows.groupby("how", sort=False)}
    greedy, parts = by_way[GREEDY], {}
    groups = greedy.template.tolist()

    def more(a: pd.Series, b: pd.Series) -> Estimate:
        return clustered(paired_difference, groups, a, b, seed=seed)

    for how in NOISY:
        own, drawn = by_way[how], by_way[MATCHED.format(how)]
        parts[how] = {
            "more_pass": more(own["any"], drawn["any"]),
            "more_distinct": more(own.distinct, drawn.distinct),
            "headroom": more(drawn["any"], greedy.right),
            "right": clustered(bootstrap, groups, own.right, seed=seed),
            "right_sampled": clustered(bootstrap, groups, drawn.right, seed=seed),
        }
    return parts


def diversity_shares(found: dict[str, pd.DataFrame], seed: int = 0) -> pd.DataFrame:
    """List each way's pass and distinct by model, to draw: measure, how, value, n."""
    rows = [
        {"measure": label, "how": how, "model": model}
        | vars(clustered(bootstrap, part.template, part[column], seed=seed))
        for model, frame in found.items()
        for how, part in frame.groupby("how", sort=False)
        for label, column in MEASURES.items()
        if (how, column) != (GREEDY, "distinct")  # one text, not three
    ]
    return pd.DataFrame(rows)


def temperatures(found: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """List the temperature of each way by model."""
    by_way = {
        m: f.groupby("how", sort=False).temperature.first() for m, f in found.items()
    }
    return pd.DataFrame(by_way).round(3)
