"""Is a gain of soft thinking the mixture's or Cold Stop's? (W7)

    stop_rows    each question answered after thinking in four ways, and without
    asked_again  the question once more, after the thinking
    stop_parts   W7's parts; stop_shares: the same to draw

The factors are crossed: thinking greedily or in Soft Thinking's mixtures, all of it or
up to Cold Stop. After it the question is asked again on a new line and answered
greedily. Up to the stop a chain is the same with and without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd
import torch

from experiments.frames import embed_text
from experiments.scoring import continue_by_length
from experiments.stats import Estimate, bootstrap, clustered, paired_difference
from experiments.weight_rules.questions import is_correct
from experiments.weight_rules.rules import SOFT, weight_rules
from helpers.batching import prompt_embeds
from helpers.decode import generate_concepts
from helpers.mixture import Weights
from helpers.step_modes import cold_stop

if TYPE_CHECKING:
    from torch import Tensor

    from experiments.prompts import Item
    from helpers.decode import ConceptTrace
    from helpers.models import LM

THINKING, ANSWER = 8, 8  # tokens
THRESHOLD, RUN = 0.1, 1  # of Cold Stop: nats at Soft Thinking's temperature, steps
DIRECT = "no thinking"
WAYS = ("greedy", "mixture", "greedy, stop", "mixture, stop")
END = -1  # what the stop feeds, which ends the thinking: no token of its own
AXES = {"x": "value", "y": "way", "by": "model", "low": "low", "high": "high"}


def stop_rows(
    lm: LM, items: Sequence[Item], set_name: str, steps: int = THINKING
) -> pd.DataFrame:
    """Answer each question in every way: a column each, 1 for right; stopped.

    stopped: whether the stop shortens the thinking in mixtures; template: the word.
    """
    prompts = [item.prompt for item in items]
    config, rule = weight_rules()[SOFT]
    config = replace(config, entropy_temperature=config.temperature)
    plain = [prompt_embeds(lm, prompt)[0][0] for prompt in prompts]
    contexts = {DIRECT: plain}
    stopped = [False] * len(items)
    for way in WAYS[:2]:
        settings = replace(config, mode="discrete") if way == "greedy" else config
        trace = generate_concepts(lm, prompts, steps, settings, weight_rule=rule)
        ends = stop_steps(trace)
        thought = [v[:n] for v, n in zip(trace.vectors, trace.lengths.tolist())]
        contexts[way] = asked_again(lm, prompts, thought)
        short = [v[:end] for v, end in zip(thought, ends)]
        contexts[f"{way}, stop"] = asked_again(lm, prompts, short)
        if way == "mixture":
            stopped = [len(a) < len(b) for a, b in zip(short, thought)]
    rows = pd.DataFrame({"template": [i.template for i in items], "stopped": stopped})
    for way, given in contexts.items():
        texts = continue_by_length(lm, given, ANSWER)
        rows[way] = [float(is_correct(t, i, set_name)) for t, i in zip(texts, items)]
    return rows.astype({"stopped": float})


def stop_steps(trace: ConceptTrace) -> list[int]:
    """Count the steps before Cold Stop's end token, or all of them, for each row."""
    switch, state, ended = cold_stop(END, THRESHOLD, RUN), None, []
    for t in range(trace.probs.shape[1]):
        step = trace.probs[:, t], trace.indices[:, t], trace.entropy[:, t]
        weights, state = switch(Weights(*step), state)
        ended.append(weights.indices[:, 0] == END)
    fed = torch.stack(ended, 1)
    first = torch.where(fed.any(1), fed.int().argmax(1), fed.shape[1])
    return torch.minimum(first, trace.lengths).tolist()


def asked_again(lm: LM, prompts: list[str], thought: list[Tensor]) -> list[Tensor]:
    """Embed each prompt, its thinking (T,D), and on a new line the prompt once more."""
    found = []
    for prompt, vectors in zip(prompts, thought):
        again = embed_text(lm, "\n" + prompt)
        found.append(torch.cat([prompt_embeds(lm, prompt)[0][0], vectors, again]))
    return found


def stop_parts(rows: pd.DataFrame, seed: int = 0) -> dict[str, Estimate]:
    """Estimate W7's parts. The main effects add up to the gain."""
    plain, mixed, cut, both = (rows[way] for way in WAYS)

    def difference(a: pd.Series, b: pd.Series) -> Estimate:
        return clustered(paired_difference, rows.template, a, b, seed=seed)

    right = {"right": WAYS[0], "right_direct": DIRECT, "stopped": "stopped"}
    return {
        "gain": difference(both, plain),
        "mixture": difference((mixed + both) / 2, (plain + cut) / 2),
        "stop": difference((cut + both) / 2, (plain + mixed) / 2),
        "headroom": difference(rows[list(WAYS)].max(axis=1), plain),
    } | {
        name: clustered(bootstrap, rows.template, rows[column], seed=seed)
        for name, column in right.items()
    }


def stop_shares(found: dict[str, pd.DataFrame], seed: int = 0) -> pd.DataFrame:
    """List the share right by model and way, to draw."""
    return pd.DataFrame(
        {"model": model, "way": way}
        | vars(clustered(bootstrap, rows.template, rows[way], seed=seed))
        for model, rows in found.items()
        for way in (DIRECT, *WAYS)
    )
