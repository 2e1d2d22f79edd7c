"""What differs between `generate` on ids and on embeddings, one thing at a time (I3).

    DIFFERENCES        the settings that act on one path and not on the other
    both_ways          the same prompts as ids and as embeddings under one of them
    every_difference   under all of them, chat and plain
    one_vector         prompts of one vector, right, and with the fault of 4.49-4.57
    path_parts, rival_parts   parts of claims I3 and I1

The repetition penalty sees prompt ids only where there are ids; a mask is inferred from
padding only where there are ids, and only if the padding token is no end token (in
Qwen2.5's own generation config it is one, and nothing is inferred).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import torch

from experiments.hf_reference import (
    INPUTS,
    generate_tokens,
    refeed_each_step,
    truncate_at_eos,
)
from experiments.scoring import token_ids
from experiments.stats import Estimate, bootstrap

if TYPE_CHECKING:
    from helpers.models import LM

# Qwen2.5-1.5B-Instruct's published generation config, taken apart.
SAMPLING = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20}
DIFFERENCES = {
    "bare": {},
    "penalty": {"repetition_penalty": 1.1},
    "sampling": SAMPLING,
    "mask": {"padded": True},
    "as published": {"repetition_penalty": 1.1, **SAMPLING},
}


def both_ways(
    lm: LM, prompts: list, difference: str, max_new_tokens: int = 50, seed: int = 0
) -> pd.DataFrame:
    """The same prompts as ids and as embeddings, decoded rightly, under one difference.

    difference: a key of DIFFERENCES. Sampling starts from one seed on both sides.
    Columns: difference, prompt, ids, embeds (new text), same, empty (of embeds).
    """
    rows, new = token_ids(lm, prompts), {}
    settings = DIFFERENCES[difference]
    longest = max(map(len, rows))
    for source in INPUTS:
        torch.manual_seed(seed)
        out = generate_tokens(lm, rows, source, max_new_tokens, **settings)
        if source == "ids":
            skip = [longest if settings.get("padded") else len(row) for row in rows]
            out = [row[n:] for n, row in zip(skip, out)]
        new[source] = lm.tokenizer.batch_decode(out, skip_special_tokens=True)
    frame = pd.DataFrame({"difference": difference, "prompt": range(len(rows)), **new})
    frame["same"] = frame["ids"] == frame["embeds"]
    return frame.assign(empty=frame["embeds"].str.strip() == "")


def every_difference(
    lm: LM, chat: list, plain: list, max_new_tokens: int = 24, seed: int = 0
) -> pd.DataFrame:
    """`both_ways` under each of DIFFERENCES, for chat and for plain prompts."""
    return pd.concat(
        [
            both_ways(lm, prompts, name, max_new_tokens, seed).assign(format=kind)
            for name in DIFFERENCES
            for kind, prompts in (("chat", chat), ("plain", plain))
        ],
        ignore_index=True,
    )


def one_vector(lm: LM, tokens: list[int], max_new_tokens: int = 50) -> pd.DataFrame:
    """Prompts of one vector: as an id, as an embedding, and re-fed at every step.

    Columns: token, ids, embeds, refed (new text), same (ids = embeds), refed_empty.
    """
    prompts, new = [[token] for token in tokens], {}
    for source in INPUTS:
        out = generate_tokens(lm, prompts, source, max_new_tokens)
        new[source] = [row[source == "ids" :] for row in out]
    vectors = lm.embed[torch.tensor(tokens, device=lm.device)]
    again = refeed_each_step(lm, vectors, max_new_tokens)
    new["refed"] = [truncate_at_eos(row, lm.eos_ids) for row in again]
    texts = {
        name: lm.tokenizer.batch_decode(rows, skip_special_tokens=True)
        for name, rows in new.items()
    }
    frame = pd.DataFrame({"token": lm.tokenizer.batch_decode(prompts), **texts})
    frame["same"] = frame["ids"] == frame["embeds"]
    return frame.assign(refed_empty=frame["refed"].str.strip() == "")


def mismatch_estimates(paths: pd.DataFrame, seed: int = 0) -> dict[str, Estimate]:
    """I3's parts from `every_difference`: shares of prompts whose texts differ."""
    return {
        f"mismatch_{name}".replace(" ", "_"): bootstrap(
            (~group["same"]).astype(float), seed=seed
        )
        for name, group in paths.groupby("difference", sort=False)
    }


def rival_estimates(paths: pd.DataFrame, single: pd.DataFrame, seed=0) -> dict:
    """I1's rivals: the share of empty texts that each gives by itself, nothing sliced.

    paths: `every_difference`, of which the chat prompts count. single: `one_vector`.
    """
    chat = paths[paths["format"] == "chat"].groupby("difference", sort=False)
    empty = {name: group["empty"].astype(float) for name, group in chat}
    empty["one vector, re-fed"] = single["refed_empty"].astype(float)
    return {
        f"empty_{name}".replace(",", "").replace(" ", "_"): bootstrap(e, seed=seed)
        for name, e in empty.items()
    }
