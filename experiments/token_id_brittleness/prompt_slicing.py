"""What `generate` returns for ids and for embeddings, and what a slice leaves (I1).

    choose_prompts         chat prompts as ids, and plain ones
    four_ways              {ids, embeds} x {chat, plain} x {sliced, whole}: one row each
    table_4_3              its summary, one row a way
    sliced_embeds          its rows of embeddings sliced, for the figure
    empty_text_estimates   the parts of claim I1

For ids `generate` returns the prompt and the new tokens; for embeddings it returns the
new tokens only. `output[0][prompt_len:]`, right for ids, then cuts off the first
prompt_len *new* tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import torch

from experiments.hf_reference import INPUTS, chat_ids, generate_tokens
from experiments.prompts import SUITES
from experiments.scoring import equal_length_batches, token_ids
from experiments.stats import Estimate, bootstrap

if TYPE_CHECKING:
    from helpers.models import LM


def choose_prompts(lm: LM, n: int) -> tuple[list[list[int]], list[str]]:
    """Choose n instructions, as ids in the chat template, and n plain texts.

    Both are spread evenly over the suites; plain ones are capitals, sums and ambiguous.
    """
    plain = [
        item for name in ("capitals", "sums", "ambiguous") for item in SUITES[name]
    ]
    texts = [
        [item.prompt for item in items[:: max(1, len(items) // n)][:n]]
        for items in (SUITES["instructions"], plain)
    ]
    return chat_ids(lm, texts[0]), texts[1]


def four_ways(
    lm: LM, chat: list, plain: list, max_new_tokens: int = 50
) -> pd.DataFrame:
    """Decode Table 4.3 with the slice on and off, greedily: one row a prompt and way.

    chat, plain: prompts as texts or ids. Columns: input, format, decoded (sliced: the
    text of output[prompt_len:]; whole: of output), prompt, prompt_tokens, new_tokens,
    shown_new (new tokens left in the text), p_end (probability that the first new token
    ends the text), text (special tokens skipped), raw (special tokens shown).
    """
    found = []
    for kind, prompts in (("chat", chat), ("plain", plain)):
        rows = token_ids(lm, prompts)
        for source in INPUTS:
            p_end = _end_probabilities(lm, rows, source)
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
    """Average `four_ways` over prompts, one row a way; empty: share of empty texts."""
    frame = ways.assign(empty=ways["text"].str.strip() == "")
    keys = ["input", "format", "decoded"]
    columns = ["prompt_tokens", "new_tokens", "shown_new", "p_end", "empty"]
    groups = frame.groupby(keys, sort=False)
    return groups[columns].mean().join(groups["text"].first()).reset_index()


def sliced_embeds(ways: pd.DataFrame) -> pd.DataFrame:
    """Keep the rows of embeddings whose output was sliced, and their counts."""
    rows = ways[(ways["input"] == "embeds") & (ways["decoded"] == "sliced")]
    return rows[["format", "prompt_tokens", "new_tokens", "shown_new", "p_end"]]


def empty_text_estimates(ways: pd.DataFrame, seed: int = 0) -> dict[str, Estimate]:
    """I1's parts from `four_ways`: the share of empty texts of each way that is judged.

    For ids the slice is the right decoding: it leaves the new tokens.
    """
    judged = {
        "ids_chat": ("ids", "chat", "sliced"),
        "embeds_chat_sliced": ("embeds", "chat", "sliced"),
        "embeds_chat_whole": ("embeds", "chat", "whole"),
        "embeds_plain_sliced": ("embeds", "plain", "sliced"),
    }
    empty = (ways["text"].str.strip() == "").astype(float)
    groups = dict(
        list(empty.groupby([ways[k] for k in ("input", "format", "decoded")]))
    )
    return {part: bootstrap(groups[way], seed=seed) for part, way in judged.items()}


@torch.no_grad()
def _end_probabilities(lm: LM, rows: list[list[int]], source: str) -> list[float]:
    """Probability that the first new token is an end token, from ids or embeddings."""
    found: dict[int, float] = {}
    for batch in equal_length_batches(rows):
        ids = torch.tensor([rows[i] for i in batch], device=lm.device)
        inputs = (
            {"input_ids": ids} if source == "ids" else {"inputs_embeds": lm.embed[ids]}
        )
        probs = lm.model(**inputs).logits[:, -1].float().softmax(-1)
        found |= dict(zip(batch, probs[:, list(lm.eos_ids)].sum(-1).tolist()))
    return [found[i] for i in range(len(rows))]
