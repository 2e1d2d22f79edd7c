from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch

from experiments.scoring import equal_lengths, token_ids
from helpers.models import chat_prompt

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.models import LM


def refeed_each_step(lm: LM, x: Tensor, max_new_tokens: int = 50) -> list[list[int]]:
    """What one vector (B,D) gives when it is fed again at every step -> ids (B,N).

    The defect of transformers 4.49.0-4.57.6 with one-vector prompts (issue 41863).
    """
    ids = []
    with torch.no_grad():
        for part in x.to(lm.device, lm.dtype).split(8):
            again = part[:, None].expand(-1, max_new_tokens, -1)
            logits = lm.model(inputs_embeds=again, use_cache=False).logits
            ids += logits.argmax(-1).tolist()
    return ids


def generate_from_vectors(
    lm: LM, x: Tensor, max_new_tokens: int = 20
) -> list[list[int]]:
    """What `model.generate(inputs_embeds=x)` returns for x (B,T,D), greedy -> ids."""
    x = x.to(lm.device, lm.dtype)
    pad = lm.eos_ids[0] if lm.eos_ids else 0
    out = lm.model.generate(
        inputs_embeds=x, attention_mask=torch.ones(x.shape[:2], device=x.device).long(),
        max_new_tokens=max_new_tokens, pad_token_id=pad, **GREEDY,
    )  # fmt: skip
    return out.tolist()


# Every setting is given, so that none comes from the model's own generation config.
GREEDY = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0,
          "temperature": 1.0, "top_k": 50, "top_p": 1.0}  # fmt: skip
INPUTS = ("ids", "embeds")


def chat_ids(lm: LM, contents: list[str]) -> list[list[int]]:
    """User messages in the model's chat template, as ids; the template adds any BOS."""
    texts = [chat_prompt(lm, content) for content in contents]
    return lm.tokenizer(texts, add_special_tokens=False)["input_ids"]


def generate_tokens(
    lm: LM, prompts: list, source: str, max_new_tokens: int = 50, **settings
):
    """What `model.generate` returns for each prompt, as id lists: nothing is cut off.

    source: "ids" or "embeds". settings: of `generate`, over GREEDY; padded=True puts
    all prompts in one left-padded batch and gives no mask, otherwise prompts of one
    length make a batch. Padding after a row's end is removed.
    """
    rows, settings = token_ids(lm, prompts), GREEDY | settings
    padded = settings.pop("padded", False)
    pad = _pad_id(lm, rows)
    longest = max(map(len, rows))
    filled = [[pad] * (longest - len(row)) * padded + row for row in rows]
    out: list[list[int]] = [[] for _ in rows]
    for group in equal_lengths(filled):
        ids = torch.tensor([filled[i] for i in group], device=lm.device)
        given = {"input_ids": ids}
        if source == "embeds":
            given = {"inputs_embeds": lm.model.get_input_embeddings()(ids)}
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Passing `repetition_penalty`")  # tested
            returned = lm.model.generate(
                **given, **settings, max_new_tokens=max_new_tokens,
                eos_token_id=list(lm.eos_ids) or None, pad_token_id=pad,
            )  # fmt: skip
        start = ids.shape[1] if source == "ids" else 0
        for i, row in zip(group, returned.tolist()):
            out[i] = row[:start] + truncate_at_eos(row[start:], lm.eos_ids)
    return out


def truncate_at_eos(new: list[int], eos: tuple[int, ...]) -> list[int]:
    """New ids up to and with the first end token."""
    ends = [i for i, token in enumerate(new) if token in eos]
    return new[: ends[0] + 1] if ends else new


def _pad_id(lm, rows) -> int:
    """An id from which `generate` can infer a mask: no end token, in no prompt."""
    used = {*lm.eos_ids, *(i for row in rows for i in row)}
    pad = getattr(lm.tokenizer, "pad_token_id", None)
    if pad is not None and pad not in used:
        return pad
    return next(i for i in range(lm.embed.shape[0]) if i not in used)
