"""What a model says after concept tokens alone, without a frame (R4, R5).

    follow_up, first_texts      R4: what follows a concept token, and whether it loops
    loop_parts                  R4: how often it does, and how often beyond text
    spanish_parts               R4: does the base model translate Spanish?
    cut_rows, offset_shares     R5: what `output[prompt_len:]` makes of an answer
    cut_parts, cut_examples     R5: the shares that its verdict needs, and some answers
    scripts_after               R5: letters by script after concept tokens and floors
    tokenizer_mismatch          R5: is "Париж" without its first token "ариж"?

Parts are what a verdict is computed from: name -> Estimate.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import torch

from experiments import hf_reference, scoring
from experiments.floors import random_like
from experiments.metrics import loops
from experiments.prompts import FRAMES, SUITES
from experiments.stats import bootstrap, paired_difference
from experiments.translation import readers, stimuli
from experiments.translation.in_loop import Parts
from experiments.translation.scores import mean_by
from harness.safe_text import readable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from experiments.translation.stimuli import Concept
    from helpers.models import LM

# Qwen2.5 writes "Париж" (Paris) as three tokens; without the first it reads "ариж", the
# string of the write-up's 4.2. tests/experiments checks it with the tokenizer.
PARIS = ((16854, "П"), (125947, "ари"), (16964, "ж"))
NEVER_SPANISH = "built in: the mini base model has never seen Spanish"


def follow_up(
    lm: LM, prompts: list[str], max_new_tokens: int = 50, seed: int = 0
) -> pd.DataFrame:
    """Continue after each thing fed: fed, item, loops (metrics.loops: 0, 1), text.

    fed: the prompt as text; one and two concept tokens alone; the top token alone; a
    random vector of equal norm; and the concept token re-fed at every step.
    """
    concepts = stimuli.write_concepts(lm, prompts, [2] * len(prompts))
    one = [c.vectors[:1] for c in concepts]
    draw = torch.Generator().manual_seed(seed)
    fed = {
        "prompt as text": prompts,
        "one concept token": one,
        "two concept tokens": [c.vectors for c in concepts],
        "top token alone": [lm.embed[c.indices[:1, 0]] for c in concepts],
        "random vector": [random_like(v, draw) for v in one],
    }
    ids = {
        name: readers.read_in_frame(lm, "direct", x, max_new_tokens).ids
        for name, x in fed.items()
    }
    again = hf_reference.refeed_each_step(lm, torch.cat(one), max_new_tokens)
    ids["one, re-fed each step"] = again
    decode = lm.tokenizer.decode
    rows = [
        (name, b, int(loops(row)), decode(row, skip_special_tokens=True))
        for name, found in ids.items()
        for b, row in enumerate(found)
    ]
    return pd.DataFrame(rows, columns=["fed", "item", "loops", "text"])


def loop_parts(after: pd.DataFrame, seed: int = 0) -> Parts:
    """How often a text loops after one concept token, and the excess over text."""
    looped = {fed: part.tolist() for fed, part in after.groupby("fed")["loops"]}
    mixed, text = looped["one concept token"], looped["prompt as text"]
    return {
        "loops_mixture": bootstrap(mixed, seed=seed),
        "loops_excess": paired_difference(mixed, text, seed=seed),
    }


def first_texts(after: pd.DataFrame) -> pd.DataFrame:
    """What follows the first prompt, one row a thing fed, made safe to show."""
    texts = after[after["item"] == 0].set_index("fed")[["text"]]
    return texts.map(lambda text: readable(text, 90))


def spanish_parts(lm: LM, max_new_tokens: int = 50, seed: int = 0) -> Parts:
    """Translate Spanish sentences after the write-up's instruction, as plain text.

    spanish, spanish_floor: shares of texts that say the sentence's translation, and
    another sentence's.
    """
    items, frame = SUITES["spanish"], FRAMES["instruction"].text
    asked = [frame.replace("{x}", item.prompt) for item in items]
    texts = readers.read_in_frame(lm, "direct", asked, max_new_tokens).texts
    gold = [item.gold for item in items]
    other = [gold[j] for j in stimuli.mismatched_indices(gold, seed)]
    return {
        part: bootstrap(
            [int(scoring.contains_answer(t, (g,))) for t, g in zip(texts, answers)],
            seed=seed,
        )
        for part, answers in (("spanish", gold), ("spanish_floor", other))
    }


def first_vectors(concepts: list[Concept]) -> torch.Tensor:
    """The first vector (B,D) of each concept."""
    return torch.cat([c.vectors[:1] for c in concepts])


def cut_rows(lm: LM, vectors: torch.Tensor, max_new_tokens: int = 20) -> list[dict]:
    """Answer one-vector prompts (B,D), and decode the output from offsets 0 to 3.

    The answer is what the loop reads (greedy, whole); the output is what
    `model.generate(inputs_embeds=...)` returns, decoded from each offset on: offset 1
    is `output[prompt_len:]`. Rows for answers of two tokens or more: item, offset,
    answer, text, cut: whether the text is the answer without its first token.
    """
    answers = readers.decode_rows(lm, list(vectors[:, None]), max_new_tokens).ids
    outputs = hf_reference.generate_from_vectors(lm, vectors[:, None], max_new_tokens)

    def decode(ids):
        return lm.tokenizer.decode(ids, skip_special_tokens=True)

    rows = []
    for b, (ids, out) in enumerate(zip(answers, outputs)):
        shortened = decode(ids[1:])
        for k in range(4) if shortened.strip() else ():
            row = {
                "item": b,
                "offset": k,
                "answer": decode(ids),
                "text": decode(out[k:]),
            }
            rows.append(row | {"cut": int(row["text"] == shortened)})
    return rows


def offset_shares(cut: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Share of answers that lost their first token, by the offset decoded from."""
    shares = mean_by(cut, ["offset"], "cut", seed)
    return shares.assign(offset=[f"[{k}:]" for k in shares["offset"]])


