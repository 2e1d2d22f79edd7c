"""Chat prompts taken apart, and their tokens disturbed: embeddings to feed.

    dissect      a prompt's positions: markers, instruction words, template words
    as_is        nothing done
    noised       rows plus noise of a size in RMS of each row
    mixed        rows moved towards another token's
    exchanged    markers trade places, start for end; words with their neighbour
    deleted      left out
    as_text      markers spelled out, or rewritten `in_plain_words`, as characters

Each of these gives the (T,D) embeddings of one prompt. Nothing but the tokens of one
kind is touched, so that the same thing can be done to markers and to ordinary words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from helpers.models import chat_prompt

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.models import LM

KINDS = ("markers", "instruction words", "template words")
PLAIN_START, PLAIN_END = "start of turn: ", " end of turn "


@dataclass(frozen=True)
class MarkedPrompt:
    """A chat prompt: its text, its ids, and the positions of each kind of token.

    The two kinds of words are drawn at random, as many as there are markers.
    """

    text: str
    gold: str
    ids: list[int]
    positions: dict[str, list[int]]


def locate_markers(lm: LM, items: list, seed: int = 0) -> list[MarkedPrompt]:
    """Parts of each item's chat prompt. Markers are the special tokens it holds.

    Raises ValueError where the template has none, or the tokenizer no offsets.
    """
    if not lm.tokenizer.is_fast:
        raise ValueError(f"{lm.name} needs a fast tokenizer: it alone tells offsets")
    markers_of, found = special_token_ids(lm), []
    for number, item in enumerate(items):
        text = chat_prompt(lm, item.prompt)
        coded = lm.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True
        )
        ids, start = coded["input_ids"], text.rindex(item.prompt)
        inside = [
            start <= a and b <= start + len(item.prompt)
            for a, b in coded["offset_mapping"]
        ]
        markers = [i for i, token in enumerate(ids) if token in markers_of]
        if not markers:
            raise ValueError(f"{lm.name}'s chat template has no special tokens")
        rng = np.random.default_rng([seed, number])
        words = {
            kind: [i for i, w in enumerate(inside) if w is here and i not in markers]
            for kind, here in (("instruction words", True), ("template words", False))
        }
        positions = {"markers": markers}
        for kind, all_of in words.items():
            count = min(len(markers), len(all_of))
            positions[kind] = sorted(rng.choice(all_of, count, replace=False).tolist())
        found.append(MarkedPrompt(text, item.gold, ids, positions))
    return found


def unchanged(lm: LM, part: MarkedPrompt) -> Tensor:
    """The prompt's own embeddings."""
    return _rows(lm, part.ids)


def with_noise(lm: LM, part: MarkedPrompt, kind: str, dose: float, seed) -> Tensor:
    """Normal noise of `dose` x the RMS of each row; its direction hangs on the seed."""
    rows, where = _rows(lm, part.ids), part.positions[kind]
    shape = len(where), rows.shape[1]
    noise = np.random.default_rng(seed).standard_normal(shape)
    rms = rows[where].pow(2).mean(-1, keepdim=True).sqrt()
    rows[where] += dose * rms * torch.from_numpy(noise).to(rows)
    return rows


def interpolated(lm: LM, part: MarkedPrompt, kind: str, share: float, seed) -> Tensor:
    """Each row moved by `share` of the way to the row of a random ordinary token."""
    rows, where = _rows(lm, part.ids), part.positions[kind]
    ordinary = np.setdiff1d(np.arange(lm.used), list(special_token_ids(lm)))
    others = np.random.default_rng(seed).choice(ordinary, len(where))
    rows[where] = torch.lerp(rows[where], _rows(lm, others), share)
    return rows


def with_swapped_tokens(lm: LM, part: MarkedPrompt, kind: str) -> Tensor:
    """Markers each in another's place (start for end); words by neighbouring pairs."""
    ids, where = list(part.ids), part.positions[kind]
    if kind == "markers":
        names = sorted({ids[i] for i in where})
        turned = dict(zip(names, names[1:] + names[:1]))
        for i in where:
            ids[i] = turned[ids[i]]
    else:
        for a, b in zip(where[::2], where[1::2]):
            ids[a], ids[b] = ids[b], ids[a]
    return _rows(lm, ids)


def with_tokens_removed(lm: LM, part: MarkedPrompt, kind: str) -> Tensor:
    """The prompt without these tokens."""
    gone = set(part.positions[kind])
    return _rows(lm, [token for i, token in enumerate(part.ids) if i not in gone])


def with_markers_as_text(
    lm: LM, part: MarkedPrompt, rewrite: Callable[[str], str] = str
) -> Tensor:
    """Each marker's name rewritten, and the whole read as ordinary characters."""
    text = part.text
    for token in sorted({part.ids[i] for i in part.positions["markers"]}):
        name = lm.tokenizer.convert_ids_to_tokens(token)
        text = text.replace(name, rewrite(name))
    coded = lm.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
    return _rows(lm, coded["input_ids"])


def plain_words_for(lm: LM) -> Callable[[str], str]:
    """A rewriting for `as_text`: what a marker means, in English."""
    ends = {lm.tokenizer.convert_ids_to_tokens(i) for i in lm.eos_ids}
    return lambda name: PLAIN_END if name in ends else PLAIN_START


def special_token_ids(lm: LM) -> set[int]:
    """Ids of tokens that the tokenizer never makes out of plain text."""
    return {*lm.tokenizer.all_special_ids, *lm.tokenizer.added_tokens_decoder}


def _rows(lm, ids) -> Tensor:
    return lm.embed[torch.as_tensor(ids, dtype=torch.long, device=lm.device)]
