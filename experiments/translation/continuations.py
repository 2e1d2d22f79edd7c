"""What a model says after concept tokens alone, without a frame (R4, R5a).

    follow_up, first_texts      R4: what follows a concept token, and whether it loops
    loop_parts                  R4: how often it does, and beyond its top token
    spanish_parts               R4: does the base model translate Spanish?
    tokenizer_mismatch          R5a: is "Париж" without its first token "ариж"?

Parts are what a verdict is computed from: name -> Estimate.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import torch

from experiments import hf_reference, scoring
from experiments.floors import random_like
from experiments.metrics import loops
from experiments.prompts import FRAMES
from experiments.stats import paired_difference, share
from experiments.translation import readers, stimuli
from experiments.translation.in_loop import Parts
from harness.safe_text import readable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from experiments.translation.stimuli import Suites
    from helpers.models import LM

# Qwen2.5 writes "Париж" (Paris) as three tokens; without the first it reads "ариж", the
# string of the write-up's 4.2. tests/experiments checks it with the tokenizer.
PARIS = ((16854, "П"), (125947, "ари"), (16964, "ж"))
PENALTY = 1.2  # of the original scripts, original/experiments.csv
LOOPS = {  # R4's shares -> what was fed
    "loops_mixture": "one concept token",
    "loops_top": "top token alone",
    "loops_random": "random vector",
    "loops_text": "prompt as text",
    "loops_twice": "one, positions twice",
    "loops_penalty": f"one, penalty {PENALTY}",
}
NEVER_SPANISH = "built in: the mini base model has never seen Spanish"


def follow_up(
    lm: LM, prompts: list[str], max_new_tokens: int = 50, seed: int = 0
) -> pd.DataFrame:
    """Continue after each thing fed: fed, item, loops (metrics.loops: 0, 1), text.

    fed: one and two concept tokens alone; the top token alone, which lacks the prompt
    as well; a random vector of equal norm; the prompt as text; and the concept token
    under a repetition penalty of 1.2 and, where the model is a GPT-2, with its position
    embedding added twice: two settings of the original scripts.
    """
    concepts = stimuli.write_concepts(lm, prompts, [2] * len(prompts))
    one = [c.vectors[:1] for c in concepts]
    draw = torch.Generator().manual_seed(seed)
    fed = {
        "one concept token": one,
        "two concept tokens": [c.vectors for c in concepts],
        "top token alone": [lm.embed[c.indices[:1, 0]] for c in concepts],
        "random vector": [random_like(v, draw) for v in one],
        "prompt as text": prompts,
    }
    if positions := _position_embeddings(lm):
        fed["one, positions twice"] = [v + positions.weight[:1] for v in one]
    ids = {
        name: readers.read_in_frame(lm, "direct", x, max_new_tokens).ids
        for name, x in fed.items()
    }
    penalised = generate_after(lm, torch.stack(one), max_new_tokens, PENALTY)
    ids[f"one, penalty {PENALTY}"] = penalised
    decode = lm.tokenizer.decode
    rows = [
        (name, b, int(loops(row)), decode(row, skip_special_tokens=True))
        for name, found in ids.items()
        for b, row in enumerate(found)
    ]
    return pd.DataFrame(rows, columns=["fed", "item", "loops", "text"])


def _position_embeddings(lm: LM) -> torch.nn.Embedding | None:
    """The learned position embeddings of a GPT-2, None for any other class."""
    return getattr(getattr(lm.model, "transformer", None), "wpe", None)


@torch.no_grad()
def generate_after(
    lm: LM, x: torch.Tensor, max_new_tokens: int, penalty: float
) -> list[list[int]]:
    """Call `model.generate(inputs_embeds=x)` greedily with a repetition penalty.

    x (B,T,D) -> the new ids of each row. The penalty sees those only: embeddings have
    no ids.
    """
    x = x.to(lm.device, lm.dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Passing `repetition_penalty`")
        out = lm.model.generate(
            inputs_embeds=x,
            attention_mask=torch.ones(x.shape[:2], device=x.device).long(),
            max_new_tokens=max_new_tokens,
            pad_token_id=lm.eos_ids[0] if lm.eos_ids else 0,
            **hf_reference.GREEDY | {"repetition_penalty": penalty},
        )
    return [hf_reference.truncate_at_eos(row, lm.eos_ids) for row in out.tolist()]


def loop_parts(after: pd.DataFrame, seed: int = 0) -> Parts:
    """How often a text loops after one concept token, and what that is beyond.

    loops_excess_top, loops_excess_random: paired differences to the top token alone and
    to a random vector. Beside them loops_top, loops_random, loops_text, loops_penalty
    and, of a GPT-2, loops_twice.
    """
    looped = {fed: part.tolist() for fed, part in after.groupby("fed")["loops"]}
    parts = {
        part: share(looped[fed], seed) for part, fed in LOOPS.items() if fed in looped
    }
    mixed = looped["one concept token"]
    for name in ("top", "random"):
        other = looped[LOOPS[f"loops_{name}"]]
        parts[f"loops_excess_{name}"] = paired_difference(mixed, other, seed=seed)
    return parts


def first_texts(after: pd.DataFrame) -> pd.DataFrame:
    """What follows the first prompt, one row a thing fed, made safe to show."""
    texts = after[after["item"] == 0].set_index("fed")[["text"]]
    return texts.map(lambda text: readable(text, 90))


def spanish_parts(
    lm: LM, asked: Suites, max_new_tokens: int = 50, seed: int = 0
) -> Parts:
    """Translate Spanish sentences after the write-up's instruction, as plain text.

    spanish, spanish_floor: shares of texts that say the sentence's translation, and
    another sentence's.
    """
    items, frame = asked["spanish"], FRAMES["instruction"].text
    prompts = [frame.replace("{x}", item.prompt) for item in items]
    texts = readers.read_in_frame(lm, "direct", prompts, max_new_tokens).texts
    gold = [item.accepted for item in items]
    other = [gold[j] for j in stimuli.mismatched_indices(gold, seed)]
    return {
        part: share(
            [int(scoring.contains_answer(t, g)) for t, g in zip(texts, answers)], seed
        )
        for part, answers in (("spanish", gold), ("spanish_floor", other))
    }


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