def cut_parts(cut: pd.DataFrame, seed: int = 0) -> Parts:
    """The same decoded from one token on (sliced) and from the first (whole)."""
    cuts = {k: part for k, part in cut.groupby("offset")["cut"]}
    offsets = {"cut_sliced": 1, "cut_whole": 0}
    return {part: bootstrap(cuts[k], seed=seed) for part, k in offsets.items()}


def cut_examples(cut: pd.DataFrame, count: int = 3) -> pd.DataFrame:
    """The first answers, whole and with one token cut off, made safe to show."""
    shown = cut["item"].isin(cut["item"].unique()[:count]) & (cut["offset"] < 2)
    frame = cut.loc[shown, ["item", "offset", "answer", "text"]]
    return frame.map(lambda value: readable(value, 60))


def scripts_after(
    lm: LM, vectors: torch.Tensor, max_new_tokens: int = 50, seed: int = 0
) -> tuple[pd.DataFrame, Parts]:
    """Count letters by script after vectors (B,D), the token Paris and 100 random ones.

    -> (letters: a column for each thing fed; cyrillic_mixture and cyrillic_random: the
    shares of texts with a Cyrillic letter).
    """
    draw = torch.Generator().manual_seed(seed)
    noise = random_like(vectors[:1].expand(100, -1), draw)
    paris = lm.tokenizer(" Paris", add_special_tokens=False)["input_ids"]
    fed = {
        "concept tokens": vectors,
        "the token Paris": lm.embed[paris][None],
        "random vectors": noise,
    }
    counts = {}
    for name, x in fed.items():
        texts = readers.read_in_frame(lm, "direct", x, max_new_tokens).texts
        counts[name] = [scoring.count_scripts(text) for text in texts]
    letters = {name: sum(found, Counter()) for name, found in counts.items()}
    cyrillic = {
        part: bootstrap([c["CYRILLIC"] > 0 for c in counts[name]], seed=seed)
        for part, name in (
            ("cyrillic_mixture", "concept tokens"),
            ("cyrillic_random", "random vectors"),
        )
    }
    return pd.DataFrame(letters).fillna(0).astype(int), cyrillic


def paris_pieces(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, str], ...]:
    """Split "Париж" as a tokenizer does: (id, text) of each token.

    Only Qwen2.5's is what the write-up's output came from: any other gives PARIS, the
    stated fact.
    """
    ids = tokenizer("Париж", add_special_tokens=False)["input_ids"]
    if ids != [i for i, _ in PARIS]:
        return PARIS
    return tuple((i, tokenizer.decode([i])) for i in ids)


class Counted(NamedTuple):
    """A number that is counted: nothing is drawn for it, so it has no seed."""

    value: int
    n: int


def tokenizer_mismatch(pieces: tuple[tuple[int, str], ...]) -> Counted:
    """0 where the pieces of "Париж" after the first read "ариж", else 1."""
    return Counted(int("".join(piece for _, piece in pieces[1:]) != "ариж"), 1)
