"""Does putting off the choice of a token help? (CLAIMS.md N6)

    answers      the text each way of decoding gives, the same number of steps for each
    correct      whether a text begins with the answer
    ahead_rows   the bare case: guess the next token but one without fixing the next

Ways: discrete (greedy), continuous, gated (a mixture only where entropy is high) and
sampled. A token read straight off the prompt is the same under the first three: what
is fed back can only change what follows it.
"""

import re
from dataclasses import replace

import pandas as pd
import torch

from .decode import generate_concepts
from .information import next_probs, normal
from .mixture import MixtureConfig, sampled

WAYS = ("discrete", "continuous", "gated", "sampled")


def answers(lm, prompts, steps, config=None, seed=0) -> dict[str, list[str]]:
    """way -> the new text of each prompt, `steps` forward calls each."""
    config = config or MixtureConfig()
    texts = {}
    for way in WAYS:
        mode = "discrete" if way == "sampled" else way
        rule = {"weight_rule": sampled(seed)} if way == "sampled" else {}
        trace = generate_concepts(lm, prompts, steps, replace(config, mode=mode), **rule)
        texts[way] = lm.tokenizer.batch_decode(trace.tokens, skip_special_tokens=True)
    return texts


def correct(text: str, gold: str) -> bool:
    """Whether `text` begins with `gold` as whole words, capitals and end stop aside."""
    text, gold = (re.findall(r"\w+", x.lower()) for x in (text, gold))
    return bool(gold) and text[: len(gold)] == gold


def ahead_rows(lm, found, targets, gate=1.0) -> pd.DataFrame:
    """Chance of guessing the token after next, by what is fed in between.

    found: contexts; targets: for each the distribution (V,) of the token after next,
    given what came before. Fed in between: the top token, the mixture, the mixture where
    entropy is above `gate` nats, or a drawn token (averaged exactly over the draw).
    `best` is the highest any guess could score.
    """
    rows = []
    for c, target in zip(found, targets, strict=True):
        fed = torch.cat([c.concept[None], lm.embed[c.indices]])
        guess = next_probs(lm, c.prefix, fed).argmax(-1)
        hit = target.double()[guess]
        weights = normal(c.probs)
        scores = {"discrete": hit[1], "continuous": hit[0],
                  "gated": hit[0] if c.entropy > gate else hit[1],
                  "sampled": weights @ hit[1:], "best": target.max()}  # fmt: skip
        rows.append({"prompt": c.prompt, "step": c.step}
                    | {way: float(score) for way, score in scores.items()})  # fmt: skip
    return pd.DataFrame(rows)
