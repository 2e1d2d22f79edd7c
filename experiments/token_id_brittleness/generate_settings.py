"""What differs between `generate` on ids and on embeddings, one thing at a time (I3).

    SETTINGS               settings that act on one path and not on the other
    compare_paths          the same prompts as ids and as embeddings under one of them
    compare_settings   under all of them, chat and plain
    compare_one_vector     prompts of one vector, right, and with the fault of 4.49-4.57
    distinct_tokens        tokens to make such prompts of
    mismatch_rates         shares of differing texts, for the figure
    mismatch_estimates     the parts of claim I3
    rival_estimates        the rivals of the slice among the parts of claim I1

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
from experiments.token_id_brittleness.noise_radius import rate_table
from experiments.token_id_brittleness.prompt_slicing import of_common_lengths

if TYPE_CHECKING:
    from helpers.models import LM

# Qwen2.5-1.5B-Instruct's published generation config, taken apart.
SAMPLING = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20}
SETTINGS = {
    "bare": {},
    "penalty": {"repetition_penalty": 1.1},
    "sampling": SAMPLING,
    "mask": {"padded": True},
    "as published": {"repetition_penalty": 1.1, **SAMPLING},
}


def compare_paths(
    lm: LM, prompts: list, setting: str, max_new_tokens: int = 50, seed: int = 0
) -> pd.DataFrame:
    """Generate from ids and from embeddings, decoded rightly, under one of SETTINGS.

    Sampling starts from one seed on both sides. Columns: difference (the setting),
    prompt, ids, embeds (new text), same, empty (of embeds).
    """
    rows, texts = token_ids(lm, prompts), {}
    settings = SETTINGS[setting]
    longest = max(map(len, rows))
    for source in INPUTS:
        torch.manual_seed(seed)
        out = generate_tokens(lm, rows, source, max_new_tokens, **settings)
        if source == "ids":
            prompt_lengths = [
                longest if settings.get("padded") else len(row) for row in rows
            ]
            out = [new[length:] for length, new in zip(prompt_lengths, out)]
        texts[source] = lm.tokenizer.batch_decode(out, skip_special_tokens=True)
    return _paths(setting, texts)


def _paths(setting: str, texts: dict[str, list[str]]) -> pd.DataFrame:
    frame = pd.DataFrame({"difference": setting, **texts})
    frame.insert(1, "prompt", range(len(frame)))
    frame["same"] = frame["ids"] == frame["embeds"]
    return frame.assign(empty=frame["embeds"].str.strip() == "")


def compare_settings(
    lm: LM,
    ways: pd.DataFrame,
    formats: dict[str, list],
    most: int = 60,
    seed: int = 0,
    max_new_tokens: int = 16,
) -> pd.DataFrame:
    """Run `compare_paths` under each of SETTINGS, by format: chat and plain prompts.

    ways: what `prompt_slicing.four_ways` returned for the same formats: with nothing
    else set all of them were generated there already, and are cut to max_new_tokens.
    Under the settings go at most `most` of each format: to one padded batch those that
    come first, else those of the commonest lengths.
    """
    frames = []
    whole = ways[ways["decoded"] == "whole"]
    for name in SETTINGS:
        for kind, prompts in formats.items():
            rows = prompts[:most]
            if name == "bare":
                own = whole[whole["format"] == kind]
                found = _paths(name, _texts(lm, own, max_new_tokens))
            else:
                if not SETTINGS[name].get("padded"):
                    rows = of_common_lengths(lm, prompts, most)
                found = compare_paths(lm, rows, name, max_new_tokens, seed)
            frames.append(found.assign(format=kind))
    return pd.concat(frames, ignore_index=True)


def _texts(lm: LM, whole: pd.DataFrame, tokens: int) -> dict[str, list[str]]:
    """The first new tokens of rows of `four_ways`, as texts, from each input."""
    decode = lm.tokenizer.batch_decode
    cut = {
        source: [ids[:tokens] for ids in whole[whole["input"] == source]["new_ids"]]
        for source in INPUTS
    }
    return {s: decode(ids, skip_special_tokens=True) for s, ids in cut.items()}


def distinct_tokens(lm: LM, prompts: list) -> list[int]:
    """List the ids that prompts hold, each once, in order."""
    return sorted({i for row in token_ids(lm, prompts) for i in row})


def compare_one_vector(
    lm: LM, tokens: list[int], max_new_tokens: int = 16
) -> pd.DataFrame:
    """Generate from one-token prompts: as an id, an embedding, and re-fed at each step.

    Columns: token, ids, embeds, refed (new text), same (ids = embeds), refed_empty.
    """
    single, new = [[token] for token in tokens], {}
    for source in INPUTS:
        out = generate_tokens(lm, single, source, max_new_tokens)
        new[source] = [row[source == "ids" :] for row in out]
    refed = refeed_each_step(lm, lm.embed[tokens], max_new_tokens)
    new["refed"] = [truncate_at_eos(row, lm.eos_ids) for row in refed]
    texts = {
        name: lm.tokenizer.batch_decode(rows, skip_special_tokens=True)
        for name, rows in new.items()
    }
    frame = pd.DataFrame({"token": lm.tokenizer.batch_decode(single), **texts})
    frame["same"] = frame["ids"] == frame["embeds"]
    return frame.assign(refed_empty=frame["refed"].str.strip() == "")


def mismatch_rates(paths: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Share of prompts whose texts differ, with its interval, by setting and format."""
    differs = paths.assign(differs=~paths["same"])
    return rate_table(differs, ["difference", "format"], "differs", seed)


def mismatch_estimates(paths: pd.DataFrame, seed: int = 0) -> dict[str, Estimate]:
    """I3's parts from `compare_settings`: shares of prompts whose texts differ."""
    return {
        f"mismatch_{name}".replace(" ", "_"): bootstrap(~same, seed=seed)
        for name, same in paths.groupby("difference", sort=False)["same"]
    }


def rival_estimates(
    paths: pd.DataFrame, single: pd.DataFrame, seed: int = 0
) -> dict[str, Estimate]:
    """I1's rivals: the share of empty texts that each gives by itself, nothing sliced.

    paths: `compare_settings`, of which the chat prompts count. single:
    `compare_one_vector`.
    """
    chat = paths[paths["format"] == "chat"]
    empty = dict(list(chat.groupby("difference", sort=False)["empty"]))
    empty["one vector, re-fed"] = single["refed_empty"]
    return {
        f"empty_{name}".replace(",", "").replace(" ", "_"): bootstrap(texts, seed=seed)
        for name, texts in empty.items()
    }
