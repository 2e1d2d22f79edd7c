from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from helpers.batching import next_logits, prompt_embeds

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.models import LM


def true_distributions(lm: LM, prompts: list[str], exact=None) -> Tensor:
    """True next-token distributions (B,V) on the CPU, of prompts.

    exact: (tokenizer, prompt) -> probabilities of the first ids, for models trained on
    a known corpus (models.corpus.true_next). Without it the model's own raw
    distribution stands in: the write score then says what sharpening and top-k change.
    """
    if exact is None:
        embeds, mask = prompt_embeds(lm, prompts)
        return next_logits(lm, embeds, mask, batch_size=256).softmax(-1).cpu()
    out = torch.zeros(len(prompts), lm.embed.shape[0])
    for row, prompt in zip(out, prompts):
        p = exact(lm.tokenizer, prompt)
        row[: len(p)] = p
    return out


def true_ahead(true_next, tokenizer, text):
    """Distribution (V,) of the token after next, by true_next(tokenizer, text) -> (V,).

    None where the corpus cannot say the text, or may end before that token.
    """
    try:
        first = true_next(tokenizer, text)
        return sum(float(first[i]) * true_next(tokenizer, text + tokenizer.decode([i]))
                   for i in first.nonzero().ravel().tolist())  # fmt: skip
    except ValueError:
        return None
