"""What truly comes next, for models trained on a known corpus.

    true_distributions   of the next token, after each of several prompts
    true_ahead           of the token after next, after one text

`true_next` is models.corpus.true_next, or a function like it: (tokenizer, text) ->
distribution (V,) of the next token; ValueError where the corpus cannot say the text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from helpers.batching import next_logits, prompt_embeds

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from helpers.models import LM

    TrueNext = Callable[[PreTrainedTokenizerBase, str], Tensor]


def true_distributions(
    lm: LM, prompts: list[str], true_next: TrueNext | None = None
) -> Tensor:
    """True next-token distributions (B,V) after prompts, on the CPU.

    Without true_next the model's own raw distribution stands in: the write score then
    says what sharpening and top-k change. ValueError where the corpus cannot say one.
    """
    if true_next is None:
        embeds, mask = prompt_embeds(lm, prompts)
        return next_logits(lm, embeds, mask, batch_size=256).softmax(-1).cpu()
    rows = torch.zeros(len(prompts), lm.embed.shape[0])
    for row, prompt in zip(rows, prompts):
        p = true_next(lm.tokenizer, prompt)
        row[: len(p)] = p
    return rows


def true_ahead(
    true_next: TrueNext, tokenizer: PreTrainedTokenizerBase, text: str
) -> Tensor | None:
    """True distribution (V,) of the token after next.

    None where the corpus cannot say the text, or may end before that token.
    """
    try:
        first = true_next(tokenizer, text)
        return sum(
            float(first[i]) * true_next(tokenizer, text + tokenizer.decode([i]))
            for i in first.nonzero().ravel().tolist()
        )
    except ValueError:
        return None
