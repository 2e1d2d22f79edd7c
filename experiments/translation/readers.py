"""Ways of reading a concept token back.

    instruction, completion, direct, nearest_token   the write-up's four (3.2)
    patchscopes, selfie                              two from the literature
    Reading                                          what came back, whole and sliced
    refed, by_generate                               two ways in which it may go wrong

Every way takes a batch: concept tokens (B,T,D), (B,D) or a list of (T_i,D), or texts
(the ceiling: the same content in words), and gives one Reading. A slot in a frame
takes the place of a word and of the space before it, as a token " word" does.

Slicing: the write-up's Table 4.2 looks like text decoded from `output[prompt_len:]`,
which drops the first prompt_len *new* tokens when the prompt was given as embeddings.
That its authors did so is an inference; `Reading.sliced` shows what it would give.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from experiments.metrics import nearest_rows
from experiments.prompts import FRAMES
from helpers.batching import next_logits
from helpers.decode import continue_from
from helpers.models import chat_prompt

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.models import LM

BATCH = 256  # rows a forward


@dataclass(frozen=True, eq=False)
class Reading:
    """What was read: new token ids and the prompt's length in tokens, one a row."""

    ids: list[list[int]]
    prompt_lengths: list[int]
    tokenizer: object

    @property
    def texts(self) -> list[str]:
        """The new text, whole."""
        return self.tokenizer.batch_decode(self.ids, skip_special_tokens=True)

    @property
    def sliced(self) -> list[str]:
        """The same ids after `[prompt_len:]`: inferred to be what Table 4.2 shows."""
        return self.cut(self.prompt_lengths)

    def cut(self, offsets: list[int]) -> list[str]:
        """The new text without its first tokens, as many as `offsets` says."""
        kept = [ids[n:] for ids, n in zip(self.ids, offsets)]
        return self.tokenizer.batch_decode(kept, skip_special_tokens=True)


def instruction(lm: LM, x, max_new_tokens: int = 50) -> Reading:
    """Please translate the following: [x], as a user's turn (write-up 3.2, way 1)."""
    return _read(lm, "instruction", x, max_new_tokens)


def completion(lm: LM, x, max_new_tokens: int = 50) -> Reading:
    """The meaning of [x] in plain English is ... (write-up 3.2, way 2)."""
    return _read(lm, "completion", x, max_new_tokens)


def direct(lm: LM, x, max_new_tokens: int = 50) -> Reading:
    """[x] alone (write-up 3.2, way 3)."""
    return _read(lm, "direct", x, max_new_tokens)


def patchscopes(lm: LM, x, max_new_tokens: int = 50) -> Reading:
    """cat -> cat; dog -> dog; [x] -> ... (Ghandeharioun et al. 2024, 2401.06102)."""
    return _read(lm, "patchscopes", x, max_new_tokens)


def selfie(lm: LM, x, max_new_tokens: int = 50) -> Reading:
    """[x] five times inside an instruction (Chen et al. 2024, 2403.10949)."""
    return _read(lm, "selfie", x, max_new_tokens)


def nearest_token(lm: LM, x: Tensor, metric: str = "cosine") -> Tensor:
    """Id of the nearest token (write-up 3.2, way 4): concepts (...,D) -> (...).

    metric: dot, cosine, l2 or centred (cosine after taking off the mean embedding).
    """
    return nearest_rows(x, lm.embed[: lm.used], metric)


WAYS = (instruction, completion, direct, patchscopes, selfie)
READERS = {way.__name__: way for way in WAYS}


def unavailable_reason(lm: LM, way: str) -> str:
    """Why a way cannot be tried on this model; empty when it can."""
    if FRAMES[way].chat and getattr(lm.tokenizer, "chat_template", None) is None:
        return f"the {way} frame needs a chat template and this model has none"
    return ""


def fill_frame(lm: LM, way: str, x) -> list[Tensor]:
    """Embeddings (L_i,D) of a way's frame with x in its slot, one a row of x."""
    if way not in READERS:
        raise ValueError(f"way must be one of {', '.join(READERS)}, not {way!r}")
    chat, text = FRAMES[way].chat, FRAMES[way].text
    if chat:
        text = chat_prompt(lm, text)  # it writes its own special tokens
    if len(x) and isinstance(x[0], str):
        return [_rows(lm, text.replace("{x}", word.strip()), not chat) for word in x]
    *before, after = text.split("{x}")
    head, *joints = [piece.rstrip(" ") for piece in before]
    head, tail = _rows(lm, head, not chat), _rows(lm, after)
    joints = [_rows(lm, piece) for piece in joints]
    out = []
    for slot in x:
        slot = (slot[None] if slot.ndim == 1 else slot).to(lm.device, lm.dtype)
        row = torch.cat([head, slot, *(p for j in joints for p in (j, slot)), tail])
        out.append(row if len(row) else _embed(lm, lm.eos_ids[:1] or (0,)))
    return out


def decode_rows(lm: LM, rows: list[Tensor], max_new_tokens: int = 50) -> Reading:
    """Continue rows of embeddings (L_i,D) greedily, in batches of like length."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    got = continue_from(
        lm, [rows[i] for i in order], max_new_tokens=max_new_tokens, return_ids=True,
        batch_size=BATCH,
    )  # fmt: skip
    ids = [None] * len(rows)
    for i, new in zip(order, got):
        ids[i] = new
    return Reading(ids, [len(row) for row in rows], lm.tokenizer)


def first_token_probs(lm: LM, way: str, x) -> Tensor:
    """Distribution (B,V) of the first token a way answers with."""
    return next_logits(lm, fill_frame(lm, way, x), batch_size=BATCH).softmax(-1)


def _read(lm, way, x, max_new_tokens):
    return decode_rows(lm, fill_frame(lm, way, x), max_new_tokens)


def _rows(lm, text, special=False):
    """Embeddings (L,D) of a piece of text; `special` with the tokenizer's own marks."""
    ids = lm.tokenizer(text, add_special_tokens=special)["input_ids"]
    return _embed(lm, ids)


def _embed(lm, ids):
    return lm.embed[torch.tensor(list(ids), dtype=torch.long, device=lm.device)]
