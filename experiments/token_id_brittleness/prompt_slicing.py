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

from typing import TYPE_CHECKING

import pandas as pd
import torch

from experiments.hf_reference import INPUTS, generate_tokens
from experiments.scoring import equal_length_batches, token_ids
from experiments.stats import Estimate, bootstrap

if TYPE_CHECKING:
    from helpers.models import LM


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
            returned = generate_tokens(lm, rows, source, max_new_tokens)
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


def _p_end(lm, rows, source) -> list[float]:
    """Probability that the first new token is an end token, by ids or embeddings."""
    out = [0.0] * len(rows)
    for group in equal_length_batches(rows):
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
