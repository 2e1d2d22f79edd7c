"""Chat prompts taken apart and their tokens perturbed: embeddings to feed.

    locate_markers         positions of markers, instruction words, template words
    unchanged              the prompt's own embeddings
    with_noise             rows plus noise of a size in RMS of each row
    interpolated           rows moved towards another token's
    with_swapped_tokens    markers trade places, start for end; words with a neighbour
    with_tokens_removed    left out
    with_markers_as_text   markers spelled out as characters, or rewritten
    plain_words_for        such a rewriting, into plain English

The six from `unchanged` on give the (T,D) embeddings of one prompt. Nothing but the
tokens of one kind is touched, so that the same can be done to markers and to words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from helpers.models import chat_prompt

if TYPE_CHECKING:
    from torch import Tensor

    from experiments.prompts import Item
    from helpers.models import LM

KINDS = ("markers", "instruction words", "template words")
# Beside them, unjudged, where it is asked for: of the template's words those that are
# no system prompt, which is most of its words and says little of what to do.
WITH_ROLES = (*KINDS, "role names and line breaks")
SYSTEM = "<a system prompt of our own>"  # to find where a template puts its own
PLAIN_START, PLAIN_END = "start of turn: ", " end of turn "


@dataclass(frozen=True)
class MarkedPrompt:
    """A chat prompt: its text, its ids, and the positions of each kind of token.

    The kinds of words are drawn at random, as many as there are markers. A system
    prompt that the template puts in by itself is among the template's words.
    """

    text: str
    item: Item  # says what is a right answer
    ids: list[int]
    positions: dict[str, list[int]]


def locate_markers(lm: LM, items: Sequence[Item], seed: int = 0) -> list[MarkedPrompt]:
    """Take each item's chat prompt apart; markers are the special tokens it holds.

    Raises ValueError where the template has none, or the tokenizer no offsets.
    """
    if not lm.tokenizer.is_fast:
        raise ValueError(f"{lm.name} needs a fast tokenizer: it alone tells offsets")
    special, found = special_token_ids(lm), []
    for number, item in enumerate(items):
        text = chat_prompt(lm, item.prompt)
        start = text.rindex(item.prompt)
        end = start + len(item.prompt)
        system_start, system_end = _system_prompt(lm, text, item.prompt)
        encoded = lm.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True
        )
        ids = encoded["input_ids"]
        by_kind: dict[str, list[int]] = {kind: [] for kind in WITH_ROLES}
        for i, (token, (a, b)) in enumerate(zip(ids, encoded["offset_mapping"])):
            inside = start <= a and b <= end
            kind = KINDS[0 if token in special else 1 if inside else 2]
            by_kind[kind].append(i)
            if kind == KINDS[2] and not system_start <= a < b <= system_end:
                by_kind[WITH_ROLES[3]].append(i)
        markers = by_kind["markers"]
        if not markers:
            raise ValueError(f"{lm.name}'s chat template has no special tokens")
        rng = np.random.default_rng([seed, number])
        positions = {"markers": markers}
        for kind in WITH_ROLES[1:]:
            count = min(len(markers), len(by_kind[kind]))
            drawn = rng.choice(by_kind[kind], count, replace=False)
            positions[kind] = sorted(drawn.tolist())
        found.append(MarkedPrompt(text, item, ids, positions))
    return found


def _system_prompt(lm: LM, text: str, prompt: str) -> tuple[int, int]:
    """Find the system prompt that the template puts into `text` by itself: start, end.

    It stands where one of ours would; (0, 0) where the template puts none.
    """
    turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}]
    try:
        ours = lm.tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True
        )
    except Exception:  # a template is a program: this one takes no system turn
        return 0, 0
    before, found, after = ours.partition(SYSTEM)
    fits = text.startswith(before) and text.endswith(after)
    if not found or not fits or len(before) + len(after) > len(text):
        return 0, 0
    return len(before), len(text) - len(after)


def unchanged(lm: LM, prompt: MarkedPrompt) -> Tensor:
    """Look up the prompt's own embeddings."""
    return _rows(lm, prompt.ids)


def with_noise(
    lm: LM, prompt: MarkedPrompt, kind: str, dose: float, seed: list[int]
) -> Tensor:
    """Add normal noise of `dose` x the RMS of each row, its direction by the seed."""
    rows, where = _rows(lm, prompt.ids), prompt.positions[kind]
    shape = len(where), rows.shape[1]
    noise = np.random.default_rng(seed).standard_normal(shape)
    rms = rows[where].pow(2).mean(-1, keepdim=True).sqrt()
    rows[where] += dose * rms * torch.from_numpy(noise).to(rows)
    return rows


def interpolated(
    lm: LM, prompt: MarkedPrompt, kind: str, share: float, seed: list[int]
) -> Tensor:
    """Move each row by `share` of the way to the row of a random ordinary token."""
    rows, where = _rows(lm, prompt.ids), prompt.positions[kind]
    ordinary = np.setdiff1d(np.arange(lm.used), list(special_token_ids(lm)))
    others = np.random.default_rng(seed).choice(ordinary, len(where))
    rows[where] = torch.lerp(rows[where], _rows(lm, others), share)
    return rows


def with_swapped_tokens(lm: LM, prompt: MarkedPrompt, kind: str) -> Tensor:
    """Put markers in another's place (start for end), words in their neighbour's."""
    ids, where = list(prompt.ids), prompt.positions[kind]
    if kind == "markers":
        markers = sorted({ids[i] for i in where})
        following = dict(zip(markers, markers[1:] + markers[:1]))
        for i in where:
            ids[i] = following[ids[i]]
    else:
        for a, b in zip(where[::2], where[1::2]):
            ids[a], ids[b] = ids[b], ids[a]
    return _rows(lm, ids)


def with_tokens_removed(lm: LM, prompt: MarkedPrompt, kind: str) -> Tensor:
    """Leave these tokens out of the prompt."""
    where = prompt.positions[kind]
    return _rows(lm, [token for i, token in enumerate(prompt.ids) if i not in where])


def with_markers_as_text(
    lm: LM, prompt: MarkedPrompt, rewrite: Callable[[str], str] = str
) -> Tensor:
    """Rewrite each marker's name, and read the whole as ordinary characters."""
    text = prompt.text
    for token in sorted({prompt.ids[i] for i in prompt.positions["markers"]}):
        name = lm.tokenizer.convert_ids_to_tokens(token)
        text = text.replace(name, rewrite(name))
    ids = lm.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
    return _rows(lm, ids["input_ids"])


def plain_words_for(lm: LM) -> Callable[[str], str]:
    """Return a rewriting: what a marker means, in English."""
    ends = {lm.tokenizer.convert_ids_to_tokens(i) for i in lm.eos_ids}
    return lambda name: PLAIN_END if name in ends else PLAIN_START


def special_token_ids(lm: LM) -> set[int]:
    """List the ids that the tokenizer never makes out of plain text."""
    if lm.tokenizer is None:
        return set()
    return {*lm.tokenizer.all_special_ids, *lm.tokenizer.added_tokens_decoder}


def _rows(lm: LM, ids: Sequence[int]) -> Tensor:
    return lm.embed[torch.as_tensor(ids, dtype=torch.long, device=lm.device)]
