"""What `generate` returns for ids and for embeddings, and what a slice leaves (I1).

    choose_prompts         chat prompts as ids, and plain ones
    ask_long               chat prompts whose answers are longer than they are
    of_common_lengths      some of the prompts, which share batches
    four_ways              {ids, embeds} x formats x {sliced, whole}: one row each
    table_4_3              its summary, one row a way
    sliced_embeds          its rows of embeddings sliced, for the figure
    empty_text_estimates   the parts of claim I1

For ids `generate` returns the prompt and the new tokens; for embeddings it returns the
new tokens only. `output[0][prompt_len:]`, right for ids, then cuts off the first
prompt_len *new* tokens.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping
from itertools import chain, islice
from typing import TYPE_CHECKING

import pandas as pd
import torch

from experiments.hf_reference import INPUTS, chat_ids, generate_tokens
from experiments.scoring import equal_length_batches, token_ids
from experiments.stats import Estimate, bootstrap

if TYPE_CHECKING:
    from experiments.prompts import Item
    from helpers.models import LM

    Suites = Mapping[str, tuple[Item, ...]]

LONG = "chat, long answers"  # this format's name in tables and figures
CHAT, PLAIN = "instructions", ("capitals", "sums", "ambiguous")  # suites


def choose_prompts(
    lm: LM, asked: Suites, n: int, alike: bool = False
) -> tuple[list[list[int]], list[str]]:
    """Choose n instructions, as ids in the chat template, and n plain texts.

    asked: a set's suites; plain ones are capitals, sums and ambiguous. Both are spread
    evenly over them, or alike: those of the lengths that most have.
    """
    texts = {name: [i.prompt for i in asked[name]] for name in (CHAT, *PLAIN)}
    if alike:
        chosen = of_common_lengths(lm, chat_ids(lm, texts[CHAT]), n)
        # as many of each suite as an even spread over all of them would take
        pool = [name for name in PLAIN for _ in texts[name]]
        shares = Counter(pool[i * len(pool) // n] for i in range(min(n, len(pool))))
        each = [of_common_lengths(lm, texts[k], count) for k, count in shares.items()]
        return chosen, list(chain(*each))
    chat, plain = (
        pool[:: max(1, len(pool) // n)][:n]
        for pool in (texts[CHAT], list(chain(*(texts[name] for name in PLAIN))))
    )
    return chat_ids(lm, chat), plain


def ask_long(lm: LM, asked: Suites, n: int) -> dict[str, list[list[int]]]:
    """Choose n chat prompts whose answers are longer than they are: LONG -> ids.

    Those of the lengths that most have.
    """
    long = chat_ids(lm, [item.prompt for item in asked["long"]])
    return {LONG: of_common_lengths(lm, long, n)}


def of_common_lengths(lm: LM, prompts: list, n: int) -> list:
    """Choose n prompts, in their order and evenly spread, of as few lengths as can be.

    Prompts of one length make a batch: few lengths take few passes.
    """
    lengths = [len(row) for row in token_ids(lm, prompts)]
    few: set[int] = set()
    for length, _ in Counter(sorted(lengths)).most_common():
        if sum(known in few for known in lengths) < n:
            few.add(length)
    alike = [prompt for prompt, length in zip(prompts, lengths) if length in few]
    count = min(n, len(alike))
    return [alike[i * len(alike) // count] for i in range(count)]


def four_ways(
    lm: LM, formats: Mapping[str, list], max_new_tokens: int = 50
) -> pd.DataFrame:
    """Decode Table 4.3 with the slice on and off, greedily: one row a prompt and way.

    formats: "chat", "plain" and the like -> prompts, as texts or ids. Columns: input,
    format, decoded (sliced: the text of output[prompt_len:]; whole: of output), prompt,
    prompt_tokens, new_tokens, shown_new (new tokens left in the text), p_end
    (probability that the first new token ends the text), text (special tokens skipped),
    raw (special tokens shown), new_ids (all new tokens).
    """
    found = []
    rows = {kind: token_ids(lm, prompts) for kind, prompts in formats.items()}
    together = list(chain(*rows.values()))  # so that all of one length make a batch
    ran = {
        source: zip(
            together,
            _end_probabilities(lm, together, source),
            generate_tokens(lm, together, source, max_new_tokens),
        )
        for source in INPUTS
    }
    for kind in formats:
        for source in INPUTS:
            own = islice(ran[source], len(rows[kind]))
            for i, (row, p_end, out) in enumerate(own):
                new_ids = out[len(row) * (source == "ids") :]
                new = len(new_ids)
                for decoded in ("sliced", "whole"):
                    kept = out[len(row) :] if decoded == "sliced" else out
                    text, raw = (
                        lm.tokenizer.decode(kept, skip_special_tokens=skip)
                        for skip in (True, False)
                    )
                    counts = len(row), new, min(new, len(kept)), p_end
                    way = source, kind, decoded, i
                    found.append((*way, *counts, text, raw, new_ids))
    names = ["input", "format", "decoded", "prompt", "prompt_tokens", "new_tokens"]
    names += ["shown_new", "p_end", "text", "raw", "new_ids"]
    return pd.DataFrame(found, columns=names)


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

    For ids the slice is the right decoding: it leaves the new tokens. Beside them,
    unjudged, where answers longer than their prompts were asked for: long_sliced and
    long_whole.
    """
    judged = {
        "ids_chat": ("ids", "chat", "sliced"),
        "embeds_chat_sliced": ("embeds", "chat", "sliced"),
        "embeds_chat_whole": ("embeds", "chat", "whole"),
        "embeds_plain_sliced": ("embeds", "plain", "sliced"),
        "long_sliced": ("embeds", LONG, "sliced"),
        "long_whole": ("embeds", LONG, "whole"),
    }
    empty = (ways["text"].str.strip() == "").astype(float)
    groups = dict(
        list(empty.groupby([ways[k] for k in ("input", "format", "decoded")]))
    )
    return {
        part: bootstrap(groups[way], seed=seed)
        for part, way in judged.items()
        if way in groups
    }


@torch.no_grad()
def _end_probabilities(lm: LM, rows: list[list[int]], source: str) -> list[float]:
    """Probability that the first new token is an end token, from ids or embeddings."""
    found: dict[int, float] = {}
    accepted = inspect.signature(lm.model.forward).parameters
    options = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
    for batch in equal_length_batches(rows):
        ids = torch.tensor([rows[i] for i in batch], device=lm.device)
        inputs = (
            {"input_ids": ids} if source == "ids" else {"inputs_embeds": lm.embed[ids]}
        )
        logits = lm.model(**inputs, use_cache=False, **options).logits[:, -1]
        probs = logits.float().softmax(-1)
        found |= dict(zip(batch, probs[:, list(lm.eos_ids)].sum(-1).tolist()))
    return [found[i] for i in range(len(rows))]
