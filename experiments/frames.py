"""The write-up's frames for reading (3.2) with something in their slot, as embeddings.

fill_frame      a frame with vectors or a text in its slot, one row for each
embed_text      a text as a model's input embeddings

A slot in a frame takes the place of a word and of the space before it, as a token
" word" does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from experiments.prompts import FRAMES
from helpers.models import chat_prompt

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.models import LM

SLOT = "\ue000"  # a private character: stands for the vectors inside a text


def fill_frame(
    lm: LM, way: str, x: Tensor | Sequence, before: Sequence[str] = ()
) -> list[Tensor]:
    """Embed a way's frame with x in its slot: (L_i,D), one a row of x.

    x: vectors (B,T,D) or (B,D), or a list of (T_i,D), or texts. before: for each row a
    text that stands on a line before the frame. ValueError for an unknown way, or a
    chat frame where there is no chat template.
    """
    if way not in FRAMES:
        raise ValueError(f"way must be one of {', '.join(FRAMES)}, not {way!r}")
    chat, text = FRAMES[way].chat, FRAMES[way].text.replace("{x}", SLOT)
    texts = [f"{said.replace(SLOT, '')}\n{text}" for said in before] or [text]
    if chat:
        texts = [chat_prompt(lm, t) for t in texts]  # it writes its own special tokens
    repeats = 1 if before else len(x)
    if len(x) and isinstance(x[0], str):
        filled = [t.replace(SLOT, word.strip()) for t, word in zip(texts * repeats, x)]
        return [embed_text(lm, t, not chat) for t in filled]
    pieces = [_embed_pieces(lm, t, not chat) for t in texts]
    rows = []
    for (head, *joints, tail), slot in zip(pieces * repeats, x):
        slot = (slot[None] if slot.ndim == 1 else slot).to(lm.device, lm.dtype)
        row = torch.cat([head, slot, *(p for j in joints for p in (j, slot)), tail])
        rows.append(row if len(row) else _embed_ids(lm, lm.eos_ids[:1] or (0,)))
    return rows


def _embed_pieces(lm: LM, text: str, special: bool) -> list[Tensor]:
    """Embed what stands before, between and after the slots of a text."""
    *heads, tail = text.split(SLOT)
    head, *joints = [piece.rstrip(" ") for piece in heads]
    own = [embed_text(lm, piece) for piece in [*joints, tail]]
    return [embed_text(lm, head, special), *own]


def embed_text(lm: LM, text: str, special: bool = False) -> Tensor:
    """Embed a text (L,D). special: with the tokenizer's own start and end."""
    return _embed_ids(lm, lm.tokenizer(text, add_special_tokens=special)["input_ids"])


def _embed_ids(lm: LM, ids: Sequence[int]) -> Tensor:
    return lm.embed[torch.tensor(list(ids), dtype=torch.long, device=lm.device)]
