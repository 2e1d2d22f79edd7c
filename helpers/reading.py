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

from .decode import continue_from
from .forward import next_logits
from .mixture import nearest
from .models import chat_prompt
from .prompts import FRAMES
from .slicing import GREEDY

if TYPE_CHECKING:
    from torch import Tensor

    from .models import LM

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


# The ways


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
    return nearest(x, lm.embed[: lm.used], metric)


WAYS = (instruction, completion, direct, patchscopes, selfie)
READERS = {way.__name__: way for way in WAYS}


def why_not(lm: LM, way: str) -> str:
    """Why a way cannot be tried on this model; empty when it can."""
    if FRAMES[way].chat and getattr(lm.tokenizer, "chat_template", None) is None:
        return f"the {way} frame needs a chat template and this model has none"
    return ""


def framed(lm: LM, way: str, x) -> list[Tensor]:
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


def read_rows(lm: LM, rows: list[Tensor], max_new_tokens: int = 50) -> Reading:
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


def first_probs(lm: LM, way: str, x) -> Tensor:
    """Distribution (B,V) of the first token a way answers with."""
    return next_logits(lm, framed(lm, way, x), batch_size=BATCH).softmax(-1)


def refed(lm: LM, x: Tensor, max_new_tokens: int = 50) -> list[list[int]]:
    """What one vector (B,D) gives when it is fed again at every step -> ids (B,N).

    The defect of transformers 4.49.0-4.57.6 with one-vector prompts (issue 41863).
    """
    ids = []
    with torch.no_grad():
        for part in x.to(lm.device, lm.dtype).split(8):
            again = part[:, None].expand(-1, max_new_tokens, -1)
            logits = lm.model(inputs_embeds=again, use_cache=False).logits
            ids += logits.argmax(-1).tolist()
    return ids


def by_generate(lm: LM, x: Tensor, max_new_tokens: int = 20) -> list[list[int]]:
    """What `model.generate(inputs_embeds=x)` returns for x (B,T,D), greedy -> ids."""
    x = x.to(lm.device, lm.dtype)
    pad = lm.eos_ids[0] if lm.eos_ids else 0
    out = lm.model.generate(
        inputs_embeds=x, attention_mask=torch.ones(x.shape[:2], device=x.device).long(),
        max_new_tokens=max_new_tokens, pad_token_id=pad, **GREEDY,
    )  # fmt: skip
    return out.tolist()


def _read(lm, way, x, max_new_tokens):
    return read_rows(lm, framed(lm, way, x), max_new_tokens)


def _rows(lm, text, special=False):
    """Embeddings (L,D) of a piece of text; `special` with the tokenizer's own marks."""
    ids = lm.tokenizer(text, add_special_tokens=special)["input_ids"]
    return _embed(lm, ids)


def _embed(lm, ids):
    return lm.embed[torch.tensor(list(ids), dtype=torch.long, device=lm.device)]
