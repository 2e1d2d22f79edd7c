"""What transformers' own `generate` returns: the reference for everything of ours.

chat_ids                user messages in the model's chat template
generate_tokens         prompts as ids or as embeddings, with any settings
refeed_each_step        one-vector prompts, with the fault of releases 4.49-4.57
truncate_at_eos         new ids up to the first end token
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch

from experiments.scoring import equal_length_batches, token_ids
from helpers.models import chat_prompt

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.models import LM

INPUTS = ("ids", "embeds")  # the two ways to give `generate` a prompt
# Every setting is given, so that none comes from the model's own generation config.
GREEDY = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0}
GREEDY |= {"temperature": 1.0, "top_k": 50, "top_p": 1.0}


def chat_ids(lm: LM, contents: list[str]) -> list[list[int]]:
    """Encode user messages in the model's chat template; the template adds any BOS."""
    texts = [chat_prompt(lm, content) for content in contents]
    return lm.tokenizer(texts, add_special_tokens=False)["input_ids"]


@torch.no_grad()
def generate_tokens(
    lm: LM, prompts: list, source: str, max_new_tokens: int = 50, **settings: Any
) -> list[list[int]]:
    """Call `model.generate` on prompts -> the ids it returns, nothing cut off.

    prompts: texts or id lists. source: "ids" or "embeds". settings: of `generate`, over
    GREEDY; padded=True puts all prompts in one left-padded batch and gives no mask,
    otherwise prompts of one length make a batch. Padding after a row's end is removed.
    """
    rows, settings = token_ids(lm, prompts), GREEDY | settings
    pad = _unused_id(lm, rows)
    settings |= {"max_new_tokens": max_new_tokens, "pad_token_id": pad}
    settings["eos_token_id"] = list(lm.eos_ids) or None
    if settings.pop("padded", False):
        longest = max(map(len, rows))
        rows = [[pad] * (longest - len(row)) + row for row in rows]
    returned: dict[int, list[int]] = {}
    for batch in equal_length_batches(rows):
        ids = torch.tensor([rows[i] for i in batch], device=lm.device)
        inputs = {"input_ids": ids}
        if source == "embeds":
            inputs = {"inputs_embeds": lm.model.get_input_embeddings()(ids)}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Passing `repetition_penalty`")  # tested
            out = lm.model.generate(**inputs, **settings)
        start = ids.shape[1] if source == "ids" else 0
        for i, row in zip(batch, out.tolist()):
            returned[i] = row[:start] + truncate_at_eos(row[start:], lm.eos_ids)
    return [returned[i] for i in range(len(rows))]


@torch.no_grad()
def refeed_each_step(lm: LM, x: Tensor, max_new_tokens: int = 50) -> list[list[int]]:
    """Feed one vector (B,D) again at every step -> the N top ids that follow, (B,N).

    The fault of transformers 4.49.0-4.57.6 with one-vector prompts (issue 41863).
    """
    ids = []
    for part in x.to(lm.device, lm.dtype).split(8):
        repeated = part[:, None].expand(-1, max_new_tokens, -1)
        logits = lm.model(inputs_embeds=repeated, use_cache=False).logits
        ids += logits.argmax(-1).tolist()
    return ids


def truncate_at_eos(new_ids: list[int], eos_ids: tuple[int, ...]) -> list[int]:
    """Cut new ids after the first end token, which is kept."""
    ends = [i for i, token in enumerate(new_ids) if token in eos_ids]
    return new_ids[: ends[0] + 1] if ends else new_ids


def _unused_id(lm: LM, rows: list[list[int]]) -> int:
    """An id to pad with, from which `generate` can infer a mask: in no prompt, no end
    token; the tokenizer's own padding id where it is such a one."""
    used = {*lm.eos_ids, *(i for row in rows for i in row)}
    own = getattr(lm.tokenizer, "pad_token_id", None)
    if own is not None and own not in used:
        return own
    return next(i for i in range(lm.embed.shape[0]) if i not in used)
