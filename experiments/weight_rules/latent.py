"""How often is an answer right after some latent steps, and after none?

    latent_rows     each question after 0, 1, 2, 4 steps of hidden-state feedback
    latent_shares   share right by what is fed and how many steps

The last hidden state is fed in a token's place: raw, at the embeddings' mean norm, or
through a linear map fitted by least squares on greedy texts. Then the question is asked
again on a new line. The control asks it again after no latent step at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from experiments.scoring import continue_by_length
from experiments.stats import bootstrap, clustered
from experiments.weight_rules.questions import is_correct
from experiments.weight_rules.stops import ANSWER, asked_again
from helpers.batching import prompt_embeds
from helpers.decode import continue_from, generate_concepts
from helpers.step_modes import Feedback, fit_aligner, hidden_state

if TYPE_CHECKING:
    from experiments.prompts import Item
    from helpers.models import LM

STEPS = 1, 2, 4  # latent steps
NONE = "no latent step"
AXES = {"x": "value", "y": "fed", "by": "model", "low": "low", "high": "high"}


def feedbacks(lm: LM, texts: Sequence[str]) -> dict[str, Feedback]:
    """List what is fed by name; texts: what the linear map is fitted on."""
    return {
        "raw": hidden_state(lm, norm="none"),
        "mean norm": hidden_state(lm),
        "aligned": hidden_state(lm, fit_aligner(lm, texts)),
    }


def latent_rows(
    lm: LM, items: Sequence[Item], set_name: str, steps: Sequence[int] = STEPS
) -> pd.DataFrame:
    """Answer questions after latent steps, and none: fed, steps, template, right."""
    prompts = [item.prompt for item in items]
    before = [prompt_embeds(lm, prompt)[0][0] for prompt in prompts]
    texts = continue_from(lm, before, max_new_tokens=ANSWER)
    feeds = feedbacks(lm, [a + b for a, b in zip(prompts, texts)])
    contexts = {(NONE, 0): asked_again(lm, prompts, [x[:0] for x in before])}
    for name, feed in feeds.items():
        how = {"feedback": feed, "stop_at_eos": False}
        latent = generate_concepts(lm, prompts, max(steps), **how).vectors
        for n in steps:
            contexts[name, n] = asked_again(lm, prompts, [v[:n] for v in latent])
    return pd.DataFrame(
        (fed, n, item.template, float(is_correct(text, item, set_name)))
        for (fed, n), given in contexts.items()
        for text, item in zip(continue_by_length(lm, given, ANSWER), items)
    ).set_axis(["fed", "steps", "template", "right"], axis=1)


def latent_shares(found: dict[str, pd.DataFrame], seed: int = 0) -> pd.DataFrame:
    """Estimate the share right by model, what is fed and how many steps, to draw."""
    return pd.DataFrame(
        {"model": model, "fed": f"{fed}, {n}" if n else fed}
        | vars(clustered(bootstrap, part.template, part.right, seed=seed))
        for model, rows in found.items()
        for (fed, n), part in rows.groupby(["fed", "steps"], sort=False)
    )
