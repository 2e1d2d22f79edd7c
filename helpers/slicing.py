"""What `generate` returns for ids and for embeddings, and what a slice leaves (I1).

    chat_ids      user messages in the model's chat template
    generated     what `generate` returns, as id lists, nothing cut off
    four_ways     {ids, embeds} x {chat, plain} x {sliced, whole}: counts and texts
    table_4_3     its summary, one row a way
    empty_parts   the parts of claim I1

For ids `generate` returns the prompt and the new tokens; for embeddings it returns the
new tokens only. `output[0][prompt_len:]`, right for ids, then cuts off the first
prompt_len *new* tokens. The write-up shows no decode line: that its authors sliced is
an inference from its Table 4.3.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import pandas as pd
import torch

from .identity import equal_lengths, token_ids
from .models import chat_prompt
from .stats import Estimate, bootstrap

if TYPE_CHECKING:
    from .models import LM

# Every setting is given, so that none comes from the model's own generation config.
GREEDY = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0,
          "temperature": 1.0, "top_k": 50, "top_p": 1.0}  # fmt: skip
INPUTS = ("ids", "embeds")


def chat_ids(lm: LM, contents: list[str]) -> list[list[int]]:
    """User messages in the model's chat template, as ids; the template adds any BOS."""
    texts = [chat_prompt(lm, content) for content in contents]
    return lm.tokenizer(texts, add_special_tokens=False)["input_ids"]


def generated(lm: LM, prompts: list, source: str, max_new_tokens: int = 50, **settings):
    """What `model.generate` returns for each prompt, as id lists: nothing is cut off.

    source: "ids" or "embeds". settings: of `generate`, over GREEDY; padded=True puts
    all prompts in one left-padded batch and gives no mask, otherwise prompts of one
    length make a batch. Padding after a row's end is removed.
    """
    rows, settings = token_ids(lm, prompts), GREEDY | settings
    padded = settings.pop("padded", False)
    pad = _pad(lm, rows)
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
            out[i] = row[:start] + ended(row[start:], lm.eos_ids)
    return out


def four_ways(
    lm: LM, chat: list, plain: list, max_new_tokens: int = 50
) -> pd.DataFrame:
    """Table 4.3 with the slice on and off, greedily: one row a prompt and way.

    chat, plain: prompts as texts or ids. Columns: input, format, decoded (sliced: the
    text of output[prompt_len:]; whole: of output), prompt, prompt_tokens, new_tokens,
    shown_new (new tokens left in the text), p_end (probability that the first new token
    ends the text), text (special tokens skipped), raw (special tokens shown).
    """
    found = []
    for kind, prompts in (("chat", chat), ("plain", plain)):
        rows = token_ids(lm, prompts)
        for source in INPUTS:
            p_end = _p_end(lm, rows, source)
            returned = generated(lm, rows, source, max_new_tokens)
            for i, (row, out) in enumerate(zip(rows, returned)):
                new = len(out) - len(row) * (source == "ids")
                for decoded in ("sliced", "whole"):
                    kept = out[len(row) :] if decoded == "sliced" else out
                    text, raw = (
                        lm.tokenizer.decode(kept, skip_special_tokens=skip)
                        for skip in (True, False)
                    )
                    counts = len(row), new, min(new, len(kept)), p_end[i]
                    found.append((source, kind, decoded, i, *counts, text, raw))
    names = ["input", "format", "decoded", "prompt", "prompt_tokens", "new_tokens"]
    return pd.DataFrame(found, columns=[*names, "shown_new", "p_end", "text", "raw"])


def table_4_3(ways: pd.DataFrame) -> pd.DataFrame:
    """Means of `four_ways` over prompts, one row a way; empty: share of empty texts."""
    frame = ways.assign(empty=ways["text"].str.strip() == "")
    keys = ["input", "format", "decoded"]
    columns = ["prompt_tokens", "new_tokens", "shown_new", "p_end", "empty"]
    out = frame.groupby(keys, sort=False)[columns].mean().reset_index()
    return out.merge(frame.groupby(keys, sort=False)["text"].first().reset_index())


def empty_parts(ways: pd.DataFrame, seed: int = 0) -> dict[str, Estimate]:
    """I1's parts from `four_ways`: the share of empty texts of each way that is judged.

    For ids the slice is the right decoding: it leaves the new tokens.
    """
    judged = {
        "ids_chat": ("ids", "chat", "sliced"),
        "embeds_chat_sliced": ("embeds", "chat", "sliced"),
        "embeds_chat_whole": ("embeds", "chat", "whole"),
        "embeds_plain_sliced": ("embeds", "plain", "sliced"),
    }
    groups = dict(list(ways.groupby(["input", "format", "decoded"])))
    texts = {part: groups[key]["text"].str.strip() for part, key in judged.items()}
    return {k: bootstrap((t == "").astype(float), seed=seed) for k, t in texts.items()}


def ended(new: list[int], eos: tuple[int, ...]) -> list[int]:
    """New ids up to and with the first end token."""
    ends = [i for i, token in enumerate(new) if token in eos]
    return new[: ends[0] + 1] if ends else new


def _pad(lm, rows) -> int:
    """An id from which `generate` can infer a mask: no end token, in no prompt."""
    used = {*lm.eos_ids, *(i for row in rows for i in row)}
    pad = getattr(lm.tokenizer, "pad_token_id", None)
    if pad is not None and pad not in used:
        return pad
    return next(i for i in range(lm.embed.shape[0]) if i not in used)


def _p_end(lm, rows, source) -> list[float]:
    """Probability that the first new token is an end token, by ids or embeddings."""
    out = [0.0] * len(rows)
    for group in equal_lengths(rows):
        ids = torch.tensor([rows[i] for i in group], device=lm.device)
        with torch.no_grad():
            if source == "ids":
                logits = lm.model(input_ids=ids).logits[:, -1]
            else:
                logits = lm.model(inputs_embeds=lm.embed[ids]).logits[:, -1]
        ends = logits.float().softmax(-1)[:, list(lm.eos_ids)].sum(-1)
        for i, p in zip(group, ends.tolist()):
            out[i] = p
    return out
